//! CHECK: content with what ADD made, and naming the first thing that is not so any more.

mod same_state;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use common::{Call, Container, HOST_END, STORES, World, allocated, ip, podnet, store_files, with};

fn dual_stack() -> Value {
    with(
        podnet(),
        json!({"ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "192.168.7.0/24", "gw": "10.1.0.9"}]}}),
    )
}

/// A finished attachment, and the CHECK of it.
fn attached(config: &Value) -> (World, Container, Call) {
    let world = World::new();
    let container = world.container("x");
    let result = Call::new("ADD", config).netns(&container).run().ok();
    let check = Call::new(
        "CHECK",
        &with(config.clone(), json!({"prevResult": result})),
    );
    let check = check.netns(&container);
    (world, container, check)
}

#[test]
fn check_succeeds_after_add_and_changes_nothing() {
    let plain_switch = with(podnet(), json!({"isDefaultGateway": null}));
    let no_ipam = with(plain_switch.clone(), json!({"ipam": null}));
    for config in [
        podnet(),
        dual_stack(),
        plain_switch,
        no_ipam,
        with(podnet(), json!({"hairpinMode": true, "mtu": 1300})),
        with(podnet(), json!({"promiscMode": true})),
        with(
            podnet(),
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:AB"}}),
        ),
    ] {
        let (world, container, check) = attached(&config);
        let (before, inside) = (world.snapshot(), container.state());

        let answer = check.run();
        answer.ok();

        assert!(answer.0.stdout.is_empty(), "success says nothing");
        assert_eq!(world.snapshot(), before);
        assert_eq!(container.state(), inside);
    }
}

type Break = fn(&Container);

/// Breaks one thing of a finished attachment: CHECK has to name it.
fn differs(config: &Value, cases: &[(&str, Break, &[&str])]) {
    for (what, break_it, words) in cases {
        let (_world, container, check) = attached(config);
        check.run().ok();

        break_it(&container);

        let error = check.run().err_code(102);
        let msg = error["msg"].as_str().unwrap();
        for word in words.iter().chain(&["podnet", "c1"]) {
            assert!(msg.contains(word), "{what}: no {word:?} in {msg:?}");
        }
    }
}

#[test]
fn check_reports_differences_in_the_container() {
    differs(
        &dual_stack(),
        &[
            (
                "interface gone",
                |c| drop(c.ip("link del eth0")),
                &["eth0 is gone in the container"],
            ),
            (
                "interface renamed",
                |c| {
                    c.ip("link set eth0 down");
                    c.ip("link set eth0 name eth9");
                },
                &["eth0 is gone in the container"],
            ),
            (
                "another MAC",
                |c| drop(c.ip("link set eth0 address 02:00:00:00:00:09")),
                &["eth0 has MAC 02:00:00:00:00:09"],
            ),
            (
                "switched off",
                |c| drop(c.ip("link set eth0 down")),
                &["eth0 is switched off"],
            ),
            (
                "IPv4 address gone",
                |c| drop(c.ip("addr del 10.1.0.2/24 dev eth0")),
                &["eth0 has lost address 10.1.0.2/24"],
            ),
            (
                "IPv6 address gone",
                |c| drop(c.ip("addr del fd00::2/64 dev eth0")),
                &["eth0 has lost address fd00::2/64"],
            ),
            (
                "another prefix length",
                |c| {
                    c.ip("addr del 10.1.0.2/24 dev eth0");
                    c.ip("addr add 10.1.0.2/16 dev eth0");
                },
                &["10.1.0.2/24"],
            ),
            (
                "route gone",
                |c| drop(c.ip("route del 192.168.7.0/24")),
                &["route to 192.168.7.0/24 via 10.1.0.9 out of eth0"],
            ),
            (
                "default route gone",
                |c| drop(c.ip("route del default")),
                &["route to 0.0.0.0/0 via 10.1.0.1"],
            ),
            (
                "IPv6 default route gone",
                |c| drop(c.ip("-6 route del default")),
                &["route to ::/0 via fd00::1"],
            ),
            (
                "route elsewhere",
                |c| drop(c.ip("route replace 192.168.7.0/24 via 10.1.0.8")),
                &["route to 192.168.7.0/24 via 10.1.0.9"],
            ),
            (
                "route in another table",
                |c| {
                    c.ip("route del 192.168.7.0/24");
                    c.ip("route add 192.168.7.0/24 via 10.1.0.9 table 100");
                },
                &["route to 192.168.7.0/24 via 10.1.0.9"],
            ),
            (
                "replaced by another of its name",
                |c| {
                    c.ip("link set eth0 down");
                    c.ip("link set eth0 name eth9");
                    c.ip("link add eth0 up type veth peer name other");
                },
                &["eth0 in the container is not the other end of", HOST_END],
            ),
        ],
    );
}

#[test]
fn check_reports_differences_on_the_host() {
    differs(
        &podnet(),
        &[
            (
                "bridge gone",
                |_| drop(ip("link del cni0")),
                &["cni0 is gone on the host"],
            ),
            (
                "bridge off",
                |_| drop(ip("link set cni0 down")),
                &["bridge cni0 is switched off"],
            ),
            (
                "no bridge any more",
                |_| {
                    ip("link del cni0");
                    ip("link add cni0 type veth peer name other");
                },
                &["cni0 is no bridge, but a veth"],
            ),
            (
                "bridge with another MAC",
                |_| drop(ip("link set cni0 address 02:00:00:00:00:09")),
                &["cni0 has MAC 02:00:00:00:00:09"],
            ),
            (
                "gateway address gone",
                |_| drop(ip("addr del 10.1.0.1/24 dev cni0")),
                &["cni0 has lost gateway address 10.1.0.1"],
            ),
            (
                "port detached",
                |_| drop(ip(&format!("link set {HOST_END} nomaster"))),
                &[HOST_END, "is not a port of bridge cni0"],
            ),
            (
                "port of another bridge",
                |_| {
                    ip("link add br1 type bridge");
                    ip(&format!("link set {HOST_END} master br1"));
                },
                &[HOST_END, "is not a port of bridge cni0"],
            ),
            (
                "hairpin switched on",
                |_| {
                    drop(ip(&format!(
                        "link set {HOST_END} type bridge_slave hairpin on"
                    )))
                },
                &["hairpin mode", HOST_END, "is on"],
            ),
            (
                "host end off",
                |_| drop(ip(&format!("link set {HOST_END} down"))),
                &[HOST_END, "is switched off"],
            ),
            (
                "host end with another MAC",
                |_| {
                    drop(ip(&format!(
                        "link set {HOST_END} address 02:00:00:00:00:09"
                    )))
                },
                &[HOST_END, "has MAC 02:00:00:00:00:09"],
            ),
            (
                "host end moved away",
                |_| {
                    ip("netns add y");
                    ip(&format!("link set {HOST_END} netns y"));
                },
                &["the host end", "is gone"],
            ),
            (
                "alias gone",
                |_| drop(common::run("ip", ["link", "set", HOST_END, "alias", ""])),
                &[HOST_END, "half made"],
            ),
            (
                "another's alias",
                |_| drop(ip(&format!("link set {HOST_END} alias uplink"))),
                &["the host end", "is gone"],
            ),
            (
                "allocation gone",
                |_| fs::remove_file(Path::new(STORES).join("podnet/10.1.0.2")).unwrap(),
                &["10.1.0.2"],
            ),
            (
                "store gone",
                |_| fs::remove_dir_all(STORES).unwrap(),
                &["10.1.0.2"],
            ),
            (
                "address of somebody else",
                |_| fs::write(Path::new(STORES).join("podnet/10.1.0.2"), "c2\r\neth0").unwrap(),
                &["10.1.0.2"],
            ),
        ],
    );
}

#[test]
fn check_reports_a_port_without_its_hairpin_mode() {
    differs(
        &with(podnet(), json!({"hairpinMode": true})),
        &[(
            "hairpin switched off",
            |_| {
                drop(ip(&format!(
                    "link set {HOST_END} type bridge_slave hairpin off"
                )))
            },
            &["hairpin mode", HOST_END, "is off"],
        )],
    );
}

#[test]
fn check_reports_a_bridge_that_is_no_longer_promiscuous() {
    differs(
        &with(podnet(), json!({"promiscMode": true})),
        &[(
            "off",
            |_| drop(ip("link set cni0 promisc off")),
            &["cni0 is not promiscuous"],
        )],
    );
}

#[test]
fn check_reports_a_netns_path_that_leads_to_another_pod() {
    let (world, _container, check) = attached(&podnet());
    let other = world.container("y");
    Call::new("ADD", &podnet())
        .netns(&other)
        .id("c2")
        .run()
        .ok();

    let error = check.netns(&other).run().err_code(102);

    let msg = error["msg"].as_str().unwrap();
    assert!(msg.contains("another namespace than at ADD"), "{msg}");
    assert!(msg.contains("container c2"), "{msg}");
    assert!(
        error["details"].as_str().unwrap().contains("CNI_NETNS"),
        "{error}"
    );
}

#[test]
fn check_reports_that_the_netns_is_gone() {
    let (_world, container, check) = attached(&podnet());
    container.destroy();

    let error = check.run().err_code(8);

    assert!(
        error["msg"].as_str().unwrap().contains("/run/netns/x"),
        "{error}"
    );
}

#[test]
fn a_plain_switch_may_have_any_address() {
    let (_world, _container, check) = attached(&with(podnet(), json!({"isDefaultGateway": null})));
    ip("addr add 10.9.0.1/24 dev cni0");
    check.run().ok();
}

#[test]
fn check_without_prev_result_is_code_7() {
    let (_world, container, _) = attached(&podnet());
    for config in [podnet(), with(podnet(), json!({"prevResult": null}))] {
        let error = Call::new("CHECK", &config)
            .netns(&container)
            .run()
            .err_code(7);
        assert!(
            error["msg"].as_str().unwrap().contains("prevResult"),
            "{error}"
        );
    }
}

#[test]
fn check_of_an_attachment_never_added_fails_and_creates_nothing() {
    let (world, _container, _) = attached(&podnet());
    let other = world.container("y");
    let before = world.snapshot();

    let check = with(
        podnet(),
        json!({"prevResult": {"cniVersion": "1.1.0"}, "name": "never"}),
    );
    Call::new("CHECK", &check)
        .netns(&other)
        .id("c2")
        .run()
        .err_code(102);

    assert_eq!(world.snapshot(), before);
    assert!(
        !store_files(STORES.as_ref())
            .keys()
            .any(|path| path.starts_with("never"))
    );
}

/// CHECK must not repair: the next one has to find the same.
#[test]
fn check_does_not_repair() {
    let (world, container, check) = attached(&podnet());
    container.ip("addr del 10.1.0.2/24 dev eth0");
    let (before, inside) = (world.snapshot(), container.state());

    for _ in 0..2 {
        check.run().err_code(102);
    }

    assert_eq!(world.snapshot(), before);
    assert_eq!(container.state(), inside);
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}
