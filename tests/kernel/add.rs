//! ADD: what it makes, and what it says that it made.

use serde_json::json;

use crate::common::{Call, World, allocated, podnet, with};

#[test]
fn add_wires_the_container_to_the_bridge_and_tells_how() {
    let world = World::new();
    let container = world.container("x");

    let result = Call::new("ADD", &podnet()).netns(&container).run().ok();

    let bridge = world.link("cni0").expect("the bridge");
    let inside = container.link("eth0").expect("the container's end");
    let host_end = world
        .link(result["interfaces"][1]["name"].as_str().unwrap())
        .unwrap();
    assert_eq!(host_end.controller, Some(bridge.index));
    assert_eq!(host_end.peer, Some(inside.index));
    assert_eq!(host_end.alias.as_deref(), Some("pausenet podnet c1 eth0"));
    assert!(host_end.running && inside.running && bridge.running);
    let mac = |link: &pausenet::kernel::link::Link| link.mac.unwrap().to_string();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cni0", "mac": mac(&bridge), "mtu": 1500},
                {"name": host_end.name, "mac": mac(&host_end), "mtu": 1500},
                {"name": "eth0", "mac": mac(&inside), "mtu": 1500, "sandbox": "/run/netns/x"},
            ],
            "ips": [{"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        })
    );
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(container.routes(), ["0.0.0.0/0 via 10.1.0.1"]);
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

#[test]
fn a_network_without_ipam_is_layer_2_only() {
    let world = World::new();
    let container = world.container("x");
    let config = with(podnet(), json!({"ipam": null, "isDefaultGateway": null}));

    let result = Call::new("ADD", &config).netns(&container).run().ok();

    assert!(result.get("ips").is_none(), "{result}");
    assert!(container.link("eth0").unwrap().running);
    assert!(container.addresses("eth0").is_empty());
    assert!(world.addresses("cni0").is_empty());
}
