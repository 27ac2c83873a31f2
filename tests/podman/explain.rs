//! `pausectl explain` on podman's containers, which it knows from /proc alone, and what it says
//! will happen, made to happen.

use std::process::Command;

use serde_json::Value;

use crate::podman::{BUSYBOX, Podman};

use common::programs;

fn explain(target: &str) -> Value {
    let output = Command::new(programs::pausectl())
        .args(["explain", target, "--output", "json"])
        .env("DOCKER_HOST", "/nonexistent")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{target}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn podman_removes_the_network_with_its_owner_as_explain_predicted() {
    let Some(podman) = Podman::new() else { return };
    podman.start(&["run", "-d", "--name=first", BUSYBOX, "sleep", "600"]);
    let share = ["run", "-d", "--name=second", "--network=container:first"];
    podman.start(&[&share[..], &[BUSYBOX, "sleep", "600"]].concat());
    let explained = explain("second");
    assert_eq!(
        explained["summary"], "second shares the network of first.",
        "{explained:#}"
    );
    assert_eq!(explained["members"][0]["container"]["engine"], "podman");
    assert_eq!(explained["interfaces"][0]["network"], "podman");
    let then = |at: usize| explained["deathEffects"][at]["effect"].as_str().unwrap();
    assert!(
        then(0).starts_with("podman removes eth0 for every member"),
        "{explained:#}"
    );
    assert_eq!(then(1), "nothing for the others");

    podman.run(&["stop", "--time=0", "first"]);
    let left = podman.in_network("second", &["ip", "-o", "link"]);
    assert!(!left.contains("eth0"), "{left}");
    let after = explain("second");
    assert_eq!(after["interfaces"], Value::Array(Vec::new()), "{after:#}");
    assert_eq!(after["state"], "orphaned");
    for name in ["second", "first"] {
        podman.run(&["rm", "--force", "--time=0", name]);
    }
    podman.assert_nothing_left();
}
