//! Containers that ended without DEL, while the runtime's cache, its list of attachments and the
//! address store still name them: nobody who comes next is reached by their ports and masquerade,
//! or refused because of them.

mod new_address;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::plugins::call_as;
use crate::ports::{mapped, mapping};
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, listen, tcp, tcp_is_blocked};
use common::{Container, STORES, World, added, call, podnet, with};

fn without_ports() -> Value {
    with(mapped(), json!({"runtimeConfig": null}))
}

fn portmap(wired: &Value, host_port: u16) -> Value {
    let config = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "portmap",
        "capabilities": {"portMappings": true}, "prevResult": wired});
    mapping(
        config,
        json!([{"hostPort": host_port, "containerPort": 80}]),
    )
}

/// A container with a port mapped by a chained portmap.
fn chained(world: &World, name: &str, host_port: u16) -> Container {
    let (x, wired) = added(world, &without_ports(), name);
    call_as("portmap", "ADD", &portmap(&wired, host_port), &x)
        .run()
        .ok();
    x
}

/// Its namespace and interface are gone, and nobody was told.
fn dies(x: Container) {
    x.ip("link del eth0");
    x.destroy();
}

/// The address store of a host where somebody cleaned up by hand.
fn forget_addresses() {
    fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();
}

#[test]
fn the_port_of_a_dead_container_is_given_to_the_next() {
    let world = World::new();
    dies(chained(&world, "x", 8080));
    let y = chained(&world, "y", 8080);
    tcp(&listen(Some(&y), "[::]:80"), HOST, "127.0.0.1:8080");
}

/// No address behind its link: a sandbox with a network stack of its own takes it off.
#[test]
fn the_port_of_a_container_that_may_be_alive_is_refused() {
    for take_off in [false, true] {
        let world = World::new();
        let x = chained(&world, "x", 8080);
        if take_off {
            x.ip("addr flush dev eth0");
        }
        let before = ruleset();
        let (y, wired) = added(&world, &without_ports(), "y");
        call_as("portmap", "ADD", &portmap(&wired, 8080), &y)
            .run()
            .err_code(103);
        assert_eq!(ruleset(), before);
    }
}

#[test]
fn the_address_s_next_holder_is_not_reached_by_the_ports_of_a_dead_one() {
    let world = World::new();
    dies(chained(&world, "x", 8080));
    forget_addresses();
    let (y, result) = added(&world, &without_ports(), "y");
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    let server = listen(Some(&y), "[::]:80");
    tcp(&server, HOST, "10.1.0.2:80");
    tcp_is_blocked(HOST, "10.1.0.1:8080");
    tcp_is_blocked(HOST, "[fd00::1]:8080");
    assert_eq!(element_count("portmap podnet x eth0"), 0);
}

/// Its portmap wants other ports, or none.
#[test]
fn nor_behind_another_plugin() {
    for own_port in [true, false] {
        let world = World::new();
        let (x, mut wired) = added(&world, &without_ports(), "x");
        wired["interfaces"][1]["name"] = json!("veth0");
        call_as("portmap", "ADD", &portmap(&wired, 8080), &x)
            .run()
            .ok();
        // Our bridge gives the link and the address to the next; it finds no old mapping.
        let old = element_count("portmap podnet x eth0");
        assert_eq!(old, 6);
        let mut next = portmap(&wired, 9090);
        if !own_port {
            next["runtimeConfig"] = json!({});
        }
        call_as("portmap", "ADD", &next, &x).id("y").run().ok();
        assert_eq!(element_count("portmap podnet x eth0"), 0);
        let new = element_count("portmap podnet y eth0");
        assert_eq!(new, if own_port { 6 } else { 0 });
    }
}

#[test]
fn a_new_life_of_the_same_id_leaves_nothing_of_the_old_one() {
    for lost_store in [false, true] {
        let world = World::new();
        dies(chained(&world, "x", 8080));
        if lost_store {
            forget_addresses();
        }
        chained(&world, "x", 9090);
        assert_eq!(element_count("portmap podnet x eth0"), 6);
        assert!(!ruleset().contains("8080"));
    }
}

#[test]
fn a_new_life_with_own_ports_leaves_nothing_of_the_old_one() {
    let world = World::new();
    let ports = |port| {
        mapping(
            with(mapped(), json!({"ipMasq": true})),
            json!([{"hostPort": port, "containerPort": 80}]),
        )
    };
    let (x, _) = added(&world, &ports(8080), "x");
    let count = element_count("pausenet podnet x eth0");
    dies(x);
    added(&world, &ports(9090), "x");
    assert_eq!(element_count("pausenet podnet x eth0"), count);
    assert!(!ruleset().contains("8080"));
}

#[test]
fn the_address_s_next_holder_is_not_masqueraded_for_a_dead_one() {
    let world = World::new();
    let masquerade = with(podnet(), json!({"ipMasq": true}));
    let (x, _) = added(&world, &masquerade, "x");
    dies(x);
    forget_addresses();
    added(&world, &podnet(), "y");
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
}

/// An ADD that is refused because the attachment lives takes nothing from it.
#[test]
fn a_repeated_add_keeps_the_ports_of_the_live_attachment() {
    let world = World::new();
    let fixed = json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.9/24"}]}});
    let config = with(podnet(), fixed);
    let (x, wired) = added(&world, &config, "x");
    call_as("portmap", "ADD", &portmap(&wired, 8080), &x)
        .run()
        .ok();
    let before = ruleset();
    call("ADD", &config, &x).run().err_code(100);
    assert_eq!(ruleset(), before);
}
