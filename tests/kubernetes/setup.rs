//! The lab's scripts in a place where nothing can be had, as the docs' page makes one.

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
fn assert_says_what_comes_first(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is not in the cache"), "{stderr}");
    assert!(stderr.contains("sudo scripts/test.sh --setup"), "{stderr}");
}

#[test]
fn without_a_network_an_empty_cache_is_told_and_nothing_is_tried() {
    let script = ["./kubernetes.sh", "control-plane", "true"];
    let output = lab(&[&["unshare", "--net", "--mount"], &script[..]].concat());
    assert_says_what_comes_first(&output);
}

#[test]
fn a_machine_that_knows_no_packages_does_not_look_for_them() {
    let _world = World::new(); // its /var/lib is empty, as a machine's of the lab
    for script in [["./containerd.sh", "tools"], ["./docker.sh", "images"]] {
        assert_says_what_comes_first(&lab(&script));
    }
}
