//! Our `loopback` beside the reference's.

use serde_json::{Value, json};

use crate::compare::{Node, same, same_in};
use common::{Call, with};

fn loopback() -> Value {
    json!({"name": "lo", "type": "loopback"})
}

fn call(node: &Node, verb: &str, config: &Value) -> Call {
    node.plugin(verb, "c1", &node.config(config)).ifname("lo")
}

#[test]
fn loopback_up_and_down() {
    same("loopback_up_and_down", |node| {
        node.container("c1").ip("link set lo down");
        for verb in ["ADD", "CHECK", "ADD", "DEL", "CHECK", "DEL"] {
            node.call_at(verb, "c1", "lo", &loopback());
        }
    });
}

#[test]
fn loopback_in_old_versions() {
    same_in(
        "loopback_in_old_versions",
        &["0.1.0", "0.2.0", "0.3.0", "0.3.1"],
        |node| {
            node.call_at("ADD", "c1", "lo", &loopback());
            node.call_at("DEL", "c1", "lo", &loopback());
        },
    );
}

#[test]
fn loopback_without_ipv6() {
    same("loopback_without_ipv6", |node| {
        node.container("c1")
            .enter(|| common::set_sysctl("ipv6/conf/all/disable_ipv6", "1"));
        node.call_at("ADD", "c1", "lo", &loopback());
    });
}

#[test]
fn loopback_passes_on_the_previous_result() {
    same("loopback_passes_on_the_previous_result", |node| {
        let before = json!({
            "cniVersion": node.version,
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
            "ips": [{"version": "4", "address": "10.1.0.2/24", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            "dns": {"nameservers": ["10.1.0.53"]}
        });
        node.container("c1");
        let config = with(loopback(), json!({"prevResult": before}));
        let add = call(node, "ADD", &config);
        node.run("ADD", &add);
    });
}

#[test]
fn loopback_with_another_address() {
    same("loopback_with_another_address", |node| {
        node.container("c1").ip("addr add 10.9.0.1/32 dev lo");
        node.call_at("ADD", "c1", "lo", &loopback());
    });
}

#[test]
fn loopback_when_the_netns_is_gone() {
    same("loopback_when_the_netns_is_gone", |node| {
        for verb in ["DEL", "ADD", "CHECK"] {
            let gone = call(node, verb, &loopback());
            node.run(verb, &gone);
        }
        let without = call(node, "DEL", &loopback()).without("CNI_NETNS");
        node.run("DEL without CNI_NETNS", &without);
    });
}
