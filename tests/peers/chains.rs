//! Our plugins in one chain with others of the reference, and delegation in both directions.

use serde_json::{Value, json};

use crate::compare::cases::{attach_and_detach_two, bridge, dual, ptp};
use crate::compare::{Plugins, VERSIONS, compare, same};
use common::with;

fn gateway() -> Value {
    with(bridge(), json!({"isDefaultGateway": true, "ipam": dual()}))
}

fn chained(test: &str, plugins: &[Value]) {
    same(test, |node| {
        for verb in ["ADD", "CHECK", "DEL", "DEL"] {
            node.call_chain(verb, "c1", "eth0", plugins);
        }
    });
}

#[test]
fn chain_with_tuning() {
    let tuning = json!({
        "name": "podnet",
        "type": "tuning",
        "mtu": 1400,
        "mac": "02:00:00:00:00:09",
        "promisc": true,
        "allmulti": true,
        "txQLen": 500,
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500"}
    });
    for wired in [gateway(), with(ptp(), json!({"ipam": dual()}))] {
        chained("chain_with_tuning", &[wired, tuning.clone()]);
    }
}

/// `sbr` moves routes into a table of their own: it reads all of the result.
#[test]
fn chain_with_source_based_routing() {
    let sbr = json!({"name": "podnet", "type": "sbr"});
    same("chain_with_source_based_routing", |node| {
        for verb in ["ADD", "DEL"] {
            node.call_chain(verb, "c1", "eth0", &[gateway(), sbr.clone()]);
        }
    });
}

#[test]
fn chain_with_bandwidth() {
    let rates = json!({"ingressRate": 1_000_000, "ingressBurst": 100_000});
    let bandwidth = json!({
        "name": "podnet",
        "type": "bandwidth",
        "runtimeConfig": {"bandwidth": rates}
    });
    chained("chain_with_bandwidth", &[gateway(), bandwidth]);
}

/// The reference's firewall needs iptables or firewalld.
#[test]
fn chain_with_firewall() {
    let Some(plugins) = Plugins::new().filter(Plugins::allow_iptables) else {
        return;
    };
    let firewall = json!({"name": "podnet", "type": "firewall", "backend": "iptables"});
    let (theirs, ours) = (&plugins.reference, &plugins.ours);
    compare("chain_with_firewall", &VERSIONS, theirs, ours, |node| {
        for verb in ["ADD", "CHECK", "DEL"] {
            node.call_chain(verb, "c1", "eth0", &[gateway(), firewall.clone()]);
        }
        node.record_rules(&["10.1.0.2", "fd00::2"]);
    });
}

/// A plugin behind ours fails: what the runtime then removes with DEL is gone.
#[test]
fn chain_that_fails() {
    let tuning = json!({
        "name": "podnet",
        "type": "tuning",
        "sysctl": {"net.ipv4.conf.IFNAME.no_such": "1"}
    });
    same("chain_that_fails", |node| {
        for verb in ["ADD", "DEL"] {
            node.call_chain(verb, "c1", "eth0", &[gateway(), tuning.clone()]);
        }
    });
}

#[test]
fn the_reference_s_bridge_and_ptp_delegate_to_our_host_local() {
    let Some(plugins) = Plugins::new() else {
        return;
    };
    let mixed = plugins.folder("mixed", &["host-local"]);
    let routes = json!({"routes": [{"dst": "10.5.0.0/16"}]});
    compare(
        "the_reference_s_bridge_and_ptp_delegate_to_our_host_local",
        &VERSIONS,
        &plugins.reference,
        &mixed,
        |node| {
            let config = with(gateway(), json!({"ipam": with(dual(), routes.clone())}));
            attach_and_detach_two(node, &config);
            attach_and_detach_two(node, &with(ptp(), json!({"ipam": dual()})));
        },
    );
}

/// Ours has host-local built in; under another name it is a plugin as any.
#[test]
fn our_bridge_and_ptp_delegate_to_the_reference_s_host_local() {
    let ipam = with(dual(), json!({"type": "other-local"}));
    same(
        "our_bridge_and_ptp_delegate_to_the_reference_s_host_local",
        |node| {
            attach_and_detach_two(node, &with(gateway(), json!({"ipam": ipam})));
            attach_and_detach_two(node, &with(ptp(), json!({"ipam": ipam})));
        },
    );
}
