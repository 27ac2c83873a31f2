//! Pods that are cut off: each break is reported, its command mends it, and then doctor is silent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::store::{HOUR, host_end};
use super::{DoctorHost, added, network, says};
use common::{Container, allocated, programs, run, set_sysctl, with};

/// Breaks a pod's network with this command, has doctor report it, and runs what it says.
#[track_caller]
pub(super) fn is_mended(doctor: &DoctorHost, checks: &[&str], breaks: &str, words: &[&str]) {
    let before = doctor.check(checks);
    assert!(before.findings.is_empty(), "before {breaks:?}: {before:#?}");
    run("sh", ["-ec", breaks]);
    let report = doctor.fix(checks);
    assert!(!report.findings.is_empty(), "{breaks:?} goes unseen");
    assert!(
        report
            .outcomes()
            .iter()
            .all(|outcome| *outcome == "not safe")
    );
    says(&report.findings[0], words);
    for found in &report.findings {
        assert_eq!(found["severity"], "problem", "{found:#}");
        run(
            "sh",
            ["-ec", &found["how"].as_str().unwrap().replace("; ", "\n")],
        );
    }
    let after = doctor.check(checks);
    assert!(after.findings.is_empty(), "after {breaks:?}: {after:#?}");
}

/// A host with the pod web on this network.
pub(super) fn with_web(config: &Value) -> (DoctorHost, Container) {
    let doctor = DoctorHost::new();
    doctor.host.network(config);
    let web = added(&doctor, config, "web");
    (doctor, web)
}

/// The keys of a network without a bridge.
pub(super) fn routed() -> Value {
    json!({"mode": "ptp", "bridge": null, "isDefaultGateway": null})
}

pub(super) fn dual_stack(mode: Value) -> Value {
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.0.2.0/24"}]);
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    with(with(network(), json!({"ipam": ipam})), mode)
}

#[test]
fn a_bridge_that_is_down_or_without_its_gateway_is_reported() {
    let doctor = DoctorHost::new();
    let config = dual_stack(json!({}));
    doctor.host.network(&config);
    let _pods = ["web", "db"].map(|name| added(&doctor, &config, name));
    for (breaks, words) in [
        ("ip link set cni0 down", ["cni0", "down", "fd00:1::1"]),
        (
            "ip address del 10.1.0.1/24 dev cni0",
            ["cni0", "missing", "10.1.0.1"],
        ),
        (
            "ip address del fd00:1::1/64 dev cni0",
            ["cni0", "missing", "fd00:1::1"],
        ),
        (
            "ip route del 10.1.0.0/24 dev cni0",
            ["cni0", "lost its route", "10.1.0.2"],
        ),
    ] {
        // One command for all pods, and the others' repeat it.
        let before = doctor.check(&["links"]);
        assert!(before.findings.is_empty(), "{before:#?}");
        run("sh", ["-ec", breaks]);
        let report = doctor.check(&["links"]);
        assert!(!report.findings.is_empty(), "{breaks:?} goes unseen");
        says(&report.findings[0], &words);
        let how = report.findings[0]["how"].as_str().unwrap();
        run("sh", ["-ec", &how.replace("; ", "\n")]);
        let after = doctor.check(&["links"]);
        assert!(after.findings.is_empty(), "after {breaks:?}: {after:#?}");
    }
}

#[test]
fn a_pod_without_its_address_route_or_link_is_reported() {
    let (doctor, _web) = with_web(&dual_stack(json!({})));
    for (breaks, words) in [
        (
            "ip -n web link set eth0 down",
            ["container web", "eth0 is down", "in the pod"],
        ),
        (
            "ip -n web address del 10.1.0.2/24 dev eth0",
            ["container web", "lost its address", "10.1.0.2/24"],
        ),
        (
            "ip -n web address del fd00:1::2/64 dev eth0",
            ["container web", "lost its address", "fd00:1::2/64"],
        ),
        (
            "ip -n web route del default",
            ["container web", "default", "10.1.0.1"],
        ),
        (
            "ip -n web -6 route del default",
            ["container web", "default", "fd00:1::1"],
        ),
        (
            "ip -n web route del 192.0.2.0/24",
            ["container web", "192.0.2.0/24", "10.1.0.1"],
        ),
        (
            "ip -n web route del 10.1.0.0/24",
            ["container web", "10.1.0.0/24", "is gone"],
        ),
    ] {
        is_mended(&doctor, &["links"], breaks, &words);
    }
}

#[test]
fn a_routed_pod_that_is_cut_off_is_reported() {
    let (doctor, _web) = with_web(&dual_stack(routed()));
    let end = host_end("web");
    for (breaks, words) in [
        (
            format!("ip link set {end} down"),
            ["container web", "host end is down"],
        ),
        (
            format!("ip address del 10.1.0.1/32 dev {end}"),
            ["missing", "10.1.0.1"],
        ),
        (
            "ip route del 10.1.0.2".to_owned(),
            ["lost its route", "10.1.0.2"],
        ),
        (
            "ip -6 route del fd00:1::2".to_owned(),
            ["lost its route", "fd00:1::2"],
        ),
        (
            "ip -n web link set eth0 down".to_owned(),
            ["in the pod", "eth0 is down"],
        ),
        (
            "ip -n web route del 10.1.0.1".to_owned(),
            ["in the pod", "10.1.0.1/32"],
        ),
        (
            "ip -n web address del 10.1.0.2/24 dev eth0".to_owned(),
            ["in the pod", "10.1.0.2/24"],
        ),
    ] {
        is_mended(&doctor, &["links"], &breaks, &words);
    }
}

/// As Nomad writes its lists; and the wiring plugin under the reference's names.
#[test]
fn the_plugin_that_wires_is_found_anywhere_in_a_list() {
    for (name, keys) in [
        (
            "bridge",
            json!({"bridge": "cni0", "isDefaultGateway": true, "ipMasq": true}),
        ),
        ("ptp", json!({"ipMasq": true})),
        (
            "pausenet",
            json!({"bridge": "cni0", "isDefaultGateway": true, "ipMasq": true}),
        ),
    ] {
        let doctor = wired_by_the_second(name, keys);
        // With the runtime's result cache, and without.
        for _ in 0..2 {
            losses_are_reported(&doctor, name);
            let _ = fs::remove_dir_all("/var/lib/cni/results");
        }
        let output = with_its_plugins(&doctor, &["pod", "rm", "--force", "web"]);
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

/// A host with a pod whose network is made by the second plugin of its list.
fn wired_by_the_second(name: &str, keys: Value) -> DoctorHost {
    let doctor = DoctorHost::new();
    for plugin in ["bridge", "ptp", "loopback", "host-local"] {
        symlink(programs::pausenet(), doctor.plugins().join(plugin)).unwrap();
    }
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let wires = with(keys, json!({"type": name, "ipam": ipam}));
    let plugins = json!([{"type": "loopback"}, wires]);
    let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
    doctor.host.network(&list);
    let output = with_its_plugins(&doctor, &["pod", "create", "web", "--network", "podnet"]);
    assert!(output.status.success(), "{name}: {output:?}");
    doctor
}

fn with_its_plugins(doctor: &DoctorHost, args: &[&str]) -> Output {
    let mut command = doctor.host.command(args);
    command.env("CNI_PATH", doctor.plugins()).output().unwrap()
}

/// What the plugin `wiring` made is broken, part by part.
fn losses_are_reported(doctor: &DoctorHost, wiring: &str) {
    const POD: &str = "nsenter --net=/run/pausenet/netns/web";
    let checks = ["links", "sysctls", "rules", "store", "firewall"];
    let route = format!("{POD} ip route del default");
    is_mended(doctor, &checks, &route, &["default"]);
    let lo = format!("{POD} ip link set lo down");
    is_mended(doctor, &checks, &lo, &["lo is down"]);
    let link = format!("{POD} ip link set eth0 down");
    is_mended(doctor, &checks, &link, &["eth0 is down"]);
    let on = match wiring {
        "ptp" => "veth",
        _ => "cni0",
    };
    let of_gateway = "ip -o -4 address show to 10.1.0.1 | awk '{print $2}'";
    let gateway = format!("dev=$({of_gateway}); ip address flush dev \"$dev\" to 10.1.0.1");
    is_mended(doctor, &["links"], &gateway, &["10.1.0.1", "missing", on]);
    set_sysctl("ipv4/ip_forward", "0");
    let report = doctor.check(&["sysctls"]);
    report.problem(&["net.ipv4.ip_forward", "podnet"]);
    set_sysctl("ipv4/ip_forward", "1");
}

#[test]
fn a_pod_that_went_by_a_vpn_of_its_own_is_not_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    run(
        "sh",
        [
            "-ec",
            "ip -n web link add vpn up type veth peer name vpn2\nip -n web route replace default dev vpn",
        ],
    );
    let report = doctor.check(&["links"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}

#[test]
fn the_other_end_of_a_host_end_outside_of_its_pod_is_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    run("sh", ["-ec", "ip -n web link set eth0 netns $$"]);
    doctor
        .check(&["links"])
        .problem(&["container web", "eth0", "not in a pod, but on the host"]);
}

#[test]
fn forwarding_that_is_off_for_a_link_of_pods_or_towards_the_outside_is_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    run(
        "sh",
        [
            "-ec",
            "ip link add wan up type veth peer name wan2\nip address add 192.0.2.1/24 dev wan\nip route add default via 192.0.2.254",
        ],
    );
    for link in ["cni0", "wan"] {
        let breaks = format!("echo 0 >/proc/sys/net/ipv4/conf/{link}/forwarding");
        let name = format!("net.ipv4.conf.{link}.forwarding");
        run("sh", ["-ec", &breaks]);
        let report = doctor.check(&["sysctls"]);
        let how = report.problem(&[&name])["how"].as_str().unwrap().to_owned();
        run("sh", ["-ec", how.split(',').next().unwrap()]);
        assert!(doctor.check(&["sysctls"]).findings.is_empty());
    }
}

#[test]
fn an_address_that_a_living_pod_has_lost_stays_reserved_for_it() {
    let doctor = DoctorHost::new();
    let web = added(&doctor, &network(), "web");
    let file = Path::new("/var/lib/cni/networks/podnet/10.1.0.2");
    let long_ago = std::time::SystemTime::now() - HOUR;
    let open = fs::File::options().write(true).open(file).unwrap();
    open.set_modified(long_ago).unwrap();
    remove_address(&web);
    let report = doctor.fix(&["store"]);
    assert!(report.findings.is_empty(), "{report:#?}");
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

fn remove_address(web: &Container) {
    web.ip("address del 10.1.0.2/24 dev eth0");
}

#[test]
fn a_folder_where_a_lock_belongs_is_removed() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let lock = "/var/lib/cni/networks/podnet/lock";
    let of_attachment = format!("/run/pausenet/lock/{}", host_end("web"));
    for path in [lock, of_attachment.as_str()] {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path).unwrap();
        doctor
            .check(&["store"])
            .problem(&[path, "a folder", "has to be a file"]);
        let report = doctor.fix(&["store"]);
        assert_eq!(report.outcomes(), ["repaired"], "{report:#?}");
        assert!(report.findings.is_empty(), "{report:#?}");
        // One with something in it, and other kinds, are for a person.
        let _ = fs::remove_file(path);
        fs::create_dir_all(format!("{path}/x")).unwrap();
        let report = doctor.fix(&["store"]);
        assert_eq!(report.outcomes(), ["not safe"]);
        let how = report.findings[0]["how"].as_str().unwrap();
        run("sh", ["-ec", how]);
        fs::remove_dir_all(format!("{path}.aside")).unwrap();
        let _ = fs::remove_file(path);
        run("mkfifo", [path]);
        let report = doctor.check(&["store"]);
        let how = report.problem(&[path, "a FIFO"])["how"]
            .as_str()
            .unwrap()
            .to_owned();
        run("sh", ["-ec", &how]);
        assert!(doctor.check(&["store"]).findings.is_empty());
    }
}

#[test]
fn a_file_where_the_folder_of_a_store_belongs_is_reported() {
    let doctor = DoctorHost::new();
    fs::create_dir_all("/var/lib/cni/networks").unwrap();
    fs::write("/var/lib/cni/networks/podnet", "").unwrap();
    let report = doctor.check(&["store"]);
    let how = report.problem(&["/var/lib/cni/networks/podnet", "it is a file"])["how"].clone();
    run("sh", ["-ec", how.as_str().unwrap()]);
    assert!(doctor.check(&["store"]).findings.is_empty());
}

#[test]
fn an_interface_that_somebody_has_deleted_is_reported() {
    let doctor = DoctorHost::new();
    doctor.host.create("web");
    assert!(doctor.check(&["links"]).findings.is_empty());
    run(
        "nsenter",
        [
            "--net=/run/pausenet/netns/web",
            "ip",
            "link",
            "delete",
            "eth0",
        ],
    );
    let report = doctor.check(&["links"]);
    report.problem(&["container pausectl-web", "its interface is gone"]);
    doctor.host.ok(&["pod", "rm", "--force", "web"]);
    assert!(doctor.check(&["links"]).findings.is_empty());
}

/// Time and columns stay bounded: one pod has thousands of addresses, and hundreds of members.
#[test]
fn thousands_of_addresses_and_hundreds_of_members_are_shown_in_few_lines() {
    let doctor = DoctorHost::new();
    doctor.host.create("web");
    let batch: String = (0..5000)
        .map(|n| format!("address add 10.9.{}.{}/32 dev eth0\n", n / 250, n % 250 + 1))
        .collect();
    let file = doctor.confs().join("addresses");
    fs::write(&file, batch).unwrap();
    let inside = "--net=/run/pausenet/netns/web";
    run("nsenter", [inside, "ip", "-batch", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    let mut members: Vec<_> = (0..300)
        .map(|_| {
            let mut command = std::process::Command::new("nsenter");
            command.args([inside, "sleep", "600"]).spawn().unwrap()
        })
        .collect();
    for member in &members {
        common::wait::wait_until("it has become a sleep", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", member.id()));
            name.is_ok_and(|name| name == "sleep\n")
        });
    }
    let start = std::time::Instant::now();
    for command in ["explain web", "ls", "graph", "pod ls"] {
        let args: Vec<_> = command.split(' ').collect();
        let said = crate::host::seen(&doctor.host, &args);
        assert!(
            said.contains("10.1.0.2") && said.contains(" more"),
            "{said}"
        );
        let widest = said.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(260), "{command}: {widest:?}\n{said}");
    }
    let report = doctor.check(&["links", "store", "sysctls", "rules", "firewall"]);
    assert_eq!(report.of("problem").len(), 0, "{report:#?}");
    let limit = std::time::Duration::from_secs(60);
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
    for member in &mut members {
        member.kill().unwrap();
        member.wait().unwrap();
    }
}
