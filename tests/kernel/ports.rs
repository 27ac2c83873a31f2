//! Port mappings: from where a container is reachable through a port of the host, and with which
//! source address.

mod flows;
mod lifecycle;
mod loopback_guard;
mod order;

use std::path::Path;

use serde_json::{Value, json};

use common::nftables::ruleset;
use common::traffic::{HOST, Namespace, bind, listen, tcp, tcp_is_blocked, udp};
use common::{Container, World, added, call, ip, outside_host, podnet, set_sysctl, sysctl, with};

/// The config with these mappings.
pub(crate) fn mapping(config: Value, mappings: Value) -> Value {
    with(config, json!({"runtimeConfig": {"portMappings": mappings}}))
}

/// A dual-stack network where host port 8080 leads to port 80, of TCP and UDP.
pub(crate) fn mapped() -> Value {
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

/// Every client of the port, and the source address that the container sees.
fn everybody_reaches(server: &Container, clients: &[(Namespace, &str, &str, &str)]) {
    let streams = listen(Some(server), "[::]:80");
    let datagrams = bind(Some(server), "[::]:80");
    for (client, any, to, seen) in clients {
        assert_eq!(tcp(&streams, *client, to).to_string(), *seen, "{to}");
        let sender = bind(*client, any);
        assert_eq!(udp(&datagrams, &sender, to).to_string(), *seen, "{to}");
    }
}

#[test]
fn a_mapped_port_is_reachable_from_outside_and_keeps_the_client_address() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let (x, _) = added(&world, &mapped(), "x");
    everybody_reaches(
        &x,
        &[
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
            (Some(&outside), "0.0.0.0:0", "10.1.0.1:8080", "192.0.2.2"),
            (Some(&outside), "[::]:0", "[fd99:2::1]:8080", "fd99:2::2"),
        ],
    );
    tcp_is_blocked(Some(&outside), "192.0.2.1:80");
}

#[test]
fn a_mapped_port_is_reachable_from_the_host_by_each_of_its_addresses_and_127_0_0_1() {
    let world = World::new();
    let _outside = outside_host(&world, 2);
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

/// Unlike 127.0.0.1: the kernel takes packets to ::1 from lo only, so no container could answer.
#[test]
fn a_mapped_port_leaves_the_host_s_service_on_ipv6_loopback_alone() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    let in_pod = listen(Some(&x), "[::]:80");
    tcp_is_blocked(HOST, "[::1]:8080");
    let service = listen(HOST, "[::1]:8080");
    assert_eq!(tcp(&service, HOST, "[::1]:8080").to_string(), "::1");
    let datagrams = bind(HOST, "[::1]:8080");
    let sender = bind(HOST, "[::1]:0");
    assert_eq!(udp(&datagrams, &sender, "[::1]:8080").to_string(), "::1");
    tcp(&in_pod, HOST, "127.0.0.1:8080");
    tcp(&in_pod, HOST, "[fd00::1]:8080");
}

/// The kernel forwards nothing to or from a link-local address, and no answer would reach ::1.
#[test]
fn a_mapped_port_leaves_the_host_s_service_at_link_local_addresses_alone() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    ip("addr add fe80::aa/64 dev up2 nodad");
    outside.ip("addr add fe80::bb/64 dev eth0 nodad");
    let (x, _) = added(&world, &mapped(), "x");
    x.ip("addr add fe80::cc/64 dev eth0 nodad");
    ip("addr add fe80::dd/64 dev cni0 nodad");
    let in_pod = listen(Some(&x), "[::]:80");
    let service = listen(HOST, "[::]:8080");
    for (client, to, link) in [
        (HOST, "fe80::aa", world.link("up2")),
        (Some(&outside), "fe80::aa", outside.link("eth0")),
        (Some(&x), "fe80::dd", x.link("eth0")),
    ] {
        let scope = link.unwrap().index;
        tcp(&service, client, &format!("[{to}%{scope}]:8080"));
    }
    tcp(&in_pod, Some(&outside), "[fd99:2::1]:8080");
    tcp(&in_pod, HOST, "[fd99:2::1]:8080");
    let from_loopback = bind(HOST, "[::1]:0");
    let datagrams = bind(HOST, "[fd99:2::1]:8080");
    udp(&datagrams, &from_loopback, "[fd99:2::1]:8080");
}

#[test]
fn a_port_on_ipv6_addresses_that_are_never_forwarded_alone_is_refused() {
    let world = World::new();
    let at = |ips: &[&str]| {
        let entry = |ip| json!({"hostPort": 8080, "containerPort": 80, "hostIP": ip});
        mapping(mapped(), ips.iter().map(entry).collect())
    };
    let x = world.container("x");
    for host_ip in ["::1", "fe80::1"] {
        let error = call("ADD", &at(&[host_ip]), &x).run().err_code(7);
        let named = format!("[{host_ip}]:8080/tcp");
        assert!(error["msg"].as_str().unwrap().contains(&named), "{error}");
    }
    // With 127.0.0.1 it is one wish, for "localhost".
    call("ADD", &at(&["127.0.0.1", "::1"]), &x).run().ok();
    tcp(&listen(Some(&x), "[::]:80"), HOST, "127.0.0.1:8080");
    tcp_is_blocked(HOST, "[::1]:8080");
    call("DEL", &at(&["::1"]), &x).run().ok();
}

/// A neighbour would not know an answer that came straight from the container, so both see the
/// host between them; so does the container that reaches itself. With br_netfilter its packets
/// turn round within the bridge, and only hairpin mode lets them back out of the port.
#[test]
fn a_mapped_port_is_reachable_from_neighbours_and_the_container_itself() {
    for hairpin in [false, true] {
        let world = World::new();
        let _outside = outside_host(&world, 2);
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
fn pods_of_other_networks_keep_their_source_address_to_a_mapped_port() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    let ipam = json!({"type": "host-local", "subnet": "10.2.0.0/24"});
    let other = json!({"name": "othernet", "bridge": "cni1", "ipam": ipam});
    let (y, _) = added(&world, &with(without_ports(&mapped()), other), "y");
    everybody_reaches(&x, &[(Some(&y), "0.0.0.0:0", "10.2.0.1:8080", "10.2.0.2")]);
}

#[test]
fn with_masq_all_the_container_sees_only_the_host_as_source() {
    let world = World::new();
    let outside = outside_host(&world, 2);
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
    let outside = outside_host(&world, 2);
    let (x, _) = added(&world, &with(mapped(), json!({"snat": false})), "x");
    everybody_reaches(
        &x,
        &[
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
            (HOST, "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.1"),
        ],
    );
    let _server = listen(Some(&x), "[::]:80");
    tcp_is_blocked(HOST, "127.0.0.1:8080");
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "0");
}

#[test]
fn host_ip_limits_a_mapped_port_to_one_host_address() {
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
        let _outside = outside_host(&world, 2);
        let entry = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": host_ip}]);
        let (x, _) = added(&world, &mapping(mapped(), entry), "x");
        let server = listen(Some(&x), "[::]:80");
        for address in open {
            tcp(&server, HOST, &format!("{address}:8080"));
        }
        for address in shut {
            tcp_is_blocked(HOST, &format!("{address}:8080"));
        }
    }
}

#[test]
fn a_port_at_127_0_0_1_is_reachable_from_the_host_only() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let entry = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let (y, _) = added(&world, &without_ports(&mapped()), "y");
    let server = listen(Some(&x), "[::]:80");
    assert_eq!(tcp(&server, HOST, "127.0.0.1:8080").to_string(), "10.1.0.1");
    tcp_is_blocked(Some(&outside), "192.0.2.1:8080");
    tcp_is_blocked(Some(&y), "10.1.0.1:8080");
}

/// CVE-2025-67499: the reference's nftables backend caught what only passed through the host.
#[test]
fn traffic_forwarded_to_other_hosts_is_left_alone() {
    let world = World::new();
    let (one, two) = (outside_host(&world, 2), outside_host(&world, 3));
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
fn other_ports_and_protocols_stay_with_the_host() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let entry = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "UDP"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let _inside = listen(Some(&x), "[::]:80");
    let (same, next) = (listen(HOST, "[::]:8080"), listen(HOST, "[::]:8081"));
    for client in [HOST, Some(&outside), Some(&x)] {
        tcp(&same, client, "192.0.2.1:8080");
        tcp(&next, client, "192.0.2.1:8081");
    }
}

#[test]
fn invalid_mappings_are_refused_before_anything_changes() {
    let port = |host: i64, inside: i64| json!({"hostPort": host, "containerPort": inside});
    let world = World::new();
    let container = world.container("x");
    let before = world.snapshot();
    for (keys, entry, code, word) in [
        (json!({}), port(0, 80), 7, "hostPort: 0 is not a port"),
        (
            json!({}),
            port(65536, 80),
            7,
            "hostPort: 65536 is not a port",
        ),
        (json!({}), port(-1, 80), 7, "hostPort: -1 is not a port"),
        (json!({}), port(80, 0), 7, "containerPort: 0 is not a port"),
        (
            json!({}),
            port(80, 65536),
            7,
            "containerPort: 65536 is not a port",
        ),
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
        let message = error["msg"].as_str().unwrap();
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
    assert_eq!(world.snapshot(), before);
    assert_eq!(ruleset(), "");
}

#[test]
fn a_host_ip_of_a_family_that_the_container_lacks_is_refused_and_nothing_is_left() {
    for (host_ip, subnet, family) in [
        ("::", "10.1.0.0/24", "IPv6"),
        ("fd99:2::1", "10.1.0.0/24", "IPv6"),
        ("0.0.0.0", "fd00::/64", "IPv4"),
        ("192.0.2.1", "fd00::/64", "IPv4"),
    ] {
        let world = World::new();
        let x = world.container("x");
        let before = world.snapshot().net;
        let ipam = json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}});
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": host_ip}]);
        let config = with(mapping(podnet(), ports), ipam);

        let error = call("ADD", &config, &x).run().err_code(7);

        let message = error["msg"].as_str().unwrap();
        let lacks = format!("no {family} address");
        assert!(
            message.contains("8080") && message.contains(&lacks),
            "{message}"
        );
        assert_eq!(world.snapshot().net, before, "{host_ip}");
        assert!(common::allocated("podnet").is_empty());
        assert_eq!(ruleset(), "");
        call("DEL", &config, &x).run().ok();
    }
}

/// Runtimes write both for one published port.
#[test]
fn a_port_at_0_0_0_0_and_at_the_ipv6_wildcard_is_mapped_for_the_family_there_is() {
    let world = World::new();
    let _outside = outside_host(&world, 2);
    let entry = |host_ip| json!({"hostPort": 8080, "containerPort": 80, "hostIP": host_ip});
    let config = mapping(podnet(), json!([entry("0.0.0.0"), entry("::")]));

    let (x, result) = added(&world, &config, "x");

    tcp(&listen(Some(&x), "[::]:80"), HOST, "192.0.2.1:8080");
    let checked = with(config, json!({"prevResult": result}));
    call("CHECK", &checked, &x).run().ok();
}

#[test]
fn mapped_port_traffic_is_masqueraded_without_a_mark() {
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
