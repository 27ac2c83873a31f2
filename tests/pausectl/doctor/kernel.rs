//! Kernel options, and the settings that need them.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::{DoctorHost, network, says};
use common::{lab, run, with};

/// Whether bridges here filter VLANs, as another program finds.
fn filters_vlans() -> bool {
    let add = "link add trial type bridge vlan_filtering 1";
    let added = Command::new("ip").args(add.split(' ')).output().unwrap();
    let shown = Command::new("ip")
        .args(["-d", "link", "show", "trial"])
        .output()
        .unwrap();
    let _ = Command::new("ip")
        .args(["link", "del", "trial"])
        .output()
        .unwrap();
    added.status.success() && String::from_utf8_lossy(&shown.stdout).contains("vlan_filtering 1")
}

#[test]
fn kernel_options_are_checked_without_changing_the_host() {
    let doctor = DoctorHost::new();
    let before = doctor.host.world.snapshot();
    let report = doctor.check(&["kernel"]);
    assert_eq!(report.status, 0, "{report:#?}");
    assert_eq!(doctor.host.world.snapshot(), before);
    assert_eq!(run("nft", ["list", "ruleset"]), "");
}

#[test]
fn a_missing_kernel_option_is_named_with_the_setting_that_needs_it() {
    let doctor = DoctorHost::new();
    if filters_vlans() {
        let report = doctor.check(&["kernel"]);
        let vlan = |found: &&serde_json::Value| found["subject"] == "VLANs on bridges";
        assert!(
            !report.findings.iter().any(|found| vlan(&found)),
            "{report:#?}"
        );
        return lab::skip_for_the_kernel("nothing: its bridges filter VLANs");
    }
    let words = ["CONFIG_BRIDGE_VLAN_FILTERING", "vlanTrunk"];
    let report = doctor.check(&["kernel"]);
    says(
        report
            .of("note")
            .iter()
            .find(|note| note["subject"] == "VLANs on bridges")
            .unwrap(),
        &words,
    );

    // A network that needs it makes it a problem.
    let lab = with(network(), json!({"name": "lab", "vlan": 7}));
    fs::write(doctor.confs().join("lab.json"), lab.to_string()).unwrap();
    let report = doctor.check(&["kernel"]);
    let [problem] = report.of("problem")[..] else {
        panic!("{report:#?}");
    };
    says(
        problem,
        &[
            "CONFIG_BRIDGE_VLAN_FILTERING",
            "vlan",
            "ADD fails in network lab",
        ],
    );
}
