//! Host ends that are not what they should be.

use std::fs;

use pausenet::apply::try_lock;
use pausenet::kernel::netns::Netns;
use serde_json::json;

use super::attachments::{dual_stack, is_mended, routed, with_web};
use super::store::host_end;
use super::{DoctorHost, added, network};
use common::{Call, GROUP, allocated, ip, with};

#[test]
fn debris_of_a_killed_add_is_removed_unless_an_add_is_running() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let debris = host_end("killed");
    ip(&format!(
        "link add {debris} group {GROUP} type veth peer name far"
    ));
    // Somebody else's, without our mark.
    ip("link add foreign type veth peer name far2");
    let with_debris = doctor.host.world.snapshot();

    let lock = try_lock(&debris).unwrap().unwrap();
    let report = doctor.fix(&["links"]);
    assert!(
        report.findings.is_empty() && report.repairs.is_empty(),
        "{report:#?}"
    );
    drop(lock);
    doctor
        .check(&["links"])
        .problem(&[debris.as_str(), "killed half way"]);
    assert_eq!(doctor.host.world.snapshot(), with_debris);

    let report = doctor.fix(&["links"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    assert!(report.findings.is_empty(), "{report:#?}");
    assert!(doctor.host.world.link(debris.as_str()).is_none());
    for kept in ["foreign", host_end("web").as_str()] {
        assert!(doctor.host.world.link(kept).is_some(), "{kept}");
    }
}

#[test]
fn a_host_end_without_its_bridge_is_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let end = host_end("web");
    for (breaks, mends, words) in [
        (
            format!("link set {end} nomaster"),
            format!("link set {end} master cni0"),
            "not a port of its bridge cni0",
        ),
        (
            format!("link set {end} down"),
            format!("link set {end} up"),
            "is down",
        ),
    ] {
        ip(&breaks);
        let report = doctor.check(&["links"]);
        let found = report.problem(&[end.as_str(), words, "container web"]);
        assert_eq!(found["how"], format!("ip {mends}"));
        ip(&mends);
        assert!(doctor.check(&["links"]).findings.is_empty());
    }
    ip("link delete cni0");
    doctor
        .check(&["links"])
        .problem(&[end.as_str(), "its bridge cni0 is gone"]);
}

#[test]
fn a_port_that_its_bridge_blocks_or_treats_otherwise_is_reported() {
    let (doctor, _web) = with_web(&with(network(), json!({"hairpinMode": true})));
    let end = host_end("web");
    for (setting, words) in [
        ("state 0", "blocked its port"),
        ("hairpin off", "hairpin of its port of cni0 is off"),
        ("isolated on", "isolated of its port of cni0 is on"),
    ] {
        let breaks = format!("bridge link set dev {end} {setting}");
        is_mended(&doctor, &["links"], &breaks, &["container web", words]);
    }
}

#[test]
fn a_link_that_has_lost_ipv6_gets_it_back() {
    for mode in [json!({}), routed()] {
        let config = dual_stack(mode);
        let (doctor, _web) = with_web(&config);
        let gateway = match config["mode"].as_str() {
            Some(_) => host_end("web").to_string(),
            None => "cni0".to_owned(),
        };
        for (within, link) in [("", gateway.as_str()), ("ip netns exec web", "eth0")] {
            let disable = format!("{within} sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1");
            let words = format!("IPv6 is disabled on {link}");
            is_mended(&doctor, &["links"], &disable, &[&words]);
            let lower = format!("{within} ip link set {link} mtu 1200");
            is_mended(
                &doctor,
                &["links"],
                &lower,
                &["is 1200, too small for IPv6"],
            );
        }
    }
}

#[test]
fn routes_and_rules_that_refuse_what_is_for_a_pod_are_reported() {
    let config = dual_stack(json!({}));
    let (doctor, _web) = with_web(&config);
    let checks = ["links", "networks"];
    for route in [
        "blackhole 10.1.0.2",
        "unreachable 10.1.0.2",
        "prohibit 10.1.0.0/25",
        "blackhole fd00:1::2",
    ] {
        let family = if route.contains("::") { "-6" } else { "-4" };
        let breaks = format!("ip {family} route add {route}");
        is_mended(
            &doctor,
            &checks,
            &breaks,
            &["drops or refuses", "container web"],
        );
    }
    ip("rule add to 10.1.0.0/24 prohibit");
    let report = doctor.check(&checks);
    report.problem(&["a rule of the host", "refuses what is for 10.1.0.2"]);
    ip("rule del to 10.1.0.0/24 prohibit");

    let config = with(
        with(config, routed()),
        json!({"name": "routed", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]}}),
    );
    doctor.host.network(&config);
    let _db = added(&doctor, &config, "db");
    let instead = "ip route del 10.2.0.2\nip route add unreachable 10.2.0.2";
    is_mended(
        &doctor,
        &checks,
        instead,
        &["drops or refuses", "container db"],
    );
}

#[test]
fn a_bridge_without_a_mac_is_reported_until_it_has_one() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    assert!(doctor.check(&["links"]).findings.is_empty());
    ip("link delete cni0");
    ip("link add cni0 up type bridge");
    ip("link add port master cni0 type veth peer name far");
    ip("link delete port");
    ip("link set cni0 address 00:00:00:00:00:00");
    ip("address add 10.1.0.1/24 dev cni0");
    ip(&format!("link set {} master cni0", host_end("web")));

    let report = doctor.check(&["links"]);

    let found = report.problem(&["cni0", "has no MAC", "gateway"]);
    ip(found["how"].as_str().unwrap().strip_prefix("ip ").unwrap());
    assert!(doctor.check(&["links"]).findings.is_empty());
}

#[test]
fn a_namespace_without_process_and_name_is_reported_and_kept() {
    let doctor = DoctorHost::new();
    let web = added(&doctor, &network(), "web");
    assert!(
        doctor.check(&["links"]).findings.is_empty(),
        "it has a name"
    );
    let mut process = web.command("sleep").arg("600").spawn().unwrap();
    let open = Netns::open(&web.path).unwrap();
    common::wait::wait_until("it lives there", || {
        let there = Netns::open(format!("/proc/{}/ns/net", process.id()).as_ref());
        there.is_ok_and(|there| there.is_same(&open).unwrap())
    });
    web.destroy();
    assert!(
        doctor.check(&["links"]).findings.is_empty(),
        "a process lives there"
    );
    process.kill().unwrap();
    process.wait().unwrap();

    let report = doctor.fix(&["links"]);
    let end = host_end("web");
    let words = [end.as_str(), "container web", "no process"];
    let comm = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if comm == "kthreadd\n" && fs::metadata("/proc/1/ns/net").is_ok() {
        report.problem(&words);
        assert_eq!(report.outcomes(), ["not safe"]);
    } else {
        report.note(&words);
    }
    assert!(doctor.host.world.link(end.as_str()).is_some());
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
    drop(open);
}

#[test]
fn an_ifb_that_outlived_its_container_is_removed() {
    let doctor = DoctorHost::new();
    let limits = json!({"bandwidth": {"egressRate": 8_000_000, "egressBurst": 800_000}});
    let config = with(network(), json!({"runtimeConfig": limits}));
    let web = doctor.host.world.container("web");
    Call::new("ADD", &config).netns(&web).id("web").run().ok();
    assert!(doctor.check(&["links"]).findings.is_empty());
    let end = host_end("web");
    let ifb = end.as_str().replace("veth", "ifb");
    ip(&format!("link delete {end}"));
    assert!(doctor.host.world.link(&ifb).is_some());

    doctor
        .check(&["links"])
        .problem(&[ifb.as_str(), "container web"]);
    assert_eq!(doctor.fix(&["links"]).outcomes(), ["repaired"]);
    assert!(doctor.host.world.link(&ifb).is_none());
}
