//! `network rm`: what a network's attachments shared goes once there is none.

use std::fs;

use serde_json::{Value, json};

use crate::host::PodHost;
use common::screen::assert_is_in_the_docs;
use common::{podnet, run, with};

#[test]
fn a_network_without_attachments_is_removed_and_the_doctor_knew_what_was_left() {
    let host = PodHost::new();
    let keys = json!({"capabilities": {"portMappings": true}, "ipMasq": true});
    let file = host.network(&with(podnet(), keys));
    host.ok(&[
        "pod",
        "create",
        "web",
        "--network",
        "podnet",
        "--publish",
        "8080:80",
    ]);
    let rm = ["network", "rm", "podnet"];
    let said = host.fails(1, &rm);
    assert!(
        said.contains("network podnet has attachments: pausectl-web (eth0)"),
        "{said}"
    );
    host.ok(&["pod", "rm", "web"]);

    // While it is configured, what is left is for the next attachment.
    let doctor = || {
        let args = [
            "doctor",
            "--check",
            "networks",
            "--runtime-conf-dir",
            "/none",
            "-o",
            "json",
        ];
        let output = host.output(&args);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["findings"].to_string()
    };
    assert!(!doctor().contains("network rm"), "{}", doctor());
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for left in [
        "ip link delete cni0",
        "nft delete table inet pausenet",
        "pausectl network rm podnet",
    ] {
        assert!(doctor().contains(left), "{left}: {}", doctor());
    }

    fs::write(&file, text).unwrap();
    let said = host
        .ok(&rm)
        .replace(file.to_str().unwrap(), "/etc/pausenet/net.d/podnet.json");
    assert_is_in_the_docs(&said);
    assert!(!run("nft", ["list", "ruleset"]).contains("pausenet"));
    assert!(host.world.link("cni0").is_none());
    fs::remove_file(&file).unwrap();
    for left in ["cni0", "pausenet\"", "network rm"] {
        assert!(!doctor().contains(left), "{left}: {}", doctor());
    }
}

/// What the chained plugin `firewall` leaves: rules in iptables' FORWARD, and that the network is closed.
#[test]
fn a_network_behind_a_firewall_leaves_nothing_in_it() {
    let host = PodHost::new();
    host.plugin_of_ours("firewall");
    for program in ["iptables", "ip6tables"] {
        run(program, ["-P", "FORWARD", "DROP"]);
    }
    let rules = || run("iptables-save", ["--table", "filter"]);
    let ours = with(podnet(), json!({"cniVersion": null, "name": null}));
    let firewall = json!({"type": "firewall", "ingressPolicy": "isolated"});
    let file = host
        .network(&json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": [ours, firewall]}));
    host.ok(&["pod", "create", "web", "--network", "podnet"]);
    assert!(rules().contains("CNI-FORWARD"));
    host.ok(&["pod", "rm", "web"]);

    let said = host.ok(&["network", "rm", "podnet"]);

    assert!(
        said.contains("podnet: removed the network's rules in firewalls"),
        "{said}"
    );
    assert!(!rules().contains("CNI"), "{}", rules());
    assert!(!run("nft", ["list", "ruleset"]).contains("pausenet"));
    fs::remove_file(file).unwrap();
}
