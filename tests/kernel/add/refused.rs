//! ADD where an interface or an attachment is already.

use serde_json::{Value, json};

use common::{Call, World, ip, podnet, with};

#[test]
fn a_repeated_add_is_refused_and_touches_nothing() {
    for ipam in [podnet()["ipam"].clone(), Value::Null] {
        let world = World::new();
        let container = world.container("x");
        let config = with(podnet(), json!({"ipam": ipam}));
        let add = Call::new("ADD", &config).netns(&container);
        add.run().ok();
        let (before, inside) = (world.snapshot(), container.state());

        let error = add.run().err_code(100);

        let msg = error["msg"].as_str().unwrap();
        assert!(msg.contains("exists"), "{msg}");
        assert_eq!(world.snapshot(), before);
        assert_eq!(container.state(), inside);
    }
}

#[test]
fn a_repeated_add_is_refused_from_another_namespace_too() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    Call::new("ADD", &podnet()).netns(&x).run().ok();
    let (before, inside) = (world.snapshot(), y.state());

    Call::new("ADD", &podnet()).netns(&y).run().err_code(100);

    assert_eq!(world.snapshot(), before);
    assert_eq!(y.state(), inside);
}

/// A bridge with its address and cursor may stay; all else is as before.
#[test]
fn an_interface_name_in_use_is_refused_and_the_address_released() {
    let world = World::new();
    let container = world.container("x");
    ip("link add outside type veth peer name eth0 netns x");
    container.ip("addr add 10.5.0.5/24 dev eth0");
    container.ip("link set eth0 up");
    let before = world.snapshot().addresses_only();
    let inside = container.state();

    let error = Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(100);

    let msg = error["msg"].as_str().unwrap();
    assert!(
        msg.contains("eth0") && msg.contains("/run/netns/x"),
        "{msg}"
    );
    assert_eq!(
        world.snapshot().addresses_only().without_bridge("cni0"),
        before
    );
    assert_eq!(container.state(), inside);
}

/// The store is shared with the reference's plugins: an address that one of them holds for this
/// very container and interface belongs to a live interface.
#[test]
fn an_address_reserved_for_a_foreign_interface_stays_reserved() {
    let world = World::new();
    let container = world.container("x");
    ip("link add outside type veth peer name eth0 netns x");
    container.ip("addr add 10.1.0.2/24 dev eth0");
    world.put_address("10.1.0.2", "c1\r\neth0");
    let (before, inside) = (world.snapshot(), container.state());

    Call::new("ADD", &podnet())
        .netns(&container)
        .run()
        .err_code(100);

    assert_eq!(
        world.snapshot().addresses_only().without_bridge("cni0"),
        before.addresses_only()
    );
    assert_eq!(container.state(), inside);
}
