//! DEL: undoes what ADD made, whatever has become of it, and nothing else.

use std::fs::{self, File};
use std::path::Path;

use serde_json::json;

use crate::plugins::call_as;
use common::nftables::element_count;
use common::{Call, GROUP, HOST_END, STORES, World, allocated, call, ip, podnet, with};

fn add(world: &World, name: &str, id: &str) -> common::Container {
    let container = world.container(name);
    Call::new("ADD", &podnet())
        .netns(&container)
        .id(id)
        .run()
        .ok();
    container
}

#[test]
fn del_leaves_nothing_and_can_be_repeated() {
    let world = World::new();
    let container = world.container("x");
    let (before, inside) = (world.snapshot().addresses_only(), container.state());
    Call::new("ADD", &podnet()).netns(&container).run().ok();

    for _ in 0..2 {
        let answer = Call::new("DEL", &podnet()).netns(&container).run();
        answer.ok();
        assert!(answer.0.stdout.is_empty(), "success says nothing");
        assert_eq!(
            world.snapshot().addresses_only().without_bridge("cni0"),
            before
        );
        assert_eq!(container.state(), inside);
    }
    assert!(
        fs::read_dir("/run/pausenet/lock").unwrap().next().is_none(),
        "the lock goes with the attachment"
    );
}

#[test]
fn del_leaves_the_bridge_and_the_other_containers_alone() {
    let world = World::new();
    let (x, y) = (add(&world, "x", "c1"), add(&world, "y", "c2"));
    let inside = y.state();

    Call::new("DEL", &podnet()).netns(&x).run().ok();

    assert_eq!(y.state(), inside);
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(allocated("podnet"), ["10.1.0.3"]);
    assert!(world.link(HOST_END).is_none());
}

#[test]
fn del_works_with_and_without_prev_result() {
    for given in [true, false] {
        let world = World::new();
        let container = world.container("x");
        let result = Call::new("ADD", &podnet()).netns(&container).run().ok();
        let prev = if given { result } else { json!(null) };

        Call::new("DEL", &with(podnet(), json!({"prevResult": prev})))
            .netns(&container)
            .run()
            .ok();

        assert!(container.link("eth0").is_none());
        assert!(world.link(HOST_END).is_none());
        assert!(allocated("podnet").is_empty());
    }
}

#[test]
fn del_succeeds_without_a_netns() {
    let world = World::new();
    let container = add(&world, "x", "c1");

    Call::new("DEL", &podnet()).run().ok();

    assert!(container.link("eth0").is_none());
    assert!(world.link(HOST_END).is_none());
    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_succeeds_when_the_netns_is_gone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    let call = Call::new("DEL", &podnet()).netns(&container);
    container.destroy();

    call.run().ok();

    assert!(world.link(HOST_END).is_none());
    assert!(allocated("podnet").is_empty());
}

/// A process that outlives its pod holds the namespace: the path is gone, the links are not.
#[test]
fn del_succeeds_when_the_netns_is_alive_but_its_path_is_gone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    let call = Call::new("DEL", &podnet()).netns(&container);
    let held = File::open(&container.path).unwrap();
    container.destroy();
    assert!(world.link(HOST_END).is_some());

    call.run().ok();

    assert!(world.link(HOST_END).is_none());
    assert!(allocated("podnet").is_empty());
    drop(held);
}

/// The reference deletes CNI_IFNAME in whatever namespace the path leads to.
#[test]
fn del_does_not_touch_another_pod_at_the_same_path() {
    let world = World::new();
    let first = add(&world, "x", "c1");
    let held = File::open(&first.path).unwrap();
    first.destroy();
    let second = add(&world, "x", "c2");
    let inside = second.state();

    Call::new("DEL", &podnet())
        .netns(&second)
        .id("c1")
        .run()
        .ok();

    assert_eq!(second.state(), inside);
    assert_eq!(allocated("podnet"), ["10.1.0.3"]);
    assert!(world.link(HOST_END).is_none());
    Call::new("DEL", &podnet())
        .netns(&second)
        .id("c2")
        .run()
        .ok();
    assert!(second.link("eth0").is_none());
    drop(held);
}

/// A PID is reused by a process of the host: /proc/PID/ns/net is then the host's own.
#[test]
fn del_with_the_host_s_netns_leaves_the_host_alone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    ip("link add eth0 type bridge");

    Call::new("DEL", &podnet())
        .var("CNI_NETNS", "/proc/self/ns/net")
        .run()
        .ok();

    assert!(container.link("eth0").is_none());
    assert!(world.link("eth0").is_some(), "the host's eth0");
    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_frees_the_address_when_the_interface_is_already_gone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    container.ip("link del eth0");

    Call::new("DEL", &podnet()).netns(&container).run().ok();

    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_succeeds_when_the_bridge_is_gone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    ip("link del cni0");

    Call::new("DEL", &podnet()).netns(&container).run().ok();

    assert!(container.link("eth0").is_none());
    assert!(allocated("podnet").is_empty());
}

#[test]
fn del_leaves_a_foreign_link_with_the_host_end_s_name_alone() {
    let alias = |text: &str| {
        common::run("ip", ["link", "set", HOST_END, "alias", text]);
    };
    let plain = format!("link add {HOST_END} type veth peer name other");
    let ours = format!("link add {HOST_END} group {GROUP} type veth peer name other");
    let no_veth = format!("link add {HOST_END} group {GROUP} type bridge");
    for (make, text) in [
        (&plain, None),
        (&no_veth, None),
        (&plain, Some("uplink")),
        (&ours, Some("uplink")),
        (&ours, Some("pausenet podnet c2 eth0")),
    ] {
        let world = World::new();
        ip(make);
        text.map(alias);
        let before = world.snapshot();

        Call::new("DEL", &podnet()).run().ok();

        assert_eq!(world.snapshot(), before, "{make} {text:?}");
    }
}

#[test]
fn del_of_an_attachment_never_added_succeeds_and_creates_nothing() {
    let world = World::new();
    let container = world.container("x");
    let (before, inside) = (world.snapshot(), container.state());

    Call::new("DEL", &podnet()).netns(&container).run().ok();

    assert_eq!(world.snapshot(), before);
    assert_eq!(container.state(), inside);
    assert!(!Path::new(STORES).exists(), "no store");
}

#[test]
fn two_interfaces_of_one_container_are_two_attachments() {
    let world = World::new();
    let container = world.container("x");
    let config = with(podnet(), json!({"isDefaultGateway": null}));
    for name in ["eth0", "net1"] {
        Call::new("ADD", &config)
            .netns(&container)
            .ifname(name)
            .run()
            .ok();
    }

    Call::new("DEL", &config)
        .netns(&container)
        .ifname("eth0")
        .run()
        .ok();

    assert!(container.link("eth0").is_none());
    assert_eq!(container.addresses("net1"), ["10.1.0.3/24"]);
    assert_eq!(allocated("podnet"), ["10.1.0.3"]);
}

#[test]
fn del_succeeds_when_the_store_is_gone() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    fs::remove_dir_all(Path::new(STORES).join("podnet")).unwrap();

    Call::new("DEL", &podnet()).netns(&container).run().ok();

    assert!(container.link("eth0").is_none());
    assert!(
        !Path::new(STORES).join("podnet").exists(),
        "and does not recreate it"
    );
}

/// The address is freed last: while it is reserved, it is not given to another attachment.
#[test]
fn del_fails_when_the_address_cannot_be_freed_but_removes_the_link() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    common::run("mount", ["--bind", STORES, STORES]);
    common::run("mount", ["-o", "remount,bind,ro", STORES]);

    let error = Call::new("DEL", &podnet())
        .netns(&container)
        .run()
        .err_code(5);

    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.2"),
        "{error}"
    );
    assert!(container.link("eth0").is_none());
    common::run("mount", ["-o", "remount,bind,rw", STORES]);
    Call::new("DEL", &podnet()).netns(&container).run().ok();
    assert!(allocated("podnet").is_empty());
}

#[test]
fn the_same_container_can_be_added_again_after_del() {
    let world = World::new();
    let container = add(&world, "x", "c1");
    Call::new("DEL", &podnet()).netns(&container).run().ok();

    Call::new("ADD", &podnet()).netns(&container).run().ok();

    assert_eq!(
        container.addresses("eth0"),
        ["10.1.0.3/24"],
        "round robin goes on"
    );
}

/// ADD had another config, or a plugin in the list has changed the addresses in the result.
#[test]
fn del_removes_elements_that_its_request_does_not_say() {
    const OWNER: &str = "pausenet podnet x eth0";
    let world = World::new();
    let x = world.container("x");
    let port = |host: u16| json!({"hostPort": host, "containerPort": 80});
    let ports = |list: &[u16]| {
        let list: Vec<_> = list.iter().map(|host| port(*host)).collect();
        json!({"portMappings": list})
    };
    let dual = json!({"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let config = with(
        podnet(),
        json!({"ipMasq": true, "macspoofchk": true, "ipam": dual, "runtimeConfig": ports(&[8080, 8081])}),
    );
    let changes = [
        json!({}),
        json!({"ipMasq": false}),
        json!({"macspoofchk": false}),
        json!({"runtimeConfig": null}),
        json!({"runtimeConfig": ports(&[8080])}),
        json!({"runtimeConfig": ports(&[9090, 8081])}),
        json!({"ipMasq": false, "macspoofchk": false, "runtimeConfig": null}),
    ];
    for change in changes {
        for addresses in ["all", "first", "others"] {
            let mut result = call("ADD", &config, &x).run().ok();
            assert!(element_count(OWNER) > 8);
            match addresses {
                "first" => result["ips"].as_array_mut().unwrap().truncate(1),
                "others" => result["ips"][0]["address"] = json!("10.1.0.99/24"),
                _ => {}
            }
            let changed = with(config.clone(), change.clone());
            call("DEL", &with(changed, json!({"prevResult": result})), &x)
                .run()
                .ok();
            assert_eq!(element_count(OWNER), 0, "{change} {addresses}");
            assert!(allocated("podnet").is_empty());
        }
    }

    let result = call("ADD", &podnet(), &x).run().ok();
    let chained = |list: &[u16]| {
        let more = json!({"type": "portmap", "prevResult": result, "runtimeConfig": ports(list)});
        with(podnet(), more)
    };
    call_as("portmap", "ADD", &chained(&[8080, 8081]), &x)
        .run()
        .ok();
    call_as("portmap", "DEL", &chained(&[8081, 9090]), &x)
        .run()
        .ok();
    assert_eq!(element_count("portmap podnet x eth0"), 0);
}
