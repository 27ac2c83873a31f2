//! Routes with our protocol number, among foreign ones.

use std::net::IpAddr;

use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::Which;
use pausenet::kernel::owned_route::{NextHop, OwnedRoute, Target};
use pausenetd::routes::{ensure, list, next_hops, shadowed};

use crate::nodes::{host, make_bridge};
use common::{Container, World};

fn node(world: &World) -> Container {
    make_bridge();
    host(world, "node1", 1)
}

fn link(node: &Container) -> u32 {
    node.enter(|| {
        let name = pausenet::cni::IfName::parse("eth0").unwrap();
        let mut socket = RouteSocket::open().unwrap();
        let link = pausenet::kernel::link::get(&mut socket, Which::Name(&name)).unwrap();
        link.unwrap().index
    })
}

fn via(dst: &str, gateway: &str, link: u32) -> OwnedRoute {
    let target = Target::Neighbour {
        gateway: gateway.parse().unwrap(),
        link,
    };
    OwnedRoute {
        dst: dst.parse().unwrap(),
        target,
    }
}

fn unreachable(dst: &str) -> OwnedRoute {
    OwnedRoute {
        dst: dst.parse().unwrap(),
        target: Target::Unreachable,
    }
}

/// Applies the desired routes. Returns how many were set, and how many removed.
fn make(node: &Container, wanted: &[OwnedRoute]) -> (usize, usize) {
    node.enter(|| {
        let mut socket = RouteSocket::open().unwrap();
        let outcome = ensure(&mut socket, wanted).unwrap();
        assert_eq!(outcome.refused, []);
        let mut present = list(&mut socket).unwrap();
        present.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort();
        assert_eq!(present, wanted);
        (outcome.put, outcome.removed)
    })
}

#[test]
fn routes_of_both_families_are_added_replaced_and_removed_with_our_protocol_and_metric() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    let first = [
        unreachable("10.244.0.0/24"),
        unreachable("fd00:10:244::/64"),
        via("10.244.1.0/24", "192.168.77.2", eth0),
        via("fd00:10:244:1::/64", "fd00:77::2", eth0),
    ];
    assert_eq!(make(&node, &first), (4, 0));
    assert_eq!(make(&node, &first), (0, 0));
    let shown = node.ip("route show 10.244.1.0/24");
    assert!(
        shown.starts_with("10.244.1.0/24 via 192.168.77.2 dev eth0 proto 112 metric 11200"),
        "{shown}"
    );
    let moved = [
        first[0],
        first[1],
        via("10.244.1.0/24", "192.168.77.3", eth0),
        via("fd00:10:244:1::/64", "fd00:77::3", eth0),
    ];
    assert_eq!(make(&node, &moved), (2, 0), "replaced, not removed");
    assert_eq!(make(&node, &[]), (0, 4));
}

/// All routes, without those that the kernel adds in its own time.
fn shown(node: &Container) -> Vec<String> {
    let routes = node.ip("route show table all") + &node.ip("-6 route show table all");
    let lines = routes.lines().filter(|line| !line.contains("fe80:"));
    lines.map(str::to_owned).collect()
}

#[test]
fn foreign_routes_stay_when_ours_change() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    for foreign in [
        // To the same destination with another metric, without and with our protocol number.
        "-4 route add 10.244.1.0/24 via 192.168.77.9 metric 20000",
        "-4 route add 10.244.1.0/24 via 192.168.77.9 proto 112 metric 5000000",
        "-6 route add fd00:10:244:1::/64 via fd00:77::9 metric 20000",
        // In another table, with our protocol number and metric.
        "-4 route add 10.244.1.0/24 via 192.168.77.9 proto 112 metric 11200 table 77",
        "-4 route add 198.51.100.0/24 via 192.168.77.9",
        "-4 route add 198.51.101.0/24 via 192.168.77.9 proto 112",
    ] {
        node.ip(foreign);
    }
    let before = shown(&node);
    let wanted = [
        via("10.244.1.0/24", "192.168.77.2", eth0),
        via("fd00:10:244:1::/64", "fd00:77::2", eth0),
    ];
    assert_eq!(make(&node, &wanted), (2, 0));
    let moved = [
        via("10.244.1.0/24", "192.168.77.3", eth0),
        via("fd00:10:244:1::/64", "fd00:77::3", eth0),
    ];
    assert_eq!(make(&node, &moved), (2, 0));
    assert_eq!(make(&node, &[]), (0, 2));
    assert_eq!(shown(&node), before);
}

#[test]
fn a_foreign_route_with_our_metric_is_not_replaced() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    node.ip("route add 10.244.1.0/24 via 192.168.77.9 metric 11200");
    node.ip("-6 route add fd00:10:244:1::/64 via fd00:77::9 metric 11200");
    let before = node.ip("route") + &node.ip("-6 route");
    let wanted = [
        via("10.244.1.0/24", "192.168.77.2", eth0),
        via("fd00:10:244:1::/64", "fd00:77::2", eth0),
    ];
    let outcome = node.enter(|| ensure(&mut RouteSocket::open().unwrap(), &wanted).unwrap());
    assert_eq!((outcome.put, outcome.refused.len()), (0, 2));
    let why = &outcome.refused[0].1;
    assert!(
        why.contains("another program's route to that destination exists"),
        "{why}"
    );
    assert_eq!(node.ip("route") + &node.ip("-6 route"), before);
}

#[test]
fn removed_routes_are_added_again() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    let wanted = [
        via("10.244.1.0/24", "192.168.77.2", eth0),
        via("10.244.2.0/24", "192.168.77.3", eth0),
    ];
    make(&node, &wanted);
    node.ip("route del 10.244.1.0/24 proto 112");
    assert_eq!(make(&node, &wanted), (1, 0));
    node.ip("link set eth0 down");
    node.ip("link set eth0 up");
    assert_eq!(make(&node, &wanted), (2, 0));
}

#[test]
fn next_hops_distinguish_neighbours_from_addresses_behind_a_router() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    node.ip("route add 203.0.113.0/24 via 192.168.77.254");
    node.ip("route add blackhole 203.0.114.0/24");
    node.ip("-6 route add 2001:db8:1::/48 via fd00:77::254");
    node.ip("-6 route add unreachable 2001:db8:2::/48");
    let ask = |address: &str| -> NextHop {
        let address: IpAddr = address.parse().unwrap();
        node.enter(|| next_hops(&mut RouteSocket::open().unwrap(), &[address]).unwrap()[&address])
    };
    let through = |gateway: &str| NextHop::Gateway {
        gateway: gateway.parse().unwrap(),
        link: eth0,
    };
    for (address, way) in [
        ("192.168.77.2", NextHop::OnLink(eth0)),
        ("fd00:77::2", NextHop::OnLink(eth0)),
        ("192.168.77.1", NextHop::Local),
        ("fd00:77::1", NextHop::Local),
        ("203.0.113.7", through("192.168.77.254")),
        ("2001:db8:1::7", through("fd00:77::254")),
        ("203.0.114.7", NextHop::Unreachable),
        ("2001:db8:2::7", NextHop::Unreachable),
        ("203.0.115.7", NextHop::Unreachable),
        ("2001:db8:3::7", NextHop::Unreachable),
    ] {
        assert_eq!(ask(address), way, "{address}");
    }
}

#[test]
fn a_thousand_nodes_are_a_thousand_routes() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    let route = |at: u32| {
        let dst = format!("10.{}.{}.0/24", 200 + at / 256, at % 256);
        via(&dst, &format!("192.168.77.{}", 2 + at % 200), eth0)
    };
    let wanted: Vec<_> = (0..1000).map(route).collect();
    assert_eq!(make(&node, &wanted), (1000, 0));
    let addresses: Vec<IpAddr> = (0..1000u32)
        .map(|at| IpAddr::from([192, 168, 77, (2 + at % 200) as u8]))
        .collect();
    node.enter(|| {
        let mut socket = RouteSocket::open().unwrap();
        let next_hops = next_hops(&mut socket, &addresses).unwrap();
        assert!(
            next_hops
                .values()
                .all(|next_hop| *next_hop == NextHop::OnLink(eth0))
        );
        let none = shadowed(&mut socket, &wanted, |_| "x".into()).unwrap();
        assert_eq!(none, []);
    });
}

#[test]
fn a_foreign_route_that_takes_precedence_is_reported() {
    let world = World::new();
    let node = node(&world);
    let eth0 = link(&node);
    let wanted = [
        unreachable("10.244.0.0/24"),
        via("10.244.1.0/24", "192.168.77.2", eth0),
        via("fd00:10:244:1::/64", "fd00:77::2", eth0),
    ];
    make(&node, &wanted);
    let look = || {
        node.enter(|| {
            let owner = |route: &OwnedRoute| format!("node of {}", route.dst);
            shadowed(&mut RouteSocket::open().unwrap(), &wanted, owner).unwrap()
        })
    };
    assert_eq!(look(), []);
    node.ip("route add 10.244.1.0/24 via 192.168.77.9");
    let found = look();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].node, "node of 10.244.1.0/24");
    assert!(
        found[0].text.contains("to 192.168.77.9"),
        "{}",
        found[0].text
    );
}
