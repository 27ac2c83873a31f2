//! The same ID again with another address after a death without DEL, and containers of one address in
//! two networks: each has its own elements, and nobody loses any to another that lives.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{chained, dies, forget_addresses, portmap, without_ports};
use crate::plugins::call_as;
use crate::ports::{mapped, mapping};
use common::nftables::{element_count, ruleset};
use common::{STORES, World, added, call, podnet, with};

fn masquerade_and_port(port: u16) -> Value {
    mapping(
        with(mapped(), json!({"ipMasq": true})),
        json!([{"hostPort": port, "containerPort": 80}]),
    )
}

fn at(config: Value, address: &str) -> Value {
    let ipam =
        json!({"type": "static", "addresses": [{"address": address, "gateway": "10.1.0.1"}]});
    with(config, json!({"ipam": ipam}))
}

/// Its address was freed by hand, and the next in turn is another; or the config names another.
#[test]
fn a_new_life_at_another_address_leaves_nothing_of_the_old_one() {
    for fixed in [false, true] {
        let world = World::new();
        let of = |port, address| match fixed {
            true => at(masquerade_and_port(port), address),
            false => masquerade_and_port(port),
        };
        let (x, first) = added(&world, &of(8080, "10.1.0.2/24"), "x");
        let count = element_count("pausenet podnet x eth0");
        dies(x);
        if !fixed {
            fs::remove_file(Path::new(STORES).join("podnet/10.1.0.2")).unwrap();
        }
        let (_, second) = added(&world, &of(9090, "10.1.0.3/24"), "x");
        assert_ne!(first["ips"][0]["address"], second["ips"][0]["address"]);
        assert_eq!(element_count("pausenet podnet x eth0"), count);
        let left = ruleset();
        assert!(
            !left.contains("8080") && !left.contains("10.1.0.2 "),
            "{left}"
        );
    }
}

/// Its network maps nothing any more.
#[test]
fn a_new_life_without_elements_leaves_nothing_of_the_old_one() {
    let world = World::new();
    let (x, _) = added(&world, &at(masquerade_and_port(8080), "10.1.0.2/24"), "x");
    dies(x);
    added(&world, &at(podnet(), "10.1.0.3/24"), "x");
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
}

#[test]
fn a_new_life_behind_a_chained_portmap_leaves_nothing_of_the_old_one() {
    for own_port in [true, false] {
        let world = World::new();
        let fixed = |address| at(without_ports(), address);
        let (x, wired) = added(&world, &fixed("10.1.0.2/24"), "x");
        let portmap = |wired: &Value, ports: &Value| {
            let config = with(
                portmap(wired, 1),
                json!({"runtimeConfig": {"portMappings": ports}}),
            );
            call_as("portmap", "ADD", &config, &x).run().ok();
        };
        let port = |host: u16| json!([{"hostPort": host, "containerPort": 80, "protocol": "tcp"}]);
        portmap(&wired, &port(8080));
        let count = element_count("portmap podnet x eth0");
        x.ip("link del eth0");
        let wired = call("ADD", &fixed("10.1.0.3/24"), &x).run().ok();
        portmap(&wired, &if own_port { port(9090) } else { json!([]) });
        let expected = if own_port { count } else { 0 };
        assert_eq!(element_count("portmap podnet x eth0"), expected);
        assert!(!ruleset().contains("8080"));
    }
}

/// The config may have changed since ADD.
#[test]
fn del_and_gc_remove_elements_that_the_config_does_not_mention_any_more() {
    for verb in ["DEL", "GC"] {
        let world = World::new();
        let (x, _) = added(&world, &masquerade_and_port(8080), "x");
        let list = json!({"cni.dev/valid-attachments": []});
        call(verb, &with(podnet(), list), &x).run().ok();
        assert_eq!(element_count("pausenet podnet x eth0"), 0, "{verb}");
        assert_eq!(common::run_files(), Default::default(), "{verb}");
    }
}

#[test]
fn nothing_is_kept_under_run_of_attachments_that_ended() {
    let world = World::new();
    let x = chained(&world, "x", 8080);
    assert!(!common::run_files().is_empty());
    let del = |plugin: &str, config: &Value| call_as(plugin, "DEL", config, &x).run().ok();
    del("portmap", &portmap(&json!({"cniVersion": "1.1.0"}), 8080));
    call("DEL", &without_ports(), &x).run().ok();
    assert_eq!(common::run_files(), Default::default());
    // One that failed.
    let y = world.container("y");
    let bad = with(
        masquerade_and_port(8080),
        json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "192.168.7.0/24", "gw": "172.31.0.1"}]}}),
    );
    call("ADD", &bad, &y).run().err_code(101);
    assert_eq!(common::run_files(), Default::default());
}

/// Two bridges with the same subnet: a mistake, but nobody loses what worked.
#[test]
fn a_container_of_the_same_address_in_another_network_keeps_its_ports() {
    for chained_port in [false, true] {
        let world = World::new();
        let (x, owner) = match chained_port {
            true => (chained(&world, "x", 8080), "portmap podnet x eth0"),
            false => {
                let (x, _) = added(&world, &masquerade_and_port(8080), "x");
                (x, "pausenet podnet x eth0")
            }
        };
        let ports = |owner: &str| {
            let rules = ruleset();
            let of_port = |line: &&str| line.contains(" . ") && line.contains(owner);
            rules
                .lines()
                .flat_map(|line| line.split(','))
                .filter(of_port)
                .count()
        };
        let before = ports(owner);
        assert!(before > 0);
        let other = |config: Value| with(config, json!({"name": "other", "bridge": "br1"}));
        let (_y, result) = added(&world, &other(without_ports()), "y");
        assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
        assert_eq!(ports(owner), before);
        // Its port is taken by one that lives, whatever address it leads to.
        let fixed = |port| at(other(masquerade_and_port(port)), "10.1.0.2/24");
        let z = world.container("z");
        call("ADD", &fixed(8080), &z).run().err_code(103);
        assert_eq!(ports(owner), before);
        call("ADD", &fixed(9090), &z).run().ok();
        assert_eq!(ports(owner), before);
        call("DEL", &fixed(9090), &z).run().ok();
        assert_eq!(ports(owner), before);
        drop(x);
    }
}

/// But the dead do not keep theirs because the living have the same address.
#[test]
fn a_dead_container_s_ports_go_though_two_others_have_its_address() {
    let world = World::new();
    let (x, _) = added(&world, &masquerade_and_port(8080), "x");
    dies(x);
    forget_addresses();
    let other = with(without_ports(), json!({"name": "other", "bridge": "br1"}));
    added(&world, &other, "y");
    added(&world, &without_ports(), "z");
    assert!(!ruleset().contains("8080"));
}

/// A part of the ruleset was deleted, and what is left has the new life's keys.
#[test]
fn an_add_makes_a_table_that_is_missing_though_elements_of_another_are_there() {
    let world = World::new();
    let config = with(masquerade_and_port(8080), json!({"macspoofchk": true}));
    let (x, _) = added(&world, &config, "x");
    let count = element_count("pausenet podnet x eth0");
    x.ip("link del eth0");
    common::run("nft", ["delete", "table", "inet", "pausenet"]);
    fs::remove_dir_all("/run/pausenet").unwrap();
    call("ADD", &config, &x).run().ok();
    assert_eq!(element_count("pausenet podnet x eth0"), count);
}
