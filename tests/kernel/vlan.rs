//! VLANs of bridge ports. Where the kernel's bridges cannot filter VLANs, the refusal is what
//! there is to test; where they can, the port's VLANs are.

use serde_json::{Value, json};

use common::pings::reaches;
use common::{Call, World, podnet, run, with};

fn tagged() -> Value {
    with(
        podnet(),
        json!({"isDefaultGateway": null, "isGateway": true, "vlan": 5, "vlanTrunk": [{"minID": 7, "maxID": 8}]}),
    )
}

/// Whether this kernel was built with CONFIG_BRIDGE_VLAN_FILTERING.
fn kernel_filters() -> bool {
    let add = [
        "link",
        "add",
        "probe",
        "type",
        "bridge",
        "vlan_filtering",
        "1",
    ];
    let made = std::process::Command::new("ip").args(add).output().unwrap();
    let filters = made.status.success();
    if filters {
        run("ip", ["link", "del", "probe"]);
    }
    filters
}

#[test]
fn a_port_has_its_vlans_or_the_missing_kernel_option_is_named() {
    let world = World::new();
    let x = world.container("x");
    let filters = kernel_filters();
    let before = world.snapshot();
    let add = Call::new("ADD", &tagged()).netns(&x);
    if !filters {
        let error = add.run().err_code(2);
        let details = error["details"].as_str().unwrap();
        assert!(details.contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{error}");
        assert_eq!(world.snapshot().addresses_only(), before.addresses_only());
        assert!(x.link("eth0").is_none());
        return;
    }
    let result = add.run().ok();
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    let shown = run("bridge", ["vlan", "show", "dev", port]);
    assert!(shown.contains("5 PVID Egress Untagged"), "{shown}");
    assert!(shown.contains(" 7") && shown.contains(" 8"), "{shown}");
    assert_eq!(result["interfaces"][3]["name"], "cni0.5");
    assert_eq!(world.addresses("cni0.5"), ["10.1.0.1/24"]);
}

#[test]
fn a_bridge_without_vlan_filtering_is_refused() {
    let world = World::new();
    let x = world.container("x");
    run("ip", ["link", "add", "cni0", "type", "bridge"]);
    let before = world.snapshot();

    let error = Call::new("ADD", &tagged()).netns(&x).run().err_code(2);

    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("does not filter VLANs"),
        "{error}"
    );
    assert_eq!(world.snapshot().addresses_only(), before.addresses_only());
    assert!(world.link("cni0").is_some(), "it was not ours to remove");
}

/// Dual stack, with every option: ADD, CHECK, DEL and what CHECK notices.
#[test]
fn check_finds_the_gateway_in_its_vlan() {
    if !kernel_filters_or_skip() {
        return;
    }
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]);
    for options in [
        json!({"vlan": 5}),
        json!({"vlan": 5, "vlanTrunk": [{"id": 9}, {"minID": 20, "maxID": 22}]}),
        json!({"vlan": 5, "preserveDefaultVlan": true}),
        json!({"vlan": 5, "preserveDefaultVlan": false, "isDefaultGateway": true}),
        json!({"vlanTrunk": [{"minID": 7, "maxID": 8}]}),
    ] {
        let world = World::new();
        let [x, y] = ["x", "y"].map(|name| world.container(name));
        let ipam = json!({"isDefaultGateway": null, "isGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges}});
        let network = with(with(podnet(), ipam), options.clone());
        let call = |verb: &str, container: &common::Container| {
            Call::new(verb, &network)
                .id(container.name())
                .netns(container)
        };
        let prev = call("ADD", &x).run().ok();
        call("ADD", &y).run().ok();
        let check = |prev: &Value| {
            let network = with(network.clone(), json!({"prevResult": prev}));
            Call::new("CHECK", &network).id("x").netns(&x).run()
        };
        assert_eq!(check(&prev).ok(), Value::Null, "{options}");

        let on = if options.get("vlan").is_some() {
            "cni0.5"
        } else {
            "cni0"
        };
        assert_eq!(world.addresses(on)[0], "10.1.0.1/24", "{options}");
        run("ip", ["address", "del", "10.1.0.1/24", "dev", on]);
        let error = check(&prev).err_code(102);
        let message = error["msg"].as_str().unwrap();
        assert!(
            message.contains(on) && message.contains("10.1.0.1"),
            "{error}"
        );
        // The next ADD gives it back.
        let z = world.container("z");
        call("ADD", &z).run().ok();
        assert_eq!(check(&prev).ok(), Value::Null, "{options}");
        for container in [x, y, z] {
            call("DEL", &container).run().ok();
        }
    }
}

#[test]
fn pods_of_a_vlan_reach_each_other_and_their_gateway_and_no_other_vlan() {
    if !kernel_filters_or_skip() {
        return;
    }
    let world = World::new();
    let [a, b, other] = ["a", "b", "other"].map(|name| world.container(name));
    for (container, vlan) in [(&a, 5), (&b, 5), (&other, 6)] {
        let network = with(podnet(), json!({"isDefaultGateway": null, "vlan": vlan}));
        Call::new("ADD", &network)
            .id(container.name())
            .netns(container)
            .run()
            .ok();
    }
    let address = |container: &common::Container| -> std::net::IpAddr {
        let own = container.addresses("eth0").remove(0);
        own.split_once('/').unwrap().0.parse().unwrap()
    };
    assert!(reaches(&a, address(&b)));
    assert!(!reaches(&a, address(&other)));
}

/// As one killed before its last step leaves it.
#[test]
fn an_unfinished_interface_in_a_vlan_is_finished_by_the_next_add() {
    if !kernel_filters_or_skip() {
        return;
    }
    let world = World::new();
    let [x, y] = ["x", "y"].map(|name| world.container(name));
    let network = with(
        podnet(),
        json!({"isDefaultGateway": null, "isGateway": true, "vlan": 5}),
    );
    let add = |container: &common::Container| {
        Call::new("ADD", &network)
            .id(container.name())
            .netns(container)
            .run()
            .ok()
    };
    add(&x);
    let gateway = world.link("cni0.5").unwrap();
    let links = world.links();
    let port = links
        .iter()
        .find(|link| Some(link.index) == gateway.peer)
        .unwrap();
    run("bridge", ["vlan", "del", "vid", "5", "dev", &port.name]);
    run("ip", ["link", "set", "cni0.5", "down"]);
    add(&y);
    assert!(reaches(&y, "10.1.0.1".parse().unwrap()));
    assert!(reaches(&x, "10.1.0.1".parse().unwrap()));
}

fn kernel_filters_or_skip() -> bool {
    let _world = World::new();
    let filters = kernel_filters();
    if !filters {
        common::lab::skip_for_the_kernel("CONFIG_BRIDGE_VLAN_FILTERING");
    }
    filters
}
