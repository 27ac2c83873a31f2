//! Every version of the specification: the form of its results, and prevResult of any version
//! under a config of any other.

use serde_json::{Value, json};

use common::{Call, World, allocated, podnet, with};

const ALL: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// The versions that know CHECK.
const WITH_CHECK: &[&str] = ALL.split_at(4).1;

fn config(version: &str) -> Value {
    with(
        podnet(),
        json!({
            "cniVersion": version,
            "dns": {"nameservers": ["10.1.0.1"]},
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
                "routes": [{"dst": "192.168.7.0/24", "gw": "10.1.0.9", "priority": 7}]
            }
        }),
    )
}

/// What the specification's version makes of one and the same attachment. `macs` are those of
/// the bridge, the host end and the container's end.
fn expected(version: &str, macs: &[String], host_end: &str) -> Value {
    let dns = json!({"nameservers": ["10.1.0.1"]});
    if ["0.1.0", "0.2.0"].contains(&version) {
        return json!({
            "cniVersion": version,
            "ip4": {
                "ip": "10.1.0.2/24", "gateway": "10.1.0.1",
                "routes": [
                    {"dst": "192.168.7.0/24", "gw": "10.1.0.9"},
                    {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
                ]
            },
            "ip6": {
                "ip": "fd00::2/64", "gateway": "fd00::1",
                "routes": [{"dst": "::/0", "gw": "fd00::1"}]
            },
            "dns": dns
        });
    }
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "cni0", "mac": macs[0]},
            {"name": host_end, "mac": macs[1]},
            {"name": "eth0", "mac": macs[2], "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"interface": 2, "address": "fd00::2/64", "gateway": "fd00::1"},
        ],
        "routes": [
            {"dst": "192.168.7.0/24", "gw": "10.1.0.9", "priority": 7},
            {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
            {"dst": "::/0", "gw": "fd00::1"},
        ],
        "dns": dns
    });
    if !["1.0.0", "1.1.0"].contains(&version) {
        result["ips"][0]["version"] = json!("4");
        result["ips"][1]["version"] = json!("6");
    }
    if version == "1.1.0" {
        for interface in result["interfaces"].as_array_mut().unwrap() {
            interface["mtu"] = json!(1500);
        }
    }
    result
}

#[test]
fn each_cni_version_has_its_own_result_format() {
    for version in ALL {
        let world = World::new();
        let container = world.container("x");

        let result = Call::new("ADD", &config(version))
            .netns(&container)
            .run()
            .ok();

        let host_end = world.link(common::HOST_END).unwrap();
        let links = [
            world.link("cni0").unwrap(),
            host_end.clone(),
            container.link("eth0").unwrap(),
        ];
        let macs = links.map(|link| link.mac.unwrap().to_string());
        assert_eq!(
            result,
            expected(version, &macs, &host_end.name),
            "{version}"
        );
        assert_eq!(container.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
    }
}

#[test]
fn a_config_without_a_version_is_0_1_0() {
    let world = World::new();
    let container = world.container("x");
    let config = with(podnet(), json!({"cniVersion": null}));

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(result["cniVersion"], "0.1.0");
    assert_eq!(result["ip4"]["ip"], "10.1.0.2/24");
}

#[test]
fn check_accepts_a_prev_result_of_any_version() {
    for given in ALL {
        let world = World::new();
        let container = world.container("x");
        let prev = Call::new("ADD", &config(given))
            .netns(&container)
            .run()
            .ok();
        for version in ALL {
            let check = with(config(version), json!({"prevResult": prev}));
            let answer = Call::new("CHECK", &check).netns(&container).run();
            if WITH_CHECK.contains(&version) {
                answer.ok();
            } else {
                let error = answer.err_code(1);
                assert_eq!(error["cniVersion"], version);
            }
        }
        // And it is really read, in every version's form.
        container.ip("addr del fd00::2/64 dev eth0");
        for version in WITH_CHECK {
            let check = with(config(version), json!({"prevResult": prev}));
            let error = Call::new("CHECK", &check)
                .netns(&container)
                .run()
                .err_code(102);
            let msg = error["msg"].as_str().unwrap();
            assert!(msg.contains("fd00::2/64"), "{given} in {version}: {msg}");
        }
    }
}

#[test]
fn del_accepts_a_prev_result_of_any_version() {
    let world = World::new();
    let container = world.container("x");
    for given in ALL {
        for version in ALL {
            let prev = Call::new("ADD", &config(given))
                .netns(&container)
                .run()
                .ok();
            let del = with(config(version), json!({"prevResult": prev}));
            Call::new("DEL", &del).netns(&container).run().ok();
            assert!(container.link("eth0").is_none(), "{given} in {version}");
            assert!(allocated("podnet").is_empty(), "{given} in {version}");
        }
    }
}

#[test]
fn a_prev_result_without_a_version_has_the_config_s() {
    for version in WITH_CHECK {
        let world = World::new();
        let container = world.container("x");
        let mut prev = Call::new("ADD", &config(version))
            .netns(&container)
            .run()
            .ok();
        prev.as_object_mut().unwrap().remove("cniVersion");

        let check = with(config(version), json!({"prevResult": prev}));
        Call::new("CHECK", &check).netns(&container).run().ok();

        container.ip("addr del 10.1.0.2/24 dev eth0");
        Call::new("CHECK", &check)
            .netns(&container)
            .run()
            .err_code(102);
    }
}

#[test]
fn an_error_has_the_version_of_the_config() {
    let world = World::new();
    let container = world.container("x");
    for version in ALL {
        let config = with(config(version), json!({"bridge": "a/b"}));
        let error = Call::new("ADD", &config)
            .netns(&container)
            .run()
            .err_code(7);
        assert_eq!(error["cniVersion"], version);
    }
}

#[test]
fn results_of_old_versions_hold_one_address_of_each_family() {
    let world = World::new();
    let container = world.container("x");
    for version in ["0.1.0", "0.2.0"] {
        let two = json!({"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
        let config = with(config(version), json!({"ipam": two}));

        let error = Call::new("ADD", &config)
            .netns(&container)
            .run()
            .err_code(7);

        assert!(error["msg"].as_str().unwrap().contains(version), "{error}");
        assert!(allocated("podnet").is_empty());
    }
}
