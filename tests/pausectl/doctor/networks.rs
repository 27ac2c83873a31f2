//! Configurations of networks, and subnets that clash.

use std::fs;

use serde_json::{Value, json};

use super::{DoctorHost, network, says};
use common::{ip, podnet, with};

/// The one thing that is to be seen when this file lies in the folder of `pausectl pod`.
#[track_caller]
fn problem_of(doctor: &DoctorHost, file: &str, text: &str, words: &[&str]) {
    let path = doctor.confs().join(file);
    fs::write(&path, text).unwrap();
    let report = doctor.check(&["networks"]);
    let found = report.problem(words);
    assert!(
        found["subject"].as_str().unwrap().contains(file),
        "{found:#}"
    );
    assert_eq!(found["safe"], false);
    fs::remove_file(path).unwrap();
}

fn subnet(subnet: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]})
}

#[test]
fn a_key_that_is_nearly_one_of_ours_is_named() {
    let doctor = DoctorHost::new();
    let ipam = json!({"type": "host-local", "rnages": [], "subnet": "10.7.0.0/24"});
    for (changes, path, meant) in [
        (json!({"isMasq": true}), "isMasq", "ipMasq"),
        (json!({"ipam": ipam}), "ipam.rnages", "ranges"),
        (json!({"isDefaultGateWay": true, "sysctl": {}}), "", ""),
    ] {
        let lab = json!({"name": "lab", "bridge": "cni7", "ipam": subnet("10.7.0.0/24")});
        let text = with(with(network(), lab), changes).to_string();
        let file = doctor.confs().join("lab.json");
        fs::write(&file, text).unwrap();
        if path.is_empty() {
            doctor.assert_healthy();
            continue;
        }
        let report = doctor.check(&["networks"]);
        report.note(&["lab.json", "plugin 1 (pausenet)", path, meant, "no effect"]);
    }
}

#[test]
fn an_invalid_configuration_is_reported_with_its_file() {
    let doctor = DoctorHost::new();
    let lab = |changes: Value| {
        let base = json!({"name": "lab", "bridge": "cni7", "ipam": subnet("10.7.0.0/24")});
        with(with(network(), base), changes).to_string()
    };
    let list = |plugins: Value| {
        json!({"cniVersion": "1.0.0", "name": "lab", "plugins": plugins}).to_string()
    };
    for (file, text, words) in [
        ("bad.conf", "{".to_owned(), &["EOF while parsing"][..]),
        ("bad.conflist", list(json!([])), &["\"plugins\" is empty"]),
        (
            "old.json",
            lab(json!({"cniVersion": "9.9.9"})),
            &["9.9.9", "1.1.0"],
        ),
        (
            "gone.json",
            lab(json!({"type": "nowhere"})),
            &["\"nowhere\" is in none of", "lab"],
        ),
        (
            "gone.conflist",
            list(json!([{"type": "pausenet", "bridge": "cni7"}, {"type": "tuning"}])),
            &["\"tuning\" is in none of"],
        ),
        (
            "mtu.json",
            lab(json!({"mtu": 7})),
            &["mtu 7", "plugin 1 (pausenet)"],
        ),
        (
            "range.json",
            lab(json!({"ipam": subnet("10.7.0.1/24")})),
            &["host bits set"],
        ),
        (
            "delegate.json",
            lab(json!({"ipam": {"type": "nobody"}})),
            &["nobody"],
        ),
        (
            "list.json",
            list(json!([{"type": "pausenet", "bridge": "cni7"}])),
            &[".conflist", "mv "],
        ),
        ("single.conflist", lab(json!({})), &[".conflist"]),
        (
            "docker.json",
            lab(json!({"bridge": "docker0"})),
            &["docker0", "Docker"],
        ),
        (
            "docker.json",
            lab(json!({"bridge": "br-0123456789ab"})),
            &["Docker"],
        ),
        (
            "lo.json",
            lab(json!({"bridge": "lo"})),
            &["lo exists, but is a device"],
        ),
        (
            "twin.json",
            with(network(), json!({"mtu": 1400})).to_string(),
            &["podnet", "podnet.json"],
        ),
        (
            "same.json",
            lab(json!({"ipam": subnet("10.1.0.0/24")})),
            &[
                "podnet (10.1.0.0/24)",
                "lab (10.1.0.0/24)",
                "two pods get one address",
            ],
        ),
        (
            "wide.json",
            lab(json!({"ipam": subnet("10.0.0.0/8")})),
            &["lab (10.0.0.0/8)", "overlap"],
        ),
        (
            "apart.json",
            lab(
                json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/16", "rangeStart": "10.1.9.0"}}),
            ),
            &["by one of the two bridges"],
        ),
        (
            "foreign.json",
            lab(json!({"type": "portmap", "ipam": subnet("10.1.0.128/25")})),
            &["overlap"],
        ),
    ] {
        problem_of(&doctor, file, &text, words);
    }
    // Beside each other and with room, they are fine; so is a copy for a runtime.
    fs::write(doctor.confs().join("lab.json"), lab(json!({}))).unwrap();
    fs::write(
        doctor.runtime_confs().join("10-podnet.conf"),
        network().to_string(),
    )
    .unwrap();
    fs::write(doctor.confs().join("README"), "{").unwrap();
    let report = doctor.check(&["networks"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}

#[test]
fn both_configuration_folders_are_checked() {
    let doctor = DoctorHost::new();
    fs::write(doctor.runtime_confs().join("99-bad.conf"), "nonsense").unwrap();
    let report = doctor.check(&["networks"]);
    let found = report.problem(&["99-bad.conf"]);
    let dir = doctor.runtime_confs().to_str().unwrap();
    assert!(
        found["subject"].as_str().unwrap().starts_with(dir),
        "{found:#}"
    );
}

#[test]
fn a_subnet_used_elsewhere_on_the_host_is_reported() {
    let doctor = DoctorHost::new();
    ip("link add up1 up type veth peer name far");
    for (add, words) in [
        (
            "address add 10.1.0.200/32 dev up1",
            &["10.1.0.200", "up1"][..],
        ),
        (
            "address add 10.1.0.200/24 dev up1",
            &["10.1.0.200/24", "up1"],
        ),
        (
            "route add 10.1.0.64/26 dev up1",
            &["10.1.0.64/26", "by up1"],
        ),
        ("route add 10.1.0.0/24 dev up1", &["10.1.0.0/24", "by up1"]),
    ] {
        ip(add);
        let report = doctor.check(&["networks"]);
        report.problem(words);
        ip(&add.replace(" add ", " del "));
    }
    // Longer than the host's, the pods' own route wins: only what lies beyond is hidden.
    ip("route add 10.0.0.0/8 dev up1");
    doctor.check(&["networks"]).note(&["10.0.0.0/8", "up1"]);
    ip("route del 10.0.0.0/8 dev up1");
    ip("route add default dev up1");
    let report = doctor.check(&["networks"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}

#[test]
fn a_docker_network_is_recognized_by_its_route() {
    let doctor = DoctorHost::new();
    ip("link add docker0 up type bridge");
    ip("address add 10.1.0.1/16 dev docker0");
    let report = doctor.check(&["networks"]);
    says(&report.findings[0], &["docker0", "10.1.0.1/16"]);
    assert_eq!(report.status, 1, "{report:#?}");
}

#[test]
fn routes_of_our_own_networks_are_no_clash() {
    let doctor = DoctorHost::new();
    let ptp = json!({"name": "routed", "mode": "ptp", "ipam": subnet("10.9.0.0/24")});
    let ptp = with(podnet(), ptp);
    doctor.host.network(&ptp);
    let _bridged = super::added(&doctor, &network(), "bridged");
    let _routed = super::added(&doctor, &ptp, "routed");
    doctor.assert_healthy();
}
