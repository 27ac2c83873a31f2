//! GC: removes what no valid attachment owns, and nothing of anybody else.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as};
use common::nftables::element_count;
use common::{
    Call, Container, GROUP, HOST_END, PluginOutput, STORES, World, added, allocated, ip, podnet,
    run, with,
};

/// Addresses, masquerade, ports and the MAC check: all that an attachment can have.
fn everything() -> Value {
    with(podnet(), json!({"ipMasq": true, "macspoofchk": true}))
}

fn mapped(port: u16) -> Value {
    let runtime = json!({"portMappings": [{"hostPort": port, "containerPort": 80}]});
    with(everything(), json!({"runtimeConfig": runtime}))
}

fn gc(config: &Value, valid: Value) -> PluginOutput {
    let list = json!({"cni.dev/valid-attachments": valid});
    Call::new("GC", &with(config.clone(), list)).run()
}

fn valid(id: &str) -> Value {
    json!({"containerID": id, "ifname": "eth0"})
}

/// The whole of an attachment is there, or nothing of it.
#[track_caller]
fn assert_there(world: &World, container: &Container, ip: &str, there: bool) {
    let name = container.name();
    let alias = format!("pausenet podnet {name} eth0");
    let has_link = world
        .links()
        .iter()
        .any(|link| link.alias.as_deref() == Some(&alias));
    assert_eq!(has_link, there, "the host end of {name}");
    assert_eq!(container.link("eth0").is_some(), there, "eth0 of {name}");
    assert_eq!(
        element_count(&alias),
        if there { 6 } else { 0 },
        "elements of {name}"
    );
    assert_eq!(
        allocated("podnet").iter().any(|have| have == ip),
        there,
        "address of {name}"
    );
}

#[test]
fn gc_removes_unlisted_attachments_and_keeps_listed_ones() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    let (b, _) = added(&world, &mapped(8081), "b");
    let inside = b.state();

    gc(&everything(), json!([valid("b"), valid("never-seen")])).ok();

    assert_there(&world, &a, "10.1.0.2", false);
    assert_there(&world, &b, "10.1.0.3", true);
    assert_eq!(b.state(), inside);
    assert!(world.link("cni0").is_some(), "the bridge is shared");
}

#[test]
fn gc_removes_an_unlisted_interface_of_a_listed_container() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    gc(
        &everything(),
        json!([{"containerID": "a", "ifname": "net1"}]),
    )
    .ok();
    assert_there(&world, &a, "10.1.0.2", false);
}

#[test]
fn gc_with_an_empty_list_removes_every_attachment() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    gc(&everything(), json!([])).ok();
    assert_there(&world, &a, "10.1.0.2", false);
    gc(&everything(), json!([])).ok();
}

/// As `cnitool gc` calls it: libcni has called DEL for every attachment in its cache by then.
#[test]
fn gc_without_a_list_removes_everything_of_its_network() {
    for list in [json!({}), json!({"cni.dev/valid-attachments": null})] {
        let world = World::new();
        let (a, _) = added(&world, &mapped(8080), "a");
        let other = json!({"name": "othernet", "bridge": "cni1", "ipam": {
            "type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]}});
        let (b, _) = added(&world, &with(podnet(), other), "b");

        Call::new("GC", &with(everything(), list)).run().ok();

        assert_there(&world, &a, "10.1.0.2", false);
        assert!(b.link("eth0").is_some());
        assert_eq!(allocated("othernet"), ["10.2.0.2"]);
    }
}

/// The specification's first name of the list, which libcni writes beside the present one.
#[test]
fn gc_keeps_what_either_name_of_the_list_names() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    let (b, _) = added(&world, &mapped(8081), "b");
    for list in [
        json!({"cni.dev/attachments": [valid("a"), valid("b")]}),
        json!({"cni.dev/attachments": [valid("a")], "cni.dev/valid-attachments": [valid("b")]}),
    ] {
        Call::new("GC", &with(everything(), list)).run().ok();
        assert_there(&world, &a, "10.1.0.2", true);
        assert_there(&world, &b, "10.1.0.3", true);
    }
}

#[test]
fn gc_of_an_unused_network_succeeds_and_creates_nothing() {
    let world = World::new();
    let before = world.snapshot();
    gc(&everything(), json!([])).ok();
    gc(&with(podnet(), json!({"ipam": null})), json!([])).ok();
    assert_eq!(world.snapshot(), before);
    assert!(!Path::new(STORES).exists());
}

#[test]
fn gc_removes_the_leftovers_of_dead_containers() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    a.ip("link del eth0");
    assert_eq!(element_count("pausenet podnet a eth0"), 6);
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);

    gc(&everything(), json!([])).ok();

    assert_there(&world, &a, "10.1.0.2", false);
}

/// An ADD in flight holds its attachment's lock.
#[test]
fn gc_leaves_an_add_in_progress_alone() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    let alias = "pausenet podnet a eth0";
    let links = world.links();
    let host_end = links
        .iter()
        .find(|link| link.alias.as_deref() == Some(alias));
    let lock = hold(&host_end.unwrap().name);

    gc(&everything(), json!([])).ok();
    assert_there(&world, &a, "10.1.0.2", true);

    let_go(lock);
    gc(&everything(), json!([])).ok();
    assert_there(&world, &a, "10.1.0.2", false);
}

/// Lets go at once: a process that another test is starting may have the file too, for a moment.
fn let_go(lock: File) {
    rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
}

fn hold(host_end: &str) -> File {
    let dir = Path::new("/run/pausenet/lock");
    fs::create_dir_all(dir).unwrap();
    let lock = File::create(dir.join(host_end)).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

#[test]
fn gc_removes_a_half_made_link_unless_its_add_is_running() {
    let world = World::new();
    world.container("x");
    ip("link add cni0 up type bridge");
    ip(&format!(
        "link add {HOST_END} master cni0 up group {GROUP} type veth peer name eth0 netns x"
    ));
    let lock = hold(HOST_END);
    gc(&everything(), json!([])).ok();
    assert!(world.link(HOST_END).is_some());

    let_go(lock);
    gc(&everything(), json!([])).ok();
    assert!(world.link(HOST_END).is_none());
}

#[test]
fn gc_leaves_other_networks_and_foreign_links_alone() {
    let world = World::new();
    let ipam = json!({"type": "host-local", "subnet": "10.2.0.0/24"});
    let other = with(
        mapped(8081),
        json!({"name": "othernet", "bridge": "cni1", "ipam": ipam}),
    );
    added(&world, &other, "b");
    ip("link add uplink type veth peer name other");
    ip(&format!(
        "link add mine group {GROUP} type veth peer name theirs"
    ));
    run("ip", ["link", "set", "mine", "alias", "somebody else's"]);
    let (before, rules) = (world.snapshot(), common::nftables::ruleset());

    gc(&everything(), json!([])).ok();

    assert_eq!(world.snapshot(), before);
    assert_eq!(common::nftables::ruleset(), rules);
    assert_eq!(element_count("pausenet othernet b eth0"), 6);
}

/// The address cannot be freed; link and elements go all the same, and the error is reported.
#[test]
fn gc_continues_after_errors_and_reports_them() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    run("mount", ["--bind", STORES, STORES]);
    run("mount", ["-o", "remount,bind,ro", STORES]);

    let error = gc(&everything(), json!([])).err_code(5);

    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.2"),
        "{error}"
    );
    assert!(a.link("eth0").is_none());
    assert_eq!(element_count("pausenet podnet a eth0"), 0);
    run("mount", ["-o", "remount,bind,rw", STORES]);
    gc(&everything(), json!([])).ok();
    assert!(allocated("podnet").is_empty());
}

#[test]
fn a_missing_ipam_plugin_does_not_stop_gc() {
    let world = World::new();
    let (a, _) = added(&world, &mapped(8080), "a");
    let config = with(everything(), json!({"ipam": {"type": "gone"}}));

    let error = gc(&config, json!([])).err_code(7);

    assert!(error["msg"].as_str().unwrap().contains("gone"), "{error}");
    assert!(a.link("eth0").is_none());
    assert_eq!(element_count("pausenet podnet a eth0"), 0);
}

#[test]
fn gc_works_under_the_names_bridge_and_ptp() {
    for plugin in ["bridge", "ptp"] {
        let world = World::new();
        let x = world.container("x");
        let config = with(
            everything(),
            json!({"type": plugin, "isDefaultGateway": null}),
        );
        call_as(plugin, "ADD", &config, &x).run().ok();
        let list = json!({"cni.dev/valid-attachments": [valid("x")]});
        call_alone(plugin, "GC", &with(config.clone(), list))
            .run()
            .ok();
        assert!(x.link("eth0").is_some());
        let list = json!({"cni.dev/valid-attachments": []});
        call_alone(plugin, "GC", &with(config, list)).run().ok();
        assert!(x.link("eth0").is_none());
        assert!(allocated("podnet").is_empty());
        assert_eq!(element_count("pausenet podnet x eth0"), 0);
    }
}

#[test]
fn gc_needs_a_config_of_1_1_0() {
    let _world = World::new();
    gc(&with(podnet(), json!({"cniVersion": "1.0.0"})), json!([])).err_code(1);
}

#[test]
fn gc_removes_many_attachments_and_keeps_their_neighbours() {
    let world = World::new();
    let all = ["a", "b", "c", "d", "e"].map(|id| added(&world, &podnet(), id).0);
    let inside = all[2].state();

    gc(&podnet(), json!([valid("c")])).ok();

    assert_eq!(allocated("podnet"), ["10.1.0.4"]);
    assert_eq!(all[2].state(), inside);
    for gone in [0, 1, 3, 4] {
        assert!(all[gone].link("eth0").is_none(), "{gone}");
    }
}

#[test]
fn gc_after_a_killed_gc_decides_again_what_is_stale() {
    let world = World::new();
    let (a, _) = added(&world, &podnet(), "a");
    let (b, _) = added(&world, &podnet(), "b");
    let (c, _) = added(&world, &podnet(), "c");
    // As it is when GC is killed between the two steps.
    for end in world.links().iter().filter(|link| link.kind == "veth") {
        ip(&format!("link set {} group 1735356005", end.name)); // "gone"
    }

    gc(&podnet(), json!([valid("c")])).ok();

    assert!(a.link("eth0").is_none() && b.link("eth0").is_none());
    assert!(c.link("eth0").is_some(), "it is valid by now");
    assert_eq!(allocated("podnet"), ["10.1.0.4"]);
}

/// The runtime must not take it for done: what it cannot lock is left for the next GC.
#[test]
fn gc_that_cannot_open_a_lock_removes_the_rest_and_fails() {
    let world = World::new();
    let (a, _) = added(&world, &podnet(), "a");
    let (b, _) = added(&world, &podnet(), "b");
    let name = |container: &str| {
        let network = pausenet::cni::NetworkName::parse("podnet").unwrap();
        let attachment =
            pausenet::cni::request::Attachment::of_network(&network, container, "eth0");
        pausenet::plan::host_end_name(&attachment.unwrap()).to_string()
    };
    let lock = Path::new("/run/pausenet/lock").join(name("a"));
    fs::create_dir_all(&lock).unwrap();

    let error = gc(&podnet(), json!([])).err_code(5);

    let message = error["msg"].as_str().unwrap();
    assert!(message.contains(lock.to_str().unwrap()), "{message}");
    assert!(b.link("eth0").is_none());
    assert!(a.link("eth0").is_some());
    fs::remove_dir(lock).unwrap();
    gc(&podnet(), json!([])).ok();
    assert!(a.link("eth0").is_none());
}

/// host-local has no links: the address whose lock cannot be opened is all that it leaves.
#[test]
fn gc_of_host_local_that_cannot_open_a_lock_fails() {
    let world = World::new();
    world.put_address("10.1.0.5", "c5\r\neth0");
    world.put_address("10.1.0.6", "c6\r\neth0");
    let network = pausenet::cni::NetworkName::parse("podnet").unwrap();
    let attachment = pausenet::cni::request::Attachment::of_network(&network, "c5", "eth0");
    let name = pausenet::plan::host_end_name(&attachment.unwrap());
    fs::create_dir_all(Path::new("/run/pausenet/lock").join(name.as_str())).unwrap();
    let list = with(podnet(), json!({"cni.dev/valid-attachments": []}));
    call_alone("host-local", "GC", &list).run().err_code(5);
    assert_eq!(allocated("podnet"), ["10.1.0.5"]);
}
