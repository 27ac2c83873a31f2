//! `ipMasq`: what leaves the subnet is seen from the host's address, and nothing else is.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use serde_json::{Value, json};

use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, bind, inside, listen, tcp, udp};
use common::{Call, STORES, World, added, call, outside_host, podnet, run, set_sysctl, with};

fn dual_stack() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    with(podnet(), json!({"ipMasq": true, "ipam": ipam}))
}

fn othernet() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd02::/64"}]]});
    let changes = json!({"name": "othernet", "bridge": "cni1", "ipam": ipam});
    with(dual_stack(), changes)
}

/// Frames between ports pass the host's IP rules too where br_netfilter is at work.
fn with_and_without_br_netfilter(test: impl Fn()) {
    for family in ["iptables", "ip6tables"] {
        let key = format!("bridge/bridge-nf-call-{family}");
        if !Path::new("/proc/sys/net").join(&key).exists() {
            return test();
        }
    }
    for value in ["0", "1"] {
        set_sysctl("bridge/bridge-nf-call-iptables", value);
        set_sysctl("bridge/bridge-nf-call-ip6tables", value);
        test();
    }
}

#[test]
fn traffic_leaving_the_subnet_is_masqueraded() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let (x, _) = added(&world, &dual_stack(), "x");
    let (y, _) = added(&world, &with(othernet(), json!({"ipMasq": false})), "y");
    for (any, server, node, plain) in [
        ("0.0.0.0:0", "192.0.2.2:7000", "192.0.2.1", "10.2.0.2"),
        ("[::]:0", "[fd99:2::2]:7000", "fd99:2::1", "fd02::2"),
    ] {
        let (streams, datagrams) = (listen(Some(&outside), server), bind(Some(&outside), server));
        assert_eq!(tcp(&streams, Some(&x), server).to_string(), node);
        let sender = bind(Some(&x), any);
        assert_eq!(udp(&datagrams, &sender, server).to_string(), node);
        // Without the key it is the pod's own address.
        assert_eq!(tcp(&streams, Some(&y), server).to_string(), plain);
    }
}

#[test]
fn traffic_inside_the_subnet_keeps_its_source_address() {
    let world = World::new();
    let (x, _) = added(&world, &dual_stack(), "x");
    let (y, _) = added(&world, &dual_stack(), "y");
    with_and_without_br_netfilter(|| {
        for (server, gateway, client) in [
            ("10.1.0.3:7000", "10.1.0.1:7000", "10.1.0.2"),
            ("[fd00::3]:7000", "[fd00::1]:7000", "fd00::2"),
        ] {
            let neighbour = listen(Some(&y), server);
            assert_eq!(tcp(&neighbour, Some(&x), server).to_string(), client);
            let host = listen(HOST, gateway);
            assert_eq!(tcp(&host, Some(&x), gateway).to_string(), client);
        }
    });
}

#[test]
fn multicast_keeps_its_source_address() {
    let world = World::new();
    let (x, _) = added(&world, &dual_stack(), "x");
    let (y, _) = added(&world, &dual_stack(), "y");
    let index = y.link("eth0").unwrap().index;
    let scope = x.link("eth0").unwrap().index;
    // Bound once: a child that another test is starting holds a socket until it has become its
    // program, and the port with it.
    let receiver4 = bind(Some(&y), "0.0.0.0:7000");
    let group4 = Ipv4Addr::new(224, 0, 0, 251);
    let here = Ipv4Addr::new(10, 1, 0, 3);
    inside(Some(&y), || receiver4.join_multicast_v4(&group4, &here)).unwrap();
    let receiver6 = bind(Some(&y), "[::]:7001");
    let group6: Ipv6Addr = "ff02::123".parse().unwrap();
    inside(Some(&y), || receiver6.join_multicast_v6(&group6, index)).unwrap();
    with_and_without_br_netfilter(|| {
        bind(Some(&x), "10.1.0.2:0")
            .send_to(&[1], (group4, 7000))
            .unwrap();
        assert_eq!(source(&receiver4), "10.1.0.2");
        bind(Some(&x), "[fd00::2]:0")
            .send_to(&[1], std::net::SocketAddrV6::new(group6, 7001, 0, scope))
            .unwrap();
        assert_eq!(source(&receiver6), "fd00::2");
    });
}

fn source(receiver: &UdpSocket) -> String {
    receiver.recv_from(&mut [0]).unwrap().1.ip().to_string()
}

/// From one subnet to the other is outside of both.
#[test]
fn every_address_of_a_container_is_masqueraded_outside_its_own_subnet() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    let config = with(dual_stack(), json!({"ipam": ipam}));
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &config, "y");

    let server = bind(Some(&outside), "192.0.2.2:7000");
    for from in ["10.1.0.2:0", "10.2.0.2:0"] {
        let sender = bind(Some(&x), from);
        assert_eq!(
            udp(&server, &sender, "192.0.2.2:7000").to_string(),
            "192.0.2.1"
        );
    }
    let neighbour = listen(Some(&y), "10.2.0.3:7000");
    assert_eq!(
        tcp(&neighbour, Some(&x), "10.2.0.3:7000").to_string(),
        "10.2.0.2"
    );
    assert_eq!(element_count("pausenet podnet x eth0"), 2);
}

#[test]
fn two_networks_are_masqueraded_independently() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let (x, _) = added(&world, &dual_stack(), "x");
    let (y, _) = added(&world, &othernet(), "y");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    for pod in [&x, &y] {
        assert_eq!(
            tcp(&server, Some(pod), "192.0.2.2:7000").to_string(),
            "192.0.2.1"
        );
    }

    call("DEL", &othernet(), &y).run().ok();

    assert_eq!(
        tcp(&server, Some(&x), "192.0.2.2:7000").to_string(),
        "192.0.2.1"
    );
    assert_eq!(element_count("pausenet othernet y eth0"), 0);
}

#[test]
fn both_masquerade_backends_are_accepted_and_others_refused() {
    let mut rulesets = Vec::new();
    for backend in [json!(null), json!(""), json!("iptables"), json!("nftables")] {
        let world = World::new();
        added(
            &world,
            &with(dual_stack(), json!({"ipMasqBackend": backend})),
            "x",
        );
        rulesets.push(ruleset());
    }
    assert!(rulesets[0].contains("10.1.0.2 comment"), "{}", rulesets[0]);
    assert!(
        rulesets.iter().all(|rules| *rules == rulesets[0]),
        "{rulesets:#?}"
    );

    let world = World::new();
    let container = world.container("x");
    let config = with(dual_stack(), json!({"ipMasqBackend": "ebtables"}));
    let error = call("ADD", &config, &container).run().err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("ebtables"),
        "{error}"
    );
    assert_eq!(ruleset(), "");
}

#[test]
fn del_restores_nftables_except_shared_objects() {
    let forget_address = || fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();
    type Break<'a> = &'a dyn Fn();
    let cases: [(&str, bool, Break); 4] = [
        ("with prevResult", true, &|| ()),
        ("without prevResult", false, &|| ()),
        ("with prevResult alone", true, &forget_address),
        ("with nothing", false, &forget_address),
    ];
    for (what, with_result, break_it) in cases {
        for netns in ["there", "gone"] {
            let world = World::new();
            let (first, _) = added(&world, &dual_stack(), "first");
            call("DEL", &dual_stack(), &first).run().ok();
            let before = ruleset();
            let (x, result) = added(&world, &dual_stack(), "x");
            assert_eq!(element_count("pausenet podnet x eth0"), 2);
            let prev = if with_result { result } else { json!(null) };
            let del = call("DEL", &with(dual_stack(), json!({"prevResult": prev})), &x);
            break_it();
            if netns == "gone" {
                x.destroy();
            }

            del.run().ok();

            assert_eq!(ruleset(), before, "{what}, netns {netns}");
        }
    }
}

#[test]
fn del_keeps_the_masquerade_of_other_containers() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let (x, result) = added(&world, &dual_stack(), "x");
    let (y, _) = added(&world, &dual_stack(), "y");

    let config = with(dual_stack(), json!({"prevResult": result}));
    call("DEL", &config, &x).run().ok();

    let server = listen(Some(&outside), "192.0.2.2:7000");
    assert_eq!(
        tcp(&server, Some(&y), "192.0.2.2:7000").to_string(),
        "192.0.2.1"
    );
}

#[test]
fn add_after_a_flushed_ruleset_is_masqueraded() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    added(&world, &dual_stack(), "x");
    run("nft", ["flush", "ruleset"]);

    let (y, _) = added(&world, &dual_stack(), "y");

    let server = listen(Some(&outside), "192.0.2.2:7000");
    assert_eq!(
        tcp(&server, Some(&y), "192.0.2.2:7000").to_string(),
        "192.0.2.1"
    );
}

#[test]
fn del_succeeds_after_a_flushed_ruleset() {
    for with_result in [true, false] {
        let world = World::new();
        let (x, result) = added(&world, &dual_stack(), "x");
        run("nft", ["flush", "ruleset"]);
        let prev = if with_result { result } else { json!(null) };

        let config = with(dual_stack(), json!({"prevResult": prev}));
        call("DEL", &config, &x).run().ok();

        assert!(x.link("eth0").is_none());
        assert_eq!(ruleset(), "", "and makes nothing");
    }
}

#[test]
fn check_reports_a_missing_or_foreign_masquerade_element() {
    let steal = "delete element inet pausenet masquerade_10.1.0.0/24 { 10.1.0.2 }; \
        add element inet pausenet masquerade_10.1.0.0/24 { 10.1.0.2 comment \"me\" }";
    for change in [
        "flush ruleset",
        "flush set inet pausenet masquerade_10.1.0.0/24",
        steal,
    ] {
        let world = World::new();
        let (x, result) = added(&world, &dual_stack(), "x");
        let config = with(dual_stack(), json!({"prevResult": result}));
        let check = call("CHECK", &config, &x);
        check.run().ok();

        run("nft", [change]);

        let error = check.run().err_code(102);
        assert!(
            error["msg"]
                .as_str()
                .unwrap()
                .contains("masquerade_10.1.0.0/24"),
            "{error}"
        );
    }
}

/// The elements are as they were, and nothing looks them up.
#[test]
fn check_reports_rules_that_another_program_flushed() {
    let world = World::new();
    let ports = json!([{"hostPort": 8080, "containerPort": 80}]);
    let config = with(
        dual_stack(),
        json!({"runtimeConfig": {"portMappings": ports}}),
    );
    let (x, result) = added(&world, &config, "x");
    let check = call("CHECK", &with(config, json!({"prevResult": result})), &x);
    for (flushed, named) in [
        (
            "chain inet pausenet postrouting_10.1.0.0/24",
            "postrouting_10.1.0.0/24",
        ),
        ("chain inet pausenet ports", "chain ports"),
        ("chain inet pausenet dnat_prerouting", "dnat_prerouting"),
        ("table inet pausenet", "chain "),
    ] {
        check.run().ok();
        let saved = ruleset();
        run("nft", [&format!("flush {flushed}")]);
        let error = check.run().err_code(102);
        assert!(error["msg"].as_str().unwrap().contains(named), "{error}");
        run("nft", [&format!("flush ruleset; {saved}")]);
    }
    check.run().ok();
}

#[test]
fn one_subnet_more_than_the_kernel_has_room_for_is_explained_and_nothing_is_left() {
    let world = World::new();
    let chains = (0..1024).map(|n| {
        format!("add chain inet full c{n} {{ type nat hook postrouting priority 100; }}; ")
    });
    run(
        "nft",
        [&format!(
            "add table inet full; {}",
            chains.collect::<String>()
        )],
    );
    let x = world.container("x");
    let before = x.state();
    let error = call("ADD", &dual_stack(), &x).run().err_code(101);
    let details = error["details"].as_str().unwrap();
    assert!(details.contains("1024 chains"), "{error}");
    assert_eq!(x.state(), before);
}

#[test]
fn a_killed_add_leaves_no_element_after_the_next_add_and_del() {
    let world = World::new();
    let (x, _) = added(&world, &dual_stack(), "x");
    // As if ADD had been killed before the last step.
    let name = world
        .links()
        .into_iter()
        .find(|link| link.alias.is_some())
        .unwrap()
        .name;
    run("ip", ["link", "set", &name, "alias", ""]);

    let result = call("ADD", &dual_stack(), &x).run().ok();

    assert_eq!(element_count("pausenet podnet x eth0"), 2);
    let config = with(dual_stack(), json!({"prevResult": result}));
    call("DEL", &config, &x).run().ok();
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
}

/// A gives X back, B is given X, and only then does A's DEL come.
#[test]
fn a_late_del_keeps_the_masquerade_of_the_address_s_new_holder() {
    for with_result in [true, false] {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let (a, result) = added(&world, &dual_stack(), "a");
        for address in ["10.1.0.2", "fd00::2"] {
            fs::remove_file(Path::new(STORES).join("podnet").join(address)).unwrap();
        }
        let request = json!({"runtimeConfig": {"ips": ["10.1.0.2", "fd00::2"]}});
        let (b, _) = added(&world, &with(dual_stack(), request), "b");
        assert_eq!(b.addresses("eth0"), ["10.1.0.2/24", "fd00::2/64"]);
        let before = ruleset();
        let prev = if with_result { result } else { json!(null) };

        call("DEL", &with(dual_stack(), json!({"prevResult": prev})), &a)
            .run()
            .ok();

        assert_eq!(ruleset(), before);
        let server = listen(Some(&outside), "192.0.2.2:7000");
        assert_eq!(
            tcp(&server, Some(&b), "192.0.2.2:7000").to_string(),
            "192.0.2.1"
        );
    }
}

#[test]
fn gc_keeps_the_masquerade_of_the_address_s_new_holder() {
    let world = World::new();
    let (_a, _) = added(&world, &dual_stack(), "a");
    for address in ["10.1.0.2", "fd00::2"] {
        fs::remove_file(Path::new(STORES).join("podnet").join(address)).unwrap();
    }
    let request = json!({"runtimeConfig": {"ips": ["10.1.0.2", "fd00::2"]}});
    added(&world, &with(dual_stack(), request), "b");
    let before = ruleset();

    let valid = json!([{"containerID": "b", "ifname": "eth0"}]);
    Call::new(
        "GC",
        &with(dual_stack(), json!({"cni.dev/valid-attachments": valid})),
    )
    .run()
    .ok();

    assert_eq!(ruleset(), before);
}
