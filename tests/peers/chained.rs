//! Our `tuning`, `bandwidth` and `firewall` beside the reference's, behind each one's own bridge.

use serde_json::{Value, json};

use crate::compare::cases::{bridge, dual};
use crate::compare::reach::{From, outside, reach};
use crate::compare::{Node, Plugins, compare, same, same_in};
use common::with;

fn gateway() -> Value {
    with(bridge(), json!({"isDefaultGateway": true, "ipam": dual()}))
}

fn second(plugin: &str, keys: Value) -> Value {
    with(json!({"name": "podnet", "type": plugin}), keys)
}

fn come_and_go(node: &mut Node, second: &Value) {
    let plugins = [gateway(), second.clone()];
    for verb in ["ADD", "CHECK", "DEL", "DEL"] {
        node.call_chain(verb, "c1", "eth0", &plugins);
    }
}

/// Calls that each plugin refuses, or does not, behind a bridge.
fn outcomes(node: &mut Node, cases: &[(&str, Value)]) {
    let wired = node.call("ADD", "c1", &gateway()).unwrap();
    for (what, config) in cases {
        let config = with(config.clone(), json!({"prevResult": wired}));
        for verb in ["ADD", "DEL"] {
            let call = node.plugin(verb, "c1", &node.config(&config));
            node.outcome(&format!("{verb}, {what}"), &call);
        }
    }
    for verb in ["ADD", "CHECK", "DEL"] {
        let (_, first) = &cases[0];
        let unchained = node.plugin(verb, "c1", &node.config(first));
        node.outcome(&format!("{verb}, not chained"), &unchained);
    }
}

/// Of several sources, `args` wins over the capability, and that over CNI_ARGS and the config.
#[test]
fn tuning_from_several_sources() {
    let [own, capability, args] = ["1", "2", "3"].map(|n| format!("02:00:00:00:00:0{n}"));
    let of_args = json!({"cni": {"mac": args, "mtu": 1300, "promisc": false, "txQLen": 7,
        "sysctl": {"net.core.somaxconn": "7"}}});
    let keys = json!({"mac": own, "mtu": 1400, "promisc": true,
        "sysctl": {"net.core.somaxconn": "5", "net/ipv4/conf/IFNAME/arp_filter": "1"}});
    for changes in [
        json!({}),
        json!({"runtimeConfig": {"mac": capability}}),
        json!({"runtimeConfig": {"mac": capability}, "args": of_args}),
    ] {
        let tuning = second("tuning", with(keys.clone(), changes));
        same("tuning_from_several_sources", |node| {
            come_and_go(node, &tuning)
        });
        same_in("tuning_from_several_sources", &["1.1.0"], |node| {
            node.args("IgnoreUnknown=1;MAC=02:00:00:00:00:04");
            let plugins = [gateway(), tuning.clone()];
            node.call_chain("ADD", "c1", "eth0", &plugins);
        });
    }
}

#[test]
fn tuning_refuses() {
    let sysctl = |key: &str| second("tuning", json!({"sysctl": {key: "1"}}));
    let cases = [
        ("mtu", second("tuning", json!({"mtu": 1400}))),
        ("not of the network", sysctl("kernel.panic")),
        ("by a way out", sysctl("net/../kernel/panic")),
        ("unknown setting", sysctl("net.ipv4.no_such")),
        ("mtu 65536", second("tuning", json!({"mtu": 65_536}))),
        ("mtu -1", second("tuning", json!({"mtu": -1}))),
        ("mac", second("tuning", json!({"mac": "zz"}))),
        (
            "a number",
            second("tuning", json!({"sysctl": {"net.core.somaxconn": 5}})),
        ),
    ];
    same_in("tuning_refuses", &["1.1.0"], |node| outcomes(node, &cases));
}

#[test]
fn bandwidth_in_the_config_or_by_capability() {
    for keys in [
        both_ways(),
        json!({"runtimeConfig": {"bandwidth": both_ways()}}),
    ] {
        let bandwidth = second("bandwidth", keys);
        same("bandwidth_in_the_config_or_by_capability", |node| {
            come_and_go(node, &bandwidth);
        });
    }
}

/// One key in the config itself, and what the runtime wishes is not looked at.
#[test]
fn bandwidth_of_one_direction_or_none() {
    let one = json!({"ingressRate": 1_000_000, "ingressBurst": 100_000});
    for keys in [
        with(one, json!({"runtimeConfig": {"bandwidth": both_ways()}})),
        json!({"egressRate": 0, "runtimeConfig": {"bandwidth": both_ways()}}),
        json!({}),
    ] {
        let bandwidth = second("bandwidth", keys);
        same("bandwidth_of_one_direction_or_none", |node| {
            come_and_go(node, &bandwidth);
        });
    }
}

fn both_ways() -> Value {
    json!({"ingressRate": 1_000_000, "ingressBurst": 100_000,
        "egressRate": 2_000_000, "egressBurst": 200_000})
}

#[test]
fn bandwidth_refuses() {
    let egress = |rate: u64, burst: u64| {
        second(
            "bandwidth",
            json!({"egressRate": rate, "egressBurst": burst}),
        )
    };
    let cases = [
        ("egress", egress(1_000_000, 100_000)),
        ("rate alone", egress(1_000_000, 0)),
        ("burst alone", egress(0, 1_000_000)),
        ("large burst", egress(1_000_000, 34_359_738_368)),
        (
            "negative",
            second("bandwidth", json!({"ingressRate": -1, "ingressBurst": 1})),
        ),
    ];
    same_in("bandwidth_refuses", &["1.1.0"], |node| {
        outcomes(node, &cases)
    });
}

#[test]
fn firewall_refuses() {
    let cases = [
        (
            "isolated",
            second(
                "firewall",
                json!({"backend": "iptables", "ingressPolicy": "isolated"}),
            ),
        ),
        (
            "policy",
            second(
                "firewall",
                json!({"backend": "iptables", "ingressPolicy": "closed"}),
            ),
        ),
    ];
    let Some(plugins) = Plugins::new().filter(Plugins::allow_iptables) else {
        return;
    };
    let (theirs, ours) = (&plugins.reference, &plugins.ours);
    compare("firewall_refuses", &["1.1.0"], theirs, ours, |node| {
        outcomes(node, &cases);
    });
}

/// Two bridges with a policy and one without: who reaches whom, and the outside.
#[test]
fn firewall_ingress_policies() {
    let Some(plugins) = Plugins::new().filter(Plugins::allow_iptables) else {
        return;
    };
    let (theirs, ours) = (&plugins.reference, &plugins.ours);
    compare(
        "firewall_ingress_policies",
        &["1.1.0"],
        theirs,
        ours,
        |node| {
            outside(node);
            for (n, policy) in [(1, "same-bridge"), (2, "isolated"), (3, "open")] {
                let network = format!("net{n}");
                let wired = with(
                    gateway(),
                    json!({"name": network, "bridge": format!("br{n}"), "ipMasq": true, "ipMasqBackend": "nftables",
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{n}.0.0/24")}]]}}),
                );
                let firewall = json!({"name": network, "type": "firewall", "backend": "iptables",
                "ingressPolicy": policy});
                for container in [format!("a{n}"), format!("b{n}")] {
                    node.call_chain(
                        "ADD",
                        &container,
                        "eth0",
                        &[wired.clone(), firewall.clone()],
                    );
                }
            }
            let from = ["a1", "a2", "a3"].map(From::Container);
            let to = ["10.1.0.3:80", "10.2.0.3:80", "10.3.0.3:80", "192.0.2.2:80"];
            reach(node, &from, &to);
        },
    );
}
