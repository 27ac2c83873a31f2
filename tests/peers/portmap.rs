//! Our `portmap` beside the reference's with its nftables backend: results, errors and sysctls.
//! What the rules do to packets is in `traffic`.

use serde_json::{Value, json};

use crate::compare::cases::{bridge, dual, portmap, ptp};
use crate::compare::{Node, same, same_in};
use common::with;

fn gateway() -> Value {
    with(bridge(), json!({"isDefaultGateway": true, "ipam": dual()}))
}

fn chain(node: &mut Node, wired: &Value, ports: &Value) {
    let plugins = [wired.clone(), ports.clone()];
    for verb in ["ADD", "CHECK", "DEL", "DEL"] {
        node.call_chain(verb, "c1", "eth0", &plugins);
    }
    node.record_rules(&["10.1.0.2", "fd00::2", "c1", "8080"]);
}

fn web() -> Value {
    json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
}

#[test]
fn portmap_after_bridge() {
    let ports = portmap(json!({}), web());
    same("portmap_after_bridge", |node| {
        chain(node, &gateway(), &ports)
    });
}

#[test]
fn portmap_after_ptp() {
    let ports = portmap(json!({}), web());
    let wired = with(ptp(), json!({"ipam": dual()}));
    same("portmap_after_ptp", |node| chain(node, &wired, &ports));
}

#[test]
fn portmap_without_ports() {
    for ports in [
        portmap(json!({}), json!([])),
        portmap(json!({"runtimeConfig": null}), json!([])),
    ] {
        same("portmap_without_ports", |node| {
            chain(node, &gateway(), &ports)
        });
    }
}

#[test]
fn portmap_protocols() {
    let ports = portmap(
        json!({}),
        json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": 53, "protocol": "udp"},
            {"hostPort": 8080, "containerPort": 99, "protocol": "sctp"}
        ]),
    );
    same("portmap_protocols", |node| chain(node, &gateway(), &ports));
}

#[test]
fn portmap_host_ip() {
    let ports = portmap(
        json!({}),
        json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
            {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"},
            {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "::"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "2001:db8::1"}
        ]),
    );
    same("portmap_host_ip", |node| chain(node, &gateway(), &ports));
}

#[test]
fn portmap_without_snat() {
    let ports = portmap(json!({"snat": false}), web());
    same("portmap_without_snat", |node| {
        chain(node, &gateway(), &ports)
    });
}

#[test]
fn portmap_masq_all() {
    let ports = portmap(json!({"masqAll": true}), web());
    same("portmap_masq_all", |node| chain(node, &gateway(), &ports));
}

#[test]
fn portmap_mark_masq_bit() {
    let ports = portmap(json!({"markMasqBit": 5}), web());
    same("portmap_mark_masq_bit", |node| {
        chain(node, &gateway(), &ports)
    });
}

#[test]
fn portmap_set_mark_chain() {
    let ports = portmap(json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), web());
    same_in("portmap_set_mark_chain", &["1.1.0"], |node| {
        chain(node, &gateway(), &ports)
    });
}

#[test]
fn portmap_conditions() {
    let keys = json!({"conditionsV4": ["ip", "daddr", "!=", "192.0.2.9"]});
    let ports = portmap(keys, web());
    same_in("portmap_conditions", &["1.1.0"], |node| {
        chain(node, &gateway(), &ports)
    });
}

#[test]
fn portmap_refuses() {
    let mapping = |mapping: Value| portmap(json!({}), json!([mapping]));
    let bad = [
        ("mark 32", portmap(json!({"markMasqBit": 32}), web())),
        ("mark -1", portmap(json!({"markMasqBit": -1}), web())),
        (
            "a chain",
            portmap(
                json!({"externalSetMarkChain": "KUBE", "backend": "nftables"}),
                web(),
            ),
        ),
        (
            "a chain and a bit",
            portmap(
                json!({"externalSetMarkChain": "KUBE", "markMasqBit": 5}),
                web(),
            ),
        ),
        (
            "conditions of iptables",
            portmap(json!({"conditionsV4": ["-d", "192.0.2.9"]}), web()),
        ),
        (
            "host port 0",
            mapping(json!({"hostPort": 0, "containerPort": 80, "protocol": "tcp"})),
        ),
        (
            "container port 0",
            mapping(json!({"hostPort": 8080, "containerPort": 0, "protocol": "tcp"})),
        ),
        (
            "negative port",
            mapping(json!({"hostPort": -1, "containerPort": 80, "protocol": "tcp"})),
        ),
        (
            "host port 65536",
            mapping(json!({"hostPort": 65536, "containerPort": 80, "protocol": "tcp"})),
        ),
        (
            "a word for a port",
            mapping(json!({"hostPort": "http", "containerPort": 80, "protocol": "tcp"})),
        ),
        (
            "unknown protocol",
            mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "icmp"})),
        ),
        (
            "no protocol",
            mapping(json!({"hostPort": 8080, "containerPort": 80})),
        ),
        (
            "upper case",
            mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "TCP"})),
        ),
        ("backend", portmap(json!({"backend": "ebpf"}), web())),
    ];
    same_in("portmap_refuses", &["1.1.0"], |node| {
        node.call("ADD", "c1", &gateway());
        let before = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
            "ips": [{"address": "10.1.0.2/24", "interface": 0}]
        });
        for (what, config) in &bad {
            let config = with(config.clone(), json!({"prevResult": before}));
            for verb in ["ADD", "DEL"] {
                let call = node.plugin(verb, "c1", &node.config(&config));
                node.outcome(&format!("{verb}, {what}"), &call);
            }
        }
        let unchained = node.plugin("ADD", "c1", &node.config(&portmap(json!({}), web())));
        node.outcome("ADD, not chained", &unchained);
    });
}

/// A second container that wants the port of the first.
#[test]
fn portmap_of_a_port_in_use() {
    let plugins = [gateway(), portmap(json!({}), web())];
    same_in("portmap_of_a_port_in_use", &["1.1.0"], |node| {
        node.call_chain("ADD", "c1", "eth0", &plugins);
        node.call_chain("ADD", "c2", "eth0", &plugins);
    });
}

#[test]
fn portmap_when_the_netns_is_gone() {
    let plugins = [gateway(), portmap(json!({}), web())];
    same("portmap_when_the_netns_is_gone", |node| {
        node.call_chain("ADD", "c1", "eth0", &plugins);
        let call = |node: &Node| {
            let config = with(
                plugins[1].clone(),
                json!({"prevResult": node.result("c1 eth0")}),
            );
            node.plugin("DEL", "c1", &node.config(&config))
        };
        node.destroy("c1");
        let gone = call(node);
        node.run("DEL", &gone);
        node.record_rules(&["c1", "8080"]);
        let without = call(node).without("CNI_NETNS");
        node.run("DEL without CNI_NETNS", &without);
    });
}
