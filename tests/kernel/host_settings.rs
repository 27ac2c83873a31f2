//! Settings of the host that ADD must not break, and those that it may not write.

use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::net::{AddressFamily, SocketType, ipproto, sendto, socket, sockopt};
use serde_json::{Value, json};

use crate::ports::mapping;
use common::{Call, Container, World, call, ip, podnet, run, set_sysctl, sysctl, wait, with};

fn ipv6(mode: &str) -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "fd00::/64"}]]});
    with(podnet(), json!({"mode": mode, "ipam": ipam}))
}

/// On a thread of its own for each: a world is what its thread sees.
fn for_each_mode(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for mode in ["bridge", "ptp"] {
            scope.spawn(|| test(mode)).join().unwrap();
        }
    });
}

/// A router on the other end of the host's `uplink`, which has no other link to it.
fn router(world: &World) -> Container {
    let router = world.container("router");
    router.enter(|| set_sysctl("ipv6/conf/default/accept_dad", "0"));
    ip("link add uplink type veth peer name eth0 netns router");
    set_sysctl("ipv6/conf/uplink/accept_ra", "1");
    set_sysctl("ipv6/conf/uplink/accept_dad", "0");
    ip("link set uplink up");
    router.ip("link set eth0 up");
    router
}

/// Sends a router advertisement: a default router, for half an hour.
fn advertise(router: &Container) {
    let index = router.link("eth0").unwrap().index;
    router.enter(|| {
        let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let everybody: Ipv6Addr = "ff02::1".parse().unwrap();
        let to = SocketAddrV6::new(everybody, 0, 0, index);
        // Type, code, checksum (the kernel's), hop limit, flags, lifetime, two timers.
        let advertisement = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        // Not before the kernel has an address to send from.
        let _ = sendto(
            &socket,
            &advertisement,
            rustix::net::SendFlags::empty(),
            &to,
        );
    });
}

fn has_advertised_route() -> bool {
    ip("-6 route show default").contains("dev uplink proto ra")
}

#[test]
fn the_first_ipv6_add_keeps_the_default_route_from_router_advertisements() {
    for_each_mode(|mode| {
        let world = World::new();
        let router = router(&world);
        wait::wait_until("the host has a default route", || {
            advertise(&router);
            has_advertised_route()
        });
        for (link, kind, accept_ra) in [
            ("spare", "veth peer name spare-peer", "1"),
            ("closed", "veth peer name closed-peer", "0"),
            ("docker0", "bridge", "1"),
        ] {
            ip(&format!("link add {link} up type {kind}"));
            set_sysctl(&format!("ipv6/conf/{link}/accept_ra"), accept_ra);
        }
        assert_eq!(sysctl("ipv6/conf/all/forwarding"), "0");
        let x = world.container("x");

        let result = call("ADD", &ipv6(mode), &x).run().ok();

        assert_eq!(sysctl("ipv6/conf/all/forwarding"), "1");
        assert!(has_advertised_route(), "{mode}");
        for (link, accept_ra) in [
            ("uplink", "2"),
            ("spare", "2"),
            ("closed", "0"),
            // A container must not become the host's router.
            ("docker0", "1"),
            (result["interfaces"][0]["name"].as_str().unwrap(), "0"),
        ] {
            let now = sysctl(&format!("ipv6/conf/{link}/accept_ra"));
            assert_eq!(now, accept_ra, "{mode}: {link}");
        }
        // And takes the next ones.
        ip("-6 route del default dev uplink");
        wait::wait_until("the host takes router advertisements", || {
            advertise(&router);
            has_advertised_route()
        });
    });
}

#[test]
fn a_host_that_forwards_already_keeps_its_settings() {
    let world = World::new();
    let _router = router(&world);
    set_sysctl("ipv6/conf/all/forwarding", "1");
    let x = world.container("x");
    call("ADD", &ipv6("bridge"), &x).run().ok();
    assert_eq!(sysctl("ipv6/conf/uplink/accept_ra"), "1");
}

fn make_settings_read_only() {
    run("mount", ["--bind", "/proc/sys", "/proc/sys"]);
    run("mount", ["-o", "remount,bind,ro", "/proc/sys"]);
}

fn dual_stack(mode: &str) -> Value {
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    with(
        podnet(),
        json!({"mode": mode, "ipam": ipam, "ipMasq": true}),
    )
}

#[test]
fn read_only_settings_that_are_right_or_only_help_are_no_reason_to_fail() {
    for_each_mode(|mode| {
        let world = World::new();
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            set_sysctl(key, "1");
        }
        make_settings_read_only();
        let x = world.container("x");
        let call = call("ADD", &dual_stack(mode), &x);
        let result = call.run().ok();
        assert_eq!(x.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
        let with_result = with(dual_stack(mode), json!({"prevResult": result}));
        common::call("CHECK", &with_result, &x).run().ok();
        common::call("DEL", &with_result, &x).run().ok();
    });
}

#[test]
fn a_read_only_setting_that_is_needed_is_named_with_the_way_to_set_it() {
    let world = World::new();
    set_sysctl("ipv4/ip_forward", "0");
    set_sysctl("ipv6/conf/all/forwarding", "0");
    make_settings_read_only();
    let x = world.container("x");
    for (config, setting) in [
        (podnet(), "net.ipv4.ip_forward"),
        (
            with(podnet(), json!({"mode": "ptp"})),
            "net.ipv4.ip_forward",
        ),
        (ipv6("bridge"), "net.ipv6.conf.all.forwarding"),
    ] {
        let config = with(config, json!({"isGateway": true}));
        let error = Call::new("ADD", &config).netns(&x).run().err_code(5);
        let text = format!("{} {}", error["msg"], error["details"]);
        for word in [setting, &format!("sysctl -w {setting}=1"), "Read-only"] {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }
    // A network that only connects containers with each other needs no forwarding.
    let closed = with(
        podnet(),
        json!({"isGateway": false, "isDefaultGateway": false}),
    );
    Call::new("ADD", &closed).netns(&x).run().ok();
}

#[test]
fn a_read_only_route_localnet_is_needed_only_for_ports_at_127_0_0_1() {
    let world = World::new();
    set_sysctl("ipv4/ip_forward", "1");
    make_settings_read_only();
    let x = world.container("x");
    let at = |host_ip: &str| {
        let entry = json!({"hostPort": 8080, "containerPort": 80, "hostIP": host_ip});
        mapping(podnet(), json!([entry]))
    };
    for everywhere in ["", "127.0.0.1"] {
        let error = call("ADD", &at(everywhere), &x).run().err_code(5);
        assert!(
            error["msg"].as_str().unwrap().contains("route_localnet"),
            "{error}"
        );
    }
    call("ADD", &at("192.0.2.1"), &x).run().ok();
}
