//! Our plugin in one list with the reference's: they get our result, and it comes back whole.

use std::path::Path;

use serde_json::json;

use crate::{CniTool, ToolOutput, cached_results, chain, plugin};
use common::{Snapshot, World, lab, run};

/// cnitool and a folder of reference plugins, for each version of both.
fn pairs() -> Option<[(std::path::PathBuf, std::path::PathBuf, &'static str); 2]> {
    Some([
        (lab::cnitool()?, lab::peers_today()?, "1.1.0"),
        (lab::cnitool_1_1()?, lab::peers()?, "1.0.0"),
    ])
}

#[test]
fn tuning_chained_after_pausenet_changes_its_interface() {
    let Some(pairs) = pairs() else { return };
    for (program, peers, version) in pairs {
        let world = World::new();
        let container = world.container("x");
        let before = world.snapshot();
        let cnitool = CniTool::with_peers(&program, &peers);
        let tuning = json!({"type": "tuning", "mtu": 1400, "mac": "02:00:00:00:00:09"});
        cnitool.network(&chain(version, json!([plugin(), tuning])));

        let result = cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();
        assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
        assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:09");
        let inside = container.link("eth0").unwrap();
        assert_eq!(inside.mtu, 1400);

        // The prevResult that CHECK gets says what the chain made, not what we alone did.
        cnitool.run(&["check", "podnet", "/run/netns/x"]).ok();
        cnitool.run(&["del", "podnet", "/run/netns/x"]).ok();
        assert_gone(&world, before);
    }
}

#[test]
fn portmap_and_firewall_chained_after_pausenet_find_the_address() {
    let Some(pairs) = pairs() else { return };
    for (program, peers, version) in pairs {
        let world = World::new();
        world.container("x");
        let before = world.snapshot();
        let cnitool = CniTool::with_peers(&program, &peers);
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let firewall = json!({"type": "firewall", "backend": "iptables"});
        cnitool.network(&chain(version, json!([plugin(), portmap, firewall])));
        let ports = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
        ]});
        let with_ports = |verb| {
            let mut command = cnitool.command(&[verb, "podnet", "/run/netns/x"]);
            command.env("CAP_ARGS", ports.to_string());
            ToolOutput::of(command)
        };

        with_ports("add").ok();
        let rules = run("nft", ["list", "ruleset"]);
        assert!(rules.contains("dnat to 10.1.0.2:80"), "{rules}");
        assert!(rules.contains("10.1.0.2"), "{rules}");

        // portmap 1.1 looks for IPv6 rules that it has not made, after its own bridge too.
        if version == "1.1.0" {
            with_ports("check").ok();
        }
        with_ports("del").ok();
        assert_gone(&world, before);
        let rules = run("nft", ["list", "ruleset"]);
        assert!(!rules.contains("10.1.0.2"), "{rules}");
    }
}

#[test]
fn an_add_that_fails_later_in_the_chain_is_deleted_by_the_runtime() {
    let Some(pairs) = pairs() else { return };
    for (program, peers, version) in pairs {
        let world = World::new();
        let container = world.container("x");
        let before = world.snapshot();
        let cnitool = CniTool::with_peers(&program, &peers);
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.no_such": "1"}});
        cnitool.network(&chain(version, json!([plugin(), tuning])));

        cnitool.run(&["add", "podnet", "/run/netns/x"]).err();
        cnitool.run(&["del", "podnet", "/run/netns/x"]).ok();
        assert!(container.link("eth0").is_none());
        assert_gone(&world, before);
    }
}

#[test]
fn a_bridge_is_shared_with_the_reference_plugin() {
    let Some(pairs) = pairs() else { return };
    for (program, peers, version) in pairs {
        share_a_bridge(&program, &peers, version);
    }
}

/// The reference `bridge` makes cni0 and a layer 2 interface; ours joins it, as a gateway.
fn share_a_bridge(program: &Path, peers: &Path, version: &str) {
    let world = World::new();
    let container = world.container("x");
    let before = world.snapshot();
    let cnitool = CniTool::with_peers(program, peers);
    cnitool.network(&chain(version, json!([plugin()])));
    cnitool.network(&json!({
        "cniVersion": version,
        "name": "layer2",
        "plugins": [{"type": "bridge", "bridge": "cni0"}]
    }));
    let as_net1 = |verb| {
        let mut command = cnitool.command(&[verb, "layer2", "/run/netns/x"]);
        command.env("CNI_IFNAME", "net1");
        ToolOutput::of(command)
    };

    as_net1("add").ok();
    let made_by_them = world.link("cni0").unwrap();
    cnitool.run(&["add", "podnet", "/run/netns/x"]).ok();
    assert_eq!(world.link("cni0").unwrap().index, made_by_them.index);
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);

    // Each removes its own and leaves the other's.
    cnitool.run(&["check", "podnet", "/run/netns/x"]).ok();
    as_net1("del").ok();
    cnitool.run(&["check", "podnet", "/run/netns/x"]).ok();
    as_net1("add").ok();
    cnitool.run(&["del", "podnet", "/run/netns/x"]).ok();
    assert!(container.link("net1").is_some());
    as_net1("del").ok();
    assert_gone(&world, before);
}

/// The world is as it was, but for the bridge, which stays; nothing is remembered.
#[track_caller]
fn assert_gone(world: &World, before: Snapshot) {
    let after = world.snapshot().without_bridge("cni0").addresses_only();
    assert_eq!(after, before.addresses_only());
    assert_eq!(cached_results(), 0);
}
