//! 127.0.0.0/8 is open towards containers for mapped ports, and closed to the containers behind them.

use serde_json::Value;

use super::{mapped, without_ports};
use common::traffic::{HOST, Namespace, bind, datagrams_before, listen, tcp};
use common::{Container, World, added, run, set_sysctl, sysctl};

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
fn a_pod_cannot_reach_host_services_on_127_0_0_1() {
    let world = World::new();
    let (x, _) = added(&world, &mapped(), "x");
    assert_eq!(sysctl("ipv4/conf/cni0/route_localnet"), "1");
    let pod = attacker(&world, &without_ports(&mapped()));
    let private = bind(HOST, "127.0.0.1:7000");
    let mapped_port = bind(Some(&x), "[::]:80");
    let send = |from: Namespace, said: &[u8], to: &str| {
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
fn a_pod_cannot_spoof_127_0_0_1() {
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
