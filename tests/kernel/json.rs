//! Configs as Go's plugins read them: keys in any letter case, empty and odd values; and errors that
//! name the key.

use serde_json::{Value, json};

use crate::plugins::{call_as, script};
use common::nftables::{element_count, ruleset};
use common::{Call, World, allocated, call, podnet, with};

/// Keys in other letter cases, as published configs have them.
#[test]
fn keys_count_in_any_letter_case() {
    let world = World::new();
    let x = world.container("x");
    let config = json!({
        "CniVersion": "1.1.0", "Name": "podnet", "type": "pausenet", "Bridge": "br7",
        "isDefaultGateWay": true, "ipmasq": true, "MTU": 1400,
        "IPAM": {
            "Type": "host-local",
            "Ranges": [[{"SUBNET": "10.1.0.0/24", "rangestart": "10.1.0.9", "GateWay": "10.1.0.7"}]],
            "Routes": [{"Dst": "192.0.2.0/24", "GW": "10.1.0.5"}],
        },
        "DNS": {"NameServers": ["10.1.0.53"]},
        "RuntimeConfig": {
            "PortMappings": [{"HostPort": 8080, "containerport": 80, "PROTOCOL": "tcp"}],
            "MAC": "02:00:00:00:00:07",
        },
    });
    let result = call("ADD", &config, &x).run().ok();

    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"][0]["address"], "10.1.0.9/24");
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.7");
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.53"]}));
    assert_eq!(result["interfaces"][0]["name"], "br7");
    let mac = x.link("eth0").unwrap().mac.unwrap();
    assert_eq!(mac.to_string(), "02:00:00:00:00:07");
    let routes = result["routes"].as_array().unwrap();
    assert!(routes.contains(&json!({"dst": "192.0.2.0/24", "gw": "10.1.0.5"})));
    assert!(routes.contains(&json!({"dst": "0.0.0.0/0", "gw": "10.1.0.7"})));
    assert!(ruleset().contains("masquerade"), "{}", ruleset());
    assert_eq!(element_count("pausenet podnet x eth0"), 4);

    let previous = with(config, json!({"PREVRESULT": result}));
    call("CHECK", &previous, &x).run().ok();
    call("DEL", &previous, &x).run().ok();
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
    assert!(allocated("podnet").is_empty());
}

/// The later one of two keys that mean the same counts, and objects add up.
#[test]
fn a_key_that_is_there_twice_is_read_twice() {
    let world = World::new();
    let x = world.container("x");
    let text = r#"{"cniVersion": "1.1.0", "name": "podnet", "type": "pausenet",
        "bridge": "br1", "BRIDGE": "br2", "mtu": 1300, "mtu": null,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "gateway": "10.1.0.9"},
        "Ipam": {"Subnet": "10.1.0.0/24"}}"#;
    let result = call("ADD", &json!({}), &x).stdin(text).run().ok();
    assert_eq!(result["interfaces"][0]["name"], "br2");
    assert_eq!(result["interfaces"][2]["mtu"], 1300);
    assert_eq!(result["ips"][0]["address"], "10.1.0.1/24");
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.9");
}

#[test]
fn empty_and_odd_values_count_as_none() {
    let world = World::new();
    let x = world.container("x");
    let config = with(
        podnet(),
        json!({
            "mtu": -1, "mode": "", "runtimeConfig": {"mac": "", "ips": [], "portMappings": null},
            "args": {"cni": {"mac": "", "ips": null}},
            "ipam": {
                "type": "host-local", "subnet": "", "gateway": "", "rangeStart": "", "dataDir": "",
                "ranges": [[{
                    "subnet": "10.1.0.0/24", "gateway": "", "rangeStart": "", "rangeEnd": ""
                }]],
                "routes": [{"dst": "192.0.2.0/24", "gw": "", "mtu": 0, "priority": -1}],
            },
        }),
    );
    let call = |verb: &str, config: &Value| {
        call(verb, config, &x).var("CNI_ARGS", "IgnoreUnknown=1;IP=;MAC=;GATEWAY=")
    };
    let result = call("ADD", &config).run().ok();
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.1");
    assert_eq!(result["interfaces"][2]["mtu"], 1500);
    let previous = json!({"prevResult": result, "ipam": config["ipam"]});
    call("CHECK", &with(config.clone(), previous)).run().ok();
    call("DEL", &config).run().ok();

    let fixed = json!({"type": "static", "addresses": [{"address": "10.1.0.8/24", "gateway": ""}]});
    let result = call("ADD", &with(podnet(), json!({"ipam": fixed})))
        .run()
        .ok();
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.1", "by convention");
}

/// Plugins write -1 where no interface has an address.
#[test]
fn an_address_of_no_interface_is_the_container_s() {
    let world = World::new();
    let x = world.container("x");
    let result = call("ADD", &podnet(), &x).run().ok();
    for interface in [-1, 99] {
        let mut previous = result.clone();
        previous["ips"][0]["interface"] = json!(interface);
        let config = with(podnet(), json!({"prevResult": previous}));
        call("CHECK", &config, &x).run().ok();
        let ports = json!({"type": "portmap", "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
        let passed = call_as("portmap", "ADD", &with(config.clone(), ports.clone()), &x);
        assert_eq!(passed.run().ok()["ips"][0]["interface"], interface);
        assert_eq!(element_count("portmap podnet x eth0"), 3);
        call_as("portmap", "DEL", &with(config, ports), &x)
            .run()
            .ok();
        assert_eq!(element_count("portmap podnet x eth0"), 0);
    }
}

/// As in the reference: a list that is there, though empty, replaces the IPAM's settings.
#[test]
fn an_empty_list_of_name_servers_overrides_the_ipam_s() {
    let world = World::new();
    let x = world.container("x");
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.8/24"}],
        "dns": {"nameservers": ["10.1.0.53"], "domain": "a.b"}});
    for (dns, expected) in [
        (json!({}), ipam["dns"].clone()),
        (json!({"domain": "", "search": null}), ipam["dns"].clone()),
        (json!({"nameservers": []}), json!(null)),
        (json!({"options": []}), json!(null)),
        (json!({"search": ["c"]}), json!({"search": ["c"]})),
    ] {
        let config = with(podnet(), json!({"ipam": ipam, "dns": dns}));
        let result = call("ADD", &config, &x).run().ok();
        assert_eq!(result["dns"], expected, "{dns}");
        call("DEL", &config, &x).run().ok();
    }
}

/// Before 0.3.0 there is no result without an address; the reference fails too.
#[test]
fn a_network_without_ipam_needs_version_0_3_0() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let bare = json!({"name": "podnet", "type": "pausenet"});
    for version in [
        json!({}),
        json!({"cniVersion": "0.1.0"}),
        json!({"cniVersion": "0.2.0"}),
    ] {
        let error = call("ADD", &with(bare.clone(), version), &x)
            .run()
            .err_code(7);
        assert!(
            error["msg"].as_str().unwrap().contains("address"),
            "{error}"
        );
        assert_eq!(world.snapshot(), before);
    }
    let newer = with(bare, json!({"cniVersion": "0.3.0"}));
    call("ADD", &newer, &x).run().ok();
}

#[test]
fn an_error_names_the_key_by_its_whole_path() {
    let world = World::new();
    let x = world.container("x");
    let range = json!({"subnet": "10.1.0.0/24"});
    for (verb, changes, code, words) in [
        (
            "ADD",
            json!({"isGateway": "yes"}),
            6,
            r#": isGateway: expected true or false, found the string "yes""#,
        ),
        (
            "ADD",
            json!({"ipam": {"type": "host-local", "ranges": [[range, {"subnet": 7}]]}}),
            6,
            ": ipam.ranges[0][1].subnet: expected a string, found the number 7",
        ),
        (
            "ADD",
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24",
                "routes": [{"dst": "10.0.0.0/8"}, {"dst": "x"}]}}),
            6,
            r#": ipam.routes[1].dst: "x" is not an address with a prefix length (CIDR)"#,
        ),
        (
            "ADD",
            json!({"ipam": {"type": ["host-local"]}}),
            6,
            ": ipam.type: expected a string, found a list",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"portMappings": [{"hostPort": "80"}]}}),
            6,
            ": runtimeConfig.portMappings[0].hostPort: expected a whole number",
        ),
        (
            "ADD",
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": "1M"}}}),
            6,
            ": runtimeConfig.bandwidth.ingressRate: expected a whole number",
        ),
        (
            "ADD",
            json!({"args": {"cni": {"ips": ["10.1.0.5", 6]}}}),
            6,
            ": args.cni.ips[1]: expected a string, found the number 6",
        ),
        (
            "ADD",
            json!({"args": {"cni": {"ips": ["10.1.0.5", "six"]}}}),
            7,
            r#": args.cni.ips[1]: "six" is not an IP address"#,
        ),
        (
            "CHECK",
            json!({"prevResult": {"ips": [{"address": "10.1.0.2/24", "interface": "0"}]}}),
            6,
            ": prevResult.ips[0].interface: expected a whole number",
        ),
        (
            "CHECK",
            json!({"prevResult": ["10.1.0.2"]}),
            6,
            ": prevResult: expected an object, found a list",
        ),
        (
            "GC",
            json!({"cni.dev/valid-attachments": [{"containerID": 5}]}),
            6,
            ": cni.dev/valid-attachments[0].containerID: expected a string, found the number 5",
        ),
    ] {
        let error = call(verb, &with(podnet(), changes), &x)
            .run()
            .err_code(code);
        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains(words), "{msg}");
    }
    let folder = tempfile::tempdir().unwrap();
    let answer = r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.7/24"}, {"address": 8}]}"#;
    script(
        folder.path(),
        "my-ipam",
        &format!("cat >/dev/null; echo '{answer}'"),
    );
    let delegated = with(podnet(), json!({"ipam": {"type": "my-ipam"}}));
    let call: Call = call("ADD", &delegated, &x).var("CNI_PATH", folder.path());
    let error = call.run().err_code(6);
    let msg = error["msg"].as_str().unwrap();
    let words = "my-ipam: result: ips[1].address: expected a string, found the number 8";
    assert!(msg.contains(words), "{msg}");
}

/// A delegated plugin that is not written in Go may spell its result's keys in its own way.
#[test]
fn the_result_of_a_delegate_counts_in_any_letter_case() {
    let world = World::new();
    let x = world.container("x");
    let folder = tempfile::tempdir().unwrap();
    let answer = r#"{"CNIVersion": "0.4.0", "IPs": [{"Address": "10.1.0.7/24", "Gateway": ""}],
        "Routes": [{"Dst": "192.0.2.0/24", "GW": "10.1.0.5"}], "DNS": {"Domain": "a.b"}}"#;
    script(
        folder.path(),
        "my-ipam",
        &format!("cat >/dev/null; echo '{answer}'"),
    );
    let delegated = with(podnet(), json!({"ipam": {"type": "my-ipam"}}));
    let call: Call = call("ADD", &delegated, &x).var("CNI_PATH", folder.path());
    let result = call.run().ok();
    assert_eq!(result["ips"][0]["address"], "10.1.0.7/24");
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.1");
    assert_eq!(result["routes"][0]["gw"], "10.1.0.5");
    assert_eq!(result["dns"]["domain"], "a.b");
}

/// Values of the right type that cannot be what they say.
#[test]
fn an_error_of_a_value_names_the_key_with_its_place_in_every_list() {
    let world = World::new();
    let x = world.container("x");
    let good = json!({"hostPort": 1, "containerPort": 1});
    let ports = |second: Value| {
        let second = with(good.clone(), second);
        json!({"runtimeConfig": {"portMappings": [good, second]}})
    };
    let trunk = |second: Value| json!({"vlanTrunk": [{"id": 7}, second]});
    let limit = |keys: Value| json!({"runtimeConfig": {"bandwidth": keys}});
    let range = |keys: Value| with(json!({"subnet": "10.9.0.0/24"}), keys);
    let fine = json!({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.99"});
    let ranges = |second: Value| json!({"ipam": {"type": "host-local", "ranges": [[fine], [fine, range(second)]]}});
    let requested = |second: Value| {
        let legacy = json!({"type": "host-local", "subnet": "10.2.0.0/24"});
        json!({"ipam": legacy, "runtimeConfig": {"ipRanges": [[fine, range(second)]]}})
    };
    let fixed = |rest: Value| {
        let first = json!({"address": "10.1.0.8/24"});
        json!({"ipam": with(json!({"type": "static", "addresses": [first]}), rest)})
    };
    for (changes, start) in [
        (
            ports(json!({"hostPort": 70000})),
            "runtimeConfig.portMappings[1].hostPort: 70000 ",
        ),
        (
            ports(json!({"hostPort": 0})),
            "runtimeConfig.portMappings[1].hostPort: 0 ",
        ),
        (
            ports(json!({"containerPort": -1})),
            "runtimeConfig.portMappings[1].containerPort: -1 ",
        ),
        (
            ports(json!({"protocol": "icmp"})),
            "runtimeConfig.portMappings[1].protocol: \"icmp\" ",
        ),
        (
            ports(json!({"hostIP": "::x"})),
            "runtimeConfig.portMappings[1].hostIP: \"::x\" ",
        ),
        (
            ports(json!({"containerPort": 2})),
            "runtimeConfig.portMappings[1]: 1/tcp ",
        ),
        (
            ports(json!({"hostPort": 2, "hostIP": "fd00::1"})),
            "runtimeConfig.portMappings[1]: [fd00::1]:2/tcp ",
        ),
        (json!({"vlan": 4095}), "vlan: 4095 "),
        (trunk(json!({"id": 0})), "vlanTrunk[1].id: 0 "),
        (
            trunk(json!({"minID": 1, "maxID": 5000})),
            "vlanTrunk[1].maxID: 5000 ",
        ),
        (
            trunk(json!({"minID": -1, "maxID": 5})),
            "vlanTrunk[1].minID: -1 ",
        ),
        (
            trunk(json!({"minID": 9, "maxID": 5})),
            "vlanTrunk[1].minID: 9 ",
        ),
        (trunk(json!({"minID": 9})), "vlanTrunk[1].maxID: missing"),
        (trunk(json!({"maxID": 9})), "vlanTrunk[1].minID: missing"),
        (
            limit(json!({"ingressRate": 8})),
            "runtimeConfig.bandwidth.ingressBurst: missing",
        ),
        (
            limit(json!({"egressBurst": 8})),
            "runtimeConfig.bandwidth.egressRate: missing",
        ),
        (
            limit(json!({"egressRate": 7, "egressBurst": 8})),
            "runtimeConfig.bandwidth.egressRate: 7 ",
        ),
        (
            limit(json!({"egressRate": 8, "egressBurst": 99_999_999_999_u64})),
            "runtimeConfig.bandwidth.egressBurst: 99999999999 ",
        ),
        (
            ranges(json!({"subnet": "10.9.0.0/31"})),
            "ipam.ranges[1][1].subnet: 10.9.0.0/31 ",
        ),
        (
            ranges(json!({"subnet": "10.9.0.5/24"})),
            "ipam.ranges[1][1].subnet: 10.9.0.5/24 ",
        ),
        (
            ranges(json!({"subnet": "fd00::/64"})),
            "ipam.ranges[1][1].subnet: fd00::/64 ",
        ),
        (
            ranges(json!({"rangeStart": "10.8.0.1"})),
            "ipam.ranges[1][1].rangeStart: 10.8.0.1 ",
        ),
        (
            ranges(json!({"rangeEnd": "10.8.0.1"})),
            "ipam.ranges[1][1].rangeEnd: 10.8.0.1 ",
        ),
        (
            ranges(json!({"rangeStart": "10.9.0.9", "rangeEnd": "10.9.0.8"})),
            "ipam.ranges[1][1].rangeEnd: 10.9.0.8 ",
        ),
        (
            ranges(json!({"gateway": "fd00::1"})),
            "ipam.ranges[1][1].gateway: fd00::1 ",
        ),
        (
            ranges(json!({})),
            "ipam.ranges[1]: the range set overlaps with ipam.ranges[0]",
        ),
        (
            requested(json!({"gateway": "fd00::1"})),
            "runtimeConfig.ipRanges[0][1].gateway: fd00::1 ",
        ),
        (
            requested(json!({"gateway": "10.8.0.1"})),
            "runtimeConfig.ipRanges[0][1].gateway: 10.8.0.1 ",
        ),
        (
            json!({"ipam": {"type": "host-local", "subnet": "10.9.0.0/24", "gateway": "10.8.0.1"}}),
            "ipam.gateway: 10.8.0.1 ",
        ),
        (
            json!({"ipam": {"type": "host-local", "subnet": "10.9.0.0/31"}}),
            "ipam.subnet: 10.9.0.0/31 ",
        ),
        (
            json!({"runtimeConfig": {"ips": ["10.1.0.5", "10.8.0.1"]}}),
            "runtimeConfig.ips[1]: requested address 10.8.0.1 ",
        ),
        (
            json!({"args": {"cni": {"ips": ["10.8.0.1"]}}}),
            "args.cni.ips[0]: requested address 10.8.0.1 ",
        ),
        (
            json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
            "runtimeConfig.mac: ",
        ),
        (
            fixed(
                json!({"routes": [{"dst": "10.0.0.0/8"}, {"dst": "fd00::/8", "gw": "10.0.0.1"}]}),
            ),
            "ipam.routes[1].gw: 10.0.0.1 ",
        ),
        (
            fixed(json!({"addresses": [{"address": "10.1.0.8/24", "gateway": "fd00::1"}]})),
            "ipam.addresses[0].gateway: fd00::1 ",
        ),
        (
            with(
                fixed(json!({})),
                json!({"runtimeConfig": {"ips": ["10.1.0.5"]}}),
            ),
            "runtimeConfig.ips[0]: requested address 10.1.0.5 ",
        ),
    ] {
        let error = call("ADD", &with(podnet(), changes), &x).run().err_code(7);
        let msg = error["msg"].as_str().unwrap();
        let (_, fault) = msg.split_once("): ").unwrap();
        assert!(
            fault.starts_with(start),
            "no {start:?} at the start of {fault:?}"
        );
        assert!(allocated("podnet").is_empty());
    }
}

/// An error fits on a screen, however many ranges there are.
#[test]
fn an_error_about_many_ranges_shows_some() {
    let world = World::new();
    let x = world.container("x");
    let range = |n: usize| json!([{"subnet": format!("10.{}.{}.0/24", n / 256, n % 256)}]);
    let sets: Vec<_> = (0..500).map(range).collect();
    let config = json!({"ipam": {"type": "host-local", "ranges": sets},
        "runtimeConfig": {"ips": ["192.0.2.1"]}});
    let error = call("ADD", &with(podnet(), config), &x).run().err_code(7);
    let msg = error["msg"].as_str().unwrap();
    assert!(msg.contains("10.0.3.254; and 496 more"), "{msg}");
    assert!(msg.len() < 500, "{msg}");
}
