//! ADD: what it makes, and what it says that it made.

mod addresses;
mod bridge;
mod refused;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use pausenet::kernel::link::Link;
use serde_json::{Value, json};

use common::{Call, HOST_END, World, allocated, ip, podnet, store_files, with};

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
fn add_wires_the_container_to_the_bridge_and_returns_the_result() {
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
    assert_eq!(host_end.group.to_string(), common::GROUP);
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
    assert!(store_files(common::STORES.as_ref()).is_empty());
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
    // A comment in Latin-1 is none of our business.
    let text = b"# f\xfcr alle\nsearch b.local\nnameserver 10.9.9.9\n";
    std::fs::write(file, text).unwrap();
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
fn a_mac_is_requested_by_args_or_capability_and_the_most_specific_wins() {
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
fn a_configured_data_dir_holds_the_store() {
    let world = World::new();
    let container = world.container("x");
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": "/run/mine"}}),
    );

    Call::new("ADD", &config).netns(&container).run().ok();

    let held = std::fs::read_to_string("/run/mine/podnet/10.1.0.2").unwrap();
    assert_eq!(held, "c1\r\neth0");
    assert!(store_files(common::STORES.as_ref()).is_empty());
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
fn an_interface_configured_to_stay_down_is_wired_and_down() {
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
