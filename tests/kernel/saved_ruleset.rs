//! A host that saves its ruleset with nft and loads it at boot, as /etc/nftables.conf is made: what
//! we create must not keep its firewall from loading.

use std::fs;

use serde_json::{Value, json};

use crate::ports::{mapped, mapping};
use common::nftables::ruleset;
use common::traffic::{HOST, listen, tcp};
use common::{World, added, call, outside_host, podnet, run, with};
use pausenet::kernel::nft::{Change, Kind, Nft, Set, Table, TableFamily};

/// Every kind of set, map, chain and rule: what each key adds.
fn configs() -> Vec<Value> {
    let entry = |port, protocol, ip| json!({"hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": ip});
    let all = mapping(
        with(mapped(), json!({"ipMasq": true, "macspoofchk": true})),
        json!([
            entry(8080, "tcp", ""),
            entry(8080, "udp", ""),
            entry(8080, "sctp", ""),
            entry(8081, "tcp", "192.0.2.1"),
            entry(8081, "tcp", "fd99:2::1"),
            entry(8082, "tcp", "0.0.0.0"),
        ]),
    );
    let everywhere = mapping(
        with(mapped(), json!({"masqAll": true})),
        json!([entry(9090, "tcp", "")]),
    );
    let routed = with(
        podnet(),
        json!({"name": "routed", "mode": "ptp", "bridge": null, "ipMasq": true,
            "isGateway": null, "isDefaultGateway": null,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]}}),
    );
    vec![all, everywhere, routed]
}

#[test]
fn the_ruleset_is_loaded_as_it_was_saved() {
    let world = World::new();
    let _outside = outside_host(&world, 2);
    // Docker's chain, in which ADD puts rules.
    for family in ["ip", "ip6"] {
        run(
            "nft",
            [&format!(
                "add table {family} filter; add chain {family} filter DOCKER-USER"
            )],
        );
    }
    let mut pods = Vec::new();
    for (config, name) in configs().into_iter().zip(["x", "y", "z"]) {
        let (pod, result) = added(&world, &config, name);
        pods.push((pod, with(config, json!({"prevResult": result}))));
    }
    // The daemon's sets of subnets.
    let table = Table {
        family: TableFamily::Inet,
        name: "of_subnets",
    };
    let set = |name: &str, kind| Set {
        table,
        name: name.to_owned(),
        key: vec![kind],
        data: Vec::new(),
    };
    let subnets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let of_nodes = [
        Change::Table(table),
        Change::Subnets(
            set("nodes4", Kind::Ipv4),
            subnets(&["10.3.0.0/16", "10.9.0.0/24"]),
        ),
        Change::Subnets(set("nodes6", Kind::Ipv6), subnets(&["fd03::/48"])),
    ];
    Nft::open().unwrap().commit(&of_nodes, None).unwrap();

    let saved = ruleset();
    for needed in ["ports4_at", "masquerade_all4", "allowed", "of_subnets"] {
        assert!(saved.contains(needed), "{saved}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &saved).unwrap();
    run("nft", ["flush", "ruleset"]);
    run("nft", ["-f", file.path().to_str().unwrap()]);
    // nft writes the same two bits in another order.
    let in_one_order = |rules: String| rules.replace("related,established", "established,related");
    assert_eq!(in_one_order(ruleset()), in_one_order(saved));

    tcp(&listen(Some(&pods[0].0), "[::]:80"), HOST, "127.0.0.1:8080");
    for (pod, config) in &pods {
        call("CHECK", config, pod).run().ok();
        call("DEL", config, pod).run().ok();
    }
    let left = ruleset();
    assert!(!left.contains("eth0"), "{left}");
}
