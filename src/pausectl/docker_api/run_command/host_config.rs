//! Options from the HostConfig: privileges, namespaces, limits, logging. Mounts and network are not
//! among them.

use bollard::models::{DeviceMapping, HostConfig, SystemInfo, ThrottleDevice};

use super::arguments::Options;
use crate::docker_api::container::RestartPolicy;

/// Docker's default size of /dev/shm, in bytes.
const DEFAULT_SHM_SIZE: i64 = 64 << 20;

/// Settings of a container that was created without options.
pub(super) struct DaemonDefaults {
    pub(super) log_driver: String,
    pub(super) runtime: String,
    pub(super) cgroupns: &'static str,
}

impl DaemonDefaults {
    pub(super) fn from_api(info: SystemInfo) -> Self {
        let options = info.security_options.unwrap_or_default();
        let private = options.iter().any(|option| option == "name=cgroupns");
        Self {
            log_driver: info.logging_driver.unwrap_or_default(),
            runtime: info.default_runtime.unwrap_or_default(),
            cgroupns: if private { "private" } else { "host" },
        }
    }
}

pub(super) fn add(mut host: HostConfig, defaults: &DaemonDefaults, options: &mut Options) {
    match RestartPolicy::from_api(host.restart_policy.take()) {
        RestartPolicy::No => {}
        policy => options.value("restart", policy),
    }
    options.flag("rm", host.auto_remove);
    add_privileges(&mut host, options);
    add_namespaces(&mut host, defaults, options);
    add_limits(&mut host, options);
    if host.runtime.as_deref() != Some(&defaults.runtime) {
        options.text("runtime", host.runtime);
    }
    options.text("volume-driver", host.volume_driver);
    options.pairs("storage-opt", host.storage_opt);
    options.pairs("annotation", host.annotations);
    let log = host.log_config.unwrap_or_default();
    let details = log.config.unwrap_or_default();
    if log.typ.as_ref() != Some(&defaults.log_driver) || !details.is_empty() {
        options.text("log-driver", log.typ);
        options.pairs("log-opt", Some(details));
    }
}

fn add_privileges(host: &mut HostConfig, options: &mut Options) {
    match host.init {
        Some(false) => options.args.push("--init=false".into()),
        on => options.flag("init", on),
    }
    options.flag("privileged", host.privileged);
    options.flag("read-only", host.readonly_rootfs);
    options.each("cap-add", host.cap_add.take());
    options.each("cap-drop", host.cap_drop.take());
    options.each("group-add", host.group_add.take());
    for option in host.security_opt.take().unwrap_or_default() {
        // docker reads the profile from a file, and sends its contents.
        if option.starts_with("seccomp={") {
            options.not_reproducible("its seccomp profile (--security-opt seccomp=FILE)");
        } else {
            options.value("security-opt", option);
        }
    }
    let is_empty_list = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(Vec::is_empty);
    if host.privileged != Some(true)
        && is_empty_list(&host.masked_paths)
        && is_empty_list(&host.readonly_paths)
    {
        options.value("security-opt", "systempaths=unconfined");
    }
    for device in host.devices.take().unwrap_or_default() {
        options.value("device", device_as_given(device));
    }
    options.each("device-cgroup-rule", host.device_cgroup_rules.take());
    if host
        .device_requests
        .as_ref()
        .is_some_and(|requests| !requests.is_empty())
    {
        options.not_reproducible("devices requested from a driver (--gpus)");
    }
}

fn add_namespaces(host: &mut HostConfig, defaults: &DaemonDefaults, options: &mut Options) {
    options.text("pid", host.pid_mode.take());
    let ipc = host.ipc_mode.take();
    options.text("ipc", ipc.filter(|mode| mode != "private"));
    options.text("uts", host.uts_mode.take());
    options.text("userns", host.userns_mode.take());
    options.pairs("sysctl", host.sysctls.take());
    let cgroupns = host.cgroupns_mode.map(|mode| mode.to_string());
    options.text(
        "cgroupns",
        cgroupns.filter(|mode| mode != defaults.cgroupns),
    );
    options.text("cgroup-parent", host.cgroup_parent.take());
    options.number(
        "shm-size",
        host.shm_size.filter(|size| *size != DEFAULT_SHM_SIZE),
    );
}

fn add_limits(host: &mut HostConfig, options: &mut Options) {
    options.number("memory", host.memory);
    options.number("memory-reservation", host.memory_reservation);
    options.number("memory-swap", host.memory_swap);
    if let Some(swappiness) = host.memory_swappiness.filter(|often| *often >= 0) {
        options.value("memory-swappiness", swappiness);
    }
    options.flag("oom-kill-disable", host.oom_kill_disable);
    options.number("oom-score-adj", host.oom_score_adj);
    if let Some(cpus) = host.nano_cpus.filter(|cpus| *cpus > 0) {
        let (whole, rest) = (cpus / 1_000_000_000, cpus % 1_000_000_000);
        options.value("cpus", format!("{whole}.{rest:09}"));
    }
    options.number("cpu-shares", host.cpu_shares);
    options.number("cpu-period", host.cpu_period);
    options.number("cpu-quota", host.cpu_quota);
    options.number("cpu-rt-period", host.cpu_realtime_period);
    options.number("cpu-rt-runtime", host.cpu_realtime_runtime);
    options.text("cpuset-cpus", host.cpuset_cpus.take());
    options.text("cpuset-mems", host.cpuset_mems.take());
    options.number("pids-limit", host.pids_limit);
    for limit in host.ulimits.take().unwrap_or_default() {
        let name = limit.name.unwrap_or_default();
        let [soft, hard] = [limit.soft, limit.hard].map(Option::unwrap_or_default);
        options.value("ulimit", format!("{name}={soft}:{hard}"));
    }
    options.number("blkio-weight", host.blkio_weight.map(i64::from));
    for device in host.blkio_weight_device.take().unwrap_or_default() {
        let (path, weight) = (
            device.path.unwrap_or_default(),
            device.weight.unwrap_or_default(),
        );
        options.value("blkio-weight-device", format!("{path}:{weight}"));
    }
    for (name, devices) in [
        ("device-read-bps", host.blkio_device_read_bps.take()),
        ("device-write-bps", host.blkio_device_write_bps.take()),
        ("device-read-iops", host.blkio_device_read_iops.take()),
        ("device-write-iops", host.blkio_device_write_iops.take()),
    ] {
        for ThrottleDevice { path, rate } in devices.unwrap_or_default() {
            let (path, rate) = (path.unwrap_or_default(), rate.unwrap_or_default());
            options.value(name, format!("{path}:{rate}"));
        }
    }
}

fn device_as_given(device: DeviceMapping) -> String {
    let parts = [
        device.path_on_host,
        device.path_in_container,
        device.cgroup_permissions,
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(":")
}
