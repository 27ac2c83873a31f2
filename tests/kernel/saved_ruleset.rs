//! A host that saves its ruleset with nft and loads it at boot, as /etc/nftables.conf is made: what
//! we create must not keep its firewall from loading.

use std::fs;

use serde_json::{Value, json};

use crate::ports::{mapped, mapping};
use common::nftables::ruleset;
use common::traffic::{HOST, listen, tcp};
use common::{Call, Container, World, call, lab, outside_host, podnet, run, with};
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
    let mut long = with(
        mapping(mapped(), json!([entry(9191, "tcp", "")])),
        json!({"name": format!("network-{}", "n".repeat(60)), "bridge": "br1"}),
    );
    long["ipam"] = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd07::/64"}]]});
    vec![all, everywhere, routed, long]
}

/// A host with all of it: the pods, each with its config and result, and the daemon's sets of subnets.
fn make_all(world: &World) -> Vec<(Container, Value)> {
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
    for (config, name) in configs().into_iter().zip(["x", "y", "z", "w"]) {
        let container = world.container(name);
        let result = with_id(call("ADD", &config, &container), name).run().ok();
        pods.push((container, with(config, json!({"prevResult": result}))));
    }
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
    pods
}

/// A container ID as long as a runtime's, with one network a comment too long for nft; and an
/// interface's name that a comment of nft cannot have.
fn with_id(call: Call, name: &str) -> Call {
    match name {
        "w" => call.id(&"0123456789abcdef".repeat(4)),
        "y" => call.id(name).ifname("quote\"d"),
        name => call.id(name),
    }
}

#[track_caller]
fn check_and_del(nft: &str, pods: &[(Container, Value)]) {
    tcp(&listen(Some(&pods[0].0), "[::]:80"), HOST, "127.0.0.1:8080");
    for (pod, config) in pods {
        for verb in ["CHECK", "DEL"] {
            with_id(call(verb, config, pod), pod.name()).run().ok();
        }
    }
    // The nft that loaded it: 1.0.6 crashes when it lists what 1.1.7 has loaded.
    let left = run(nft, ["list", "ruleset"]);
    assert!(!left.contains("eth0") && !left.contains('~'), "{left}");
}

/// nft writes the same two bits in another order.
fn in_one_order(rules: String) -> String {
    rules.replace("related,established", "established,related")
}

/// The machine's nft, and sid's.
fn programs() -> Vec<String> {
    let sid = lab::nft_sid().map(|path| path.to_str().unwrap().to_owned());
    sid.into_iter().chain(["nft".to_owned()]).collect()
}

#[test]
fn the_ruleset_is_loaded_as_it_was_saved() {
    for nft in programs() {
        let world = World::new();
        let _outside = outside_host(&world, 2);
        let pods = make_all(&world);
        let saved = run(&nft, ["list", "ruleset"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &saved).unwrap();
        run("nft", ["flush", "ruleset"]);
        run(&nft, ["-f", file.path().to_str().unwrap()]);
        let loaded = run(&nft, ["list", "ruleset"]);
        assert_eq!(in_one_order(loaded), in_one_order(saved), "{nft}");
        check_and_del(&nft, &pods);
    }
}

/// Not with 1.0.6, which cannot read the JSON that it writes of a map with a concatenation.
#[test]
fn the_ruleset_is_loaded_as_it_was_saved_in_json() {
    let Some(nft) = lab::nft_sid() else { return };
    let nft = nft.to_str().unwrap();
    let world = World::new();
    let _outside = outside_host(&world, 2);
    let pods = make_all(&world);
    // Docker's tables have expressions of iptables, which the JSON of nft cannot load.
    for family in ["ip", "ip6"] {
        run("nft", [&format!("delete table {family} filter")]);
    }
    let before = run(nft, ["list", "ruleset"]);
    let saved = run(nft, ["-j", "list", "ruleset"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), saved).unwrap();
    run("nft", ["flush", "ruleset"]);
    run(nft, ["-j", "-f", file.path().to_str().unwrap()]);
    let loaded = run(nft, ["list", "ruleset"]);
    assert_eq!(in_one_order(loaded), in_one_order(before));
    check_and_del(nft, &pods);
}

/// One that nft would not read back.
#[test]
fn an_owner_that_is_too_long_for_nft_is_abbreviated_and_still_known() {
    let world = World::new();
    let config = configs().pop().unwrap();
    let w = world.container("w");
    let add = |call: Call| with_id(call, "w").run();
    let result = add(call("ADD", &config, &w)).ok();
    let comments: Vec<_> = ruleset()
        .split('"')
        .filter(|text| text.starts_with("pausenet ") && text.contains('~'))
        .map(str::to_owned)
        .collect();
    assert!(!comments.is_empty(), "{}", ruleset());
    assert!(
        comments.iter().all(|text| text.len() <= 128),
        "{comments:?}"
    );
    // A port that it has is refused to another by its whole name.
    let y = world.container("y");
    let other = with(config.clone(), json!({"name": "other", "bridge": "br1"}));
    let error = call("ADD", &other, &y).run().err_code(103);
    let id = "0123456789abcdef".repeat(4);
    assert!(
        error["msg"].as_str().unwrap().contains("network-n"),
        "{error}"
    );
    // And GC knows whose it is.
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": id, "ifname": "eth0"}]});
    add(call("GC", &with(config.clone(), valid), &w)).ok();
    let known = with(config.clone(), json!({"prevResult": result}));
    add(call("CHECK", &known, &w)).ok();
    let none = json!({"cni.dev/valid-attachments": []});
    add(call("GC", &with(config, none), &w)).ok();
    assert!(!ruleset().contains('~'), "{}", ruleset());
}
