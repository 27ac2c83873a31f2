//! Any number of ports, flows, routes and dead containers: neither requests nor replies outgrow a
//! socket.

use std::net::UdpSocket;

use serde_json::{Value, json};

use crate::plugins::{call_as, in_a_minute};
use crate::ports::mapping;
use common::nftables::element_count;
use common::traffic::{HOST, inside, listen, tcp};
use common::{Call, Container, World, added, call, outside_host, podnet, run, sysctl, with};

fn dual_stack() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    with(podnet(), json!({"ipam": ipam}))
}

fn many_ports(count: u16) -> Value {
    let entry = |n| json!({"hostPort": 10_000 + n, "containerPort": 80});
    (0..count).map(entry).collect()
}

#[test]
fn thousands_of_ports_are_mapped_checked_and_removed() {
    const COUNT: u16 = 3000;
    let world = World::new();
    let x = world.container("x");
    let wired = call("ADD", &dual_stack(), &x).run().ok();
    let portmap = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "portmap",
        "capabilities": {"portMappings": true}, "prevResult": wired});
    let portmap = mapping(portmap, many_ports(COUNT));
    let count = || element_count("portmap podnet x eth0");
    for known in [true, false] {
        in_a_minute(&call_as("portmap", "ADD", &portmap, &x)).ok();
        assert_eq!(count(), 2 * (usize::from(COUNT) + 2));
        in_a_minute(&call_as("portmap", "CHECK", &portmap, &x)).ok();
        // A second ADD finds all of them.
        in_a_minute(&call_as("portmap", "ADD", &portmap, &x)).ok();
        tcp(&listen(Some(&x), "[::]:80"), HOST, "10.1.0.1:12999");
        let changes = if known {
            json!({})
        } else {
            json!({"runtimeConfig": null})
        };
        in_a_minute(&call_as(
            "portmap",
            "DEL",
            &with(portmap.clone(), changes),
            &x,
        ));
        assert_eq!(count(), 0);
    }
}

/// Root of a user namespace may not make a socket's buffers larger than the host's limit.
#[test]
fn thousands_of_ports_are_mapped_without_the_right_to_enlarge_buffers() {
    let config = with(
        mapping(dual_stack(), many_ports(3000)),
        json!({"type": "pausenet"}),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, config.to_string()).unwrap();
    let script = format!(
        "set -e\n\
         mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; mkdir /run/netns\n\
         ip link set lo up; ip netns add x\n\
         export CNI_CONTAINERID=x CNI_NETNS=/run/netns/x CNI_IFNAME=eth0 CNI_PATH=/nonexistent\n\
         count() {{ nft list ruleset | grep -o 'podnet x eth0' | wc -l; }}\n\
         for again in 1 2; do\n\
         CNI_COMMAND=ADD timeout 60 {plugin} < {file} > /run/result; count\n\
         CNI_COMMAND=DEL timeout 60 {plugin} < {file}; count\n\
         done",
        plugin = common::programs::pausenet(),
        file = file.display(),
    );
    let arguments = [
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "sh",
        "-c",
        &script,
    ];
    let counts = run("unshare", arguments);
    let all = (2 * (3000 + 2)).to_string();
    assert_eq!(
        counts.split_whitespace().collect::<Vec<_>>(),
        [&all, "0", &all, "0"]
    );
}

/// The kernel sends an error for each.
#[test]
fn of_thousands_of_ports_that_are_taken_the_first_is_named() {
    let world = World::new();
    let config = mapping(dual_stack(), many_ports(3000));
    added(&world, &config, "x");
    let y = world.container("y");
    let error = in_a_minute(&call("ADD", &config, &y)).err_code(103);
    assert!(
        error["msg"].as_str().unwrap().contains("10000/tcp"),
        "{error}"
    );
    assert_eq!(element_count("pausenet podnet y eth0"), 0);
}

#[test]
fn gc_removes_the_elements_of_thousands_of_dead_containers() {
    const COUNT: usize = 5000;
    let world = World::new();
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]});
    let config = with(podnet(), json!({"ipMasq": true, "ipam": ipam}));
    added(&world, &config, "x");
    let element = |n: usize| {
        format!(
            "10.1.{}.{} comment \"pausenet podnet dead{n} eth0\"",
            n / 250 + 1,
            n % 250 + 1
        )
    };
    let elements: Vec<_> = (0..COUNT).map(element).collect();
    let script = format!(
        "add element inet pausenet masquerade_10.1.0.0/16 {{ {} }}\n",
        elements.join(", ")
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    run("nft", ["-f", file.path().to_str().unwrap()]);

    let valid = json!([{"containerID": "x", "ifname": "eth0"}]);
    let gc = with(config, json!({"cni.dev/valid-attachments": valid}));
    in_a_minute(&Call::new("GC", &gc)).ok();

    assert_eq!(element_count("pausenet podnet x eth0"), 1);
    assert!(!common::nftables::ruleset().contains("dead"));
}

/// Flows of many clients to UDP ports of the host.
fn flows(from: &Container, ports: std::ops::Range<u16>, clients: u16) {
    inside(Some(from), || {
        for client in 0..clients {
            let socket = UdpSocket::bind(("192.0.2.2", 20_000 + client)).unwrap();
            for port in ports.clone() {
                socket.send_to(b"x", ("192.0.2.1", port)).unwrap();
            }
        }
    });
}

fn flow_count() -> usize {
    sysctl("netfilter/nf_conntrack_count").parse().unwrap()
}

fn udp_ports(ports: std::ops::Range<u16>) -> Value {
    let entry = |port| json!({"hostPort": port, "containerPort": 80, "protocol": "udp"});
    ports.map(entry).collect()
}

#[test]
fn tens_of_thousands_of_flows_are_forgotten_with_their_port() {
    // The kernel searches for a few ports; for more, the flows are listed.
    for ports in [8080..8081, 8080..8090] {
        let clients = 20_000 / ports.len() as u16;
        let world = World::new();
        let outside = outside_host(&world, 2);
        // From the first one on, the kernel tracks connections.
        let config = mapping(podnet(), udp_ports(ports.clone()));
        added(&world, &mapping(podnet(), udp_ports(9000..9001)), "other");
        flows(&outside, ports.clone(), clients);
        assert!(flow_count() >= 20_000);

        // A few are of others.
        let x = world.container("x");
        in_a_minute(&call("ADD", &config, &x)).ok();
        assert!(flow_count() < 100, "{ports:?}: before the mapping");
        flows(&outside, ports.clone(), clients);
        assert!(flow_count() >= 20_000);
        in_a_minute(&call("DEL", &config, &x)).ok();
        assert!(flow_count() < 100, "{ports:?}: through the mapping");
    }
}

#[test]
fn tens_of_thousands_of_routes_are_added_and_checked() {
    const COUNT: usize = 20_000;
    let world = World::new();
    let v4 = (0..COUNT).map(|n| json!({"dst": format!("172.16.{}.{}/32", n / 250, n % 250)}));
    let v6 = (0..COUNT).map(|n| json!({"dst": format!("fd01::{n:x}/128")}));
    let routes: Vec<_> = v4.chain(v6).collect();
    let mut config = dual_stack();
    config["ipam"]["routes"] = json!(routes);
    let x = world.container("x");
    let result = in_a_minute(&call("ADD", &config, &x)).ok();
    // And the default routes.
    assert_eq!(x.routes().len(), 2 * COUNT + 2);
    let check = with(config.clone(), json!({"prevResult": result}));
    in_a_minute(&call("CHECK", &check, &x)).ok();
    x.ip("route del 172.16.79.249");
    let error = in_a_minute(&call("CHECK", &check, &x)).err_code(102);
    assert!(
        error["msg"].as_str().unwrap().contains("172.16.79.249"),
        "{error}"
    );
    in_a_minute(&call("DEL", &check, &x)).ok();
}

/// One set of many ranges, many sets of one, and as many requested addresses.
#[test]
fn sixty_thousand_ranges_are_checked_and_allocated_from() {
    const COUNT: u32 = 60_000;
    let world = World::new();
    let subnet = |n: u32| {
        let net = std::net::Ipv4Addr::from(0x0a00_0000 + 8 * n);
        json!({"subnet": format!("{net}/29")})
    };
    // In no order, so that none is found by luck.
    let shuffled = |n: u32| subnet(n * 7919 % COUNT);
    let one_set: Vec<_> = (0..COUNT).map(shuffled).collect();
    let config = |ranges: Value| {
        json!({"cniVersion": "1.1.0", "name": "podnet", "type": "bridge",
            "ipam": {"type": "host-local", "ranges": ranges}})
    };
    let x = world.container("x");
    let ranges = config(json!([one_set]));
    for verb in ["STATUS", "ADD", "DEL"] {
        in_a_minute(&call_as("host-local", verb, &ranges, &x)).ok();
    }
    // The last two of the sets overlap: all of them are compared.
    let mut sets: Vec<_> = (0..COUNT).map(|n| json!([shuffled(n)])).collect();
    sets.push(json!([subnet(5)]));
    let error = in_a_minute(&call_as("host-local", "ADD", &config(json!(sets)), &x)).err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("overlaps"),
        "{error}"
    );

    let few: Vec<_> = (0..1000).map(|n| json!([shuffled(n)])).collect();
    let addresses: Vec<_> = (0..1000)
        .map(|n| shuffled(n)["subnet"].as_str().unwrap().replace("/29", ""))
        .map(|net| {
            let net: std::net::Ipv4Addr = net.parse().unwrap();
            std::net::Ipv4Addr::from(u32::from(net) + 4).to_string()
        })
        .collect();
    let requested = with(
        config(json!(few)),
        json!({"runtimeConfig": {"ips": addresses}}),
    );
    let result = in_a_minute(&call_as("host-local", "ADD", &requested, &x)).ok();
    assert_eq!(result["ips"].as_array().unwrap().len(), 1000);
}

#[test]
fn all_ports_of_the_host_are_mapped_to_one_container() {
    let world = World::new();
    let x = world.container("x");
    let entry = |port| json!({"hostPort": port, "containerPort": 80});
    let all: Value = (1..=65_535).map(entry).collect();
    let config = mapping(podnet(), all);
    let result = in_a_minute(&call("ADD", &config, &x)).ok();
    tcp(&listen(Some(&x), "[::]:80"), HOST, "10.1.0.1:65535");
    let check = with(config, json!({"prevResult": result}));
    in_a_minute(&call("CHECK", &check, &x)).ok();
    in_a_minute(&call("DEL", &check, &x)).ok();
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
}

/// Each of the entries has all VLANs.
#[test]
fn a_trunk_of_a_hundred_thousand_entries_is_read() {
    let world = World::new();
    let x = world.container("x");
    let trunk = vec![json!({"minID": 1, "maxID": 4094}); 100_000];
    let wrong = with(podnet(), json!({"vlanTrunk": trunk, "mtu": 1}));
    let error = in_a_minute(&call("ADD", &wrong, &x)).err_code(7);
    assert!(error["msg"].as_str().unwrap().contains("mtu 1 "), "{error}");
}
