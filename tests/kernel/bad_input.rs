//! Whatever comes in that is wrong: an error with its code that names network, container and
//! interface, JSON alone on stdout, and kernel and store as before. Only the bridge, which is
//! shared, may stay.

mod environment;
mod store;

use std::path::Path;

use serde_json::{Value, json};

use common::{Call, Container, STORES, World, call, ip, podnet, with};

/// The call fails with this code, and its message has these words; nothing else is different.
#[track_caller]
fn refused(world: &World, container: &Container, call: &Call, code: u32, words: &[&str]) -> Value {
    let known = ["network podnet", "container c1", "interface eth0"];
    let all: Vec<_> = words.iter().chain(&known).copied().collect();
    refused_unnamed(world, container, call, code, &all)
}

/// The same, where network, container or interface are themselves what is wrong.
#[track_caller]
fn refused_unnamed(
    world: &World,
    container: &Container,
    call: &Call,
    code: u32,
    words: &[&str],
) -> Value {
    let before = world.snapshot().addresses_only();
    let inside = container.state();

    let error = call.run().err_code(code);

    let msg = error["msg"].as_str().unwrap();
    for word in words {
        assert!(msg.contains(word), "no {word:?} in {msg:?}");
    }
    assert!(msg.len() < 2_000, "{} bytes", msg.len());
    let shown = |c: char| !c.is_control();
    assert!(msg.chars().all(shown), "{msg:?} would mess up a log");
    let after = world.snapshot().addresses_only();
    assert_eq!(after.without_bridge("cni0"), before.without_bridge("cni0"));
    assert_eq!(container.state(), inside);
    error
}

fn add(container: &Container, config: &Value) -> Call {
    Call::new("ADD", config).netns(container)
}

#[test]
fn input_that_is_not_a_config_is_code_6() {
    let world = World::new();
    let x = world.container("x");
    let call = add(&x, &podnet());
    let deep = format!("{{\"name\": {}", "[".repeat(100_000));
    let stdin: &[&[u8]] = &[
        b"",
        b" \n\t",
        b"ADD",
        b"[]",
        b"3",
        b"null",
        b"{",
        b"{\"name\": \"podnet\"",
        b"{\"name\": \"podnet\"} {}",
        b"\xff\xfe",
        b"{\"name\": \"\xff\"}",
        deep.as_bytes(),
    ];
    for bytes in stdin {
        let call = call.clone().stdin(*bytes);
        let words = ["ADD", "container c1", "interface eth0"];
        refused_unnamed(&world, &x, &call, 6, &words);
    }
}

#[test]
fn an_endless_config_is_refused() {
    let world = World::new();
    let x = world.container("x");
    let mut bytes = vec![b' '; 20 * 1024 * 1024];
    bytes.extend(podnet().to_string().into_bytes());
    refused_unnamed(
        &world,
        &x,
        &add(&x, &podnet()).stdin(bytes),
        6,
        &["container c1"],
    );
}

#[test]
fn a_wrong_type_is_code_6_with_its_key() {
    let world = World::new();
    let x = world.container("x");
    for changes in [
        json!({"mtu": "1500"}),
        json!({"mtu": 1e99}),
        json!({"mtu": 1500.5}),
        json!({"isGateway": "yes"}),
        json!({"bridge": ["cni0"]}),
        json!({"ipam": "host-local"}),
        json!({"ipam": {"type": "host-local", "subnet": 10}}),
        json!({"ipam": {"type": "host-local", "ranges": [{"subnet": "10.1.0.0/24"}]}}),
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0"}]]}}),
        json!({"ipam": {"type": "host-local", "ranges": [[{"rangeStart": "10.1.0.5"}]]}}),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"gw": "10.1.0.1"}]}}),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [{"dst": "x"}]}}),
        json!({"dns": "10.1.0.1"}),
        json!({"args": {"cni": {"ips": "10.1.0.5"}}}),
        json!({"runtimeConfig": {"mac": 2}}),
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": null}]]}}),
    ] {
        let error = refused(
            &world,
            &x,
            &add(&x, &with(podnet(), changes.clone())),
            6,
            &[],
        );
        let msg = error["msg"].as_str().unwrap();
        let key = changes.as_object().unwrap().keys().next().unwrap();
        let place = format!("network config: {key}");
        assert!(msg.contains(&place), "{changes}: {error}");
    }
    // Where the name itself is of a wrong type, it cannot be named.
    let call = add(&x, &with(podnet(), json!({"name": 3})));
    refused_unnamed(&world, &x, &call, 6, &["network unknown", "container c1"]);
    let call = add(&x, &with(podnet(), json!({"cniVersion": 1.0})));
    refused_unnamed(&world, &x, &call, 6, &["container c1"]);
}

#[test]
fn an_unknown_version_is_code_1() {
    let world = World::new();
    let x = world.container("x");
    for version in ["9.9.9", "1.1", "v1.0.0", "0.1.0 ", "1.2.0"] {
        let config = with(podnet(), json!({"cniVersion": version}));
        let error = refused(&world, &x, &add(&x, &config), 1, &[version]);
        assert!(
            error["details"].as_str().unwrap().contains("0.1.0"),
            "{error}"
        );
        assert_eq!(error["cniVersion"], "1.1.0", "one that we speak");
    }
}

#[test]
fn a_missing_or_hostile_network_name_is_code_7() {
    let world = World::new();
    let x = world.container("x");
    for name in [
        json!(null),
        json!(""),
        json!("."),
        json!(".."),
        json!("../x"),
        json!("/etc"),
        json!("a/b"),
        json!("-rf"),
        json!("a b"),
        json!("a\0b"),
        json!("a\nb"),
        json!("a\u{1b}[31mb"),
        json!("é"),
        json!("n".repeat(300)),
        json!("n".repeat(1_000_000)),
    ] {
        let config = with(podnet(), json!({"name": name}));
        let words = ["network name", "container c1", "interface eth0"];
        refused_unnamed(&world, &x, &add(&x, &config), 7, &words);
    }
    assert!(!Path::new(STORES).exists());
    assert!(!Path::new("/var/lib/cni/x").exists());
}

#[test]
fn a_config_that_contradicts_itself_is_code_7() {
    let world = World::new();
    let x = world.container("x");
    let ipam = |rest: Value| json!({"ipam": with(json!({"type": "host-local"}), rest)});
    for (changes, word) in [
        (
            json!({"hairpinMode": true, "promiscMode": true}),
            "hairpinMode",
        ),
        (json!({"bridge": "a/b"}), "bridge"),
        (json!({"bridge": "sixteen-bytes-xx"}), "bridge"),
        (json!({"bridge": "br%d"}), "bridge"),
        (json!({"bridge": "all"}), "bridge"),
        (json!({"mtu": 67}), "mtu 67"),
        (json!({"mtu": 65536}), "mtu 65536"),
        (json!({"runtimeConfig": {"mac": "xx"}}), "MAC"),
        (
            json!({"args": {"cni": {"ips": ["10.1.0.300"]}}}),
            "10.1.0.300",
        ),
        (ipam(json!({})), "no range"),
        (ipam(json!({"ranges": [[]]})), "ipam.ranges[0]: "),
        (ipam(json!({"subnet": "10.1.0.0"})), "ipam.subnet"),
        (ipam(json!({"subnet": "10.1.0.0/31"})), "10.1.0.0/31"),
        (ipam(json!({"subnet": "10.1.0.5/24"})), "10.1.0.5/24"),
        (
            ipam(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"})),
            "rangeStart",
        ),
        (
            ipam(json!({"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1"})),
            "rangeEnd",
        ),
        (
            ipam(json!({"subnet": "10.1.0.0/24", "gateway": "fd00::1"})),
            "gateway",
        ),
        (
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]})),
            "ipam.ranges[1]: the range set overlaps with ipam.ranges[0]",
        ),
        (
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.128/25"}]]})),
            "ipam.ranges[0][1].subnet: range 10.1.0.129-10.1.0.254 overlaps",
        ),
        (
            ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]})),
            "ipam.ranges[0][1].subnet: fd00::/64 is of another family",
        ),
    ] {
        refused(&world, &x, &add(&x, &with(podnet(), changes)), 7, &[word]);
    }
    assert!(
        world.link("cni0").is_none(),
        "all of it is noticed before anything is made"
    );
    assert!(!Path::new(STORES).exists());
}

#[test]
fn unsupported_settings_are_code_2() {
    let world = World::new();
    let x = world.container("x");
    let changes = json!({"mode": "no-such-mode"});
    refused(
        &world,
        &x,
        &add(&x, &with(podnet(), changes)),
        2,
        &["no-such-mode"],
    );
}

#[test]
fn an_ipam_plugin_missing_from_cni_path_is_code_7() {
    let world = World::new();
    let x = world.container("x");
    let changes = json!({"ipam": {"type": "no-such-ipam"}});
    refused(
        &world,
        &x,
        &add(&x, &with(podnet(), changes)),
        7,
        &["no-such-ipam", "CNI_PATH"],
    );
}

#[test]
fn an_invalid_prev_result_is_reported() {
    let world = World::new();
    let x = world.container("x");
    for (prev, code) in [
        (json!({"cniVersion": "9.9.9"}), 1),
        (json!("x"), 6),
        (json!([]), 6),
        (
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5"}]}),
            6,
        ),
        (json!({"cniVersion": "1.0.0", "ips": "x"}), 6),
        (json!({"cniVersion": "0.2.0", "ip4": {"ip": "x"}}), 6),
        (
            json!({"cniVersion": "1.1.0", "interfaces": [{"mac": 5}]}),
            6,
        ),
    ] {
        let config = with(podnet(), json!({"prevResult": prev}));
        for verb in ["ADD", "CHECK"] {
            let call = Call::new(verb, &config).netns(&x);
            refused(&world, &x, &call, code, &["prevResult"]);
        }
        // DEL does without it.
        let output = Call::new("DEL", &config).netns(&x).run();
        output.ok();
        let warning = String::from_utf8_lossy(&output.0.stderr).into_owned();
        assert!(warning.contains("prevResult"), "{warning}");
    }
}

/// The kernel would make a link with another name, again at each try.
#[test]
fn names_that_the_kernel_takes_as_templates_make_no_link() {
    let world = World::new();
    let x = world.container("x");
    let before = (world.links().len(), x.state());
    for _ in 0..2 {
        for changes in [
            json!({"bridge": "br%d"}),
            json!({"bridge": "%s"}),
            json!({"bridge": "br%d", "vlan": 5}),
        ] {
            let config = with(podnet(), changes);
            add(&x, &config).run().err_code(7);
            // Whatever an earlier version made of it.
            call("DEL", &config, &x).run().ok();
        }
        add(&x, &podnet()).ifname("eth%d").run().err_code(4);
    }
    assert_eq!((world.links().len(), x.state()), before);
}

#[test]
fn a_bridge_name_used_by_another_kind_of_link_is_code_7() {
    let world = World::new();
    let x = world.container("x");
    ip("link add br0 type veth peer name other");
    for name in ["br0", "lo"] {
        let config = with(podnet(), json!({"bridge": name}));
        let error = refused(&world, &x, &add(&x, &config), 7, &[name, "no bridge"]);
        assert!(
            error["details"].as_str().unwrap().contains("bridge"),
            "{error}"
        );
    }
}

/// The kernel refuses the last step of all: everything before it is undone.
#[test]
fn a_route_refused_by_the_kernel_undoes_the_attachment() {
    let world = World::new();
    let x = world.container("x");
    for route in [
        json!({"dst": "192.168.7.0/24", "gw": "172.31.0.1"}),
        json!({"dst": "192.168.7.0/24", "table": 0xffff_fff0_u32, "gw": "10.99.0.1"}),
    ] {
        let config = with(
            podnet(),
            json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [route]}}),
        );
        refused(
            &world,
            &x,
            &add(&x, &config),
            101,
            &["route 192.168.7.0/24", "/run/netns/x"],
        );
    }
    let mixed = json!({"dst": "192.168.7.0/24", "gw": "fd00::1"});
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "routes": [mixed]}}),
    );
    refused(
        &world,
        &x,
        &add(&x, &config),
        7,
        &["192.168.7.0/24", "fd00::1"],
    );
    // And nothing is in the way of the next one.
    add(&x, &podnet()).run().ok();
}

#[test]
fn an_unreadable_resolv_conf_is_code_5_and_nothing_is_created() {
    let world = World::new();
    let x = world.container("x");
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "resolvConf": "/run/gone"});
    let config = with(podnet(), json!({"ipam": ipam}));
    refused(&world, &x, &add(&x, &config), 5, &["/run/gone"]);
    assert!(world.link("cni0").is_none());
    assert!(!Path::new(STORES).exists());
}
