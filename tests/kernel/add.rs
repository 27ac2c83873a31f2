//! ADD: what it makes, and what it says that it made.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use pausenet::kernel::link::Link;
use serde_json::{Value, json};

use crate::common::{
    Call, HOST_END, World, allocated, ip, podnet, set_sysctl, store_files, sysctl, with,
};

/// The config with other ranges.
fn ranges(ranges: Value) -> Value {
    with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": ranges}}),
    )
}

fn mac(link: &Link) -> String {
    link.mac.unwrap().to_string()
}

#[test]
fn add_wires_the_container_to_the_bridge_and_tells_how() {
    let world = World::new();
    let container = world.container("x");

    let result = Call::new("ADD", &podnet()).netns(&container).run().ok();

    let bridge = world.link("cni0").expect("the bridge");
    let inside = container.link("eth0").expect("the container's end");
    let host_end = world
        .link(result["interfaces"][1]["name"].as_str().unwrap())
        .unwrap();
    assert_eq!(host_end.controller, Some(bridge.index));
    assert_eq!(host_end.peer, Some(inside.index));
    assert_eq!(host_end.alias.as_deref(), Some("pausenet podnet c1 eth0"));
    assert_eq!(host_end.group.to_string(), crate::common::GROUP);
    assert_eq!(host_end.name, HOST_END);
    assert!(host_end.running && inside.running && bridge.running);
    assert!(!host_end.hairpin && !bridge.promiscuous);
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cni0", "mac": mac(&bridge), "mtu": 1500},
                {"name": host_end.name, "mac": mac(&host_end), "mtu": 1500},
                {"name": "eth0", "mac": mac(&inside), "mtu": 1500, "sandbox": "/run/netns/x"},
            ],
            "ips": [{"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        })
    );
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.1.0.1"]);
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

#[test]
fn a_network_without_ipam_is_layer_2_only() {
    let world = World::new();
    let container = world.container("x");
    let config = with(podnet(), json!({"ipam": null, "isDefaultGateway": null}));

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert!(result.get("ips").is_none(), "{result}");
    assert!(container.link("eth0").unwrap().running);
    assert!(container.addresses("eth0").is_empty());
    assert!(world.addresses("cni0").is_empty());
    assert!(store_files(crate::common::STORES.as_ref()).is_empty());
}

#[test]
fn an_empty_ipam_object_is_no_ipam() {
    let world = World::new();
    let container = world.container("x");
    let config = with(podnet(), json!({"ipam": {}, "isDefaultGateway": null}));

    Call::new("ADD", &config).netns(&container).run().ok();

    assert!(container.addresses("eth0").is_empty());
}

#[test]
fn ipv6_alone_is_as_good_as_ipv4() {
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
fn dual_stack_gets_an_address_and_a_default_route_of_each_family() {
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
fn what_a_route_says_beyond_its_next_hop_reaches_the_kernel_and_the_result() {
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
fn a_configured_default_route_is_not_doubled() {
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
fn the_gateway_role_decides_on_addresses_routes_and_forwarding() {
    for (role, is_gateway, routes) in [
        (json!({"isDefaultGateway": false}), false, vec![]),
        (
            json!({"isDefaultGateway": null, "isGateway": true}),
            true,
            vec![],
        ),
        (
            json!({"isDefaultGateway": true, "isGateway": false}),
            true,
            vec!["0.0.0.0/0 via 10.1.0.1"],
        ),
    ] {
        let world = World::new();
        set_sysctl("ipv4/ip_forward", "0");
        let container = world.container("x");

        Call::new("ADD", &with(podnet(), role.clone()))
            .netns(&container)
            .run()
            .ok();

        let on_bridge: &[&str] = if is_gateway { &["10.1.0.1/24"] } else { &[] };
        assert_eq!(world.addresses("cni0"), on_bridge, "{role}");
        assert_eq!(container.routes(), routes, "{role}");
        let forwards = sysctl("ipv4/ip_forward") == "1";
        assert_eq!(forwards, is_gateway, "{role}");
    }
}

#[test]
fn forwarding_is_switched_on_for_the_families_in_use_only() {
    for (config, v4, v6) in [
        (json!([[{"subnet": "10.1.0.0/24"}]]), "1", "0"),
        (json!([[{"subnet": "fd00::/64"}]]), "0", "1"),
        (
            json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]),
            "1",
            "1",
        ),
    ] {
        let world = World::new();
        set_sysctl("ipv4/ip_forward", "0");
        set_sysctl("ipv6/conf/all/forwarding", "0");
        let container = world.container("x");

        Call::new("ADD", &ranges(config.clone()))
            .netns(&container)
            .run()
            .ok();

        assert_eq!(sysctl("ipv4/ip_forward"), v4, "{config}");
        assert_eq!(sysctl("ipv6/conf/all/forwarding"), v6, "{config}");
    }
}

/// CVE-2020-10749: a container that sends router advertisements must not become the host's router.
#[test]
fn the_host_takes_no_routes_from_a_container() {
    let world = World::new();
    set_sysctl("ipv6/conf/default/accept_ra", "1");
    let container = world.container("x");

    Call::new("ADD", &podnet()).netns(&container).run().ok();

    for link in ["cni0", HOST_END] {
        assert_eq!(
            sysctl(&format!("ipv6/conf/{link}/accept_ra")),
            "0",
            "{link}"
        );
    }
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
fn a_container_of_ipv4_alone_keeps_its_ipv6_settings() {
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
fn dns_of_the_config_is_passed_on() {
    let world = World::new();
    let container = world.container("x");
    let dns = json!({"nameservers": ["10.1.0.1", "fd00::1"], "domain": "cluster.local",
                     "search": ["a.local"], "options": ["ndots:5"]});

    let result = Call::new("ADD", &with(podnet(), json!({"dns": dns})))
        .netns(&container)
        .run()
        .ok();

    assert_eq!(result["dns"], dns);
}

#[test]
fn dns_comes_from_resolv_conf_unless_the_config_has_its_own() {
    let world = World::new();
    let file = "/run/resolv.conf";
    std::fs::write(file, "search b.local\nnameserver 10.9.9.9\n").unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "resolvConf": file});
    let from_file = with(podnet(), json!({"ipam": ipam}));
    let own = with(
        from_file.clone(),
        json!({"dns": {"nameservers": ["10.1.0.1"]}}),
    );

    let (x, y) = (world.container("x"), world.container("y"));
    let result = Call::new("ADD", &from_file).netns(&x).run().ok();
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.9.9.9"], "search": ["b.local"]})
    );
    let result = Call::new("ADD", &own).netns(&y).id("c2").run().ok();
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.1"]}));
}

#[test]
fn the_mtu_is_set_on_both_ends_and_a_new_bridge() {
    let world = World::new();
    let container = world.container("x");

    let result = Call::new("ADD", &with(podnet(), json!({"mtu": 1300})))
        .netns(&container)
        .run()
        .ok();

    assert_eq!(world.link("cni0").unwrap().mtu, 1300);
    assert_eq!(world.link(HOST_END).unwrap().mtu, 1300);
    assert_eq!(container.link("eth0").unwrap().mtu, 1300);
    for interface in result["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mtu"], 1300, "{interface}");
    }
}

#[test]
fn another_address_on_the_bridge_is_an_error_and_nothing_changes() {
    let world = World::new();
    let container = world.container("x");
    ip("link add cni0 type bridge");
    ip("addr add 10.9.0.1/24 dev cni0");
    ip("link set cni0 up");
    let (before, inside) = (world.snapshot().addresses_only(), container.state());

    let error = Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(7);

    let msg = error["msg"].as_str().unwrap();
    assert!(msg.contains("cni0") && msg.contains("10.9.0.1/24"), "{msg}");
    assert!(
        error["details"].as_str().unwrap().contains("forceAddress"),
        "{error}"
    );
    assert_eq!(world.snapshot().addresses_only(), before);
    assert_eq!(container.state(), inside);
}

#[test]
fn force_address_replaces_another_address_on_the_bridge() {
    let world = World::new();
    let container = world.container("x");
    ip("link add cni0 up type bridge");
    ip("addr add 10.9.0.1/24 dev cni0");
    ip("addr add fd99::1/64 dev cni0 nodad");

    Call::new("ADD", &with(podnet(), json!({"forceAddress": true})))
        .netns(&container)
        .run()
        .ok();

    assert_eq!(
        world.addresses("cni0"),
        ["10.1.0.1/24", "fd99::1/64"],
        "the IPv6 one is in nobody's way"
    );
}

#[test]
fn hairpin_mode_is_a_flag_of_the_port() {
    let world = World::new();
    let container = world.container("x");

    Call::new("ADD", &with(podnet(), json!({"hairpinMode": true})))
        .netns(&container)
        .run()
        .ok();

    assert!(world.link(HOST_END).unwrap().hairpin);
    assert!(!world.link("cni0").unwrap().promiscuous);
}

#[test]
fn promisc_mode_is_a_flag_of_the_bridge_new_or_not() {
    let config = with(podnet(), json!({"promiscMode": true}));
    for by_hand in [false, true] {
        let world = World::new();
        let container = world.container("x");
        if by_hand {
            ip("link add cni0 type bridge");
        }

        Call::new("ADD", &config).netns(&container).run().ok();

        assert!(world.link("cni0").unwrap().promiscuous, "{by_hand}");
        assert!(!world.link(HOST_END).unwrap().hairpin, "{by_hand}");
    }
}

#[test]
fn a_mac_is_asked_for_by_args_or_capability_and_the_nearest_wins() {
    let args = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    let both = with(
        args.clone(),
        json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}}),
    );
    for (variable, changes, wins) in [
        ("MAC=02:00:00:00:00:01", json!({}), "02:00:00:00:00:01"),
        ("MAC=02:00:00:00:00:01", args, "02:00:00:00:00:02"),
        ("MAC=02:00:00:00:00:01", both, "02:00:00:00:00:03"),
    ] {
        let world = World::new();
        let container = world.container("x");

        let result = Call::new("ADD", &with(podnet(), changes))
            .netns(&container)
            .var("CNI_ARGS", variable)
            .run()
            .ok();

        assert_eq!(mac(&container.link("eth0").unwrap()), wins);
        assert_eq!(result["interfaces"][2]["mac"], wins);
    }
}

#[test]
fn an_address_is_asked_for_by_any_of_three_ways() {
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
fn range_sets_of_the_runtime_go_before_the_config_s() {
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
fn a_bridge_made_by_hand_is_used_and_keeps_its_mac() {
    let world = World::new();
    ip("link add cni0 type bridge");
    let before = world.link("cni0").unwrap();

    let mut containers = Vec::new();
    for n in 1..=3 {
        let container = world.container(&format!("x{n}"));
        let call = Call::new("ADD", &podnet())
            .netns(&container)
            .id(&format!("c{n}"));
        let result = call.run().ok();
        assert_eq!(
            result["interfaces"][0]["mac"],
            mac(&before),
            "container {n}"
        );
        containers.push((container, call));
    }

    let after = world.link("cni0").unwrap();
    assert_eq!((after.index, mac(&after)), (before.index, mac(&before)));
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert!(after.up);
}

#[test]
fn the_bridge_keeps_its_mac_when_ports_come_and_go() {
    let world = World::new();
    let container = world.container("x");
    let add = Call::new("ADD", &podnet()).netns(&container);
    add.run().ok();
    let first = mac(&world.link("cni0").unwrap());

    // The lowest MAC of all ports would be the bridge's, had it none of its own.
    ip("link add low address 02:00:00:00:00:01 master cni0 up type veth peer name low1");
    Call::new("DEL", &podnet()).netns(&container).run().ok();
    ip("link del low");
    add.run().ok();

    assert_eq!(mac(&world.link("cni0").unwrap()), first);
}

#[test]
fn two_networks_may_share_one_bridge() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    let other = with(podnet(), json!({"name": "othernet"}));

    Call::new("ADD", &podnet()).netns(&x).run().ok();
    Call::new("ADD", &other).netns(&y).run().ok();

    assert_eq!(
        allocated("podnet"),
        allocated("othernet"),
        "each has its own store"
    );
    let bridges = world
        .links()
        .into_iter()
        .filter(|link| link.kind == "bridge");
    assert_eq!(bridges.count(), 1);
    let aliases: Vec<_> = world
        .links()
        .into_iter()
        .filter_map(|link| link.alias)
        .collect();
    assert_eq!(
        aliases,
        ["pausenet podnet c1 eth0", "pausenet othernet c1 eth0"]
    );
}

#[test]
fn a_data_dir_of_one_s_own_holds_the_store() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "/run/mine"}}),
    );

    Call::new("ADD", &config).netns(&container).run().ok();

    let held = std::fs::read_to_string("/run/mine/podnet/10.1.0.2").unwrap();
    assert_eq!(held, "c1\r\neth0");
    assert!(store_files(crate::common::STORES.as_ref()).is_empty());
}

/// What a listener hears of a namespace's links: name of each link that came, "-name" of each
/// that went.
fn heard(listener: &netlink_sys::Socket) -> Vec<String> {
    let mut news = Vec::new();
    let mut buffer = Vec::with_capacity(64 * 1024);
    while let Ok(length) = listener.recv(&mut buffer, 0) {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer).unwrap();
        assert_eq!(
            message.header.length as usize, length,
            "one message in each"
        );
        buffer.clear();
        let (gone, link) = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => ("", link),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => ("-", link),
            other => panic!("{other:?}"),
        };
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                news.push(format!("{gone}{name}"));
            }
        }
    }
    news.dedup();
    news
}

fn listen() -> netlink_sys::Socket {
    const RTNLGRP_LINK: u32 = 1;
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    socket.add_membership(RTNLGRP_LINK).unwrap();
    socket.set_non_blocking(true).unwrap();
    socket
}

#[test]
fn the_interface_is_born_in_the_container_with_its_final_name() {
    let world = World::new();
    let container = world.container("x");
    ip("link add cni0 up type bridge");
    let (host, inside) = (listen(), container.enter(listen));

    Call::new("ADD", &podnet()).netns(&container).run().ok();

    assert_eq!(heard(&inside), ["eth0"]);
    let on_host = heard(&host);
    assert!(on_host.contains(&HOST_END.to_owned()), "{on_host:?}");
    for news in on_host {
        assert!(
            ["cni0", HOST_END].contains(&news.as_str()),
            "{news} on the host"
        );
    }
}

#[test]
fn what_is_held_for_one_interface_is_not_what_another_gets() {
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

#[test]
fn a_repeated_add_is_refused_and_touches_nothing() {
    for ipam in [podnet()["ipam"].clone(), Value::Null] {
        let world = World::new();
        let container = world.container("x");
        let config = with(podnet(), json!({"ipam": ipam}));
        let add = Call::new("ADD", &config).netns(&container);
        add.run().ok();
        let (before, inside) = (world.snapshot(), container.state());

        let error = add.run().err_code(100);

        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains("exists"), "{msg}");
        assert_eq!(world.snapshot(), before);
        assert_eq!(container.state(), inside);
    }
}

#[test]
fn a_repeated_add_is_refused_from_another_namespace_too() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    Call::new("ADD", &podnet()).netns(&x).run().ok();
    let (before, inside) = (world.snapshot(), y.state());

    Call::new("ADD", &podnet()).netns(&y).run().err_code(100);

    assert_eq!(world.snapshot(), before);
    assert_eq!(y.state(), inside);
}

/// A bridge with its address and cursor may stay; all else is as before.
#[test]
fn an_interface_name_that_is_taken_is_refused_and_the_address_given_back() {
    let world = World::new();
    let container = world.container("x");
    ip("link add outside type veth peer name eth0 netns x");
    container.ip("addr add 10.5.0.5/24 dev eth0");
    container.ip("link set eth0 up");
    let before = world.snapshot().addresses_only();
    let inside = container.state();

    let error = Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(100);

    let msg = error["msg"].as_str().unwrap();
    assert!(
        msg.contains("eth0") && msg.contains("/run/netns/x"),
        "{msg}"
    );
    assert_eq!(
        world.snapshot().addresses_only().without_bridge("cni0"),
        before
    );
    assert_eq!(container.state(), inside);
}

/// The store is shared with the reference's plugins: an address that one of them holds for this
/// very container and interface belongs to a live interface.
#[test]
fn an_address_held_for_an_interface_that_is_not_ours_stays_held() {
    let world = World::new();
    let container = world.container("x");
    ip("link add outside type veth peer name eth0 netns x");
    container.ip("addr add 10.1.0.2/24 dev eth0");
    world.put_address("10.1.0.2", "c1\r\neth0");
    let (before, inside) = (world.snapshot(), container.state());

    Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(100);

    assert_eq!(
        world.snapshot().addresses_only().without_bridge("cni0"),
        before.addresses_only()
    );
    assert_eq!(container.state(), inside);
}

#[test]
fn an_interface_that_is_to_stay_down_is_wired_and_down() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"isDefaultGateway": null, "disableContainerInterface": true, "ipam": null}),
    );
    Call::new("ADD", &config).netns(&container).run().ok();
    assert!(!container.link("eth0").unwrap().up);
    assert!(world.link(HOST_END).unwrap().up);
    Call::new("DEL", &config).netns(&container).run().ok();
    assert!(container.link("eth0").is_none());
}
