//! What Go's JSON makes of a config: keys in other letter cases, twice, and odd values.

use serde_json::{Value, json};

use crate::compare::cases::{attach_and_detach_one, bridge, dual, gateway};
use crate::compare::same;
use common::with;

#[test]
fn keys_in_other_letter_cases() {
    let ranges =
        json!([[{"SUBNET": "10.1.0.0/24", "rangestart": "10.1.0.9", "GateWay": "10.1.0.7"}]]);
    let config = json!({
        "name": "podnet", "type": "bridge", "Bridge": "cni0", "isDefaultGateWay": true,
        "IPMASQ": true, "ipmasqbackend": "nftables", "Mtu": 1300, "HAIRPINMODE": true,
        "IPAM": {"Type": "host-local", "RANGES": ranges, "Routes": [{"DST": "192.0.2.0/24", "GW": "10.1.0.5"}]},
        "Dns": {"NameServers": ["10.1.0.53"]},
        "ARGS": {"CNI": {"MAC": "02:00:00:00:00:05"}},
    });
    same("keys_in_other_letter_cases", |node| {
        attach_and_detach_one(node, &config)
    });
}

/// A later key of the same meaning counts; here the one in capitals comes first, since tests sort
/// their keys. Objects add up.
#[test]
fn keys_that_are_there_twice() {
    let config = with(
        bridge(),
        json!({
            "BRIDGE": "cni7", "MTU": 1400, "mtu": 1300, "IsGateway": true, "isgateway": false,
            "IPAM": {"routes": [{"dst": "192.0.2.0/24"}], "gateway": "10.1.0.9"},
        }),
    );
    same("keys_that_are_there_twice", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn empty_and_odd_values() {
    let range = json!({"subnet": "10.1.0.0/24", "gateway": "", "rangeStart": "", "rangeEnd": ""});
    let ipam = json!({"type": "host-local", "dataDir": "", "resolvConf": "", "ranges": [[range]],
        "routes": [{"dst": "192.0.2.0/24", "gw": ""}], "gateway": ""});
    let config = with(
        gateway(),
        json!({
            "ipam": ipam, "mtu": -1, "dns": {"nameservers": [], "domain": ""},
            "runtimeConfig": {"mac": ""}, "args": {"cni": {"mac": ""}}, "vlan": 0,
        }),
    );
    same("empty_and_odd_values", |node| {
        node.args("IgnoreUnknown=1;IP=;MAC=");
        attach_and_detach_one(node, &config);
    });
}

/// A list of name servers that is there, though empty, replaces what the IPAM says.
#[test]
fn empty_lists_of_name_servers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nameserver 10.1.0.53\ndomain example\n").unwrap();
    let ipam = with(dual(), json!({"resolvConf": file.path()}));
    same("empty_lists_of_name_servers", |node| {
        for dns in [
            json!({}),
            json!({"nameservers": []}),
            json!({"search": []}),
            json!({"domain": ""}),
        ] {
            let config = with(bridge(), json!({"ipam": ipam, "dns": dns}));
            node.call("ADD", "c1", &config);
            node.call("DEL", "c1", &config);
        }
    });
}

/// Before 0.3.0, no result is without an address. (The reference leaves the interface.)
#[test]
fn old_versions_without_ipam() {
    let bare: Value = with(bridge(), json!({"ipam": null}));
    same("old_versions_without_ipam", |node| {
        for version in ["0.1.0", "0.2.0"] {
            let config = with(bare.clone(), json!({"cniVersion": version}));
            node.call("ADD", "c1", &config);
            node.call("DEL", "c1", &config);
        }
    });
}

#[test]
fn an_id_of_more_than_128_letters() {
    let id = "c".repeat(150);
    same("an_id_of_more_than_128_letters", |node| {
        node.container("c1");
        let config = node.config(&with(bridge(), json!({"isGateway": true})));
        for verb in ["ADD", "DEL"] {
            let call = node.plugin(verb, "c1", &config).id(&id);
            node.run(verb, &call);
        }
    });
}
