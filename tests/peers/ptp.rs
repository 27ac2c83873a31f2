//! Our `ptp` beside the reference's, option by option.

use serde_json::json;

use crate::compare::cases::{attach_and_detach_one, attach_and_detach_two, dual, ptp};
use crate::compare::{same, same_in};
use common::with;

#[test]
fn ptp_without_options() {
    same("ptp_without_options", |node| {
        attach_and_detach_two(node, &ptp())
    });
}

#[test]
fn ptp_dual_stack() {
    let config = with(ptp(), json!({"ipam": dual()}));
    same("ptp_dual_stack", |node| {
        attach_and_detach_two(node, &config)
    });
}

#[test]
fn ptp_mtu() {
    let config = with(ptp(), json!({"mtu": 1400}));
    same("ptp_mtu", |node| attach_and_detach_one(node, &config));
}

#[test]
fn ptp_ip_masq() {
    let masq = json!({"ipMasq": true, "ipMasqBackend": "nftables", "ipam": dual()});
    let config = with(ptp(), masq);
    same("ptp_ip_masq", |node| {
        attach_and_detach_two(node, &config);
        node.record_rules(&["10.1.0.2", "10.1.0.3", "fd00::2", "fd00::3", "c1", "c2"]);
    });
}

#[test]
fn ptp_routes() {
    let ipam = with(
        dual(),
        json!({"routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "::/0"},
            {"dst": "10.6.0.0/16", "gw": "10.1.0.1", "mtu": 1300, "priority": 50}
        ]}),
    );
    let config = with(ptp(), json!({"ipam": ipam}));
    same_in("ptp_routes", &["1.1.0"], |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn ptp_two_subnets_of_one_family() {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
    let config = with(ptp(), json!({"ipam": ipam}));
    same("ptp_two_subnets_of_one_family", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn ptp_dns() {
    let config = with(ptp(), json!({"dns": {"nameservers": ["10.1.0.53"]}}));
    same("ptp_dns", |node| attach_and_detach_one(node, &config));
}

#[test]
fn ptp_ipam_static() {
    let ipam = json!({"type": "static",
        "addresses": [{"address": "10.1.0.7/24", "gateway": "10.1.0.1"}]});
    let config = with(ptp(), json!({"ipam": ipam}));
    same("ptp_ipam_static", |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn ptp_requested_mac() {
    let config = with(
        ptp(),
        json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}}),
    );
    same_in("ptp_requested_mac", &["1.1.0"], |node| {
        attach_and_detach_one(node, &config)
    });
}

#[test]
fn ptp_several_interfaces_of_a_container() {
    same("ptp_several_interfaces_of_a_container", |node| {
        let other = with(
            ptp(),
            json!({"name": "other", "ipam": {"type": "host-local", "subnet": "10.2.0.0/24"}}),
        );
        node.call_at("ADD", "c1", "eth0", &ptp());
        node.call_at("ADD", "c1", "net1", &other);
        node.call_at("DEL", "c1", "eth0", &ptp());
        node.call_at("DEL", "c1", "net1", &other);
    });
}

#[test]
fn ptp_in_old_versions() {
    let config = with(ptp(), json!({"ipam": dual()}));
    same_in(
        "ptp_in_old_versions",
        &["0.1.0", "0.2.0", "0.3.0", "0.3.1"],
        |node| {
            node.call("ADD", "c1", &config);
            node.call("DEL", "c1", &config);
        },
    );
}
