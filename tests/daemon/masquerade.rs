//! The masquerade table: how it is replaced, restored, and what it does to packets.

use std::net::IpAddr;

use pausenet::kernel::nft::{Contents, Nft};
use pausenetd::desired::DesiredMasquerade;
use pausenetd::masquerade::{LastApplied, Outcome, TABLE, ensure, remove};

use crate::nodes::{host, make_bridge};
use common::traffic::seen_as;
use common::{Container, World, ip, run};

fn desired(exempt: &[&str]) -> DesiredMasquerade {
    DesiredMasquerade {
        pods: nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
        exempt: nets(exempt),
    }
}

fn nets(texts: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn nft(rules: &str) -> String {
    run("nft", rules.split_whitespace())
}

const CLUSTER: &[&str] = &["10.244.0.0/16", "fd00:10:244::/56", "224.0.0.0/4"];

#[test]
fn nft_lists_the_table() {
    let _world = World::new();
    let mut last_applied = None;
    let mut socket = Nft::open().unwrap();
    ensure(&mut socket, &desired(CLUSTER), &mut last_applied).unwrap();
    let table = nft("list table inet pausenetd");
    for part in [
        "ip saddr @pods4 ip daddr != @kept4 masquerade",
        "ip6 saddr @pods6 ip6 daddr != @kept6 masquerade",
        "elements = { 10.244.1.0/24 }",
        "elements = { 10.244.0.0/16, 224.0.0.0/4 }",
        "elements = { fd00:10:244::/56 }",
        "type nat hook postrouting priority srcnat",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
}

#[test]
fn an_unchanged_table_is_left_alone_and_a_changed_one_is_replaced() {
    let _world = World::new();
    let mut socket = Nft::open().unwrap();
    let mut last_applied: Option<LastApplied> = None;
    let mut look = |kept: &[&str]| ensure(&mut socket, &desired(kept), &mut last_applied).unwrap();
    assert_eq!(look(CLUSTER), Outcome::Created);
    assert_eq!(look(CLUSTER), Outcome::Unchanged);
    let table = nft("list table inet pausenetd");

    nft("add table inet foreign");
    nft("add table ip pausenetd");
    assert_eq!(look(CLUSTER), Outcome::Unchanged);

    for damage in [
        "flush ruleset",
        "delete table inet pausenetd",
        "flush table inet pausenetd",
        "flush set inet pausenetd kept4",
        "add element inet pausenetd kept4 { 192.0.2.0/24 }",
        "delete element inet pausenetd pods6 { fd00:10:244:1::/64 }",
        "insert rule inet pausenetd postrouting accept",
        "add chain inet pausenetd other",
        "add set inet pausenetd other { type ipv4_addr; }",
    ] {
        nft(damage);
        assert_eq!(look(CLUSTER), Outcome::Repaired, "{damage}");
        assert_eq!(nft("list table inet pausenetd"), table, "{damage}");
        assert_eq!(look(CLUSTER), Outcome::Unchanged, "{damage}");
    }

    assert_eq!(look(&["10.244.0.0/16"]), Outcome::Created);
    assert_ne!(nft("list table inet pausenetd"), table);
}

#[test]
fn a_new_daemon_replaces_the_table_of_the_previous_one_at_once() {
    let _world = World::new();
    let mut socket = Nft::open().unwrap();
    ensure(&mut socket, &desired(&["192.0.2.0/24"]), &mut None).unwrap();
    ensure(&mut socket, &desired(CLUSTER), &mut None).unwrap();
    let table = nft("list table inet pausenetd");
    assert!(!table.contains("192.0.2.0"), "{table}");
    assert!(remove(&mut socket).unwrap());
    assert!(!remove(&mut socket).unwrap());
    assert_eq!(socket.contents(TABLE).unwrap(), Contents::default());
}

#[test]
fn adjacent_subnets_and_those_at_the_edges_of_the_address_space_work() {
    let _world = World::new();
    let mut socket = Nft::open().unwrap();
    let edges = &[
        "0.0.0.0/8",
        "10.0.0.0/24",
        "10.0.1.0/24",
        "255.255.255.255/32",
        "::/128",
        "ff00::/8",
    ];
    ensure(&mut socket, &desired(edges), &mut None).unwrap();
    let table = nft("list table inet pausenetd");
    for part in [
        "0.0.0.0/8",
        "10.0.0.0/24",
        "10.0.1.0/24",
        "255.255.255.255",
        "ff00::/8",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
}

#[test]
fn a_thousand_separate_subnets_fit_into_one_transaction() {
    let _world = World::new();
    let mut socket = Nft::open().unwrap();
    let subnets: Vec<_> = (0..1000u32)
        .map(|at| format!("10.{}.{}.0/25", at / 256, at % 256))
        .chain((0..1000).map(|at| format!("fd00:0:0:{at:x}::/65")))
        .collect();
    let texts: Vec<_> = subnets.iter().map(String::as_str).collect();
    let mut last_applied = None;
    ensure(&mut socket, &desired(&texts), &mut last_applied).unwrap();
    let table = nft("list table inet pausenetd");
    for part in ["10.0.0.0/25", "10.3.231.0/25", "fd00:0:0:3e7::/65"] {
        assert!(table.contains(part), "{part}");
    }
    let again = ensure(&mut socket, &desired(&texts), &mut last_applied).unwrap();
    assert_eq!(again, Outcome::Unchanged);
}

/// A pod behind a node, set up without the plugin.
fn pod(node: &Container, world: &World) -> Container {
    let pod = world.container("pod");
    ip("-n node1 link add veth0 type veth peer name eth0 netns pod");
    node.ip("addr add 10.244.1.1/24 dev veth0");
    node.ip("addr add fd00:10:244:1::1/64 dev veth0 nodad");
    node.ip("link set veth0 up");
    pod.ip("link set eth0 up");
    pod.ip("addr add 10.244.1.7/24 dev eth0");
    pod.ip("addr add fd00:10:244:1::7/64 dev eth0 nodad");
    pod.ip("route add default via 10.244.1.1");
    pod.ip("-6 route add default via fd00:10:244:1::1");
    node.enter(|| {
        common::set_sysctl("ipv4/ip_forward", "1");
        common::set_sysctl("ipv6/conf/all/forwarding", "1");
    });
    pod
}

#[test]
fn traffic_that_leaves_the_cluster_is_masqueraded_and_traffic_within_is_not() {
    let world = World::new();
    make_bridge();
    let node = host(&world, "node1", 1);
    let outside = host(&world, "outside", 200);
    let pod = pod(&node, &world);
    // Exempt destinations have a route back to the pod.
    outside.ip("addr add 10.244.9.9/32 dev lo");
    outside.ip("addr add fd00:10:244:9::9/128 dev lo nodad");
    outside.ip("route add 10.244.1.0/24 via 192.168.77.1");
    outside.ip("-6 route add fd00:10:244:1::/64 via fd00:77::1");
    node.ip("route add 10.244.9.9 via 192.168.77.200");
    node.ip("-6 route add fd00:10:244:9::9 via fd00:77::200");

    let see = |to: &str| seen_as(&pod, &outside, to.parse().unwrap());
    let some = |ip: &str| Some(ip.parse::<IpAddr>().unwrap());
    let make = |kept: &[&str]| {
        node.enter(|| ensure(&mut Nft::open().unwrap(), &desired(kept), &mut None).unwrap())
    };
    assert_eq!(
        see("192.168.77.200"),
        some("10.244.1.7"),
        "before the table is set"
    );
    make(CLUSTER);
    assert_eq!(see("192.168.77.200"), some("192.168.77.1"));
    assert_eq!(see("fd00:77::200"), some("fd00:77::1"));
    assert_eq!(see("10.244.9.9"), some("10.244.1.7"));
    assert_eq!(see("fd00:10:244:9::9"), some("fd00:10:244:1::7"));
    make(&[
        "10.244.0.0/16",
        "fd00:10:244::/56",
        "192.168.0.0/16",
        "fd00:77::/64",
    ]);
    assert_eq!(see("192.168.77.200"), some("10.244.1.7"), "an exception");
    assert_eq!(
        see("fd00:77::200"),
        some("fd00:10:244:1::7"),
        "an exception"
    );
    // The node's own traffic is not affected.
    let of_node = |to: &str| seen_as(&node, &outside, to.parse().unwrap());
    assert_eq!(of_node("192.168.77.200"), some("192.168.77.1"));
}
