//! Our `bridge` and `ptp` beside the reference's where things are not as they should be: DEL of
//! what is gone, CHECK of what was changed, ADD of what cannot be, and the verbs of 1.1.0.

use serde_json::{Value, json};

use crate::compare::cases::{bridge, dual, gateway, ptp};
use crate::compare::{Node, same, same_in};
use common::{ip, with};

fn routed() -> Value {
    with(
        ptp(),
        json!({"ipMasq": true, "ipMasqBackend": "nftables", "ipam": dual()}),
    )
}

/// Rules that could still name the first container.
const FIRST: [&str; 3] = ["10.1.0.2", "fd00::2", "c1"];

fn namespace_gone(node: &mut Node, config: &Value) {
    node.call("ADD", "c1", config);
    node.destroy("c1");
    let call = node.plugin("DEL", "c1", &node.config(config));
    node.run("DEL", &call);
    node.record_rules(&FIRST);
    node.run("DEL again", &call);
}

#[test]
fn del_bridge_when_the_netns_is_gone() {
    same("del_bridge_when_the_netns_is_gone", |node| {
        namespace_gone(node, &gateway())
    });
}

#[test]
fn del_ptp_when_the_netns_is_gone() {
    same("del_ptp_when_the_netns_is_gone", |node| {
        namespace_gone(node, &routed())
    });
}

fn without_netns(node: &mut Node, config: &Value) {
    node.call("ADD", "c1", config);
    let call = node.plugin("DEL", "c1", &node.config(config));
    node.run("DEL with no CNI_NETNS", &call.without("CNI_NETNS"));
    node.record_rules(&FIRST);
}

/// The namespace is there, but the runtime does not name it.
#[test]
fn del_bridge_without_a_netns() {
    same("del_bridge_without_a_netns", |node| {
        without_netns(node, &gateway())
    });
}

#[test]
fn del_ptp_without_a_netns() {
    same("del_ptp_without_a_netns", |node| {
        without_netns(node, &routed())
    });
}

/// A path that leads to another container by now.
#[test]
fn del_of_a_path_that_leads_to_another_container() {
    same("del_of_a_path_that_leads_to_another_container", |node| {
        node.call("ADD", "c1", &bridge());
        node.call("ADD", "c2", &bridge());
        let call = node
            .plugin("DEL", "c1", &node.config(&bridge()))
            .var("CNI_NETNS", "/run/netns/c2");
        node.run("DEL c1 at c2's path", &call);
    });
}

#[test]
fn del_without_an_add() {
    same("del_without_an_add", |node| {
        for config in [
            bridge(),
            ptp(),
            gateway(),
            with(bridge(), json!({"macspoofchk": true})),
        ] {
            node.container("c1");
            let call = node.plugin("DEL", "c1", &node.config(&config));
            node.run("DEL", &call);
        }
    });
}

/// The config has changed since ADD, to one that no ADD takes.
#[test]
fn del_with_a_config_that_no_add_takes() {
    let broken = with(gateway(), json!({"hairpinMode": true, "promiscMode": true}));
    same("del_with_a_config_that_no_add_takes", |node| {
        node.call("ADD", "c1", &gateway());
        node.call("DEL", "c1", &broken);
        node.record_rules(&FIRST);
    });
}

/// The interface was removed by another process.
#[test]
fn del_of_an_interface_that_is_gone() {
    same("del_of_an_interface_that_is_gone", |node| {
        node.call("ADD", "c1", &gateway());
        node.container("c1").ip("link del eth0");
        node.call("DEL", "c1", &gateway());
        node.record_rules(&FIRST);
    });
}

/// What may have changed since ADD, one thing after the other, each in its own container.
fn changed(node: &mut Node, config: &Value, changes: &[(&str, &str)]) {
    for (what, change) in changes {
        let id = format!("c{}", what.replace(' ', "-"));
        node.call("ADD", &id, config);
        if let Some(inside) = change.strip_prefix("in: ") {
            node.container(&id).ip(inside);
        } else if !change.is_empty() {
            ip(change);
        }
        node.call("CHECK", &id, config);
        let call = node.plugin("DEL", &id, &node.config(config));
        node.run(&format!("DEL {id}"), &call);
        node.destroy(&id);
    }
}

#[test]
fn check_of_a_bridge_notices() {
    let ipam = with(dual(), json!({"routes": [{"dst": "10.5.0.0/16"}]}));
    let config = with(bridge(), json!({"isDefaultGateway": true, "ipam": ipam}));
    same_in("check_of_a_bridge_notices", &["1.1.0"], |node| {
        changed(
            node,
            &config,
            &[
                ("nothing", ""),
                ("address gone", "in: addr flush dev eth0 scope global"),
                ("route gone", "in: route del 10.5.0.0/16"),
                ("default gone", "in: route del default"),
                ("other mac", "in: link set eth0 address 02:00:00:00:00:09"),
                ("switched off", "in: link set eth0 down"),
                ("interface gone", "in: link del eth0"),
                ("more addresses", "in: addr add 10.1.0.200/24 dev eth0"),
                ("bridge off", "link set cni0 down"),
                ("gateway gone", "addr flush dev cni0 scope global"),
            ],
        );
    });
}

#[test]
fn check_of_a_ptp_notices() {
    let ipam = with(dual(), json!({"routes": [{"dst": "0.0.0.0/0"}]}));
    let config = with(ptp(), json!({"ipam": ipam}));
    same_in("check_of_a_ptp_notices", &["1.1.0"], |node| {
        changed(
            node,
            &config,
            &[
                ("nothing", ""),
                ("address gone", "in: addr flush dev eth0 scope global"),
                ("default gone", "in: route del default"),
                ("other mac", "in: link set eth0 address 02:00:00:00:00:09"),
                ("switched off", "in: link set eth0 down"),
                ("interface gone", "in: link del eth0"),
            ],
        );
    });
}

#[test]
fn check_without_a_previous_result() {
    same("check_without_a_previous_result", |node| {
        for config in [gateway(), routed()] {
            node.call("ADD", "c1", &config);
            let call = node.plugin("CHECK", "c1", &node.config(&config));
            node.run("CHECK", &call);
            node.call("DEL", "c1", &config);
        }
    });
}

/// A port that left its bridge, and an address that its store does not know any more.
#[test]
fn check_of_shared_objects() {
    same_in("check_of_shared_objects", &["1.1.0"], |node| {
        node.call("ADD", "c1", &bridge());
        std::fs::remove_file("/var/lib/cni/networks/podnet/10.1.0.2").unwrap();
        node.call("CHECK", "c1", &bridge());
        node.call("ADD", "c2", &bridge());
        let port = node.result("c2 eth0")["interfaces"][1]["name"].clone();
        ip(&format!("link set {} nomaster", port.as_str().unwrap()));
        node.call("CHECK", "c2", &bridge());
        node.call("ADD", "c3", &bridge());
        ip("link del cni0");
        node.call("CHECK", "c3", &bridge());
    });
}

/// Each in a container of its own; what a failed ADD leaves is compared too.
#[test]
fn add_refuses() {
    let bridged = |changes: Value| with(bridge(), changes);
    let routed = |changes: Value| with(ptp(), changes);
    let bad = [
        (
            "hairpin and promisc",
            bridged(json!({"hairpinMode": true, "promiscMode": true})),
        ),
        (
            "down with ipam",
            bridged(json!({"disableContainerInterface": true})),
        ),
        ("vlan 4095", bridged(json!({"vlan": 4095}))),
        ("vlan -1", bridged(json!({"vlan": -1}))),
        ("trunk 0", bridged(json!({"vlanTrunk": [{"id": 0}]}))),
        (
            "trunk without max",
            bridged(json!({"vlanTrunk": [{"minID": 5}]})),
        ),
        (
            "trunk backwards",
            bridged(json!({"vlanTrunk": [{"minID": 5, "maxID": 4}]})),
        ),
        ("mtu as text", bridged(json!({"mtu": "1500"}))),
        ("mtu 10", bridged(json!({"mtu": 10}))),
        ("mtu 100000", bridged(json!({"mtu": 100_000}))),
        (
            "bridge name too long",
            bridged(json!({"bridge": "a-name-that-is-too-long"})),
        ),
        (
            "bridge name with a slash",
            bridged(json!({"bridge": "a/b"})),
        ),
        (
            "mac of five bytes",
            bridged(json!({"runtimeConfig": {"mac": "02:00:00:00:01"}})),
        ),
        (
            "ipam that is not there",
            bridged(json!({"ipam": {"type": "no-such"}})),
        ),
        (
            "ipam without ranges",
            bridged(json!({"ipam": {"type": "host-local"}})),
        ),
        (
            "masquerade backend",
            bridged(json!({"ipMasq": true, "ipMasqBackend": "ebpf"})),
        ),
        ("ptp without ipam", routed(json!({"ipam": null}))),
        (
            "ptp without a gateway",
            routed(json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.7/24"}]}})),
        ),
        (
            "ptp masquerade backend",
            routed(json!({"ipMasq": true, "ipMasqBackend": "ebpf"})),
        ),
        ("no name", bridged(json!({"name": null}))),
        ("bad name", bridged(json!({"name": "a b"}))),
    ];
    same_in("add_refuses", &["1.1.0"], |node| {
        node.container("c1");
        let at_first = node.world.links().len();
        for (what, config) in &bad {
            for verb in ["ADD", "DEL"] {
                let call = node.plugin(verb, "c1", &node.config(config));
                node.outcome(&format!("{verb}, {what}"), &call);
                if verb == "ADD" {
                    let links = node.world.links();
                    let made = links.iter().filter(|link| link.kind == "veth").count();
                    let made = made.to_string();
                    node.record(&format!("{what} / pairs left by ADD"), made);
                }
            }
            if node.world.link("cni0").is_some() {
                ip("link del cni0");
            }
        }
        let left = node.world.links().len() - at_first;
        node.record("left in the end", left.to_string());
    });
}

#[test]
fn add_where_a_name_is_taken() {
    same_in("add_where_a_name_is_taken", &["1.1.0"], |node| {
        // The interface is there already.
        for config in [bridge(), ptp()] {
            let config = with(config, json!({"name": "first"}));
            node.container("c1");
            ip("-n c1 link add eth0 type bridge");
            node.call("ADD", "c1", &config);
            node.call("DEL", "c1", &config);
            node.destroy("c1");
        }
        // So is the attachment.
        for (name, config) in [("second", bridge()), ("third", ptp())] {
            let config = with(config, json!({"name": name}));
            node.call("ADD", "c2", &config);
            node.call("ADD", "c2", &config);
            node.call("CHECK", "c2", &config);
            node.call("DEL", "c2", &config);
        }
        // The bridge's name is that of another link.
        ip("link add br-other type veth peer name br-peer");
        node.call("ADD", "c3", &with(bridge(), json!({"bridge": "br-other"})));
        // The namespace is not there.
        for config in [bridge(), ptp()] {
            let call = node.plugin("ADD", "gone", &node.config(&config));
            node.run("ADD without a namespace", &call);
        }
    });
}

#[test]
fn invalid_environment() {
    same_in("invalid_environment", &["1.1.0"], |node| {
        node.container("c1");
        for plugin in ["bridge", "ptp", "host-local", "loopback", "portmap"] {
            let config = node.config(&with(bridge(), json!({"type": plugin})));
            for verb in ["ADD", "CHECK", "DEL"] {
                let call = || node.plugin(verb, "c1", &config);
                let calls = [
                    ("no container", call().without("CNI_CONTAINERID")),
                    ("no interface", call().without("CNI_IFNAME")),
                    ("no path", call().without("CNI_PATH")),
                    ("bad container", call().id("../x")),
                    ("bad interface", call().ifname("a/b")),
                    ("long interface", call().ifname("sixteen-bytes-xx")),
                    ("bad arguments", call().var("CNI_ARGS", "IP")),
                    ("no JSON", call().stdin("{")),
                    ("nothing on stdin", call().stdin("")),
                    ("a list on stdin", call().stdin("[]")),
                    (
                        "a later version",
                        call().stdin(r#"{"cniVersion": "9.9.9", "name": "x"}"#),
                    ),
                ];
                for (what, call) in calls {
                    node.outcome(&format!("{verb} {plugin}, {what}"), &call);
                }
            }
            let call = node.plugin("FETCH", "c1", &config);
            node.outcome(&format!("FETCH {plugin}"), &call);
        }
    });
}

#[test]
fn version_of_every_plugin() {
    same_in("version_of_every_plugin", &["1.1.0"], |node| {
        for plugin in ["bridge", "ptp", "host-local", "loopback", "portmap"] {
            let config = node.config(&with(bridge(), json!({"type": plugin})));
            let call = node.plugin("VERSION", "c1", &config);
            node.run(&format!("VERSION {plugin}"), &call);
        }
    });
}

#[test]
fn status_of_every_plugin() {
    same_in("status_of_every_plugin", &["1.1.0"], |node| {
        for plugin in ["bridge", "ptp", "host-local", "loopback", "portmap"] {
            let config = node.config(&with(bridge(), json!({"type": plugin})));
            let call = node.plugin("STATUS", "c1", &config);
            node.outcome(&format!("STATUS {plugin}"), &call);
        }
        // In a version that does not know it.
        let config = with(node.config(&bridge()), json!({"cniVersion": "1.0.0"}));
        let call = node.plugin("STATUS", "c1", &config);
        node.outcome("STATUS in 1.0.0", &call);
    });
}

/// What GC removes is for our own tests: the reference's plugins do nothing at it.
#[test]
fn gc_of_every_plugin() {
    same_in("gc_of_every_plugin", &["1.1.0"], |node| {
        node.call("ADD", "c1", &bridge());
        for plugin in ["bridge", "ptp", "host-local", "loopback", "portmap"] {
            let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
            let keys = json!({"type": plugin, "cni.dev/valid-attachments": valid});
            let config = node.config(&with(bridge(), keys));
            let call = node.plugin("GC", "c1", &config);
            node.run(&format!("GC {plugin}"), &call);
        }
    });
}
