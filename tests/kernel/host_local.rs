//! The plugin `host-local`, for other plugins to delegate to: nothing but addresses.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::plugins::call_alone;
use common::{Call, STORES, World, allocated, run, store_files, with};

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "podnet", "type": "bridge",
        "ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}})
}

fn host_local(verb: &str, config: &Value) -> Call {
    call_alone("host-local", verb, config)
}

#[test]
fn each_cni_version_has_its_own_result_format() {
    for (version, expected) in [
        (
            "0.1.0",
            json!({
            "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1"}, "dns": {}}),
        ),
        (
            "0.2.0",
            json!({
            "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1"}, "dns": {}}),
        ),
        (
            "0.3.0",
            json!({"ips": [
            {"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"version": "6", "address": "fd00::2/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}),
        ),
        (
            "0.3.1",
            json!({"ips": [
            {"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"version": "6", "address": "fd00::2/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}),
        ),
        (
            "0.4.0",
            json!({"ips": [
            {"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"version": "6", "address": "fd00::2/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}),
        ),
        (
            "1.0.0",
            json!({"ips": [
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "fd00::2/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0"}]}),
        ),
        (
            "1.1.0",
            json!({"ips": [
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "fd00::2/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0"}]}),
        ),
    ] {
        let world = World::new();
        let net = world.snapshot().net;
        let config = with(config(), json!({"cniVersion": version}));

        let result = host_local("ADD", &config).run().ok();

        assert_eq!(result, with(expected, json!({"cniVersion": version})));
        assert_eq!(allocated("podnet"), ["10.1.0.2", "fd00::2"]);
        if version >= "0.4.0" {
            host_local(
                "CHECK",
                &with(config.clone(), json!({"prevResult": result})),
            )
            .run()
            .ok();
        }
        host_local("DEL", &config).run().ok();
        host_local("DEL", &config).run().ok();
        assert!(allocated("podnet").is_empty());
        assert_eq!(world.snapshot().net, net, "it wires nothing");
    }
}

/// The outer plugin's keys are that plugin's: they may be of any type.
#[test]
fn keys_of_the_outer_plugin_are_ignored() {
    for keys in [
        json!({"type": "macvlan", "mode": "bridge", "master": "eth0"}),
        json!({"type": "ipvlan", "mode": "l2", "vlan": "12", "mtu": "1400"}),
        json!({"type": "sriov", "vlan": "x", "bridge": {"name": 1}, "isGateway": "yes",
               "ipMasq": {}, "ipMasqBackend": 5, "vlanTrunk": "all", "macspoofchk": "on"}),
        json!({"type": "vlan", "mtu": -1, "promiscMode": 3, "capabilities": {"mac": true}}),
    ] {
        let _world = World::new();
        let config = with(config(), keys.clone());
        host_local("ADD", &config).run().ok();
        host_local("CHECK", &config).run().ok();
        host_local("STATUS", &config).run().ok();
        host_local("DEL", &config).run().ok();
        assert!(allocated("podnet").is_empty(), "{keys}");
    }
}

#[test]
fn a_second_add_of_one_interface_is_refused_and_keeps_the_first() {
    let _world = World::new();
    host_local("ADD", &config()).run().ok();
    let before = store_files(Path::new(STORES));

    let error = host_local("ADD", &config()).run().err_code(100);

    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.2"),
        "{error}"
    );
    assert_eq!(store_files(Path::new(STORES)), before);
    host_local("ADD", &config()).ifname("net1").run().ok();
    assert_eq!(allocated("podnet").len(), 4);
}

/// Pods that such a config was accepted for are still checked, collected and removed.
#[test]
fn a_gateway_outside_its_subnet_is_refused_for_new_attachments_only() {
    for (subnet, inside, outside) in [
        ("10.1.0.0/24", "10.1.0.1", "10.2.0.1"),
        ("fd00::/64", "fd00::1", "fe80::1"),
    ] {
        let _world = World::new();
        let gateway = |gateway: &str| {
            let range = json!([[{"subnet": subnet, "gateway": gateway}]]);
            with(
                config(),
                json!({"ipam": {"type": "host-local", "ranges": range}}),
            )
        };
        let result = host_local("ADD", &gateway(inside)).id("old").run().ok();
        let before = store_files(Path::new(STORES));
        let bad = gateway(outside);

        for (verb, code) in [("ADD", 7), ("STATUS", 50)] {
            let error = host_local(verb, &bad).id("new").run().err_code(code);
            let msg = error["msg"].as_str().unwrap();
            assert!(msg.contains(outside) && msg.contains(subnet), "{msg}");
        }
        assert_eq!(store_files(Path::new(STORES)), before);

        let checked = with(bad.clone(), json!({"prevResult": result}));
        host_local("CHECK", &checked).id("old").run().ok();
        let valid = json!([{"containerID": "old", "ifname": "eth0"}]);
        let listed = with(bad.clone(), json!({"cni.dev/valid-attachments": valid}));
        host_local("GC", &listed).run().ok();
        assert_eq!(allocated("podnet").len(), 1);
        host_local("DEL", &bad).id("old").run().ok();
        assert!(allocated("podnet").is_empty());
    }
}

#[test]
fn check_reports_missing_addresses() {
    let _world = World::new();
    host_local("CHECK", &config()).run().err_code(102);
    host_local("ADD", &config()).run().ok();
    host_local("CHECK", &config()).run().ok();
    host_local("CHECK", &config())
        .ifname("net1")
        .run()
        .err_code(102);
    fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();
    host_local("CHECK", &config()).run().err_code(102);
}

#[test]
fn a_config_without_ipam_is_code_7() {
    let _world = World::new();
    let config = with(config(), json!({"ipam": null}));
    for verb in ["ADD", "DEL", "CHECK"] {
        let error = host_local(verb, &config).run().err_code(7);
        assert!(error["msg"].as_str().unwrap().contains("ipam"), "{error}");
    }
}

#[test]
fn gc_frees_unlisted_addresses() {
    let _world = World::new();
    for (id, ifname) in [("a", "eth0"), ("a", "net1"), ("b", "eth0")] {
        host_local("ADD", &config())
            .id(id)
            .ifname(ifname)
            .run()
            .ok();
    }
    // Of the reference's oldest form, which names the container alone.
    let store = Path::new(STORES).join("podnet");
    fs::write(store.join("10.1.0.100"), "a").unwrap();
    fs::write(store.join("10.1.0.101"), "gone").unwrap();
    // Without a holder yet: an ADD of the reference in progress.
    fs::write(store.join("10.1.0.102"), "").unwrap();
    let other = with(config(), json!({"name": "othernet"}));
    host_local("ADD", &other).id("z").run().ok();

    assert_eq!(allocated("podnet").len(), 9);
    let valid = json!([{"containerID": "a", "ifname": "eth0"}]);
    host_local(
        "GC",
        &with(config(), json!({"cni.dev/valid-attachments": valid})),
    )
    .run()
    .ok();

    assert_eq!(
        allocated("podnet"),
        ["10.1.0.100", "10.1.0.102", "10.1.0.2", "fd00::2"]
    );
    assert_eq!(allocated("othernet").len(), 2);
    let none = json!({"cni.dev/valid-attachments": []});
    host_local("GC", &with(config(), none)).run().ok();
    assert_eq!(allocated("podnet"), ["10.1.0.102"]);
}

#[test]
fn status_reports_whether_an_address_is_free() {
    let _world = World::new();
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/30"}]]});
    let small = with(config(), json!({"ipam": ipam}));
    host_local("STATUS", &small).run().ok();
    host_local("ADD", &small).run().ok();

    let error = host_local("STATUS", &small).run().err_code(50);
    assert!(error["msg"].as_str().unwrap().contains("10.1.0"), "{error}");
    host_local("ADD", &small).id("c2").run().err_code(11);
    let lenient = with(small.clone(), json!({"statusIgnoresExhaustion": true}));
    host_local("STATUS", &lenient).run().ok();
    host_local("DEL", &small).run().ok();
    host_local("STATUS", &small).run().ok();

    run("mount", ["--bind", STORES, STORES]);
    run("mount", ["-o", "remount,bind,ro", STORES]);
    host_local("STATUS", &small).run().err_code(50);
    host_local("STATUS", &lenient).run().err_code(50);
}

/// Where one more or one less is no address of the family.
#[test]
fn subnets_at_the_ends_of_the_address_space_are_used_to_their_last_address() {
    let _world = World::new();
    for (subnet, addresses) in [
        ("0.0.0.0/30", vec!["0.0.0.2/30"]),
        ("255.255.255.252/30", vec!["255.255.255.254/30"]),
        ("::/126", vec!["::2/126", "::3/126"]),
        (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126",
            vec![
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/126",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/126",
            ],
        ),
    ] {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
        let config = with(config(), json!({"name": "ends", "ipam": ipam}));
        for (n, address) in addresses.iter().enumerate() {
            let result = host_local("ADD", &config).id(&format!("c{n}")).run().ok();
            assert_eq!(result["ips"][0]["address"], *address, "{subnet}");
        }
        host_local("ADD", &config).id("one-more").run().err_code(11);
        fs::remove_dir_all(Path::new(STORES).join("ends")).unwrap();
    }
}
