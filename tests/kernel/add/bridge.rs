//! The bridge: made or found, its addresses and its ports, and what the host has to do for it.

use serde_json::json;

use super::{mac, ranges};
use common::pings::reaches;
use common::{Call, HOST_END, World, added, allocated, call, ip, podnet, set_sysctl, sysctl, with};

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
fn a_different_address_on_the_bridge_is_an_error_and_nothing_changes() {
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
fn force_address_replaces_a_different_address_on_the_bridge() {
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
        "the IPv6 address does not conflict"
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
fn promisc_mode_is_set_on_a_new_and_on_an_existing_bridge() {
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

/// A bridge made by hand takes the MAC of a port, and has none when that port is gone.
fn bridge_that_lost_its_last_port() {
    ip("link add cni0 up type bridge");
    ip("link add port master cni0 type veth peer name far");
    ip("link delete port");
}

const NO_MAC: &str = "00:00:00:00:00:00";

#[test]
fn a_bridge_that_lost_its_mac_with_its_last_port_gets_one_and_keeps_it() {
    for pinned in [false, true] {
        for addressed in [false, true] {
            let world = World::new();
            bridge_that_lost_its_last_port();
            if pinned {
                ip(&format!("link set cni0 address {NO_MAC}"));
            }
            if addressed {
                ip("addr add 10.1.0.1/24 dev cni0");
            }
            assert_eq!(mac(&world.link("cni0").unwrap()), NO_MAC);

            let (x, result) = added(&world, &podnet(), "x");
            let first = mac(&world.link("cni0").unwrap());
            assert_ne!(first, NO_MAC, "{pinned} {addressed}");
            assert_eq!(result["interfaces"][0]["mac"], first);
            let (y, _) = added(&world, &podnet(), "y");
            call("DEL", &podnet(), &x).run().ok();

            assert_eq!(mac(&world.link("cni0").unwrap()), first);
            assert!(
                reaches(&y, "10.1.0.1".parse().unwrap()),
                "{pinned} {addressed}"
            );
        }
    }
}

#[test]
fn check_says_that_the_gateway_s_bridge_has_no_mac() {
    let world = World::new();
    let (x, result) = added(&world, &podnet(), "x");
    let mut checked = with(podnet(), json!({"prevResult": result}));
    call("CHECK", &checked, &x).run().ok();
    ip("link delete cni0");
    bridge_that_lost_its_last_port();
    ip(&format!("link set cni0 address {NO_MAC}"));
    ip("addr add 10.1.0.1/24 dev cni0");
    ip(&format!(
        "link set {} master cni0",
        result["interfaces"][1]["name"].as_str().unwrap()
    ));
    checked["prevResult"]["interfaces"][0]["mac"] = json!(NO_MAC);

    let error = call("CHECK", &checked, &x).run().err_code(102);

    assert!(error["msg"].as_str().unwrap().contains("no MAC"), "{error}");
}

/// Nobody sends to such a bridge, and its MAC is the lowest of its ports'.
#[test]
fn check_takes_any_mac_of_a_bridge_without_an_address() {
    let world = World::new();
    bridge_that_lost_its_last_port();
    let switch = with(podnet(), json!({"isDefaultGateway": null, "ipam": null}));

    let (x, result) = added(&world, &switch, "x");
    assert_eq!(result["interfaces"][0]["mac"], NO_MAC);
    assert_ne!(mac(&world.link("cni0").unwrap()), NO_MAC);

    let checked = with(switch, json!({"prevResult": result}));
    call("CHECK", &checked, &x).run().ok();
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

/// A bridge that others have made, with the gateway's address: its MAC is no port's.
#[test]
fn a_bridge_that_has_the_gateway_s_address_already_keeps_its_mac() {
    for with_port in [false, true] {
        let world = World::new();
        ip("link add cni0 up type bridge");
        ip("addr add 10.1.0.1/24 dev cni0");
        if with_port {
            // As a physical port: from its MAC, the bridge takes its own.
            ip("link add port0 address 3c:00:00:00:00:01 up master cni0 type veth peer name end0");
            ip("link set end0 up");
            common::wait::wait_until("it is running", || world.link("cni0").unwrap().running);
        }
        let before = world.link("cni0").unwrap().mac;
        let (x, result) = common::added(&world, &podnet(), "x");
        assert_eq!(world.link("cni0").unwrap().mac, before);
        let told = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
        assert_eq!(Some(told), before.map(|mac| mac.to_string()));
        common::added(&world, &podnet(), "y");
        if !with_port {
            ip("link add low address 02:00:00:00:00:01 up master cni0 type veth peer name end1");
        }
        let known = with(podnet(), json!({"prevResult": result}));
        common::call("DEL", &known, &x).run().ok();
        assert_eq!(world.link("cni0").unwrap().mac, before);
    }
}
