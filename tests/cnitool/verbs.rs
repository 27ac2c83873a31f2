//! add, check and del of a network that is ours alone.

use std::path::Path;

use serde_json::json;

use crate::{CniTool, cached_results, podnet};
use common::{World, allocated, lab};

#[test]
fn add_check_and_del_as_in_the_manual() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let before = world.snapshot();
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));

    let result = cnitool.run(&["add", "podnet", "/var/run/netns/x"]).ok();
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(result["interfaces"][2]["sandbox"], "/var/run/netns/x");
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.1.0.1"]);
    assert_eq!(cached_results(), 1);

    cnitool.run(&["check", "podnet", "/var/run/netns/x"]).ok();

    cnitool.run(&["del", "podnet", "/var/run/netns/x"]).ok();
    assert!(container.link("eth0").is_none());
    let after = world.snapshot().without_bridge("cni0").addresses_only();
    assert_eq!(after, before.addresses_only());
    assert_eq!(cached_results(), 0);

    // Nothing is left to delete, and that is fine.
    cnitool.run(&["del", "podnet", "/var/run/netns/x"]).ok();
}

#[test]
fn every_cni_version_works_with_each_cnitool() {
    let (Some(new), Some(old)) = (lab::cnitool(), lab::cnitool_1_1()) else {
        return;
    };
    let all = [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ];
    every_version(&new, &all);
    every_version(&old, &all[..6]);
}

fn every_version(program: &Path, versions: &[&str]) {
    for &version in versions {
        let world = World::new();
        let container = world.container("x");
        let cnitool = CniTool::new(program);
        cnitool.network(&podnet(version));

        let result = cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"], "{version}");

        let check = cnitool.run(&["check", "podnet", "/run/netns/x"]);
        if version >= "0.4.0" {
            check.ok();
        } else {
            check.err(); // libcni's own: the version knows no CHECK
        }

        cnitool.run(&["del", "podnet", "/run/netns/x"]).ok();
        assert!(container.link("eth0").is_none(), "{version}");
        assert!(allocated("podnet").is_empty(), "{version}");
    }
}

#[test]
fn check_reports_what_was_changed_after_add() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();

    let flush = container
        .command("ip")
        .args(["address", "flush", "dev", "eth0"])
        .status();
    assert!(flush.unwrap().success());

    let message = cnitool.run(&["check", "podnet", "/run/netns/x"]).err();
    assert!(message.contains("10.1.0.2"), "{message}");
}

#[test]
fn a_second_add_is_refused_and_the_first_stays_whole() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();
    let before = (world.snapshot(), container.state());

    let message = cnitool.run(&["add", "podnet", "/run/netns/x"]).err();
    assert!(message.contains("exists already"), "{message}");
    assert_eq!((world.snapshot(), container.state()), before);
}

#[test]
fn del_frees_the_address_of_a_container_that_is_gone() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();

    container.destroy();
    cnitool.run(&["del", "podnet", "/run/netns/x"]).ok();
    assert!(allocated("podnet").is_empty());
    assert_eq!(cached_results(), 0);
}

/// It sends no list of valid attachments: nothing of the network is.
#[test]
fn gc_removes_every_attachment_of_the_network() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();
    std::fs::remove_dir_all("/var/lib/cni/results").unwrap();

    cnitool.run(&["gc", "podnet", "/run/netns/x"]).ok();

    assert!(container.link("eth0").is_none());
    assert!(allocated("podnet").is_empty());
}

#[test]
fn an_address_can_be_requested_in_cni_args() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    let mut add = cnitool.command(&["add", "podnet", "/run/netns/x"]);
    add.env("CNI_ARGS", "IP=10.1.0.77");
    crate::ToolOutput::of(add).ok();
    assert_eq!(container.addresses("eth0"), ["10.1.0.77/24"]);
}

#[test]
fn a_mac_can_be_requested_as_a_capability() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let container = world.container("x");
    let cnitool = CniTool::new(&program);
    let mut network = podnet("1.1.0");
    network["plugins"][0]["capabilities"] = json!({"mac": true});
    cnitool.network(&network);
    let mut add = cnitool.command(&["add", "podnet", "/run/netns/x"]);
    add.env("CAP_ARGS", r#"{"mac": "02:00:00:00:00:07"}"#);
    crate::ToolOutput::of(add).ok();
    let mac = container.link("eth0").unwrap().mac.unwrap();
    assert_eq!(mac.to_string(), "02:00:00:00:00:07");
}

#[test]
fn a_network_without_a_conflist_fails_before_the_plugin_is_called() {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    world.container("x");
    let cnitool = CniTool::new(&program);
    cnitool.network(&podnet("1.1.0"));
    cnitool.run(&["add", "other", "/run/netns/x"]).err();
    assert!(world.link("cni0").is_none());
}
