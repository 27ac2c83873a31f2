//! Kernels without a part: what was not asked for is not needed, and what is needed is named with its
//! module and its option.
//!
//! `scripts/lab/kernel-tests.sh KERNEL without` boots such kernels and runs these.

use serde_json::{Value, json};

use crate::plugins::call_as;
use common::{Container, World, allocated, call, podnet, with};

/// The test is of no use on a kernel that has the part.
#[track_caller]
fn booted_without(part: &str) {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap();
    assert!(
        line.contains(part),
        "the kernel was not booted without {part}: {line}"
    );
}

fn routed() -> Value {
    with(podnet(), json!({"mode": "ptp"}))
}

fn port(protocol: &str) -> Value {
    json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": protocol}]}})
}

fn limit(direction: &str) -> Value {
    json!({"runtimeConfig": {"bandwidth": {
        format!("{direction}Rate"): 8_000_000, format!("{direction}Burst"): 800_000}}})
}

/// Every verb.
#[track_caller]
fn works(x: &Container, config: &Value) {
    let result = call("ADD", config, x).run().ok();
    let known = with(config.clone(), json!({"prevResult": result}));
    call("CHECK", &known, x).run().ok();
    call("STATUS", config, x).run().ok();
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": x.name(), "ifname": "eth0"}]});
    call("GC", &with(config.clone(), valid), x).run().ok();
    assert!(x.link("eth0").is_some(), "{config}");
    call("DEL", &known, x).run().ok();
    call("ADD", config, x).run().ok();
    call("GC", config, x).run().ok();
    assert_nothing_is_left(x, config);
    call("ADD", config, x).run().ok();
    call("DEL", config, x).run().ok();
    assert_nothing_is_left(x, config);
}

/// ADD is refused, in words that name what the kernel lacks; nothing is left, and DEL and GC have nothing
/// to complain about.
#[track_caller]
fn names(x: &Container, config: &Value, words: &[&str]) {
    let error = call("ADD", config, x).run().err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    assert_nothing_is_left(x, config);
    call("DEL", config, x).run().ok();
    call("GC", config, x).run().ok();
}

#[track_caller]
fn assert_nothing_is_left(x: &Container, config: &Value) {
    assert!(x.link("eth0").is_none(), "{config}");
    assert!(allocated("podnet").is_empty(), "{config}");
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn nf_tables_is_needed_for_rules_only() {
    booted_without("nf_tables");
    let world = World::new();
    let x = world.container("x");
    for config in [podnet(), routed()] {
        works(&x, &config);
        for rules in [json!({"ipMasq": true}), port("tcp"), port("udp")] {
            let config = with(config.clone(), rules);
            names(
                &x,
                &config,
                &["nf_tables", "CONFIG_NF_TABLES_INET", "NFT_MASQ"],
            );
            let error = call("STATUS", &config, &x).run().err_code(50);
            assert!(error.to_string().contains("nf_tables"), "{error}");
        }
    }
    let guarded = with(podnet(), json!({"macspoofchk": true}));
    names(&x, &guarded, &["nf_tables", "NF_TABLES_BRIDGE"]);

    // Chained, as in kind's list.
    let result = call("ADD", &podnet(), &x).run().ok();
    let chained = |rest: Value| {
        let config = json!({"type": "portmap", "prevResult": result});
        with(with(podnet(), config), rest)
    };
    call_as("portmap", "ADD", &chained(json!({})), &x)
        .run()
        .ok();
    let error = call_as("portmap", "ADD", &chained(port("tcp")), &x)
        .run()
        .err();
    assert!(error.to_string().contains("nf_tables"), "{error}");
    for config in [chained(json!({})), chained(port("tcp"))] {
        call_as("portmap", "DEL", &config, &x).run().ok();
    }
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn rate_limits_name_their_modules() {
    booted_without("sch_tbf,ifb");
    let world = World::new();
    let x = world.container("x");
    for config in [podnet(), routed()] {
        works(&x, &config);
        let receives = with(config.clone(), limit("ingress"));
        names(&x, &receives, &["sch_tbf", "CONFIG_NET_SCH_TBF"]);
        names(&x, &with(config, limit("egress")), &["ifb", "CONFIG_IFB"]);
    }
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn bridges_are_needed_by_their_mode_only() {
    booted_without("bridge");
    let world = World::new();
    let x = world.container("x");
    works(&x, &routed());
    for more in [
        json!({}),
        json!({"vlan": 5}),
        json!({"ipMasq": true}),
        port("tcp"),
    ] {
        let config = with(podnet(), more);
        names(&x, &config, &["module bridge", "CONFIG_BRIDGE"]);
    }
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn redirection_of_what_a_container_sends_names_its_modules() {
    booted_without("sch_ingress");
    let world = World::new();
    let x = world.container("x");
    works(&x, &with(routed(), limit("ingress")));
    let words = ["sch_ingress", "CONFIG_NET_SCH_INGRESS", "NET_ACT_MIRRED"];
    names(&x, &with(routed(), limit("egress")), &words);
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn masquerade_names_what_it_needs() {
    booted_without("nft_masq");
    let world = World::new();
    let x = world.container("x");
    let masqueraded = with(routed(), json!({"ipMasq": true}));
    names(&x, &masqueraded, &["nf_tables", "NFT_MASQ"]);
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn ipv6_is_needed_for_its_addresses_only() {
    booted_without("ipv6.disable=1");
    let world = World::new();
    let x = world.container("x");
    for config in [podnet(), routed()] {
        let rules = with(with(config.clone(), json!({"ipMasq": true})), port("tcp"));
        works(&x, &rules);
        let both = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        for ranges in [json!([[{"subnet": "fd00::/64"}]]), both] {
            let ipam = json!({"ipam": {"type": "host-local", "ranges": ranges}});
            let config = with(config.clone(), ipam);
            names(&x, &config, &["no IPv6", "ipv6.disable=1", "CONFIG_IPV6"]);
        }
    }
    let switch = json!({"isGateway": false, "isDefaultGateway": false, "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "fd00::/64"}]]}});
    names(&x, &with(podnet(), switch), &["no IPv6", "CONFIG_IPV6"]);
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn conntrack_s_netlink_is_needed_for_udp_ports_only() {
    booted_without("nf_conntrack_netlink");
    let world = World::new();
    let x = world.container("x");
    works(&x, &with(podnet(), port("tcp")));
    works(&x, &with(podnet(), json!({"ipMasq": true})));
    let words = ["nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK"];
    names(&x, &with(podnet(), port("udp")), &words);
}

#[test]
#[ignore = "for a kernel booted without it: scripts/lab/kernel-tests.sh"]
fn pairs_name_their_module() {
    booted_without("veth");
    let world = World::new();
    let x = world.container("x");
    for config in [podnet(), routed()] {
        names(&x, &config, &["module veth", "CONFIG_VETH"]);
    }
}
