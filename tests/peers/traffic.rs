//! Reachability through networks of ours and of the reference's: by TCP and UDP, in both
//! families, with the address that the other side sees.

use serde_json::{Value, json};

use crate::compare::cases::{bridge, dual, gateway, portmap, ptp};
use crate::compare::reach::{From, outside, reach};
use crate::compare::{Node, Plugins, compare, same_in};
use common::{sysctl, with};

const HOST: From = From::Host;
const C1: From = From::Container("c1");
const C2: From = From::Container("c2");
const OUTSIDE: From = From::Container("outside");

/// Containers, their gateway, and a host outside.
const EVERYBODY: [&str; 8] = [
    "10.1.0.2:80",
    "10.1.0.3:80",
    "10.1.0.1:80",
    "192.0.2.2:80",
    "[fd00::2]:80",
    "[fd00::3]:80",
    "[fd00::1]:80",
    "[2001:db8::2]:80",
];

/// Ports of the host, at every address that it has and at a container's.
const PORTS: [&str; 9] = [
    "192.0.2.1:8080",
    "10.1.0.1:8080",
    "127.0.0.1:8080",
    "127.0.0.9:8080",
    "10.1.0.2:80",
    "192.0.2.2:8080",
    "[2001:db8::1]:8080",
    "[fd00::1]:8080",
    "[::1]:8080",
];

/// Two containers and a host outside, which has a route back to them if `routed`.
fn compare_traffic(node: &mut Node, plugins: &[Value], routed: bool) {
    outside(node);
    node.call_chain("ADD", "c1", "eth0", plugins);
    node.call_chain("ADD", "c2", "eth0", &plugins[..1]);
    if routed {
        let outside = node.container("outside");
        outside.ip("route add 10.1.0.0/24 via 192.0.2.1");
        outside.ip("route add fd00::/64 via 2001:db8::1");
    }
}

#[test]
fn traffic_of_a_gateway_with_masquerade() {
    same_in("traffic_of_a_gateway_with_masquerade", &["1.1.0"], |node| {
        compare_traffic(node, &[gateway()], false);
        reach(node, &[HOST, C1, C2], &EVERYBODY);
        // What is not its own subnet is masqueraded, another network of the host's too.
        node.call("DEL", "c1", &gateway());
        reach(node, &[C2, HOST], &EVERYBODY);
    });
}

#[test]
fn traffic_of_a_gateway_without_masquerade() {
    let config = with(gateway(), json!({"ipMasq": false}));
    same_in(
        "traffic_of_a_gateway_without_masquerade",
        &["1.1.0"],
        |node| {
            compare_traffic(node, std::slice::from_ref(&config), true);
            reach(node, &[HOST, C1, OUTSIDE], &EVERYBODY);
        },
    );
}

#[test]
fn traffic_of_a_switch() {
    let config = with(bridge(), json!({"ipam": dual()}));
    same_in("traffic_of_a_switch", &["1.1.0"], |node| {
        compare_traffic(node, std::slice::from_ref(&config), true);
        reach(node, &[HOST, C1, OUTSIDE], &EVERYBODY);
    });
}

#[test]
fn traffic_of_isolated_ports() {
    let config = with(gateway(), json!({"portIsolation": true}));
    same_in("traffic_of_isolated_ports", &["1.1.0"], |node| {
        compare_traffic(node, std::slice::from_ref(&config), false);
        reach(node, &[HOST, C1, C2], &EVERYBODY);
    });
}

#[test]
fn traffic_of_ptp() {
    let config = with(
        ptp(),
        json!({
            "ipMasq": true,
            "ipMasqBackend": "nftables",
            "ipam": with(dual(), json!({"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}))
        }),
    );
    same_in("traffic_of_ptp", &["1.1.0"], |node| {
        compare_traffic(node, std::slice::from_ref(&config), false);
        reach(node, &[HOST, C1, C2], &EVERYBODY);
    });
}

#[test]
fn traffic_of_ptp_without_masquerade() {
    let ipam = with(
        dual(),
        json!({"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}),
    );
    let config = with(ptp(), json!({"ipam": ipam}));
    same_in("traffic_of_ptp_without_masquerade", &["1.1.0"], |node| {
        compare_traffic(node, std::slice::from_ref(&config), true);
        reach(node, &[HOST, C1, OUTSIDE], &EVERYBODY);
    });
}

/// Two networks of one host.
#[test]
fn traffic_between_networks() {
    let other = with(
        gateway(),
        json!({"name": "other", "bridge": "cni1", "ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd02::/64"}]]}}),
    );
    same_in("traffic_between_networks", &["1.1.0"], |node| {
        node.call("ADD", "c1", &gateway());
        node.call("ADD", "c2", &other);
        reach(
            node,
            &[C1],
            &["10.2.0.2:80", "[fd02::2]:80", "10.2.0.1:80", "[fd02::1]:80"],
        );
        reach(node, &[C2], &["10.1.0.2:80", "[fd00::2]:80"]);
    });
}

/// A forged MAC is dropped, the own one is not.
#[test]
fn traffic_of_a_forged_mac() {
    let config = with(gateway(), json!({"macspoofchk": true}));
    same_in("traffic_of_a_forged_mac", &["1.1.0"], |node| {
        compare_traffic(node, std::slice::from_ref(&config), false);
        reach(node, &[C1], &EVERYBODY);
        node.container("c1")
            .ip("link set eth0 address 02:00:00:00:00:77");
        reach(node, &[C1], &["10.1.0.3:80", "10.1.0.1:80", "[fd00::3]:80"]);
    });
}

fn both_protocols() -> Value {
    json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}
    ])
}

/// Mapped ports: from outside, the host, a neighbour, and the container itself.
fn ports(test: &str, wired: &Value, ports: &Value) {
    same_in(test, &["1.1.0"], |node| {
        let plugins = [wired.clone(), ports.clone()];
        compare_traffic(node, &plugins, true);
        reach(node, &[HOST, OUTSIDE, C1, C2], &PORTS);
        node.call_chain("DEL", "c1", "eth0", &plugins);
        reach(
            node,
            &[HOST, OUTSIDE, C2],
            &["192.0.2.1:8080", "[2001:db8::1]:8080"],
        );
    });
}

#[test]
fn traffic_to_ports_of_a_bridge() {
    ports(
        "traffic_to_ports_of_a_bridge",
        &gateway(),
        &portmap(json!({}), both_protocols()),
    );
}

#[test]
fn traffic_to_ports_of_a_hairpin_bridge() {
    let wired = with(gateway(), json!({"hairpinMode": true}));
    ports(
        "traffic_to_ports_of_a_hairpin_bridge",
        &wired,
        &portmap(json!({}), both_protocols()),
    );
}

#[test]
fn traffic_to_ports_of_a_promiscuous_bridge() {
    let wired = with(gateway(), json!({"promiscMode": true}));
    ports(
        "traffic_to_ports_of_a_promiscuous_bridge",
        &wired,
        &portmap(json!({}), both_protocols()),
    );
}

#[test]
fn traffic_to_ports_without_snat() {
    let keys = json!({"snat": false});
    ports(
        "traffic_to_ports_without_snat",
        &gateway(),
        &portmap(keys, both_protocols()),
    );
}

#[test]
fn traffic_to_ports_with_masq_all() {
    let keys = json!({"masqAll": true});
    ports(
        "traffic_to_ports_with_masq_all",
        &gateway(),
        &portmap(keys, both_protocols()),
    );
}

#[test]
fn traffic_to_ports_of_ptp() {
    let ipam = with(
        dual(),
        json!({"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}),
    );
    let wired = with(
        ptp(),
        json!({"ipMasq": true, "ipMasqBackend": "nftables", "ipam": ipam}),
    );
    ports(
        "traffic_to_ports_of_ptp",
        &wired,
        &portmap(json!({}), both_protocols()),
    );
}

#[test]
fn traffic_to_ports_of_one_address() {
    let at = |host: &str| json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": host}]);
    for (test, host) in [
        ("traffic_to_ports_of_one_address", "192.0.2.1"),
        ("traffic_to_ports_of_one_address", "127.0.0.1"),
        ("traffic_to_ports_of_one_address", "0.0.0.0"),
        ("traffic_to_ports_of_one_address", "2001:db8::1"),
    ] {
        ports(test, &gateway(), &portmap(json!({}), at(host)));
    }
}

/// A service of the host's own at 127.0.0.1: with route_localnet, a container could reach it.
#[test]
fn traffic_to_the_host_s_loopback() {
    let plugins = [gateway(), portmap(json!({}), both_protocols())];
    same_in("traffic_to_the_host_s_loopback", &["1.1.0"], |node| {
        compare_traffic(node, &plugins, true);
        node.record("route_localnet", sysctl("ipv4/conf/cni0/route_localnet"));
        let c1 = node.container("c1");
        c1.enter(|| {
            common::set_sysctl("ipv4/conf/all/route_localnet", "1");
            common::set_sysctl("ipv4/conf/eth0/route_localnet", "1");
        });
        c1.ip("route del local 127.0.0.0/8 dev lo table local");
        c1.ip("route del local 127.0.0.1 dev lo table local");
        c1.ip("route add 127.0.0.0/8 via 10.1.0.1");
        reach(node, &[C1], &["127.0.0.1:80", "127.0.0.1:8080"]);
    });
}

/// Our portmap behind the reference's bridge, and the other way round.
fn mixed(test: &str, ours: &str) {
    let Some(plugins) = Plugins::new() else {
        return;
    };
    let mixed = plugins.folder("mixed", &[ours]);
    let chain = [gateway(), portmap(json!({}), both_protocols())];
    compare(test, &["1.1.0"], &plugins.reference, &mixed, |node| {
        compare_traffic(node, &chain, true);
        node.call_chain("CHECK", "c1", "eth0", &chain);
        reach(node, &[HOST, OUTSIDE, C1, C2], &PORTS);
        node.call_chain("DEL", "c1", "eth0", &chain);
        node.record_rules(&["c1", "8080"]);
    });
}

#[test]
fn traffic_through_our_portmap_behind_the_reference_s_bridge() {
    mixed(
        "traffic_through_our_portmap_behind_the_reference_s_bridge",
        "portmap",
    );
}

#[test]
fn traffic_through_the_reference_s_portmap_behind_our_bridge() {
    mixed(
        "traffic_through_the_reference_s_portmap_behind_our_bridge",
        "bridge",
    );
}
