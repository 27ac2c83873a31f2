//! What the kernel tells in other words than the result of ADD is no difference, and what cannot be read
//! is not told as one.

use serde_json::{Value, json};

use super::{attached, dual_stack};
use crate::plugins::call_alone;
use common::{Call, STORES, added, call, ip, podnet, with};
use std::fs;
use std::path::Path;

fn with_routes(routes: Value) -> Value {
    let mut config = dual_stack();
    config["ipam"]["routes"] = routes;
    config
}

/// The kernel makes one multipath route of them.
#[test]
fn ipv6_routes_to_one_destination_are_found_in_a_multipath_route() {
    let config = with_routes(json!([
        {"dst": "fd05::/64", "gw": "fd00::8"},
        {"dst": "fd05::/64", "gw": "fd00::9"},
    ]));
    let (_world, container, check) = attached(&config);
    let shown = container.ip("-6 route show fd05::/64");
    assert_eq!(shown.matches("nexthop").count(), 2, "{shown}");
    check.run().ok();

    container.ip("route del fd05::/64 via fd00::9");
    let error = check.run().err_code(102);
    let message = error["msg"].as_str().unwrap();
    assert!(message.contains("fd05::/64 via fd00::9"), "{message}");
}

/// Of two attachments of one container, each with a default route.
#[test]
fn a_default_route_by_two_interfaces_is_found_for_both() {
    let (_world, container, check) = attached(&dual_stack());
    let ranges = json!([[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd02::/64"}]]);
    let other =
        json!({"name": "other", "bridge": "br1", "ipam": {"type": "host-local", "ranges": ranges}});
    let other = with(podnet(), other);
    let second = |verb: &str, config: &Value| {
        let call = Call::new(verb, config).netns(&container).ifname("eth1");
        call.run().ok()
    };
    let result = second("ADD", &other);
    let shown = container.ip("-6 route show default");
    assert_eq!(shown.matches("nexthop").count(), 2, "{shown}");

    check.run().ok();
    second("CHECK", &with(other, json!({"prevResult": result})));
}

#[test]
fn a_multipath_route_that_the_container_made_itself_is_the_promised_one_too() {
    let (_world, container, check) = attached(&dual_stack());
    container.ip("route replace 192.168.7.0/24 nexthop via 10.1.0.9 nexthop via 10.1.0.8");
    check.run().ok();
    container.ip("route replace 192.168.7.0/24 nexthop via 10.1.0.7 nexthop via 10.1.0.8");
    check.run().err_code(102);
}

#[test]
fn a_destination_with_host_bits_is_the_network_that_it_is_in() {
    let config = with_routes(json!([
        {"dst": "10.5.0.7/16"}, {"dst": "fd05::7/64", "gw": "fd00::9"},
        {"dst": "10.6.0.7/0", "table": 100},
    ]));
    let (_world, container, check) = attached(&config);
    let routes = container.routes();
    for route in ["10.5.0.0/16 via 10.1.0.1", "fd05::/64 via fd00::9"] {
        assert!(routes.contains(&route.to_owned()), "{routes:?}");
    }
    check.run().ok();
    container.ip("route del 10.5.0.0/16");
    check.run().err_code(102);
}

/// As `dhcp` gives routes on the link itself.
#[test]
fn a_next_hop_of_zeros_is_none() {
    let config = with_routes(json!([
        {"dst": "10.5.0.0/16", "gw": "0.0.0.0", "scope": 253},
        {"dst": "fd05::/64", "gw": "::"},
    ]));
    let (_world, container, check) = attached(&config);
    assert!(
        container
            .ip("route show 10.5.0.0/16")
            .contains("scope link")
    );
    check.run().ok();
    container.ip("-6 route del fd05::/64");
    check.run().err_code(102);
}

/// The kernel leaves out what is zero, cuts what is too large, and has no scopes in IPv6.
#[test]
fn metrics_tables_and_scopes_are_no_differences() {
    let config = with_routes(json!([
        {"dst": "10.5.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 50},
        {"dst": "10.6.0.0/16", "mtu": 4000000, "advmss": 4000000},
        {"dst": "10.7.0.0/16", "mtu": 0, "advmss": 0, "priority": 0, "table": 0},
        {"dst": "10.8.0.0/16", "table": 100},
        {"dst": "10.9.0.0/16", "table": 70000, "priority": 4000000000_u32},
        {"dst": "10.10.0.9/32", "gw": "0.0.0.0", "scope": 253},
        {"dst": "fd05::/64", "priority": 0, "scope": 253, "mtu": 1300},
        {"dst": "fd06::/64", "table": 0, "advmss": 4000000},
        {"dst": "fd07::/64", "table": 70000},
    ]));
    let (_world, _container, check) = attached(&config);
    check.run().ok();
}

#[test]
fn a_mac_in_other_letters_is_the_same() {
    let (_world, container, _) = attached(&podnet());
    let check = |change: &dyn Fn(&str) -> String, at: usize| {
        let result = Call::new("ADD", &podnet()).netns(&container).ifname("net1");
        let mut result = result.run().ok();
        let mac = result["interfaces"][at]["mac"].as_str().unwrap();
        result["interfaces"][at]["mac"] = json!(change(mac));
        let config = with(podnet(), json!({"prevResult": result}));
        let call = |verb: &str| Call::new(verb, &config).netns(&container).ifname("net1");
        call("CHECK").run().ok();
        call("DEL").run().ok();
    };
    for at in 0..3 {
        check(&|mac| mac.to_uppercase(), at);
        check(&|mac| mac.replace(':', "-"), at);
    }
    // A bridge that had none when an earlier version attached the container.
    check(&|_| "00:00:00:00:00:00".to_owned(), 0);
}

/// Chained plugins add to the result.
#[test]
fn addresses_of_other_interfaces_in_the_result_are_not_looked_for() {
    let world = common::World::new();
    let (container, mut result) = added(&world, &dual_stack(), "x");
    let interfaces = result["interfaces"].as_array_mut().unwrap();
    interfaces.push(json!({"name": "tun0", "sandbox": container.path}));
    let at = interfaces.len() - 1;
    let other = json!({"address": "172.31.0.2/24", "gateway": "172.31.0.1", "interface": at});
    result["ips"].as_array_mut().unwrap().insert(0, other);
    let config = with(dual_stack(), json!({"prevResult": result}));
    call("CHECK", &config, &container).run().ok();
}

#[test]
fn an_address_file_that_cannot_be_read_is_code_5() {
    let (_world, container, check) = attached(&podnet());
    let file = Path::new(STORES).join("podnet/10.1.0.2");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = check.run().err_code(5);
    let message = error["msg"].as_str().unwrap();
    assert!(message.contains("podnet/10.1.0.2"), "{message}");
    let alone = with(
        podnet(),
        json!({"type": "host-local", "prevResult": {"cniVersion": "1.1.0"}}),
    );
    call_alone("host-local", "CHECK", &alone).run().err_code(5);

    // And where the store itself is none.
    fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();
    fs::write(Path::new(STORES).join("podnet"), "").unwrap();
    check.run().err_code(5);
    call_alone("host-local", "CHECK", &alone).run().err_code(5);
    drop(container);
}

/// Not text: it names nobody, and that is a difference.
#[test]
fn an_address_file_of_nobody_is_code_102() {
    let (_world, _container, check) = attached(&podnet());
    let file = Path::new(STORES).join("podnet/10.1.0.2");
    fs::write(&file, [0xff, 0xfe]).unwrap();
    check.run().err_code(102);
}

/// What else the kernel keeps of a link changes with the host, and is not the attachment's.
#[test]
fn what_others_add_is_no_difference() {
    let (_world, container, check) = attached(&dual_stack());
    container.ip("addr add 10.1.0.77/24 dev eth0");
    container.ip("addr add fd00::77/64 dev eth0 nodad");
    container.ip("route add default via 10.1.0.9 metric 5");
    container.ip("-6 route add default via fd00::9 metric 5");
    container.ip("link set eth0 promisc on");
    ip("addr add 192.0.2.7/32 dev cni0");
    ip("link set cni0 promisc on");
    ip("link add extra up type veth peer name extra2");
    check.run().ok();
}
