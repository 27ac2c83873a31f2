//! A node whose firewall drops forwarded packets, as Docker's does: its rules as iptables prints
//! them, and pods behind it.

use std::path::Path;

use serde_json::{Value, json};

use crate::traffic::{listen, tcp, tcp_is_blocked};
use crate::{Container, World, added, outside_host, podnet, run, set_sysctl, with};

/// For IPv4 and IPv6.
pub const PROGRAMS: [&str; 2] = ["iptables-nft", "ip6tables-nft"];

#[track_caller]
pub fn iptables(program: &str, args: &str) -> String {
    run(program, args.split(' '))
}

/// The rules in DOCKER-USER, as iptables prints them.
#[track_caller]
pub fn docker_user_rules(program: &str) -> Vec<String> {
    let shown = iptables(program, "-S DOCKER-USER");
    let rules = shown
        .lines()
        .filter_map(|line| line.strip_prefix("-A DOCKER-USER "));
    rules.map(str::to_owned).collect()
}

pub fn dual_stack() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    with(
        podnet(),
        json!({"ipMasq": true, "ipam": ipam, "runtimeConfig": {"portMappings": ports}}),
    )
}

pub fn without_ports() -> Value {
    with(dual_stack(), json!({"runtimeConfig": null}))
}

pub fn routed(mut config: Value) -> Value {
    config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    with(config, json!({"mode": "ptp", "bridge": null}))
}

pub fn off(config: Value) -> Value {
    with(config, json!({"firewall": "off"}))
}

/// The rules expected for a bridge, in the order of the chain.
pub fn expected_rules(bridge: &str, network: &str) -> [String; 3] {
    let state = |states| format!("-o {bridge} -m conntrack --ctstate {states}");
    [
        (format!("-i {bridge}"), "from"),
        (state("RELATED,ESTABLISHED"), "answers to"),
        (state("DNAT"), "mapped to"),
    ]
    .map(|(start, what)| {
        format!("{start} -m comment --comment \"pausenet {network}: {what} {bridge}\" -j ACCEPT")
    })
}

pub fn br_netfilter(value: &str) -> bool {
    let keys = ["iptables", "ip6tables"].map(|family| format!("bridge/bridge-nf-call-{family}"));
    let there = keys
        .iter()
        .all(|key| Path::new("/proc/sys/net").join(key).exists());
    if there {
        keys.iter().for_each(|key| set_sysctl(key, value));
    }
    there
}

/// A pod with port 80 published at the node's 8080, a neighbour, and a host outside.
pub struct FirewalledPods {
    pub pod: Container,
    pub neighbour: Container,
    pub outside: Container,
}

impl FirewalledPods {
    pub fn new(world: &World, config: &Value) -> Self {
        let outside = outside_host(world, 2);
        let (pod, _) = added(world, config, "pod");
        let quiet = with(config.clone(), json!({"runtimeConfig": null}));
        let (neighbour, _) = added(world, &quiet, "neighbour");
        Self {
            pod,
            neighbour,
            outside,
        }
    }

    /// Every path that pods need is open; the path to an unpublished port is blocked.
    pub fn assert_reachable(&self) {
        for [pod, there, node] in [
            ["10.1.0.2", "192.0.2.2", "192.0.2.1"],
            ["[fd00::2]", "[fd99:2::2]", "[fd99:2::1]"],
        ] {
            let to_pod = format!("{pod}:80");
            let server = listen(Some(&self.pod), &to_pod);
            tcp(&server, Some(&self.neighbour), &to_pod);
            // The published port leads there; the direct path is blocked.
            let mapped = format!("{node}:8080");
            tcp(&server, Some(&self.outside), &mapped);
            tcp_is_blocked(Some(&self.outside), &to_pod);
            let to_there = format!("{there}:7000");
            let server = listen(Some(&self.outside), &to_there);
            tcp(&server, Some(&self.pod), &to_there);
        }
    }

    /// None of those paths is open.
    pub fn assert_blocked(&self) {
        let _servers = [
            listen(Some(&self.pod), "10.1.0.2:80"),
            listen(Some(&self.outside), "192.0.2.2:7000"),
        ];
        tcp_is_blocked(Some(&self.pod), "192.0.2.2:7000");
        tcp_is_blocked(Some(&self.outside), "192.0.2.1:8080");
    }
}
