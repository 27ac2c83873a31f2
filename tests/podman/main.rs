//! Podman, a client of its own: its own network as Debian ships it, with our binary
//! under the names of all plugins in it.

mod explain;
mod podman;
mod podman5;

use crate::podman::{ANCHOR, BUSYBOX, Podman, page};
use common::{allocated, run};
use pausenet::plan::LINK_GROUP;
use serde_json::Value;

const SERVER: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/www"];

#[test]
fn a_published_port_is_reachable_and_a_removed_container_leaves_nothing() {
    let Some(podman) = Podman::new() else { return };
    // What it is that is tested.
    let conflist: Value = serde_json::from_str(&podman.conflist()).unwrap();
    assert_eq!(conflist["cniVersion"], "0.4.0");
    let plugins = conflist["plugins"].as_array().unwrap();
    let types: Vec<_> = plugins.iter().map(|plugin| &plugin["type"]).collect();
    assert_eq!(types, ["bridge", "portmap", "firewall", "tuning"]);

    let run_web = ["run", "-d", "--name=web", "--publish=18080:80", BUSYBOX];
    podman.start(&[&run_web[..], &SERVER].concat());
    assert_eq!(podman.address("web"), "10.88.0.2/16");
    for at in ["127.0.0.1:18080", "10.88.0.1:18080", "10.88.0.2:80"] {
        assert!(page(at).ends_with("hello\n"), "{at}");
    }
    let mut ours = podman.world.links();
    ours.retain(|link| link.group == LINK_GROUP && link.kind == "veth");
    let id = podman.run(&["inspect", "--format", "{{.Id}}", "web"]);
    let alias = format!("pausenet podman {id} eth0");
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].alias.as_deref(), Some(&*alias));
    assert!(ours[0].hairpin, "as the conflist says");
    let processes = podman.processes();
    let has = |word: &str| processes.iter().any(|line| line.contains(word));
    assert!(has("conmon") && has("httpd"), "{processes:#?}");
    // Nobody uses iptables here, so that there is nothing for firewall to open.
    assert!(!run("nft", ["list", "tables"]).contains("filter"));

    // Stopped it has no network; started again, another address.
    podman.run(&["stop", "--time=0", "web"]);
    podman.assert_nothing_left();
    podman.run(&["start", "web"]);
    assert_eq!(podman.address("web"), "10.88.0.3/16");
    assert!(page("127.0.0.1:18080").ends_with("hello\n"));

    podman.run(&["rm", "--force", "--time=0", "web"]);
    podman.assert_nothing_left();
}

#[test]
fn a_pod_with_our_pause_image_shares_one_address() {
    let Some(podman) = Podman::new() else { return };
    let infra = start_pod(&podman);
    let netns = podman.netns(&infra);
    let pid = podman.pid(&infra);
    let command = podman.inside(&["cat", &format!("/proc/{pid}/cmdline")]);
    assert_eq!(command.trim_end_matches('\0'), "/pause");
    for container in ["a", "b", &infra] {
        assert_eq!(podman.address(container), "10.88.0.2/16", "{container}");
        assert_eq!(podman.netns(container), netns, "{container}");
    }
    assert_eq!(allocated("podman"), ["10.88.0.2"]);
    assert!(page("127.0.0.1:18081").ends_with("hello\n"));
    let fetch = ["/bin/busybox", "wget", "-q", "-O-", "http://127.0.0.1"];
    assert_eq!(podman.in_network("b", &fetch), "hello", "of a, from b");

    // A member dies, and the pod goes on.
    podman.inside(&["kill", "-KILL", &podman.pid("b")]);
    podman.run(&["wait", "b"]);
    assert_eq!(podman.netns("a"), netns);
    assert!(page("127.0.0.1:18081").ends_with("hello\n"));

    podman.run(&["pod", "rm", "--force", "--time=0", "pod"]);
    podman.assert_nothing_left();
}

#[test]
fn a_pod_whose_anchor_was_killed_leaves_nothing() {
    let Some(podman) = Podman::new() else { return };
    let infra = start_pod(&podman);
    podman.inside(&["kill", "-KILL", &podman.pid(&infra)]);
    podman.run(&["wait", &infra]);
    podman.run(&["pod", "rm", "--force", "--time=0", "pod"]);
    podman.assert_nothing_left();
}

/// A pod of our pause and two more; the anchor's ID.
fn start_pod(podman: &Podman) -> String {
    let infra = format!("--infra-image={ANCHOR}");
    podman.start(&["pod", "create", "--name=pod", &infra, "--publish=18081:80"]);
    let run_a = ["run", "-d", "--pod", "pod", "--name=a", BUSYBOX];
    podman.start(&[&run_a[..], &SERVER].concat());
    podman.start(&[
        "run", "-d", "--pod", "pod", "--name=b", BUSYBOX, "sleep", "600",
    ]);
    podman.run(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "pod"])
}
