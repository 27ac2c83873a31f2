//! Which addresses and routes a container gets.

use serde_json::json;

use super::ranges;
use common::{Call, World, allocated, ip, podnet, set_sysctl, with};

#[test]
fn an_ipv6_only_network_works() {
    let world = World::new();
    let container = world.container("x");
    let config = ranges(json!([[{"subnet": "fd00::/64"}]]));

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(
        result["ips"],
        json!([{"interface": 2, "address": "fd00::2/64", "gateway": "fd00::1"}])
    );
    assert_eq!(result["routes"], json!([{"dst": "::/0", "gw": "fd00::1"}]));
    assert_eq!(world.addresses("cni0"), ["fd00::1/64"]);
    assert_eq!(container.addresses("eth0"), ["fd00::2/64"]);
    assert_eq!(container.routes(), ["::/0 via fd00::1"]);
    assert_eq!(allocated("podnet"), ["fd00::2"]);
}

#[test]
fn a_dual_stack_container_has_an_address_and_a_default_route_of_each_family() {
    let world = World::new();
    let container = world.container("x");
    let config = ranges(json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(
        result["ips"],
        json!([
            {"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"interface": 2, "address": "fd00::2/64", "gateway": "fd00::1"},
        ])
    );
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
    assert_eq!(
        container.routes(),
        ["0.0.0.0/0 via 10.1.0.1", "::/0 via fd00::1"]
    );
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24", "fd00::1/64"]);
}

#[test]
fn several_range_sets_of_one_family_give_an_address_each_and_one_default_route() {
    let world = World::new();
    let container = world.container("x");
    let config = ranges(json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]));

    Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24", "10.2.0.2/24"]);
    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.1.0.1"]);
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24", "10.2.0.1/24"]);
    // The second container finds the bridge with both.
    let second = world.container("y");
    Call::new("ADD", &config).netns(&second).id("c2").run().ok();
    assert_eq!(second.addresses("eth0"), ["10.1.0.3/24", "10.2.0.3/24"]);
}

#[test]
fn routes_go_through_their_own_gateway_or_the_network_s() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"isDefaultGateway": null, "ipam": {
            "type": "host-local", "subnet": "10.1.0.0/24", "gateway": "10.1.0.254",
            "routes": [{"dst": "192.168.1.0/24", "gw": "10.1.0.7"}, {"dst": "192.168.2.0/24"}]
        }}),
    );

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(
        container.routes(),
        [
            "192.168.1.0/24 via 10.1.0.7",
            "192.168.2.0/24 via 10.1.0.254"
        ]
    );
    assert_eq!(
        result["routes"],
        json!([{"dst": "192.168.1.0/24", "gw": "10.1.0.7"}, {"dst": "192.168.2.0/24"}]),
        "as they were configured"
    );
}

#[test]
fn a_route_of_a_family_without_a_gateway_goes_out_of_the_interface() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24",
                        "routes": [{"dst": "fd99::/64"}]}}),
    );

    Call::new("ADD", &config).netns(&container).run().ok();

    let shown = container.ip("-6 route show fd99::/64");
    assert!(
        shown.contains("dev eth0") && !shown.contains("via"),
        "{shown}"
    );
}

#[test]
fn route_attributes_reach_the_kernel_and_the_result() {
    let world = World::new();
    let container = world.container("x");
    let route = json!({"dst": "192.168.1.0/24", "gw": "10.1.0.7", "mtu": 1300, "advmss": 1200,
                       "priority": 42, "table": 100, "scope": 0});
    let config = with(
        podnet(),
        json!({"isDefaultGateway": null, "isGateway": true, "ipam": {
            "type": "host-local", "subnet": "10.1.0.0/24", "routes": [route]}}),
    );

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    let shown = container.ip("route show table 100");
    for part in [
        "192.168.1.0/24 via 10.1.0.7 dev eth0",
        "metric 42",
        "mtu 1300",
        "advmss 1200",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown:?}");
    }
    assert_eq!(result["routes"], json!([route]));
}

#[test]
fn a_configured_default_route_is_not_added_twice() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24",
                        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]}}),
    );

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.1.0.9"]);
    assert_eq!(result["routes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_container_where_ipv6_is_off_by_default_gets_its_ipv6_address() {
    let world = World::new();
    let container = world.container("x");
    container.enter(|| {
        set_sysctl("ipv6/conf/all/disable_ipv6", "1");
        set_sysctl("ipv6/conf/default/disable_ipv6", "1");
    });

    Call::new("ADD", &ranges(json!([[{"subnet": "fd00::/64"}]])))
        .netns(&container)
        .run()
        .ok();

    assert_eq!(container.addresses("eth0"), ["fd00::2/64"]);
    for link in ["eth0", "lo"] {
        assert_eq!(
            container.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")),
            "0"
        );
    }
}

#[test]
fn an_ipv4_only_container_keeps_its_ipv6_settings() {
    let world = World::new();
    let container = world.container("x");
    container.enter(|| set_sysctl("ipv6/conf/default/disable_ipv6", "1"));

    Call::new("ADD", &podnet()).netns(&container).run().ok();

    assert_eq!(container.sysctl("ipv6/conf/eth0/disable_ipv6"), "1");
}

#[test]
fn an_ipv6_address_is_usable_at_once() {
    let world = World::new();
    let container = world.container("x");

    Call::new("ADD", &ranges(json!([[{"subnet": "fd00::/64"}]])))
        .netns(&container)
        .run()
        .ok();

    let tentative = container.ip("-6 addr show dev eth0 scope global tentative");
    assert_eq!(tentative, "");
    for shown in [
        container.ip("-6 addr show dev eth0"),
        ip("-6 addr show dev cni0"),
    ] {
        assert!(
            shown.contains("nodad"),
            "no duplicate address detection: {shown}"
        );
    }
    assert_eq!(
        ip("-6 addr show dev cni0 tentative"),
        "",
        "its link-local one too"
    );
}

#[test]
fn an_address_is_requested_in_any_of_three_ways() {
    for (variable, changes) in [
        ("IP=10.1.0.77", json!({})),
        ("", json!({"args": {"cni": {"ips": ["10.1.0.77"]}}})),
        ("", json!({"runtimeConfig": {"ips": ["10.1.0.77/24"]}})),
    ] {
        let world = World::new();
        let container = world.container("x");

        Call::new("ADD", &with(podnet(), changes.clone()))
            .netns(&container)
            .var("CNI_ARGS", variable)
            .run()
            .ok();

        assert_eq!(
            container.addresses("eth0"),
            ["10.1.0.77/24"],
            "{variable} {changes}"
        );
        assert_eq!(allocated("podnet"), ["10.1.0.77"]);
    }
}

#[test]
fn range_sets_of_the_runtime_precede_those_of_the_config() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.9"}]]}}),
    );

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert_eq!(result["ips"][0]["address"], "10.7.0.9/24");
    assert_eq!(container.addresses("eth0"), ["10.7.0.9/24", "10.1.0.2/24"]);
    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.7.0.1"]);
}

#[test]
fn an_address_reserved_for_one_interface_is_not_given_to_another() {
    let world = World::new();
    let container = world.container("x");
    for name in ["eth0", "net1"] {
        Call::new("ADD", &with(podnet(), json!({"isDefaultGateway": null})))
            .netns(&container)
            .ifname(name)
            .run()
            .ok();
    }
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(container.addresses("net1"), ["10.1.0.3/24"]);
}
