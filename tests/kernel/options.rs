//! Keys of the bridge's ports: portIsolation, disableContainerInterface, enabledad.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use common::nftables::element_count;
use common::traffic::{HOST, listen, tcp, tcp_is_blocked};
use common::{Container, STORES, World, added, allocated, call, podnet, run, set_sysctl, with};

#[test]
fn isolated_pods_reach_the_host_and_open_pods_and_not_each_other() {
    let world = World::new();
    let isolated = with(podnet(), json!({"portIsolation": true}));
    let (x, result) = added(&world, &isolated, "x");
    let (y, _) = added(&world, &isolated, "y");
    let (z, _) = added(&world, &podnet(), "z");
    let (at_x, at_z) = (
        listen(Some(&x), "10.1.0.2:7000"),
        listen(Some(&z), "10.1.0.4:7000"),
    );

    tcp(&listen(HOST, "10.1.0.1:7000"), Some(&x), "10.1.0.1:7000");
    tcp(&at_z, Some(&x), "10.1.0.4:7000");
    tcp(&at_x, Some(&z), "10.1.0.2:7000");
    tcp(&at_x, HOST, "10.1.0.2:7000");
    tcp_is_blocked(Some(&y), "10.1.0.2:7000");

    // That is what the key does, and CHECK knows it.
    let check = call("CHECK", &with(isolated, json!({"prevResult": result})), &x);
    check.run().ok();
    for name in [&result, &y_result(&world)] {
        let port = name["interfaces"][1]["name"].as_str().unwrap();
        run(
            "ip",
            [
                "link",
                "set",
                port,
                "type",
                "bridge_slave",
                "isolated",
                "off",
            ],
        );
    }
    tcp(&at_x, Some(&y), "10.1.0.2:7000");
    let error = check.run().err_code(102);
    assert!(
        error["msg"].as_str().unwrap().contains("isolation"),
        "{error}"
    );
}

/// The result of y's ADD, reduced to the port.
fn y_result(world: &World) -> Value {
    let of_y = |alias: &Option<String>| alias.as_deref() == Some("pausenet podnet y eth0");
    let link = world.links().into_iter().find(|link| of_y(&link.alias));
    json!({"interfaces": [null, {"name": link.unwrap().name}]})
}

#[test]
fn add_does_not_wait_for_an_interface_configured_down() {
    let world = World::new();
    let changes =
        json!({"disableContainerInterface": true, "ipam": null, "isDefaultGateway": null});
    let config = with(podnet(), changes);

    let (x, result) = added(&world, &config, "x");

    let inside = x.link("eth0").unwrap();
    assert!(!inside.up && !inside.running);
    let port = world
        .link(result["interfaces"][1]["name"].as_str().unwrap())
        .unwrap();
    assert!(port.up && !port.running);
    assert_eq!(port.alias.as_deref(), Some("pausenet podnet x eth0"));
    let check = call(
        "CHECK",
        &with(config.clone(), json!({"prevResult": result})),
        &x,
    );
    check.run().ok();
    // Whoever wanted it down may switch it on.
    x.ip("link set eth0 up");
    check.run().ok();
    call("DEL", &config, &x).run().ok();
    assert!(x.link("eth0").is_none());
}

#[test]
fn an_interface_configured_down_has_no_address() {
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot();
    let config = with(podnet(), json!({"disableContainerInterface": true}));
    let error = call("ADD", &config, &x).run().err_code(7);
    let msg = error["msg"].as_str().unwrap();
    assert!(
        msg.contains("disableContainerInterface") && msg.contains("ipam"),
        "{msg}"
    );
    assert_eq!(world.snapshot(), before);
}

fn detecting() -> Value {
    let ipam = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    with(podnet(), json!({"enabledad": true, "ipam": ipam}))
}

fn ipv6_lines(container: &Container) -> String {
    container.ip("-6 -o addr show dev eth0")
}

#[test]
fn with_enabledad_add_returns_after_duplicate_address_detection() {
    let world = World::new();
    let container = world.container("x");
    container.enter(|| set_sysctl("ipv6/conf/default/accept_dad", "1"));

    call("ADD", &detecting(), &container).run().ok();

    let shown = ipv6_lines(&container);
    assert!(shown.contains("fd00::2/64"), "{shown}");
    for flag in ["tentative", "dadfailed", "nodad"] {
        assert!(!shown.contains(flag), "{flag} in {shown}");
    }
    tcp(
        &listen(Some(&container), "[fd00::2]:7000"),
        HOST,
        "[fd00::2]:7000",
    );
}

#[test]
fn a_duplicate_address_on_the_bridge_fails_add_and_undoes_everything() {
    let world = World::new();
    let everything = json!({"ipMasq": true, "macspoofchk": true,
        "runtimeConfig": {"ips": ["fd00::5"],
            "portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
    let config = with(detecting(), everything);
    // A host that the store does not know.
    let l2 = json!({"name": "l2", "ipam": null, "isDefaultGateway": null, "enabledad": null});
    let (other, _) = added(&world, &with(detecting(), l2), "other");
    other.ip("addr add fd00::5/64 dev eth0 nodad");
    let x = world.container("x");
    x.enter(|| set_sysctl("ipv6/conf/default/accept_dad", "1"));
    let (before, inside) = (world.snapshot().without_bridge("cni0"), x.state());

    let error = call("ADD", &config, &x).run().err_code(101);

    let msg = error["msg"].as_str().unwrap();
    assert!(
        msg.contains("fd00::5") && msg.contains("duplicate"),
        "{msg}"
    );
    assert_eq!(
        world.snapshot().without_bridge("cni0").addresses_only(),
        before.addresses_only()
    );
    assert_eq!(x.state().links, inside.links);
    assert!(allocated("podnet").is_empty());
    assert_eq!(element_count("pausenet podnet x eth0"), 0);
    assert!(
        fs::read_dir(Path::new(STORES).join("podnet"))
            .unwrap()
            .count()
            > 0,
        "it had begun"
    );
}
