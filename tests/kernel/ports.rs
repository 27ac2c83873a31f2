//! Port mappings: who reaches a container by a port of the host, and as whom.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{
    Call, Container, STORES, World, allocated, podnet, run, set_sysctl, sysctl, with,
};
use crate::wire::{
    HOST, Place, added, beyond, bind, call, datagrams_before, elements_of, listen, ruleset, tcp,
    tcp_is_cut, udp,
};

/// The config with these mappings.
fn mapping(config: Value, mappings: Value) -> Value {
    with(config, json!({"runtimeConfig": {"portMappings": mappings}}))
}

/// A dual-stack network where host port 8080 leads to port 80, of TCP and UDP.
fn mapped() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    mapping(
        with(podnet(), json!({"ipam": ipam})),
        json!([{"hostPort": 8080, "containerPort": 80},
               {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]),
    )
}

fn without_ports(config: &Value) -> Value {
    with(config.clone(), json!({"runtimeConfig": null}))
}

/// Everybody who may use the port, and whom the container then sees.
fn everybody_reaches(server: &Container, clients: &[(Place, &str, &str, &str)]) {
    let streams = listen(Some(server), "[::]:80");
    let datagrams = bind(Some(server), "[::]:80");
    for (client, any, to, seen) in clients {
        assert_eq!(tcp(&streams, *client, to).to_string(), *seen, "{to}");
        let sender = bind(*client, any);
        assert_eq!(udp(&datagrams, &sender, to).to_string(), *seen, "{to}");
    }
}

#[test]
fn a_mapped_port_is_reached_from_outside_with_the_client_s_address_kept() {
    let world = World::new();
    let outside = beyond(&world, 2);
    let (x, _) = added(&world, &mapped(), "x");
    everybody_reaches(
        &x,
        &[
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
            (Some(&outside), "0.0.0.0:0", "10.1.0.1:8080", "192.0.2.2"),
            (Some(&outside), "[::]:0", "[fd99:2::1]:8080", "fd99:2::2"),
        ],
    );
    tcp_is_cut(Some(&outside), "192.0.2.1:80");
}

#[test]
fn a_mapped_port_is_reached_from_the_host_by_each_of_its_addresses_and_127_0_0_1() {
    let world = World::new();
    let _outside = beyond(&world, 2);
    let (x, _) = added(&world, &mapped(), "x");
    everybody_reaches(
        &x,
        &[
            (HOST, "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.1"),
            (HOST, "0.0.0.0:0", "10.1.0.1:8080", "10.1.0.1"),
            (HOST, "0.0.0.0:0", "127.0.0.1:8080", "10.1.0.1"),
            (HOST, "0.0.0.0:0", "127.0.0.53:8080", "10.1.0.1"),
            (HOST, "[::]:0", "[fd99:2::1]:8080", "fd99:2::1"),
        ],
    );
}

/// A neighbour would not know an answer that came straight from the container, so both see the
/// host between them; so does the container that reaches itself. With br_netfilter its packets
/// turn round within the bridge, and only hairpin mode lets them back out of the port.
#[test]
fn a_mapped_port_is_reached_from_neighbours_and_from_the_container_itself() {
    for hairpin in [false, true] {
        let world = World::new();
        let _outside = beyond(&world, 2);
        let config = with(mapped(), json!({"hairpinMode": hairpin}));
        let (x, _) = added(&world, &config, "x");
        let (y, _) = added(&world, &without_ports(&config), "y");
        for br_netfilter in ["0", "1"] {
            if Path::new("/proc/sys/net/bridge").exists() {
                set_sysctl("bridge/bridge-nf-call-iptables", br_netfilter);
                set_sysctl("bridge/bridge-nf-call-ip6tables", br_netfilter);
            }
            let clients = match (hairpin, br_netfilter) {
                (false, "1") => vec![&y],
                _ => vec![&y, &x],
            };
            for client in clients {
                everybody_reaches(
                    &x,
                    &[
                        (Some(client), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
                        (Some(client), "0.0.0.0:0", "10.1.0.1:8080", "10.1.0.1"),
                        (Some(client), "[::]:0", "[fd99:2::1]:8080", "fd00::1"),
                        (Some(client), "[::]:0", "[fd00::1]:8080", "fd00::1"),
                    ],
                );
            }
        }
    }
}

#[test]
fn pods_of_other_networks_keep_their_address_on_the_way_to_a_mapped_port() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    let ipam = json!({"type": "host-local", "subnet": "10.2.0.0/24"});
    let other = json!({"name": "othernet", "bridge": "cni1", "ipam": ipam});
    let (y, _) = added(&world, &with(without_ports(&mapped()), other), "y");
    everybody_reaches(&x, &[(Some(&y), "0.0.0.0:0", "10.2.0.1:8080", "10.2.0.2")]);
}

#[test]
fn with_masq_all_the_container_sees_the_host_only() {
    let world = World::new();
    let outside = beyond(&world, 2);
    let config = with(mapped(), json!({"masqAll": true}));
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &without_ports(&config), "y");
    everybody_reaches(
        &x,
        &[
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
            (Some(&outside), "[::]:0", "[fd99:2::1]:8080", "fd00::1"),
            (Some(&y), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
            (HOST, "0.0.0.0:0", "127.0.0.1:8080", "10.1.0.1"),
        ],
    );
}

#[test]
fn without_snat_the_host_s_127_0_0_1_does_not_lead_to_the_container() {
    let world = World::new();
    let outside = beyond(&world, 2);
    let (x, _) = added(&world, &with(mapped(), json!({"snat": false})), "x");
    everybody_reaches(
        &x,
        &[
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
            (HOST, "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.1"),
        ],
    );
    let _server = listen(Some(&x), "[::]:80");
    tcp_is_cut(HOST, "127.0.0.1:8080");
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "0");
}

#[test]
fn host_ip_decides_by_which_of_the_host_s_addresses_the_port_is_reached() {
    // hostIP; where it leads to the container; where not.
    for (host_ip, open, shut) in [
        (
            "192.0.2.1",
            vec!["192.0.2.1"],
            vec!["10.1.0.1", "127.0.0.1", "[fd99:2::1]"],
        ),
        (
            "fd99:2::1",
            vec!["[fd99:2::1]"],
            vec!["[fd00::1]", "192.0.2.1"],
        ),
        (
            "127.0.0.1",
            vec!["127.0.0.1"],
            vec!["192.0.2.1", "127.0.0.2"],
        ),
        (
            "0.0.0.0",
            vec!["192.0.2.1", "10.1.0.1", "127.0.0.1"],
            vec!["[fd99:2::1]"],
        ),
        ("::", vec!["[fd99:2::1]", "[fd00::1]"], vec!["192.0.2.1"]),
        ("", vec!["192.0.2.1", "[fd99:2::1]"], vec![]),
    ] {
        let world = World::new();
        let _outside = beyond(&world, 2);
        let entry = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": host_ip}]);
        let (x, _) = added(&world, &mapping(mapped(), entry), "x");
        let server = listen(Some(&x), "[::]:80");
        for address in open {
            tcp(&server, HOST, &format!("{address}:8080"));
        }
        for address in shut {
            tcp_is_cut(HOST, &format!("{address}:8080"));
        }
    }
}

#[test]
fn a_port_at_127_0_0_1_is_the_host_s_alone() {
    let world = World::new();
    let outside = beyond(&world, 2);
    let entry = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let (y, _) = added(&world, &without_ports(&mapped()), "y");
    let server = listen(Some(&x), "[::]:80");
    assert_eq!(tcp(&server, HOST, "127.0.0.1:8080").to_string(), "10.1.0.1");
    tcp_is_cut(Some(&outside), "192.0.2.1:8080");
    tcp_is_cut(Some(&y), "10.1.0.1:8080");
}

/// CVE-2025-67499: the reference's nftables backend caught what only passed through the host.
#[test]
fn what_the_host_forwards_to_others_is_left_alone() {
    let world = World::new();
    let (one, two) = (beyond(&world, 2), beyond(&world, 3));
    let (x, _) = added(&world, &mapped(), "x");
    let (y, _) = added(&world, &without_ports(&mapped()), "y");
    let _ours = listen(Some(&x), "[::]:80");
    let server = listen(Some(&two), "[::]:8080");
    let neighbour = listen(Some(&y), "[::]:8080");
    for client in [Some(&one), Some(&y), Some(&x)] {
        for to in ["192.0.3.2:8080", "[fd99:3::2]:8080"] {
            tcp(&server, client, to);
        }
    }
    for client in [HOST, Some(&one), Some(&x)] {
        for to in ["10.1.0.3:8080", "[fd00::3]:8080"] {
            tcp(&neighbour, client, to);
        }
    }
}

/// A mapping is for its protocol only, and the host's own services on other ports are its own.
#[test]
fn other_ports_and_protocols_stay_the_host_s() {
    let world = World::new();
    let outside = beyond(&world, 2);
    let entry = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "UDP"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let _inside = listen(Some(&x), "[::]:80");
    let (same, next) = (listen(HOST, "[::]:8080"), listen(HOST, "[::]:8081"));
    for client in [HOST, Some(&outside), Some(&x)] {
        tcp(&same, client, "192.0.2.1:8080");
        tcp(&next, client, "192.0.2.1:8081");
    }
}

/// A pod that has 127.0.0.0/8 not on its lo but behind the gateway.
fn attacker(world: &World, config: &Value) -> Container {
    let (pod, _) = added(world, config, "attacker");
    pod.ip("addr del 127.0.0.1/8 dev lo");
    pod.enter(|| {
        set_sysctl("ipv4/conf/eth0/route_localnet", "1");
        set_sysctl("ipv4/conf/all/rp_filter", "0");
        set_sysctl("ipv4/conf/eth0/rp_filter", "0");
    });
    pod.ip("route add 127.0.0.1/32 via 10.1.0.1 dev eth0");
    pod.ip("addr add 127.0.0.9/32 dev eth0");
    pod
}

/// Takes the guard of 127.0.0.0/8 away.
fn unguarded() {
    for chain in ["guard_input", "guard_mapped"] {
        run("nft", [&format!("flush chain inet pausenet {chain}")]);
    }
}

/// 127.0.0.1 is open towards the bridge for mapped ports, and still closed to the pods on it.
#[test]
fn a_pod_reaches_nothing_that_the_host_serves_on_127_0_0_1() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "1");
    let pod = attacker(&world, &without_ports(&mapped()));
    let private = bind(HOST, "127.0.0.1:7000");
    let mapped_port = bind(Some(&x), "[::]:80");
    let send = |from: Place, said: &[u8], to: &str| {
        let address = if from.is_some() {
            "10.1.0.3:0"
        } else {
            "127.0.0.1:0"
        };
        bind(from, address).send_to(said, to).unwrap();
    };
    let doors = [
        (&private, "127.0.0.1:7000"),
        (&mapped_port, "127.0.0.1:8080"),
    ];

    for (receiver, to) in doors {
        send(Some(&pod), b"by destination", to);
        send(HOST, b"end", to);
        assert!(datagrams_before(receiver, b"end").is_empty(), "{to}");
    }
    tcp(&listen(Some(&x), "[::]:80"), HOST, "127.0.0.1:8080");

    // The guard is what stops it.
    unguarded();
    for (receiver, to) in doors {
        send(Some(&pod), b"by destination", to);
        let seen = receiver.recv(&mut [0; 64]).unwrap();
        assert_eq!(seen, b"by destination".len(), "{to}");
    }
}

#[test]
fn a_pod_does_not_pass_for_127_0_0_1() {
    let world = World::new();
    added(&world, &mapped(), "x");
    let pod = attacker(&world, &without_ports(&mapped()));
    let service = bind(HOST, "0.0.0.0:7000");
    let forge = || {
        bind(Some(&pod), "127.0.0.9:0")
            .send_to(b"from 127.0.0.9", "10.1.0.1:7000")
            .unwrap();
    };
    // Nothing else in the way: not what the kernel itself would drop.
    for key in ["all/rp_filter", "cni0/rp_filter"] {
        set_sysctl(&format!("ipv4/conf/{key}"), "0");
    }
    set_sysctl("ipv4/conf/cni0/accept_local", "1");

    forge();
    bind(HOST, "0.0.0.0:0")
        .send_to(b"end", "10.1.0.1:7000")
        .unwrap();
    assert!(datagrams_before(&service, b"end").is_empty());

    unguarded();
    forge();
    let seen = service.recv_from(&mut [0; 64]).unwrap().1;
    assert_eq!(seen.ip().to_string(), "127.0.0.9");
}

#[test]
fn one_host_port_at_two_host_addresses_leads_to_two_containers() {
    let world = World::new();
    let _outside = (beyond(&world, 2), beyond(&world, 3));
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
fn a_host_port_that_another_container_has_is_refused_and_nothing_changes() {
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
        assert_eq!(elements_of("pausenet podnet y eth0"), 0);
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
    assert_ne!(elements_of("pausenet podnet x eth0"), 0);

    let (y, _) = added(&world, &mapped(), "y");

    tcp(&listen(Some(&y), "[::]:80"), HOST, "10.1.0.1:8080");
    let before = ruleset();
    // And its late DEL and GC take nothing away.
    call("DEL", &mapped(), &x).run().ok();
    let lost = |rules: &str| rules.matches("podnet y eth0").count();
    assert_eq!(lost(&ruleset()), lost(&before));
}

#[test]
fn a_udp_client_that_keeps_talking_reaches_the_port_s_next_container() {
    let world = World::new();
    let outside = beyond(&world, 2);
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

/// The flows of others are none of ours.
#[test]
fn flows_to_other_udp_ports_are_remembered() {
    let world = World::new();
    let outside = beyond(&world, 2);
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
            assert!(elements_of("pausenet podnet x eth0") >= 4);
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
fn a_late_del_leaves_the_ports_of_who_has_the_address_now() {
    for with_result in [true, false] {
        let world = World::new();
        let (a, result) = added(&world, &mapped(), "a");
        for address in ["10.1.0.2", "fd00::2"] {
            fs::remove_file(Path::new(STORES).join("podnet").join(address)).unwrap();
        }
        let mut wish = mapped();
        wish["runtimeConfig"]["ips"] = json!(["10.1.0.2", "fd00::2"]);
        let (b, _) = added(&world, &wish, "b");
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
fn check_notices_that_a_mapping_is_gone_or_leads_elsewhere() {
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
fn mappings_come_back_with_the_next_add_after_somebody_has_flushed_the_ruleset() {
    let world = World::new();
    added(&world, &mapped(), "x");
    run("nft", ["flush", "ruleset"]);

    let (y, _) = added(&world, &mapped(), "y");

    let server = listen(Some(&y), "[::]:80");
    tcp(&server, HOST, "127.0.0.1:8080");
    tcp(&server, HOST, "10.1.0.1:8080");
}

#[test]
fn what_cannot_be_mapped_is_refused_before_anything_changes() {
    let port = |host: i64, inside: i64| json!({"hostPort": host, "containerPort": inside});
    let world = World::new();
    let container = world.container("x");
    let before = world.snapshot();
    for (keys, entry, code, word) in [
        (json!({}), port(0, 80), 7, "hostPort 0"),
        (json!({}), port(65536, 80), 7, "hostPort 65536"),
        (json!({}), port(-1, 80), 7, "hostPort -1"),
        (json!({}), port(80, 0), 7, "containerPort 0"),
        (json!({}), port(80, 65536), 7, "containerPort 65536"),
        (
            json!({}),
            with(port(80, 80), json!({"protocol": "icmp"})),
            7,
            "icmp",
        ),
        (
            json!({}),
            with(port(80, 80), json!({"hostIP": "eth0"})),
            7,
            "eth0",
        ),
        (
            json!({}),
            json!({"hostPort": "80", "containerPort": 80}),
            6,
            "80",
        ),
        (json!({}), json!({"containerPort": 80}), 6, "hostPort"),
        (
            json!({"externalSetMarkChain": "KUBE-MARK-MASQ", "backend": "nftables"}),
            port(80, 80),
            2,
            "externalSetMarkChain",
        ),
        (
            json!({"conditionsV4": ["-d", "192.0.2.0/24"]}),
            port(80, 80),
            2,
            "conditionsV4",
        ),
        (
            json!({"conditionsV6": ["-d", "fd00::/8"]}),
            port(80, 80),
            2,
            "conditionsV6",
        ),
        (json!({"markMasqBit": 32}), port(80, 80), 7, "markMasqBit"),
    ] {
        let config = with(mapping(mapped(), json!([entry])), keys);
        let error = call("ADD", &config, &container).run().err_code(code);
        let told = error["msg"].as_str().unwrap();
        assert!(told.contains(word), "no {word:?} in {told:?}");
    }
    assert_eq!(world.snapshot(), before);
    assert_eq!(ruleset(), "");
}

#[test]
fn traffic_that_others_would_mark_is_masqueraded_without_a_mark() {
    for keys in [
        json!({"markMasqBit": 13, "backend": "iptables", "conditionsV4": [],
            "externalSetMarkChain": ""}),
        // As in the reference's example for Kubernetes, where kube-proxy has such a chain.
        json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}),
    ] {
        let world = World::new();
        let (x, _) = added(&world, &with(mapped(), keys), "x");
        tcp(&listen(Some(&x), "[::]:80"), HOST, "127.0.0.1:8080");
    }
}

/// A runtime may have lost what it asked for: whose a port is stands on the port itself.
#[test]
fn del_without_port_mappings_removes_them_all_the_same() {
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
