//! What a killed ADD leaves: a link with our group and no alias, an address, or both. The next
//! ADD or DEL of that attachment removes it; calls for other attachments do not.

use serde_json::json;

use common::{Call, Container, GROUP, HOST_END, World, allocated, ip, podnet, with};
use pausenet::kernel::link::Link;

/// The link as it is between its birth and its alias.
fn half_made(container: &Container) {
    ip("link add cni0 up type bridge");
    ip(&format!(
        "link add {HOST_END} master cni0 up group {GROUP} type veth peer name eth0 netns {}",
        container.name()
    ));
}

#[test]
fn add_removes_a_half_made_link_and_an_orphaned_reservation() {
    for (link, address) in [(true, true), (true, false), (false, true)] {
        let world = World::new();
        let container = world.container("x");
        if link {
            half_made(&container);
        }
        if address {
            world.put_address("10.1.0.2", "c1\r\neth0");
            world.put_address("last_reserved_ip.0", "10.1.0.2");
        }
        let old = world.link(HOST_END).map(|link| link.index);

        let result = Call::new("ADD", &podnet()).netns(&container).run().ok();

        let new = world.link(HOST_END).unwrap();
        assert_ne!(Some(new.index), old, "recreated");
        assert_eq!(new.alias.as_deref(), Some("pausenet podnet c1 eth0"));
        let given = result["ips"][0]["address"].as_str().unwrap();
        assert_eq!(container.addresses("eth0"), [given]);
        let held: Vec<_> = allocated("podnet")
            .iter()
            .map(|ip| format!("{ip}/24"))
            .collect();
        assert_eq!(held, [given], "link: {link}, address: {address}");
    }
}

#[test]
fn add_removes_a_half_made_link_of_a_network_without_ipam() {
    let world = World::new();
    let container = world.container("x");
    half_made(&container);
    let config = with(podnet(), json!({"ipam": null}));

    Call::new("ADD", &config).netns(&container).run().ok();

    assert!(world.link(HOST_END).unwrap().alias.is_some());
}

#[test]
fn del_removes_a_half_made_link_and_an_orphaned_reservation() {
    let world = World::new();
    let container = world.container("x");
    half_made(&container);
    world.put_address("10.1.0.2", "c1\r\neth0");

    Call::new("DEL", &podnet()).netns(&container).run().ok();

    assert!(world.link(HOST_END).is_none());
    assert!(container.link("eth0").is_none());
    assert!(allocated("podnet").is_empty());
}

#[test]
fn debris_of_other_attachments_is_left_alone() {
    let world = World::new();
    let container = world.container("x");
    half_made(&container);
    world.put_address("10.1.0.2", "c1\r\neth0");
    let before = world.link(HOST_END).unwrap();

    let other = world.container("y");
    Call::new("ADD", &podnet())
        .netns(&other)
        .id("c2")
        .run()
        .ok();
    Call::new("DEL", &podnet())
        .netns(&other)
        .id("c2")
        .run()
        .ok();

    let after = world.link(HOST_END).unwrap();
    // The kernel notices in its own time that the link has no carrier.
    let blocked = after.blocked;
    assert_eq!(after, Link { blocked, ..before });
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

/// Without our group it was never ours, whatever it is called.
#[test]
fn add_refuses_a_foreign_link_that_has_the_host_end_s_name() {
    for kind in ["veth peer name other", "bridge"] {
        let world = World::new();
        let container = world.container("x");
        ip(&format!("link add {HOST_END} type {kind}"));
        let (before, inside) = (world.snapshot(), container.state());

        let error = Call::new("ADD", &podnet())
            .netns(&container)
            .run()
            .err_code(100);

        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains(HOST_END) && msg.contains("not ours"), "{msg}");
        assert_eq!(
            world.snapshot().without_bridge("cni0").addresses_only(),
            before.addresses_only()
        );
        assert_eq!(container.state(), inside);
    }
}

/// Two attachments with one hash: the alias decides whose the name is.
#[test]
fn add_refuses_when_another_attachment_has_the_host_end_s_name() {
    let world = World::new();
    let container = world.container("x");
    ip(&format!(
        "link add {HOST_END} group {GROUP} type veth peer name other"
    ));
    common::run(
        "ip",
        ["link", "set", HOST_END, "alias", "pausenet podnet c9 eth0"],
    );
    let before = world.snapshot();

    let error = Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(100);

    let msg = error["msg"].as_str().unwrap();
    assert!(msg.contains("container c9"), "{msg}");
    assert_eq!(
        world.snapshot().without_bridge("cni0").addresses_only(),
        before.addresses_only()
    );
}
