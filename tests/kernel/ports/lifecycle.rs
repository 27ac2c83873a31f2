//! Whose a host port is: taken, taken over, given back, and what CHECK and DEL make of it.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use serde_json::json;

use super::{mapped, mapping};
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, bind, listen, tcp, udp};
use common::{Call, STORES, World, added, allocated, call, outside_host, podnet, run, with};

#[test]
fn one_host_port_at_two_host_addresses_leads_to_two_containers() {
    let world = World::new();
    let _outside = (outside_host(&world, 2), outside_host(&world, 3));
    let entry = |host_ip| json!([{"hostPort": 8080, "containerPort": 80, "hostIP": host_ip}]);
    let (x, _) = added(&world, &mapping(mapped(), entry("192.0.2.1")), "x");
    let (y, _) = added(&world, &mapping(mapped(), entry("192.0.3.1")), "y");
    let (z, _) = added(&world, &mapping(mapped(), entry("")), "z");
    for (pod, to) in [
        (&x, "192.0.2.1:8080"),
        (&y, "192.0.3.1:8080"),
        (&z, "10.1.0.1:8080"),
    ] {
        tcp(&listen(Some(pod), "[::]:80"), HOST, to);
    }
}

#[test]
fn a_host_port_in_use_by_another_container_is_refused_and_nothing_changes() {
    let other_target = json!([{"hostPort": 8081, "containerPort": 80},
        {"hostPort": 8080, "containerPort": 81, "protocol": "udp"}]);
    for (theirs, port) in [
        (mapped(), "8080/tcp"),
        (mapping(mapped(), other_target), "8080/udp"),
        (
            with(mapped(), json!({"ipMasq": true, "macspoofchk": true})),
            "8080/tcp",
        ),
    ] {
        let world = World::new();
        let (x, _) = added(&world, &mapped(), "x");
        let y = world.container("y");
        let (before, rules, inside) = (world.snapshot(), ruleset(), y.state());

        let error = call("ADD", &theirs, &y).run().err_code(103);

        let msg = error["msg"].as_str().unwrap();
        for word in [port, "network podnet, container x, interface eth0"] {
            assert!(msg.contains(word), "no {word:?} in {msg:?}");
        }
        assert_eq!(world.snapshot().addresses_only(), before.addresses_only());
        assert_eq!(y.state(), inside);
        assert_eq!(element_count("pausenet podnet y eth0"), 0);
        if theirs == mapped() {
            assert_eq!(ruleset(), rules);
        }
        tcp(&listen(Some(&x), "[::]:80"), HOST, "10.1.0.1:8080");
    }
}

/// Killed with its pod: no DEL ever came, and the port is not lost.
#[test]
fn the_port_of_a_dead_container_is_taken_over() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    x.ip("link del eth0");
    assert_ne!(element_count("pausenet podnet x eth0"), 0);

    let (y, _) = added(&world, &mapped(), "y");

    tcp(&listen(Some(&y), "[::]:80"), HOST, "10.1.0.1:8080");
    let before = ruleset();
    // And its late DEL and GC take nothing away.
    call("DEL", &mapped(), &x).run().ok();
    let lost = |rules: &str| rules.matches("podnet y eth0").count();
    assert_eq!(lost(&ruleset()), lost(&before));
}

#[test]
fn a_continuing_udp_client_reaches_the_port_s_next_container() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    for (any, host) in [
        ("0.0.0.0:0", "192.0.2.1:8080"),
        ("[::]:0", "[fd99:2::1]:8080"),
    ] {
        let client = bind(Some(&outside), any);
        // A flow of the time before the mapping is one too.
        client.send_to(b"early", host).unwrap();
        for name in ["first", "second"] {
            let (pod, _) = added(&world, &mapped(), name);
            let server = bind(Some(&pod), "[::]:80");
            let said = talk(&client, host, &server);
            assert_eq!(said, b"hello", "{name} {host}");
            call("DEL", &mapped(), &pod).run().ok();
            pod.destroy();
        }
    }
}

fn talk(client: &UdpSocket, to: &str, server: &UdpSocket) -> Vec<u8> {
    client.send_to(b"hello", to).unwrap();
    let mut said = [0; 64];
    let (length, _) = server.recv_from(&mut said).expect("the datagram");
    said[..length].to_vec()
}

/// Conntrack entries of other ports are kept.
#[test]
fn conntrack_entries_of_other_udp_ports_are_kept() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let entry = json!([{"hostPort": 9090, "containerPort": 90, "protocol": "udp"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let server = bind(Some(&x), "[::]:90");
    let client = bind(Some(&outside), "0.0.0.0:0");
    udp(&server, &client, "192.0.2.1:9090");
    // The rules lead nowhere now; only the remembered flow does.
    run("nft", ["flush chain inet pausenet ports"]);

    added(&world, &mapped(), "y");

    udp(&server, &client, "192.0.2.1:9090");
}

#[test]
fn del_leaves_no_trace_of_the_ports() {
    let forget_address = || fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();
    type Break<'a> = &'a dyn Fn();
    let cases: [(&str, bool, Break); 4] = [
        ("with prevResult", true, &|| ()),
        ("without prevResult", false, &|| ()),
        ("with prevResult alone", true, &forget_address),
        ("with nothing", false, &forget_address),
    ];
    for keys in [json!({}), json!({"masqAll": true}), json!({"snat": false})] {
        for (what, with_result, break_it) in cases {
            let world = World::new();
            let config = with(mapped(), keys.clone());
            let (first, _) = added(&world, &config, "first");
            call("DEL", &config, &first).run().ok();
            let before = ruleset();
            let (x, result) = added(&world, &config, "x");
            assert!(element_count("pausenet podnet x eth0") >= 4);
            let prev = if with_result { result } else { json!(null) };
            let del = call("DEL", &with(config, json!({"prevResult": prev})), &x);
            break_it();
            x.destroy();

            del.run().ok();

            assert_eq!(ruleset(), before, "{what} {keys}");
            assert!(allocated("podnet").is_empty());
        }
    }
}

#[test]
fn a_late_del_keeps_the_ports_of_the_address_s_new_holder() {
    for with_result in [true, false] {
        let world = World::new();
        let (a, result) = added(&world, &mapped(), "a");
        for address in ["10.1.0.2", "fd00::2"] {
            fs::remove_file(Path::new(STORES).join("podnet").join(address)).unwrap();
        }
        let mut request = mapped();
        request["runtimeConfig"]["ips"] = json!(["10.1.0.2", "fd00::2"]);
        let (b, _) = added(&world, &request, "b");
        let before = ruleset();
        let prev = if with_result { result } else { json!(null) };

        call("DEL", &with(mapped(), json!({"prevResult": prev})), &a)
            .run()
            .ok();

        assert_eq!(ruleset(), before);
        tcp(&listen(Some(&b), "[::]:80"), HOST, "127.0.0.1:8080");
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]});
        Call::new("GC", &with(mapped(), valid)).run().ok();
        assert_eq!(ruleset(), before);
    }
}

#[test]
fn check_reports_a_missing_or_changed_mapping() {
    let elsewhere = "delete element inet pausenet ports4 { tcp . 8080 }; add element inet pausenet \
        ports4 { tcp . 8080 comment \"pausenet podnet x eth0\" : 10.1.0.9 . 80 }";
    for (change, set) in [
        (
            "delete element inet pausenet ports4 { tcp . 8080 }",
            "ports4",
        ),
        (
            "delete element inet pausenet ports6 { udp . 8080 }",
            "ports6",
        ),
        (
            "flush set inet pausenet hairpin_10.1.0.0/24",
            "hairpin_10.1.0.0/24",
        ),
        ("delete table inet pausenet", "ports4"),
        (elsewhere, "ports4"),
    ] {
        let world = World::new();
        let (x, result) = added(&world, &mapped(), "x");
        let check = call("CHECK", &with(mapped(), json!({"prevResult": result})), &x);
        check.run().ok();

        run("nft", [change]);

        let error = check.run().err_code(102);
        assert!(
            error["msg"].as_str().unwrap().contains(set),
            "{change}: {error}"
        );
    }
}

#[test]
fn mappings_come_back_with_the_next_add_after_a_flushed_ruleset() {
    let world = World::new();
    added(&world, &mapped(), "x");
    run("nft", ["flush", "ruleset"]);

    let (y, _) = added(&world, &mapped(), "y");

    let server = listen(Some(&y), "[::]:80");
    tcp(&server, HOST, "127.0.0.1:8080");
    tcp(&server, HOST, "10.1.0.1:8080");
}

/// A runtime may have lost the mappings: the owner of a port is stored in its element.
#[test]
fn del_without_port_mappings_still_removes_them() {
    for (keys, prev) in [
        (json!({}), true),
        (json!({}), false),
        (json!({"snat": false}), true),
    ] {
        let world = World::new();
        let x = world.container("x");
        let mapped =
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
        let result = Call::new("ADD", &with(with(podnet(), keys.clone()), mapped))
            .netns(&x)
            .run()
            .ok();
        assert!(run("nft", ["list", "ruleset"]).contains("comment"));

        let forgetful = with(podnet(), keys);
        let forgetful = if prev {
            with(forgetful, json!({"prevResult": result}))
        } else {
            forgetful
        };
        Call::new("DEL", &forgetful).netns(&x).run().ok();

        let left = run("nft", ["list", "ruleset"]);
        assert!(!left.contains("comment"), "{left}");
    }
}
