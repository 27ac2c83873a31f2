//! Mode `ptp`, and the name `ptp`: every pod behind a routed link of its own.

use serde_json::{Value, json};

use crate::plugins::call_as;
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, bind, listen, tcp, tcp_is_blocked, udp};
use common::wait::wait_until;
use common::{
    Call, Container, World, added, allocated, call, ip, outside_host, podnet, set_sysctl, sysctl,
    with,
};

fn routed() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    let changes = json!({"mode": "ptp", "bridge": null, "isDefaultGateway": null, "ipam": ipam});
    with(podnet(), changes)
}

/// The same in the reference's words.
fn as_ptp() -> Value {
    with(routed(), json!({"mode": null, "type": "ptp"}))
}

fn host_end(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

/// `ip`'s words without what depends on the kernel's version.
fn words(shown: &str) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    shown.lines().map(line).collect()
}

#[test]
fn both_ends_have_addresses_and_routes_and_there_is_no_bridge() {
    for by_name in [false, true] {
        let world = World::new();
        set_sysctl("ipv4/ip_forward", "0");
        set_sysctl("ipv6/conf/all/forwarding", "0");
        let x = world.container("x");
        let add = match by_name {
            false => call("ADD", &routed(), &x),
            true => call_as("ptp", "ADD", &as_ptp(), &x),
        };

        let result = add.run().ok();

        let host = host_end(&result);
        let mac = |link: pausenet::kernel::link::Link| link.mac.unwrap().to_string();
        let (outer, inner) = (world.link(&host).unwrap(), x.link("eth0").unwrap());
        assert_eq!(outer.peer, Some(inner.index));
        // The kernel notes the carrier of a link in its own time.
        wait_until("both ends have a carrier", || {
            world.link(&host).unwrap().running && x.link("eth0").unwrap().running
        });
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": host, "mac": mac(outer), "mtu": 1500},
                    {"name": "eth0", "mac": mac(inner), "mtu": 1500, "sandbox": "/run/netns/x"}],
                "ips": [{"interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
                        {"interface": 1, "address": "fd00::2/64", "gateway": "fd00::1"}],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
            })
        );
        assert!(world.links().iter().all(|link| link.kind != "bridge"));
        assert_eq!(world.addresses(&host), ["10.1.0.1/32", "fd00::1/128"]);
        let on_host = words(&ip(&format!("route show dev {host}")));
        assert_eq!(on_host, ["10.1.0.2 scope host"]);
        assert!(ip(&format!("-6 route show dev {host}")).contains("fd00::2 "));
        assert_eq!(x.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
        assert_eq!(
            words(&x.ip("route show")),
            [
                "default via 10.1.0.1 dev eth0",
                "10.1.0.0/24 via 10.1.0.1 dev eth0 src 10.1.0.2",
                "10.1.0.1 dev eth0 scope link src 10.1.0.2"
            ]
        );
        let six = x.ip("-6 route show");
        for route in [
            "default via fd00::1 dev eth0",
            "fd00::/64 via fd00::1 dev eth0",
            "fd00::1 dev eth0",
        ] {
            assert!(six.contains(route), "no {route} in {six}");
        }
        assert_eq!(
            (
                sysctl("ipv4/ip_forward"),
                sysctl("ipv6/conf/all/forwarding")
            ),
            ("1".into(), "1".into())
        );
        assert_eq!(sysctl(&format!("ipv6/conf/{host}/accept_ra")), "0");
    }
}

#[test]
fn pods_reach_each_other_through_the_host_and_share_no_layer_2() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let (x, _) = added(&world, &routed(), "x");
    let (y, _) = added(&world, &routed(), "y");
    let at_y = listen(Some(&y), "[::]:7000");
    for (to, client) in [("10.1.0.3:7000", "10.1.0.2"), ("[fd00::3]:7000", "fd00::2")] {
        assert_eq!(tcp(&at_y, Some(&x), to).to_string(), client);
        tcp(&at_y, HOST, to);
        tcp(&at_y, Some(&outside), to);
    }
    for to in ["10.1.0.1:7001", "[fd00::1]:7001"] {
        tcp(&listen(HOST, "[::]:7001"), Some(&x), to);
    }
    let neighbours = x.ip("neigh show") + &x.ip("-6 neigh show");
    assert!(neighbours.contains("10.1.0.1 "), "{neighbours}");
    assert!(
        !neighbours.contains("10.1.0.3 ") && !neighbours.contains("fd00::3 "),
        "{neighbours}"
    );
}

/// One datagram each, sent the moment ADD has answered, and waited for less than the second after
/// which the kernel would ask for a neighbour again.
#[test]
fn the_first_packet_to_the_gateway_arrives() {
    for (any, gateway) in [("0.0.0.0:0", "10.1.0.1:7000"), ("[::]:0", "[fd00::1]:7000")] {
        let world = World::new();
        let receiver = bind(HOST, "[::]:7000");
        let less = std::time::Duration::from_millis(900);
        receiver.set_read_timeout(Some(less)).unwrap();
        for name in ["x", "y"] {
            let (pod, _) = added(&world, &routed(), name);
            bind(Some(&pod), any).send_to(b"first", gateway).unwrap();
            assert_eq!(receiver.recv(&mut [0; 8]).expect(gateway), 5);
        }
    }
}

#[test]
fn traffic_leaving_the_subnet_is_masqueraded_and_the_rest_is_not() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let config = with(routed(), json!({"ipMasq": true}));
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &config, "y");
    let (at_y, there) = (
        listen(Some(&y), "[::]:7000"),
        listen(Some(&outside), "[::]:7000"),
    );
    for (to, seen) in [
        ("192.0.2.2:7000", "192.0.2.1"),
        ("[fd99:2::2]:7000", "fd99:2::1"),
    ] {
        assert_eq!(tcp(&there, Some(&x), to).to_string(), seen);
    }
    for (to, seen) in [("10.1.0.3:7000", "10.1.0.2"), ("[fd00::3]:7000", "fd00::2")] {
        assert_eq!(tcp(&at_y, Some(&x), to).to_string(), seen);
    }
}

#[test]
fn mapped_ports_are_reachable_from_everywhere() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let mappings = json!([{"hostPort": 8080, "containerPort": 80},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
    let config = with(
        routed(),
        json!({"runtimeConfig": {"portMappings": mappings}}),
    );
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &routed(), "y");
    let (streams, datagrams) = (listen(Some(&x), "[::]:80"), bind(Some(&x), "[::]:80"));
    for (client, any, to, seen) in [
        (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
        (Some(&outside), "[::]:0", "[fd99:2::1]:8080", "fd99:2::2"),
        (HOST, "0.0.0.0:0", "127.0.0.1:8080", "10.1.0.1"),
        (HOST, "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.1"),
        (Some(&y), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
        (Some(&y), "[::]:0", "[fd99:2::1]:8080", "fd00::1"),
        (Some(&x), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
        (Some(&x), "[::]:0", "[fd99:2::1]:8080", "fd00::1"),
    ] {
        assert_eq!(tcp(&streams, client, to).to_string(), seen, "{to}");
        assert_eq!(
            udp(&datagrams, &bind(client, any), to).to_string(),
            seen,
            "{to}"
        );
    }

    call("DEL", &config, &x).run().ok();

    assert_eq!(element_count("pausenet podnet x eth0"), 0);
    tcp_is_blocked(Some(&outside), "192.0.2.1:8080");
}

#[test]
fn check_succeeds_after_add_and_reports_differences() {
    type Break = fn(&Container, &str);
    let cases: [(Break, &[&str]); 8] = [
        (|x, _| drop(x.ip("link del eth0")), &["eth0 is gone"]),
        (
            |x, _| drop(x.ip("addr del 10.1.0.2/24 dev eth0")),
            &["10.1.0.2/24"],
        ),
        (|x, _| drop(x.ip("-6 route del default")), &["::/0"]),
        (
            |x, _| drop(x.ip("link set eth0 down")),
            &["eth0 is switched off"],
        ),
        (
            |_, host| drop(ip(&format!("link set {host} down"))),
            &["is switched off"],
        ),
        (
            |_, host| drop(ip(&format!("addr del 10.1.0.1/32 dev {host}"))),
            &["10.1.0.1"],
        ),
        (|_, _| drop(ip("route del 10.1.0.2")), &["10.1.0.2"]),
        (
            |_, host| drop(ip(&format!("-6 route del fd00::2 dev {host}"))),
            &["fd00::2"],
        ),
    ];
    for (at, (break_it, words)) in cases.into_iter().enumerate() {
        let world = World::new();
        let (x, result) = added(&world, &routed(), "x");
        let check = call("CHECK", &with(routed(), json!({"prevResult": result})), &x);
        let (before, inside) = (world.snapshot(), x.state());
        check.run().ok();
        assert_eq!((world.snapshot(), x.state()), (before, inside));

        break_it(&x, &host_end(&result));

        let error = check.run().err_code(102);
        let msg = error["msg"].as_str().unwrap();
        assert!(
            words.iter().all(|word| msg.contains(word)),
            "case {at}: {msg}"
        );
    }
}

#[test]
fn del_leaves_no_link_address_or_route() {
    for netns in ["there", "gone"] {
        for by_name in [false, true] {
            let world = World::new();
            let (_y, _) = added(&world, &routed(), "y");
            let before = world.snapshot().addresses_only();
            let x = world.container("x");
            let run = |verb: &str, x: &Container| -> Call {
                match by_name {
                    false => call(verb, &with(routed(), json!({"ipMasq": true})), x),
                    true => call_as("ptp", verb, &with(as_ptp(), json!({"ipMasq": true})), x),
                }
            };
            run("ADD", &x).run().ok();
            assert_eq!(element_count("pausenet podnet x eth0"), 2);
            let del = run("DEL", &x);
            if netns == "gone" {
                x.destroy();
            }

            del.run().ok();

            assert_eq!(world.snapshot().addresses_only(), before);
            assert_eq!(element_count("pausenet podnet x eth0"), 0);
        }
    }
}

#[test]
fn a_failed_add_leaves_nothing() {
    let world = World::new();
    let x = world.container("x");
    let (before, inside) = (world.snapshot().addresses_only(), x.state());
    let mut config = routed();
    config["ipam"]["routes"] = json!([{"dst": "192.168.0.0/16", "gw": "172.16.0.1"}]);

    call("ADD", &config, &x).run().err_code(101);

    assert_eq!(world.snapshot().addresses_only(), before);
    assert_eq!(x.state().links, inside.links);
    assert_eq!(ruleset(), "");
}

#[test]
fn addresses_without_a_gateway_are_code_7() {
    let world = World::new();
    let x = world.container("x");
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.5/24"}]});
    let error = call("ADD", &with(routed(), json!({"ipam": ipam})), &x)
        .run()
        .err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.5"),
        "{error}"
    );
    assert!(allocated("podnet").is_empty());
}

/// The name decides, whatever the key says; and the port mappings are portmap's there.
#[test]
fn the_name_ptp_selects_ptp_mode() {
    let world = World::new();
    let x = world.container("x");
    let changes = json!({"mode": "bridge", "mtu": 1400,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
        "dns": {"nameservers": ["10.1.0.1"]}});
    let result = call_as("ptp", "ADD", &with(as_ptp(), changes), &x)
        .run()
        .ok();
    assert!(world.link("cni0").is_none());
    assert_eq!(x.link("eth0").unwrap().mtu, 1400);
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.1"]}));
    assert_eq!(ruleset(), "");
}
