//! Our `loopback` beside the reference's.

use serde_json::{Value, json};

use crate::compare::{Side, same, same_in};
use common::{Call, with};

fn loopback() -> Value {
    json!({"name": "lo", "type": "loopback"})
}

fn call(side: &Side, verb: &str, config: &Value) -> Call {
    side.plugin(verb, "c1", &side.config(config)).ifname("lo")
}

#[test]
fn loopback_up_and_down() {
    same("loopback_up_and_down", |side| {
        side.container("c1").ip("link set lo down");
        for verb in ["ADD", "CHECK", "ADD", "DEL", "CHECK", "DEL"] {
            side.call_at(verb, "c1", "lo", &loopback());
        }
    });
}

#[test]
fn loopback_in_old_versions() {
    same_in(
        "loopback_in_old_versions",
        &["0.1.0", "0.2.0", "0.3.0", "0.3.1"],
        |side| {
            side.call_at("ADD", "c1", "lo", &loopback());
            side.call_at("DEL", "c1", "lo", &loopback());
        },
    );
}

#[test]
fn loopback_without_ipv6() {
    same("loopback_without_ipv6", |side| {
        side.container("c1")
            .enter(|| common::set_sysctl("ipv6/conf/all/disable_ipv6", "1"));
        side.call_at("ADD", "c1", "lo", &loopback());
    });
}

#[test]
fn loopback_passes_on_the_previous_result() {
    same("loopback_passes_on_the_previous_result", |side| {
        let before = json!({
            "cniVersion": side.version,
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
            "ips": [{"version": "4", "address": "10.1.0.2/24", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            "dns": {"nameservers": ["10.1.0.53"]}
        });
        side.container("c1");
        let config = with(loopback(), json!({"prevResult": before}));
        let add = call(side, "ADD", &config);
        side.run("ADD", &add);
    });
}

#[test]
fn loopback_with_another_address() {
    same("loopback_with_another_address", |side| {
        side.container("c1").ip("addr add 10.9.0.1/32 dev lo");
        side.call_at("ADD", "c1", "lo", &loopback());
    });
}

#[test]
fn loopback_when_the_netns_is_gone() {
    same("loopback_when_the_netns_is_gone", |side| {
        for verb in ["DEL", "ADD", "CHECK"] {
            let gone = call(side, verb, &loopback());
            side.run(verb, &gone);
        }
        let without = call(side, "DEL", &loopback()).without("CNI_NETNS");
        side.run("DEL without CNI_NETNS", &without);
    });
}
