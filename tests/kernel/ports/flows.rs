//! UDP flows end with the mapping that they came through, whoever removes it.

use serde_json::{Value, json};

use super::{mapped, mapping};
use crate::plugins::{call_alone, call_as};
use common::traffic::{HOST, bind, datagrams_before, udp};
use common::{Call, Container, World, added, call, outside_host, podnet, run, with};

/// What removes the mapping of a container.
type Removal = fn(config: &Value, x: &Container, result: &Value);

const REMOVALS: [(&str, Removal); 6] = [
    ("DEL", |config, x, result| {
        call(
            "DEL",
            &with(config.clone(), json!({"prevResult": result})),
            x,
        )
        .run()
        .ok();
    }),
    ("DEL without prevResult", |config, x, _| {
        call("DEL", config, x).run().ok();
    }),
    ("DEL that does not know the ports", |config, x, result| {
        let forgotten = json!({"prevResult": result, "runtimeConfig": null,
            "capabilities": {"portMappings": true}});
        call("DEL", &with(config.clone(), forgotten), x).run().ok();
    }),
    ("DEL after a flushed ruleset", |config, x, result| {
        run("nft", ["flush", "ruleset"]);
        call(
            "DEL",
            &with(config.clone(), json!({"prevResult": result})),
            x,
        )
        .run()
        .ok();
    }),
    ("GC", |config, _, _| {
        let none = json!({"cni.dev/valid-attachments": []});
        Call::new("GC", &with(config.clone(), none)).run().ok();
    }),
    ("GC of a container without a namespace", |config, x, _| {
        x.ip("link del eth0");
        let none = json!({"cni.dev/valid-attachments": []});
        Call::new("GC", &with(config.clone(), none)).run().ok();
    }),
];

const CLIENTS: [(&str, &str); 2] = [
    ("0.0.0.0:0", "192.0.2.1:8080"),
    ("[::]:0", "[fd99:2::1]:8080"),
];

#[test]
fn a_client_reaches_the_host_s_own_service_when_the_mapping_is_removed() {
    for (what, remove) in REMOVALS {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let (x, result) = added(&world, &mapped(), "x");
        let in_pod = bind(Some(&x), "[::]:80");
        let clients = CLIENTS.map(|(any, to)| (bind(Some(&outside), any), to));
        for (client, to) in &clients {
            udp(&in_pod, client, to);
        }
        remove(&mapped(), &x, &result);
        let on_host = bind(HOST, "[::]:8080");
        for (client, to) in &clients {
            udp(&on_host, client, to);
            println!("{what}: {to}");
        }
    }
}

#[test]
fn the_address_s_next_holder_gets_nothing_from_clients_of_the_one_before() {
    for (_, remove) in REMOVALS {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let (x, result) = added(&world, &mapped(), "x");
        let server = bind(Some(&x), "[::]:80");
        let clients = CLIENTS.map(|(any, to)| (bind(Some(&outside), any), to));
        for (client, to) in &clients {
            udp(&server, client, to);
        }
        remove(&mapped(), &x, &result);
        let mut config = mapped();
        config["runtimeConfig"] = json!({"ips": ["10.1.0.2", "fd00::2"]});
        let (y, _) = added(&world, &config, "y");
        let next = bind(Some(&y), "[::]:80");
        for (client, to) in &clients {
            client.send_to(b"stale", to).unwrap();
        }
        bind(HOST, "0.0.0.0:0")
            .send_to(b"last", "10.1.0.2:80")
            .unwrap();
        assert_eq!(datagrams_before(&next, b"last"), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn flows_of_a_chained_portmap_end_with_its_del_and_gc() {
    for verb in ["DEL", "GC"] {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let (x, wired) = added(&world, &podnet(), "x");
        let portmap = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "portmap",
            "capabilities": {"portMappings": true}, "prevResult": wired});
        let entry = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
        let portmap = mapping(portmap, entry);
        call_as("portmap", "ADD", &portmap, &x).run().ok();
        let client = bind(Some(&outside), "0.0.0.0:0");
        udp(&bind(Some(&x), "[::]:80"), &client, "192.0.2.1:8080");
        match verb {
            "DEL" => call_as("portmap", "DEL", &portmap, &x).run().ok(),
            _ => {
                let none = json!({"cni.dev/valid-attachments": [], "prevResult": null});
                call_alone("portmap", "GC", &with(portmap, none)).run().ok()
            }
        };
        udp(&bind(HOST, "0.0.0.0:8080"), &client, "192.0.2.1:8080");
    }
}

#[test]
fn del_keeps_the_flows_of_other_containers() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    let entry = json!([{"hostPort": 9090, "containerPort": 90, "protocol": "udp"}]);
    let (x, _) = added(&world, &mapping(mapped(), entry), "x");
    let (y, _) = added(&world, &mapped(), "y");
    let (server, client) = (bind(Some(&x), "[::]:90"), bind(Some(&outside), "0.0.0.0:0"));
    udp(&server, &client, "192.0.2.1:9090");
    udp(&bind(Some(&y), "[::]:80"), &client, "192.0.2.1:8080");
    call("DEL", &mapped(), &y).run().ok();
    // The rules lead nowhere now; only the remembered flow does.
    run("nft", ["flush chain inet pausenet ports"]);
    udp(&server, &client, "192.0.2.1:9090");
}
