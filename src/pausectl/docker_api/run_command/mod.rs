//! The `docker run` command that recreates a container, from `docker inspect`.
//!
//! It leaves out what the image or the daemon sets by default, and everything about the network,
//! which the caller chooses. Settings that `docker run` has no option for are listed in prose.

mod arguments;
mod host_config;
mod mounts;

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, HealthConfig, ImageConfig, ImageInspect,
};

use super::client::Docker;
use super::error::{ApiError, ErrorKind, Result};
use super::names::ContainerRef;
use arguments::Options;
use host_config::DaemonDefaults;

/// The arguments of `docker run`, without name and network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunCommand {
    pub(crate) options: Vec<String>,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    /// Docker removes the container when it exits.
    pub(crate) auto_remove: bool,
    /// Settings of the container that the command does not reproduce, in prose.
    pub(crate) not_reproduced: Vec<String>,
}

impl Docker {
    /// # Errors
    /// [`ErrorKind::NotFound`] without the container.
    pub(crate) async fn run_command(&self, container: &ContainerRef) -> Result<RunCommand> {
        let found = self.client.inspect_container(container.as_str(), None);
        let found = found
            .await
            .map_err(|cause| self.error(&format!("inspect container {container}"), cause))?;
        let image_name = |found: &ContainerInspectResponse| found.config.as_ref()?.image.clone();
        let named = self.image(&image_name(&found).unwrap_or_default()).await?;
        let own = self
            .image(found.image.as_deref().unwrap_or_default())
            .await?;
        let info = self.client.info().await;
        let info = info.map_err(|cause| self.error("ask for the defaults", cause))?;
        Ok(read(found, named, own, &DaemonDefaults::from_api(info)))
    }

    /// None when the daemon does not have it.
    async fn image(&self, image: &str) -> Result<Option<ImageInspect>> {
        let found = self.client.inspect_image(image).await;
        match found.map_err(|cause| self.error(&format!("inspect image {image}"), cause)) {
            Ok(found) => Ok(Some(found)),
            Err(ApiError {
                kind: ErrorKind::NotFound,
                ..
            }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// `named` is the image that the container's image name means now, `own` the image that it was
/// created from.
fn read(
    found: ContainerInspectResponse,
    named: Option<ImageInspect>,
    own: Option<ImageInspect>,
    defaults: &DaemonDefaults,
) -> RunCommand {
    let config = found.config.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    let auto_remove = host.auto_remove.unwrap_or_default();
    let mut options = Options::default();
    let name = config.image.clone().unwrap_or_default();
    let image = match (named, found.image) {
        (Some(named), Some(id)) if named.id.as_ref() != Some(&id) => id,
        (None, Some(id)) if own.is_some() => id,
        _ => name,
    };
    if own.is_none() {
        options.not_reproducible("what its image set, for Docker no longer has that image");
    }
    let from_image = own.and_then(|own| own.config).unwrap_or_default();
    mounts::add(&host, found.mounts.unwrap_or_default(), &mut options);
    host_config::add(host, defaults, &mut options);
    let command = add_process(config, &from_image, &mut options);
    RunCommand {
        options: options.args,
        image,
        command,
        auto_remove,
        not_reproduced: options.not_reproduced,
    }
}

/// The process and its user; returns the arguments after the image.
fn add_process(config: ContainerConfig, image: &ImageConfig, options: &mut Options) -> Vec<String> {
    options.flag("tty", config.tty);
    options.flag("interactive", config.open_stdin);
    if config.user != image.user {
        options.text("user", config.user);
    }
    if config.working_dir != image.working_dir {
        options.text("workdir", config.working_dir);
    }
    let known = image.env.clone().unwrap_or_default();
    for variable in config.env.unwrap_or_default() {
        if !known.contains(&variable) {
            options.value("env", variable);
        }
    }
    let known = image.labels.clone().unwrap_or_default();
    let mut labels: HashMap<_, _> = config.labels.unwrap_or_default();
    labels.retain(|name, value| known.get(name) != Some(value));
    options.pairs("label", Some(labels));
    if config.stop_signal != image.stop_signal {
        options.text("stop-signal", config.stop_signal);
    }
    options.number("stop-timeout", config.stop_timeout);
    if config.healthcheck != image.healthcheck {
        add_health_check(config.healthcheck.unwrap_or_default(), options);
    }

    let entrypoint = config.entrypoint.unwrap_or_default();
    let command = config.cmd.unwrap_or_default();
    let image_command = image.cmd.clone().unwrap_or_default();
    let same_entrypoint = entrypoint == image.entrypoint.clone().unwrap_or_default();
    if same_entrypoint && (command == image_command || !command.is_empty()) {
        return if command == image_command {
            Vec::new()
        } else {
            command
        };
    }
    // --entrypoint takes one word, and discards the image's command.
    let (program, arguments) = match entrypoint.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => ("", &[][..]),
    };
    options.value("entrypoint", program);
    [arguments, &command].concat()
}

fn add_health_check(health: HealthConfig, options: &mut Options) {
    let test = health.test.unwrap_or_default();
    match test.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["NONE"] => return options.flag("no-healthcheck", Some(true)),
        ["CMD-SHELL", command] => options.value("health-cmd", command),
        [] => {}
        _ => options.not_reproducible("its health check, which runs without a shell"),
    }
    for (name, time) in [
        ("health-interval", health.interval),
        ("health-timeout", health.timeout),
        ("health-start-period", health.start_period),
        ("health-start-interval", health.start_interval),
    ] {
        let time = time.and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
        match time.map(Duration::from_nanos) {
            None | Some(Duration::ZERO) => {}
            Some(time) if time.subsec_nanos() == 0 => {
                options.value(name, format!("{}s", time.as_secs()));
            }
            Some(time) => options.value(name, format!("{}ns", time.as_nanos())),
        }
    }
    options.number("health-retries", health.retries);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::SystemInfo;
    use serde_json::{Value, json};

    /// The arguments for a container, and what they do not reproduce, from the daemon's JSON.
    fn arguments(container: Value, image: Value) -> (String, Vec<String>) {
        let found: ContainerInspectResponse = serde_json::from_value(container).unwrap();
        let image: ImageInspect = serde_json::from_value(image).unwrap();
        let defaults = DaemonDefaults {
            log_driver: "json-file".into(),
            runtime: "runc".into(),
            cgroupns: "private",
        };
        let run = read(found, Some(image.clone()), Some(image), &defaults);
        let args = [run.options, vec![run.image], run.command].concat();
        (args.join(" "), run.not_reproduced)
    }

    /// The arguments of a container with an entrypoint and a command only.
    fn run(own: [Value; 2], image: [Value; 2]) -> String {
        let container = json!({
            "Image": "sha256:1",
            "Config": {"Image": "app", "Entrypoint": own[0], "Cmd": own[1]},
        });
        let config = json!({"Entrypoint": image[0], "Cmd": image[1]});
        arguments(container, json!({"Id": "sha256:1", "Config": config})).0
    }

    #[test]
    fn a_command_equal_to_the_image_s_is_left_out() {
        let none = || json!(null);
        assert_eq!(run([none(), json!(["a"])], [none(), json!(["a"])]), "app");
        assert_eq!(
            run([none(), json!(["b", "c"])], [none(), json!(["a"])]),
            "app b c"
        );
        let image = [json!(["sh", "-c"]), json!(["a"])];
        assert_eq!(
            run([json!(["sh", "-c"]), json!(["b"])], image.clone()),
            "app b"
        );
        assert_eq!(
            run([json!(["/x", "-v"]), json!(["b"])], image.clone()),
            "--entrypoint /x app -v b"
        );
        // An explicit entrypoint discards the image's command.
        assert_eq!(
            run([json!(["sh"]), none()], [json!(["sh"]), json!(["a"])]),
            "--entrypoint sh app"
        );
        assert_eq!(run([none(), json!(["b"])], image), "--entrypoint  app b");
    }

    #[test]
    fn an_image_whose_name_was_moved_is_given_by_id() {
        let found = json!({"Image": "sha256:1", "Config": {"Image": "app"}});
        let found: ContainerInspectResponse = serde_json::from_value(found).unwrap();
        let image = |id: &str| Some(serde_json::from_value(json!({"Id": id})).unwrap());
        let defaults = || DaemonDefaults::from_api(SystemInfo::default());
        let of = |named, own| read(found.clone(), named, own, &defaults());
        assert_eq!(of(image("sha256:1"), image("sha256:1")).image, "app");
        assert_eq!(of(image("sha256:2"), image("sha256:1")).image, "sha256:1");
        assert_eq!(of(None, image("sha256:1")).image, "sha256:1");
        let gone = of(None, None);
        assert_eq!((gone.image.as_str(), gone.not_reproduced.len()), ("app", 1));
    }

    #[test]
    fn a_health_check_without_a_shell_is_not_reproduced() {
        let health = |check: Value| {
            let container = json!({
                "Image": "sha256:1",
                "Config": {"Image": "app", "Healthcheck": check},
            });
            arguments(container, json!({"Id": "sha256:1"}))
        };
        let shell = json!({
            "Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000i64,
            "Timeout": 1_500_000_000, "Retries": 2,
        });
        assert_eq!(
            health(shell).0,
            "--health-cmd true --health-interval 30s --health-timeout 1500000000ns \
             --health-retries 2 app"
        );
        assert_eq!(health(json!({"Test": ["NONE"]})).0, "--no-healthcheck app");
        let (args, not_reproduced) = health(json!({"Test": ["CMD", "/check", "it"]}));
        assert_eq!(args, "app");
        assert!(
            not_reproduced[0].contains("health check"),
            "{not_reproduced:?}"
        );
    }

    #[test]
    fn volumes_are_kept() {
        let container = json!({
            "Image": "sha256:1",
            "Config": {"Image": "app"},
            "HostConfig": {
                "Binds": ["data:/data:ro", "/srv:/srv"],
                "Mounts": [
                    {"Type": "volume", "Target": "/anonymous"},
                    {"Type": "tmpfs", "Target": "/a,b",
                     "TmpfsOptions": {"SizeBytes": 4096, "Mode": 504}},
                    {"Type": "bind", "Source": "/etc", "Target": "/etc2", "ReadOnly": true,
                     "BindOptions": {"Propagation": "rslave"}},
                    {"Type": "image", "Source": "other", "Target": "/other"},
                ],
                "Tmpfs": {"/scratch": "size=1m", "/plain": ""},
            },
            "Mounts": [
                {"Type": "volume", "Name": "data", "Destination": "/data", "RW": false},
                {"Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": true},
                {"Type": "volume", "Name": "f00", "Destination": "/anonymous", "RW": true},
                {"Type": "volume", "Name": "ba2", "Destination": "/of/image", "RW": true},
                {"Type": "bind", "Source": "/mnt", "Destination": "/of/other", "RW": false,
                 "Propagation": "rprivate"},
            ],
        });
        let (args, not_reproduced) = arguments(container, json!({"Id": "sha256:1"}));
        assert_eq!(
            args,
            "--volume data:/data:ro --volume /srv:/srv \
             --mount type=volume,source=f00,target=/anonymous \
             --mount type=tmpfs,\"target=/a,b\",tmpfs-size=4096,tmpfs-mode=770 \
             --mount type=bind,source=/etc,target=/etc2,readonly=true,bind-propagation=rslave \
             --tmpfs /plain --tmpfs /scratch:size=1m \
             --volume ba2:/of/image --volume /mnt:/of/other:ro app"
        );
        assert_eq!(not_reproduced, ["what is mounted on /other (image)"]);
    }

    #[test]
    fn defaults_are_left_out() {
        let container = json!({
            "Image": "sha256:1",
            "Config": {"Image": "app", "Env": ["A=1", "B=2"], "Labels": {"a": "1"}, "User": "",
                       "StopSignal": "SIGQUIT"},
            "HostConfig": {
                "NetworkMode": "container:abc", "LogConfig": {"Type": "json-file", "Config": {}},
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "CgroupnsMode": "private", "IpcMode": "private", "ShmSize": 67_108_864,
                "Runtime": "runc", "MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/bus"],
                "Memory": 0, "PidsLimit": null, "OomKillDisable": false, "Privileged": false,
            },
        });
        let image = json!({
            "Id": "sha256:1",
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"a": "1"}, "User": "",
                       "StopSignal": "SIGQUIT"},
        });
        assert_eq!(arguments(container, image), ("app".into(), vec![]));
    }

    #[test]
    fn host_settings_are_options_or_listed_as_not_reproduced() {
        let container = json!({
            "Image": "sha256:1",
            "Config": {"Image": "app"},
            "HostConfig": {
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
                "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"], "Init": false, "NanoCpus": 1_250_000_000,
                "Memory": 1024, "MemorySwap": -1, "PidsLimit": 9, "CgroupnsMode": "host",
                "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
                "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "rw"}],
                "DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}],
                "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 7}],
                "SecurityOpt": ["no-new-privileges", "seccomp={\"a\": 1}"],
                "MaskedPaths": [], "ReadonlyPaths": [], "Sysctls": {"net.core.somaxconn": "9"},
            },
        });
        let (args, not_reproduced) = arguments(container, json!({"Id": "sha256:1"}));
        assert_eq!(
            args,
            "--restart on-failure:3 --init=false --cap-add CAP_NET_ADMIN --cap-drop ALL \
             --security-opt no-new-privileges --security-opt systempaths=unconfined \
             --device /dev/fuse:/dev/f:rw --sysctl net.core.somaxconn=9 --cgroupns host \
             --memory 1024 --memory-swap -1 --cpus 1.250000000 --pids-limit 9 \
             --ulimit nofile=1:2 --device-read-bps /dev/sda:7 --log-driver json-file \
             --log-opt max-file=2 --log-opt max-size=1m app"
        );
        assert_eq!(not_reproduced.len(), 2, "{not_reproduced:?}");
    }
}
