//! Our `host-local` beside the reference's: results and every file of the store.

use serde_json::{Value, json};

use crate::compare::{Node, same, same_in};
use common::{Call, with};

fn ipam(ipam: Value) -> Value {
    let ipam = with(json!({"type": "host-local"}), ipam);
    json!({"name": "podnet", "type": "host-local", "ipam": ipam})
}

fn call(node: &mut Node, verb: &str, id: &str, config: &Value) {
    let call = plugin(node, verb, id, config);
    node.run(&format!("{verb} {id}"), &call);
}

fn plugin(node: &Node, verb: &str, id: &str, config: &Value) -> Call {
    node.plugin(verb, id, &node.config(config))
}

#[test]
fn host_local_ranges() {
    let config = ipam(json!({"ranges": [
        [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.21"},
         {"subnet": "10.2.0.0/24", "gateway": "10.2.0.254", "rangeEnd": "10.2.0.1"}],
        [{"subnet": "fd00::/64", "rangeStart": "fd00::10"}]
    ]}));
    same("host_local_ranges", |node| {
        for id in ["c1", "c2", "c3", "c4"] {
            call(node, "ADD", id, &config);
        }
        call(node, "CHECK", "c1", &config);
        call(node, "CHECK", "c4", &config);
        call(node, "DEL", "c1", &config);
        call(node, "CHECK", "c1", &config);
        call(node, "DEL", "c1", &config);
        call(node, "ADD", "c5", &config);
    });
}

/// One range directly in `ipam`.
#[test]
fn host_local_legacy_range() {
    let config = ipam(json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5",
        "gateway": "10.1.0.254", "ranges": [[{"subnet": "fd00::/64"}]]}));
    same("host_local_legacy_range", |node| {
        call(node, "ADD", "c1", &config);
        call(node, "DEL", "c1", &config);
    });
}

#[test]
fn host_local_in_old_versions() {
    let config = ipam(json!({
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "fd05::/64"}]
    }));
    let two = ipam(json!({
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]
    }));
    same_in(
        "host_local_in_old_versions",
        &["0.1.0", "0.2.0", "0.3.0", "0.3.1"],
        |node| {
            call(node, "ADD", "c1", &config);
            call(node, "DEL", "c1", &config);
            call(node, "ADD", "c2", &two);
        },
    );
}

#[test]
fn host_local_routes() {
    let config = ipam(json!({
        "ranges": [[{"subnet": "10.1.0.0/24"}]],
        "routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "10.6.0.9/16"},
            {"dst": "fd05:0:0:0:0::/64", "gw": "FD00::0009"},
            {"dst": "10.5.0.0/16", "gw": "10.1.0.9", "mtu": 1300, "advmss": 1200,
             "priority": 5, "table": 100, "scope": 253}
        ]
    }));
    same("host_local_routes", |node| call(node, "ADD", "c1", &config));
}

#[test]
fn host_local_data_dir() {
    let config = ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}]],
        "dataDir": "/var/lib/cni/elsewhere/deep"}));
    same("host_local_data_dir", |node| {
        call(node, "ADD", "c1", &config);
        call(node, "DEL", "c1", &config);
    });
}

#[test]
fn host_local_resolv_conf() {
    let dir = tempfile::tempdir().unwrap();
    let texts = [
        "nameserver 10.1.0.53\nnameserver fd00::53\n",
        "; x\n# y\ndomain example\nsearch a b c\n\noptions ndots:2 rotate\nunknown z\n",
        "nameserver\nsearch\noptions\ndomain\n",
        " nameserver 10.1.0.53\n\tsearch a\nnameserver 10.1.0.54 # x\n",
        "domain one\ndomain two\nsearch a\nsearch b\noptions x\noptions y\n",
        "",
    ];
    same("host_local_resolv_conf", |node| {
        for (at, text) in texts.iter().enumerate() {
            let file = dir.path().join(format!("resolv{at}"));
            std::fs::write(&file, text).unwrap();
            let config = ipam(json!({"subnet": "10.1.0.0/24", "resolvConf": file}));
            call(node, "ADD", &format!("c{at}"), &config);
        }
        let gone = ipam(json!({"subnet": "10.1.0.0/24", "resolvConf": "/nonexistent"}));
        call(node, "ADD", "gone", &gone);
    });
}

#[test]
fn host_local_requested_addresses() {
    let config = ipam(json!({"ranges": [
        [{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64"}]
    ]}));
    let args = |ips: Value| with(config.clone(), json!({"args": {"cni": {"ips": ips}}}));
    let runtime = |ips: Value| with(config.clone(), json!({"runtimeConfig": {"ips": ips}}));
    same("host_local_requested_addresses", |node| {
        node.args("IP=10.1.0.10");
        call(node, "ADD", "env", &config);
        call(node, "ADD", "taken", &config);
        node.args("");
        call(node, "ADD", "args", &args(json!(["10.2.0.20", "fd00::20"])));
        call(
            node,
            "ADD",
            "runtime",
            &runtime(json!(["10.1.0.30/24", "fd00::30/64"])),
        );
        node.args("IP=10.1.0.40/24;IgnoreUnknown=true;K8S_POD_NAME=x");
        let all = with(
            args(json!(["10.2.0.40"])),
            json!({"runtimeConfig": {"ips": ["fd00::40"]}}),
        );
        call(node, "ADD", "all", &all);
        node.args("IP=10.1.0.1");
        call(node, "ADD", "gateway", &config);
        node.args("IP=not-an-address");
        call(node, "ADD", "nonsense", &config);
        node.args("IP=10.1.0.50;UNKNOWN=1");
        call(node, "ADD", "unknown", &config);
    });
}

/// The reference gives what it can, fails, and forgets to move its cursor back.
#[test]
fn host_local_requested_address_out_of_range() {
    let config = ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]}));
    same("host_local_requested_address_out_of_range", |node| {
        node.args("IP=10.9.0.9");
        call(node, "ADD", "c1", &config);
    });
}

#[test]
fn host_local_ip_ranges_capability() {
    let ranges = json!({"ipRanges": [[{"subnet": "10.3.0.0/24"}], [{"subnet": "fd03::/64"}]]});
    let alone = with(ipam(json!({})), json!({"runtimeConfig": ranges}));
    let before = with(
        ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]})),
        json!({"runtimeConfig": ranges}),
    );
    same("host_local_ip_ranges_capability", |node| {
        call(node, "ADD", "c1", &alone);
        call(node, "ADD", "c2", &before);
        call(node, "DEL", "c2", &before);
    });
}

#[test]
fn host_local_exhaustion() {
    let config = ipam(json!({"ranges": [[{"subnet": "10.1.0.0/30"}], [{"subnet": "fd00::/64"}]]}));
    same("host_local_exhaustion", |node| {
        for id in ["c1", "c2", "c3"] {
            call(node, "ADD", id, &config);
        }
        call(node, "DEL", "c1", &config);
        call(node, "ADD", "c3", &config);
    });
}

#[test]
fn host_local_small_subnets() {
    same("host_local_small_subnets", |node| {
        for (at, subnet) in [
            "10.1.0.0/29",
            "10.2.0.8/30",
            "fd00::/126",
            "10.3.0.0/31",
            "10.4.0.0/32",
            "fd01::/127",
        ]
        .iter()
        .enumerate()
        {
            let config = ipam(json!({"ranges": [[{"subnet": subnet}]]}));
            call(node, "ADD", &format!("c{at}"), &config);
        }
    });
}

#[test]
fn host_local_repeated_add() {
    let config = ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]}));
    same("host_local_repeated_add", |node| {
        call(node, "ADD", "c1", &config);
        call(node, "ADD", "c1", &config);
        let other = plugin(node, "ADD", "c1", &config).ifname("net1");
        node.run("ADD c1 net1", &other);
        call(node, "DEL", "c1", &config);
    });
}

/// A repeated ADD with two range sets: the reference frees what the live attachment has.
#[test]
fn host_local_repeated_add_of_two_sets() {
    let config = ipam(json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}));
    same("host_local_repeated_add_of_two_sets", |node| {
        call(node, "ADD", "c1", &config);
        call(node, "ADD", "c1", &config);
    });
}

#[test]
fn host_local_refuses() {
    let bad = [
        ("no ranges", json!({})),
        ("empty set", json!({"ranges": [[]]})),
        (
            "no subnet",
            json!({"ranges": [[{"rangeStart": "10.1.0.5"}]]}),
        ),
        (
            "no prefix length",
            json!({"ranges": [[{"subnet": "10.1.0.0"}]]}),
        ),
        (
            "host bits",
            json!({"ranges": [[{"subnet": "10.1.0.5/24"}]]}),
        ),
        (
            "start outside",
            json!({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.5"}),
        ),
        (
            "end outside",
            json!({"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.5"}),
        ),
        (
            "end before start",
            json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"}),
        ),
        (
            "families mixed",
            json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}),
        ),
        (
            "overlap in a set",
            json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/16"}]]}),
        ),
        (
            "overlap of sets",
            json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]}),
        ),
        (
            "not an address",
            json!({"subnet": "10.1.0.0/24", "rangeStart": "x"}),
        ),
        (
            "bad route",
            json!({"subnet": "10.1.0.0/24", "routes": [{"dst": "10.5.0.0"}]}),
        ),
    ];
    same("host_local_refuses", |node| {
        for (what, object) in &bad {
            let config = ipam(object.clone());
            for verb in ["ADD", "CHECK", "DEL"] {
                let call = plugin(node, verb, "c1", &config);
                node.run(&format!("{verb}, {what}"), &call);
            }
        }
        let config = json!({"name": "podnet", "type": "host-local"});
        call(node, "ADD", "without-ipam", &config);
    });
}
