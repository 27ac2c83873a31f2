//! Our `bridge` beside the reference's, option by option.

use serde_json::json;

use crate::compare::cases::{attach_and_detach_one, attach_and_detach_two, bridge, dual, gateway};
use crate::compare::{same, same_in};
use common::{ip, set_sysctl, with};

#[test]
fn bridge_without_options() {
    same("bridge_without_options", |node| {
        attach_and_detach_two(node, &bridge())
    });
}

#[test]
fn bridge_without_ipam() {
    let config = with(bridge(), json!({"ipam": null}));
    same("bridge_without_ipam", |node| {
        attach_and_detach_two(node, &config)
    });
}

/// `bridge`: the name, and what it is without.
#[test]
fn bridge_name() {
    let unnamed = with(bridge(), json!({"bridge": null}));
    let named = with(bridge(), json!({"name": "other", "bridge": "br-pods"}));
    same("bridge_name", |node| {
        node.call("ADD", "c1", &unnamed);
        node.call("ADD", "c2", &named);
        node.call("DEL", "c1", &unnamed);
    });
}

/// A bridge that exists before, with another MTU and switched off.
#[test]
fn bridge_that_exists() {
    let config = with(bridge(), json!({"isGateway": true, "mtu": 1300}));
    same("bridge_that_exists", |node| {
        ip("link add cni0 mtu 1400 type bridge");
        attach_and_detach_one(node, &config);
    });
}

#[test]
fn bridge_is_gateway() {
    let config = with(bridge(), json!({"isGateway": true}));
    same("bridge_is_gateway", |node| {
        attach_and_detach_two(node, &config)
    });
}

#[test]
fn bridge_is_default_gateway() {
    let config = with(bridge(), json!({"isDefaultGateway": true}));
    same("bridge_is_default_gateway", |node| {
        attach_and_detach_two(node, &config)
    });
}

#[test]
fn bridge_dual_stack() {
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": dual()}));
    same("bridge_dual_stack", |node| {
        attach_and_detach_two(node, &config)
    });
}

/// A default route in `ipam` is kept, and no second one made.
#[test]
fn bridge_default_route_of_the_ipam() {
    let ipam = with(
        dual(),
        json!({"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]}),
    );
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": ipam}));
    same("bridge_default_route_of_the_ipam", |node| {
        attach_and_detach_one(node, &config)
    });
}

/// One that names no next hop is completed by ours, and doubled by the reference.
#[test]
fn bridge_default_route_without_next_hop() {
    let ipam = with(dual(), json!({"routes": [{"dst": "0.0.0.0/0"}]}));
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": ipam}));
    same("bridge_default_route_without_next_hop", |node| {
        node.call("ADD", "c1", &config);
    });
}

/// What routes have learnt in 1.1.0.
#[test]
fn bridge_routes_with_metrics() {
    let ipam = with(
        dual(),
        json!({"routes": [
            {"dst": "10.5.0.0/16"},
            {"dst": "10.6.0.0/16", "gw": "10.1.0.9"},
            {"dst": "fd05::/64", "gw": "fd00::9"},
            {"dst": "10.7.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 50},
            {"dst": "10.8.0.0/16", "table": 100}
        ]}),
    );
    let config = with(bridge(), json!({"isGateway": true, "ipam": ipam}));
    same_in("bridge_routes_with_metrics", &["1.1.0"], |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_routes() {
    let ipam = with(
        dual(),
        json!({"routes": [{"dst": "10.5.0.0/16"}, {"dst": "fd05::/64", "gw": "fd00::9"}]}),
    );
    let config = with(bridge(), json!({"isGateway": true, "ipam": ipam}));
    same("bridge_routes", |node| attach_and_detach_one(node, &config));
}

/// Two IPv4 sets: a bridge of the reference has but one IPv4 address.
#[test]
fn bridge_two_subnets_of_one_family() {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    let config = with(bridge(), json!({"ipam": ipam}));
    same("bridge_two_subnets_of_one_family", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_two_gateways_of_one_family() {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    let config = with(bridge(), json!({"isGateway": true, "ipam": ipam}));
    same("bridge_two_gateways_of_one_family", |node| {
        node.call("ADD", "c1", &config);
    });
}

#[test]
fn bridge_mtu() {
    let config = with(bridge(), json!({"mtu": 1400, "isGateway": true}));
    same("bridge_mtu", |node| {
        attach_and_detach_one(node, &config);
        // Of the attachment; the bridge that is there keeps its own.
        node.call("ADD", "c2", &with(config.clone(), json!({"mtu": 1300})));
        node.call("ADD", "c3", &with(config.clone(), json!({"mtu": 0})));
    });
}

#[test]
fn bridge_hairpin_mode() {
    let config = with(bridge(), json!({"hairpinMode": true}));
    same("bridge_hairpin_mode", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_promisc_mode() {
    let config = with(bridge(), json!({"promiscMode": true, "isGateway": true}));
    same("bridge_promisc_mode", |node| {
        attach_and_detach_two(node, &config)
    });
}

#[test]
fn bridge_port_isolation() {
    let config = with(bridge(), json!({"portIsolation": true}));
    same("bridge_port_isolation", |node| {
        attach_and_detach_one(node, &config)
    });
}

/// Duplicate address detection on the container's addresses, on a host that has it enabled.
#[test]
fn bridge_enabledad() {
    let config = with(
        bridge(),
        json!({"enabledad": true, "isGateway": true, "ipam": dual()}),
    );
    same("bridge_enabledad", |node| {
        for conf in ["all", "default"] {
            set_sysctl(&format!("ipv6/conf/{conf}/accept_dad"), "1");
        }
        attach_and_detach_one(node, &config)
    });
}

/// The same without `enabledad`.
#[test]
fn bridge_with_duplicate_address_detection() {
    let config = with(bridge(), json!({"isGateway": true, "ipam": dual()}));
    same("bridge_with_duplicate_address_detection", |node| {
        for conf in ["all", "default"] {
            set_sysctl(&format!("ipv6/conf/{conf}/accept_dad"), "1");
        }
        attach_and_detach_one(node, &config)
    });
}

/// Where IPv6 is off by default, an attachment with an IPv6 address switches it on.
#[test]
fn bridge_where_ipv6_is_off_by_default() {
    let config = with(bridge(), json!({"ipam": dual()}));
    same("bridge_where_ipv6_is_off_by_default", |node| {
        node.container("c1").enter(|| {
            for conf in ["all", "default", "lo"] {
                set_sysctl(&format!("ipv6/conf/{conf}/disable_ipv6"), "1");
            }
        });
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_ip_masq() {
    same("bridge_ip_masq", |node| {
        attach_and_detach_two(node, &gateway());
        node.record_rules(&["10.1.0.2", "10.1.0.3", "fd00::2", "fd00::3", "c1", "c2"]);
    });
}

/// The guard is on the bridge's ports, in nftables; see `traffic` for what it does.
#[test]
fn bridge_macspoofchk() {
    let config = with(bridge(), json!({"macspoofchk": true}));
    same("bridge_macspoofchk", |node| {
        attach_and_detach_two(node, &config);
        node.record_rules(&["c1", "c2"]);
    });
}

#[test]
fn bridge_disable_container_interface() {
    let config = with(
        bridge(),
        json!({"disableContainerInterface": true, "ipam": null}),
    );
    same("bridge_disable_container_interface", |node| {
        attach_and_detach_two(node, &config)
    });
}

#[test]
fn bridge_force_address() {
    let other = |force: bool| {
        let ipam = json!({"type": "host-local",
            "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/60"}]]});
        with(
            bridge(),
            json!({"name": "other", "isGateway": true, "forceAddress": force, "ipam": ipam}),
        )
    };
    let first = with(bridge(), json!({"isGateway": true, "ipam": dual()}));
    same("bridge_force_address", |node| {
        node.call("ADD", "c1", &first);
        node.call("ADD", "c2", &other(false));
        node.call("DEL", "c2", &other(false));
        node.call("ADD", "c3", &other(true));
    });
}

/// IPv6 addresses of other subnets live side by side.
#[test]
fn bridge_of_two_networks() {
    let one = |name: &str, subnet: &str| {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
        with(
            bridge(),
            json!({"name": name, "isGateway": true, "ipam": ipam}),
        )
    };
    same("bridge_of_two_networks", |node| {
        node.call("ADD", "c1", &one("v4", "10.1.0.0/24"));
        node.call("ADD", "c2", &one("v6", "fd00::/64"));
        node.call("ADD", "c3", &one("v6too", "fd01::/64"));
    });
}

#[test]
fn bridge_mac() {
    let args = json!({"cni": {"mac": "02:00:00:00:00:02"}});
    let runtime = json!({"mac": "02:00:00:00:00:03"});
    same("bridge_mac", |node| {
        node.args("IgnoreUnknown=1;MAC=02:00:00:00:00:01");
        node.call("ADD", "c1", &bridge());
        let by_args = with(bridge(), json!({"args": args}));
        node.call("ADD", "c2", &by_args);
        let by_all = with(by_args, json!({"runtimeConfig": runtime}));
        node.call("ADD", "c3", &by_all);
        node.call("CHECK", "c3", &by_all);
    });
}

#[test]
fn bridge_requested_addresses() {
    let ipam = dual();
    let config = with(bridge(), json!({"ipam": ipam}));
    let args = json!({"cni": {"ips": ["10.1.0.20"]}});
    let runtime = json!({"ips": ["10.1.0.30/24", "fd00::30"]});
    same("bridge_requested_addresses", |node| {
        node.call("ADD", "c1", &with(config.clone(), json!({"args": args})));
        node.call(
            "ADD",
            "c2",
            &with(config.clone(), json!({"runtimeConfig": runtime})),
        );
        node.args("IP=10.1.0.40;IgnoreUnknown=1");
        node.call("ADD", "c3", &config);
        node.call("ADD", "c4", &config);
        node.args("IP=10.1.0.50");
        node.call("ADD", "c5", &config);
    });
}

#[test]
fn bridge_dns() {
    let dns = json!({"nameservers": ["10.1.0.53"], "domain": "example", "search": ["a", "b"],
        "options": ["ndots:2"]});
    let config = with(bridge(), json!({"dns": dns}));
    same("bridge_dns", |node| attach_and_detach_one(node, &config));
}

#[test]
fn bridge_dns_of_the_ipam() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "# x\nnameserver 10.1.0.53\ndomain example\nsearch a b\noptions ndots:2 rotate\n";
    std::fs::write(file.path(), text).unwrap();
    let ipam = with(dual(), json!({"resolvConf": file.path()}));
    let config = with(bridge(), json!({"ipam": ipam}));
    same("bridge_dns_of_the_ipam", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_ipam_static() {
    let ipam = json!({"type": "static",
        "addresses": [
            {"address": "10.1.0.7/24", "gateway": "10.1.0.1"},
            {"address": "fd00::7/64", "gateway": "fd00::1"}
        ],
        "routes": [{"dst": "10.5.0.0/16"}],
        "dns": {"nameservers": ["10.1.0.53"]}});
    let config = with(bridge(), json!({"isGateway": true, "ipam": ipam}));
    same("bridge_ipam_static", |node| {
        attach_and_detach_one(node, &config)
    });
}

/// `static` without a gateway: the bridge's is the first address of the subnet.
#[test]
fn bridge_gateway_by_convention() {
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.7/24"}]});
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": ipam}));
    same("bridge_gateway_by_convention", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn bridge_several_interfaces_of_a_container() {
    same("bridge_several_interfaces_of_a_container", |node| {
        node.call_at("ADD", "c1", "eth0", &bridge());
        node.call_at("ADD", "c1", "net1", &bridge());
        node.call_at("DEL", "c1", "eth0", &bridge());
        node.call_at("DEL", "c1", "net1", &bridge());
    });
}

/// What 0.3.1 and the versions before it look like.
#[test]
fn bridge_in_old_versions() {
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": dual()}));
    same_in(
        "bridge_in_old_versions",
        &["0.1.0", "0.2.0", "0.3.0", "0.3.1"],
        |node| {
            node.call("ADD", "c1", &config);
            node.call("CHECK", "c1", &config);
            node.call("DEL", "c1", &config);
        },
    );
}

/// VLAN filtering: same where the kernel has it, an error in both where it has not.
#[test]
fn bridge_vlans_without_kernel_support() {
    let kernel_has_it = || {
        ip("link add probe type bridge");
        let output = std::process::Command::new("ip")
            .args([
                "link",
                "set",
                "probe",
                "type",
                "bridge",
                "vlan_filtering",
                "1",
            ])
            .output();
        ip("link del probe");
        output.unwrap().status.success()
    };
    let _world = common::World::new();
    if kernel_has_it() {
        return;
    }
    same_in("bridge_vlans_without_kernel_support", &["1.1.0"], |node| {
        node.call("ADD", "c1", &with(bridge(), json!({"vlan": 100})));
        node.call(
            "ADD",
            "c2",
            &with(bridge(), json!({"vlanTrunk": [{"id": 5}]})),
        );
    });
}

/// Two options at a time.
#[test]
fn bridge_options_in_pairs() {
    let options = [
        ("isGateway", json!({"isGateway": true})),
        ("isDefaultGateway", json!({"isDefaultGateway": true})),
        (
            "ipMasq",
            json!({"ipMasq": true, "ipMasqBackend": "nftables"}),
        ),
        ("hairpinMode", json!({"hairpinMode": true})),
        ("promiscMode", json!({"promiscMode": true})),
        ("portIsolation", json!({"portIsolation": true})),
        ("macspoofchk", json!({"macspoofchk": true})),
        ("mtu", json!({"mtu": 1400})),
        ("dual stack", json!({"ipam": dual()})),
        ("no ipam", json!({"ipam": null})),
    ];
    same_in("bridge_options_in_pairs", &["1.1.0"], |node| {
        for (at, (one, first)) in options.iter().enumerate() {
            for (other, second) in &options[..at] {
                let config = with(with(bridge(), first.clone()), second.clone());
                for verb in ["ADD", "DEL"] {
                    node.container("c1");
                    let call = node.plugin(verb, "c1", &node.config(&config));
                    node.run(&format!("{verb} c1, {one} {other}"), &call);
                }
                if node.world.link("cni0").is_some() {
                    ip("link del cni0");
                }
            }
        }
        node.record_rules(&["c1"]);
    });
}
