//! VLANs of bridge ports. Where the kernel's bridges cannot filter VLANs, the refusal is what
//! there is to test; where they can, the port's VLANs are.

use serde_json::{Value, json};

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
