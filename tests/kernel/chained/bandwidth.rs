//! `bandwidth`: the limits are there, hold, and go with the attachment.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{List, bridge, ptp, second};
use crate::plugins::call_alone;
use common::{Container, World, ip, lab, run, with};

/// 4 Mbit/s in each direction, in bursts of 32 KiB.
fn limits() -> Value {
    let burst = 32 * 1024 * 8;
    json!({"ingressRate": 4_000_000, "ingressBurst": burst, "egressRate": 4_000_000, "egressBurst": burst})
}

fn is_limited(rate: f64) -> bool {
    rate < 700_000.0
}

/// Bytes per second from the host to the container, and from the container to the host, by way of this address of
/// the host's.
fn rates(container: &Container, host: IpAddr) -> [f64; 2] {
    [true, false].map(|to_container| {
        const BYTES: usize = 400_000;
        let listener = TcpListener::bind(SocketAddr::new(host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = container.enter(|| TcpStream::connect(address).unwrap());
        let (outside, _) = listener.accept().unwrap();
        let (mut from, mut to) = match to_container {
            true => (outside, inside),
            false => (inside, outside),
        };
        let start = Instant::now();
        let sender = std::thread::spawn(move || from.write_all(&vec![7; BYTES]).unwrap());
        to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        to.read_exact(&mut vec![0; BYTES]).unwrap();
        sender.join().unwrap();
        BYTES as f64 / start.elapsed().as_secs_f64()
    })
}

#[test]
fn limits_hold_behind_any_plugin_that_makes_a_pair_and_go_with_del() {
    for first in [bridge("podnet", 1), ptp("podnet", 1)] {
        for list in List::both(&first, &second("bandwidth", "podnet", limits())) {
            let world = World::new();
            let x = world.container("x");
            ip("addr add 192.0.2.9/32 dev lo");
            let wired = list.behind_first(&x);
            let result = list.call_second("ADD", &wired, &x).run().ok();

            let [to, from] = rates(&x, "192.0.2.9".parse().unwrap());
            assert!(is_limited(to) && is_limited(from), "{to} {from}");
            list.check(&x, &result);
            let interfaces = result["interfaces"].as_array().unwrap();
            let ifb = interfaces.last().unwrap()["name"].as_str().unwrap();
            assert!(ifb.starts_with("bwp"), "{result}");

            list.del(&x, &result);
            let links = world.links();
            assert!(
                !links
                    .iter()
                    .any(|link| link.kind == "ifb" || link.kind == "veth")
            );
        }
    }
}

/// Each removes what the other made.
#[test]
fn del_works_across_a_change_of_plugins() {
    let Some(reference) = lab::peers_today() else {
        return;
    };
    let list = List::ours(bridge("podnet", 1), second("bandwidth", "podnet", limits()));
    for adds_ours in [true, false] {
        let world = World::new();
        let x = world.container("x");
        let config = list.behind_first(&x);
        let theirs = |verb| {
            let call = list.call_second(verb, &config, &x);
            call.program(reference.join("bandwidth"))
        };
        let ours = |verb| list.call_second(verb, &config, &x);
        let (add, del) = match adds_ours {
            true => (ours("ADD"), theirs("DEL")),
            false => (theirs("ADD"), ours("DEL")),
        };
        add.run().ok();
        assert!(world.links().iter().any(|link| link.kind == "ifb"));
        del.run().ok();
        assert!(!world.links().iter().any(|link| link.kind == "ifb"));
    }
}

/// The address at the other end decides, in both directions and both families.
#[test]
fn a_list_of_subnets_says_what_is_limited() {
    for (key, limited, free) in [
        ("shapedSubnets", "192.0.2.9", "198.51.100.9"),
        ("unshapedSubnets", "198.51.100.9", "192.0.2.9"),
        ("shapedSubnets", "fd99::9", "fd98::9"),
        ("unshapedSubnets", "fd98::9", "fd99::9"),
    ] {
        let world = World::new();
        let x = world.container("x");
        for address in [
            "192.0.2.9/32",
            "198.51.100.9/32",
            "fd99::9/128",
            "fd98::9/128",
        ] {
            ip(&format!("addr add {address} dev lo"));
        }
        let subnets = json!({key: ["192.0.2.0/24", "fd99::/64"]});
        let conf = with(second("bandwidth", "podnet", limits()), subnets);
        let list = List::ours(bridge("podnet", 1), conf);
        let result = list.add(&x);
        let [to, from] = rates(&x, limited.parse().unwrap());
        assert!(
            is_limited(to) && is_limited(from),
            "{key} {limited}: {to} {from}"
        );
        let [to, from] = rates(&x, free.parse().unwrap());
        assert!(
            !is_limited(to) && !is_limited(from),
            "{key} {free}: {to} {from}"
        );
        list.check(&x, &result);
        list.del(&x, &result);
        assert!(!world.links().iter().any(|link| link.kind == "ifb"));
    }
}

#[test]
fn check_reports_a_limit_that_is_gone_or_another() {
    for keys in [json!({}), json!({"shapedSubnets": ["192.0.2.0/24"]})] {
        let world = World::new();
        let x = world.container("x");
        let conf = with(second("bandwidth", "podnet", limits()), keys);
        let list = List::ours(bridge("podnet", 1), conf);
        let result = list.add(&x);
        list.check(&x, &result);
        let interfaces = result["interfaces"].as_array().unwrap();
        let ifb = interfaces.last().unwrap()["name"].as_str().unwrap();
        run("tc", ["qdisc", "del", "dev", ifb, "root"]);
        let said = list.failed_check(&x, &result);
        assert!(said.contains("sends"), "{said}");
        let port = world
            .links()
            .into_iter()
            .find(|link| link.kind == "veth")
            .unwrap();
        run("tc", ["qdisc", "del", "dev", &port.name, "root"]);
        let said = list.failed_check(&x, &result);
        assert!(said.contains("receives"), "{said}");
    }
}

#[test]
fn gc_removes_the_links_of_containers_that_are_gone() {
    let world = World::new();
    let list = List::ours(bridge("podnet", 1), second("bandwidth", "podnet", limits()));
    let (x, y) = (world.container("x"), world.container("y"));
    list.add(&x);
    let kept = list.add(&y);
    x.destroy();
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "y", "ifname": "eth0"}]});
    call_alone("bandwidth", "GC", &with(list.second.clone(), valid))
        .run()
        .ok();
    let ifbs = world
        .links()
        .into_iter()
        .filter(|link| link.kind == "ifb")
        .count();
    assert_eq!(ifbs, 1);
    list.check(&y, &kept);
}

#[test]
fn what_cannot_be_limited_is_refused_and_leaves_nothing() {
    let world = World::new();
    let x = world.container("x");
    x.ip("link add eth0 type bridge");
    let before = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": x.path}],
        "ips": [{"address": "10.1.0.2/24", "interface": 0}]});
    let list = List::ours(bridge("podnet", 1), second("bandwidth", "podnet", limits()));
    let config = with(list.second.clone(), json!({"prevResult": before}));
    let error = list.call_second("ADD", &config, &x).run().err_code(7);
    assert!(error["msg"].as_str().unwrap().contains("veth"), "{error}");
    // Without limits, nothing is looked at.
    let nothing = second("bandwidth", "podnet", json!({"prevResult": before}));
    list.call_second("ADD", &nothing, &x).run().ok();
}
