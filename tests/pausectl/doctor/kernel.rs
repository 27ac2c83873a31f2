//! What the kernel can do, and who needs it.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::{Ward, network, says};
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
    let ward = Ward::new();
    let before = ward.site.world.snapshot();
    let seen = ward.look(&["kernel"]);
    assert_eq!(seen.status, 0, "{seen:#?}");
    assert_eq!(ward.site.world.snapshot(), before);
    assert_eq!(run("nft", ["list", "ruleset"]), "");
}

#[test]
fn a_missing_kernel_option_is_named_with_the_setting_that_needs_it() {
    let ward = Ward::new();
    if filters_vlans() {
        let seen = ward.look(&["kernel"]);
        let vlan = |found: &&serde_json::Value| found["subject"] == "VLANs on bridges";
        assert!(!seen.findings.iter().any(|found| vlan(&found)), "{seen:#?}");
        return lab::skip_for_the_kernel("nothing: its bridges filter VLANs");
    }
    let words = ["CONFIG_BRIDGE_VLAN_FILTERING", "vlanTrunk"];
    let seen = ward.look(&["kernel"]);
    says(
        seen.of("note")
            .iter()
            .find(|note| note["subject"] == "VLANs on bridges")
            .unwrap(),
        &words,
    );

    // A network that asks for it makes it a problem.
    let lab = with(network(), json!({"name": "lab", "vlan": 7}));
    fs::write(ward.confs().join("lab.json"), lab.to_string()).unwrap();
    let seen = ward.look(&["kernel"]);
    let [problem] = seen.of("problem")[..] else {
        panic!("{seen:#?}");
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
