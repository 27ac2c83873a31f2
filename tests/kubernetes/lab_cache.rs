//! The lab's scripts with an empty cache and without a network.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::script::CHECKOUT;
use common::World;

/// A script of the lab with an empty cache.
fn lab(program: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let (first, rest) = program.split_first().unwrap();
    Command::new(first)
        .args(rest)
        .current_dir(Path::new(CHECKOUT).join("scripts/lab"))
        .env("PAUSENET_LAB", cache.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn assert_names_the_setup_command(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is not in the cache"), "{stderr}");
    assert!(stderr.contains("sudo scripts/test.sh --setup"), "{stderr}");
}

#[test]
fn without_a_network_an_empty_lab_cache_is_reported_at_once() {
    let script = ["./kubernetes.sh", "control-plane", "true"];
    let output = lab(&[&["unshare", "--net", "--mount"], &script[..]].concat());
    assert_names_the_setup_command(&output);
}

#[test]
fn a_machine_without_package_lists_does_not_try_to_download() {
    let _world = World::new(); // its /var/lib is empty, as on a machine of the lab
    for script in [["./containerd.sh", "tools"], ["./docker.sh", "images"]] {
        assert_names_the_setup_command(&lab(&script));
    }
}
