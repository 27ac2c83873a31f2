//! A node changes its plugin under running pods: those that the reference wired are ours to
//! check, delete and collect, and the other way round. Other pods notice nothing.
//!
//! What the reference's plugins leave of ours stands in src/docs/switching.md, word for word the
//! command that removes it.

use std::collections::BTreeSet;

use crate::migration_node::Vendor::{Ours, Reference};
use crate::migration_node::{Node, Pod, Wiring, has_word, ruleset, unname};
use crate::{Peers, error};
use common::{allocated, ip, lab, run};

const NFTABLES: [Wiring; 2] = [way("bridge", "nftables"), way("ptp", "nftables")];
const IPTABLES: [Wiring; 2] = [way("bridge", "iptables"), way("ptp", "iptables")];

const fn way(plugin: &'static str, backend: &'static str) -> Wiring {
    Wiring { plugin, backend }
}

fn today() -> Option<Peers> {
    let version = "1.1.0";
    lab::peers_today().map(|dir| Peers { dir, version })
}

/// Their backends are iptables' alone.
fn bookworm() -> Option<Peers> {
    let version = "1.0.0";
    lab::peers().map(|dir| Peers { dir, version })
}

#[test]
fn pods_of_current_bridge_with_nftables_are_taken_over() {
    today()
        .iter()
        .for_each(|peers| switch_to_pausenet(peers, NFTABLES[0]));
}

#[test]
fn pods_of_current_ptp_with_nftables_are_taken_over() {
    today()
        .iter()
        .for_each(|peers| switch_to_pausenet(peers, NFTABLES[1]));
}

#[test]
fn pods_of_current_bridge_with_iptables_are_taken_over() {
    today()
        .iter()
        .for_each(|peers| switch_to_pausenet(peers, IPTABLES[0]));
}

#[test]
fn pods_of_bookworm_s_bridge_are_taken_over() {
    bookworm()
        .iter()
        .for_each(|peers| switch_to_pausenet(peers, IPTABLES[0]));
}

#[test]
fn pods_of_bookworm_s_ptp_are_taken_over() {
    bookworm()
        .iter()
        .for_each(|peers| switch_to_pausenet(peers, IPTABLES[1]));
}

/// Ten pods wired by the reference, each taken down by ours under another bad luck.
fn switch_to_pausenet(peers: &Peers, wiring: Wiring) {
    let node = Node::new(peers, wiring);
    let mut pods: Vec<_> = (0..10)
        .map(|at| node.wire(Reference, &format!("p{at}")))
        .collect();
    for pod in &pods {
        node.link_plugin(Ours, "CHECK", pod).run().ok();
        node.portmap(Ours, "CHECK", pod).run().ok();
        node.assert_traffic(pod);
    }

    // A runtime that remembers everything.
    let pod = pods.remove(0);
    assert_goes(&node, pod, &pods, |pod| node.del(Ours, pod, |call| call));

    // One that has lost its cache.
    let pod = pods.remove(0);
    assert_goes(&node, pod, &pods, |pod| node.del_without_result(Ours, pod));

    // The namespace is gone: with the result, and without.
    for forgotten in [false, true] {
        let mut pod = pods.remove(0);
        let before = node.seen();
        node.destroy_netns(&mut pod);
        assert_eq!(node.seen(), before.without_link(&pod));
        assert_goes(&node, pod, &pods, |pod| match forgotten {
            true => node.del_without_result(Ours, pod),
            false => node.del(Ours, pod, |call| call),
        });
    }

    // Its path is gone but not the namespace, and the runtime knows no path.
    for empty in [false, true] {
        let pod = pods.remove(0);
        unname(&pod);
        assert_goes(&node, pod, &pods, |pod| {
            node.del(Ours, pod, |call| match empty {
                true => call.var("CNI_NETNS", ""),
                false => call,
            });
        });
    }

    names_have_other_owners(&node, &mut pods);
    forgotten_pods_are_collected(&node, pods);
}

fn names_have_other_owners(node: &Node, pods: &mut Vec<Pod>) {
    // Another pod lives under its path by now.
    let mut pod = pods.remove(0);
    node.destroy_netns(&mut pod);
    let container = node.world.container(&pod.id);
    let newcomer = node.wire_into(Reference, &container, "newcomer", "podnet", "eth0");
    pods.push(newcomer);
    assert_goes(node, pod, pods, |pod| {
        node.del_without_result(Ours, pod);
        node.del(Ours, pod, |call| call);
        assert!(container.link("eth0").is_some());
    });

    // Another link has its host end's name by now.
    let mut pod = pods.remove(0);
    node.destroy_netns(&mut pod);
    ip(&format!(
        "link add {} type veth peer name other",
        pod.host_end
    ));
    let foreign = node.world.link(&pod.host_end).unwrap();
    node.del(Ours, &pod, |call| call);
    assert_eq!(node.world.link(&pod.host_end), Some(foreign));
    ip(&format!("link del {}", pod.host_end));
    pods.iter().for_each(|pod| node.assert_traffic(pod));
}

/// The same container in another network stays.
fn forgotten_pods_are_collected(node: &Node, mut pods: Vec<Pod>) {
    let mut pod = pods.remove(0);
    node.destroy_netns(&mut pod);
    let container = node.world.container(&pod.id);
    let elsewhere = node.wire_into(Reference, &container, &pod.id, "othernet", "net1");
    assert_goes(node, pod, &pods, |_| node.gc("podnet", &pods));
    node.assert_traffic(&elsewhere);

    for pod in pods.iter().chain([&elsewhere]) {
        node.link_plugin(Ours, "CHECK", pod).run().ok();
        node.portmap(Ours, "CHECK", pod).run().ok();
    }
    pods.push(elsewhere);
    while let Some(pod) = pods.pop() {
        assert_goes(node, pod, &pods, |pod| node.del(Ours, pod, |call| call));
    }
}

/// `remove` takes away all that there is of the pod and nothing else, and so it does a second
/// time. The others' traffic goes on.
#[track_caller]
fn assert_goes(node: &Node, pod: Pod, others: &[Pod], remove: impl Fn(&Pod)) {
    let before = node.seen();
    let without = before.without(&pod);
    assert!(
        without.rules.len() < before.rules.len(),
        "{:#?}",
        before.rules
    );
    for time in ["first", "second"] {
        remove(&pod);
        let seen = node.seen();
        assert_eq!(seen.net, without.net, "{} by the {time}", pod.id);
        assert_eq!(seen.store, without.store, "{} by the {time}", pod.id);
        assert_eq!(seen.rules, without.rules, "{} by the {time}", pod.id);
    }
    others.iter().for_each(|pod| node.assert_traffic(pod));
}

#[test]
fn our_pods_are_removed_by_current_plugins_with_nftables() {
    for wiring in NFTABLES {
        today().iter().for_each(|peers| switch_back(peers, wiring));
    }
}

#[test]
fn our_pods_are_removed_by_current_plugins_with_iptables() {
    for wiring in IPTABLES {
        today().iter().for_each(|peers| switch_back(peers, wiring));
    }
}

#[test]
fn our_pods_are_removed_by_bookworm_s_plugins() {
    for wiring in IPTABLES {
        bookworm()
            .iter()
            .for_each(|peers| switch_back(peers, wiring));
    }
}

/// Ten pods wired by ours, deleted by the reference: what is left is what the documentation
/// says, and goes by the means that it names.
fn switch_back(peers: &Peers, wiring: Wiring) {
    let node = Node::new(peers, wiring);
    let before = node.seen();
    let pods: Vec<_> = (0..10)
        .map(|at| node.wire(Ours, &format!("p{at}")))
        .collect();
    pods.iter().for_each(|pod| node.assert_traffic(pod));
    let (gone, alive) = pods.split_at(5);

    let whole = node.seen();
    gone.iter().for_each(|pod| del_by_theirs(&node, pod));
    let rest = gone
        .iter()
        .fold(whole.clone(), |seen, pod| seen.without_link(pod));
    let seen = node.seen();
    assert_eq!(seen.net, rest.net);
    assert_eq!(allocated("podnet").len(), 2 * alive.len());

    // Elements, and nothing else, in our tables alone.
    assert_eq!(of_ours(&seen.rules), of_ours(&whole.rules));
    let elements = |pod: &Pod| {
        let owner = format!("podnet {} eth0", pod.id);
        let found = |line: &&String| has_word(line, &owner);
        ruleset().iter().filter(found).count()
    };
    assert!(gone.iter().all(|pod| elements(pod) > 0));

    // GC of ours takes the elements of the dead ones away while others live.
    node.gc("podnet", alive);
    assert!(
        gone.iter().all(|pod| elements(pod) == 0),
        "{:#?}",
        ruleset()
    );
    alive.iter().for_each(|pod| node.assert_traffic(pod));

    // After the last one, the documented command.
    alive.iter().for_each(|pod| del_by_theirs(&node, pod));
    assert!(allocated("podnet").is_empty());
    assert!(alive.iter().all(|pod| elements(pod) > 0));
    run("sh", ["-c", documented()]);
    assert_eq!(of_ours(&ruleset()), BTreeSet::new());
    let left: BTreeSet<_> = node
        .world
        .links()
        .into_iter()
        .map(|link| link.name)
        .collect();
    let bridge = (wiring.plugin == "bridge").then(|| "cni0".to_owned());
    let there = before
        .net
        .links
        .into_iter()
        .map(|link| link.name)
        .chain(bridge);
    assert_eq!(left, there.collect());
    // Often enough for a node that changes to and fro.
    run("sh", ["-c", documented()]);
}

/// Their DEL, as the documentation has it: where there is iptables, it stumbles once over a chain
/// that ours has never made, with the link gone already and the addresses free.
#[track_caller]
fn del_by_theirs(node: &Node, pod: &Pod) {
    node.portmap(Reference, "DEL", pod).run().ok();
    let del = node.link_plugin(Reference, "DEL", pod);
    if node.wiring.backend == "iptables" && node.peers.version == "1.0.0" {
        let message = error(&del.run())["msg"].to_string();
        assert!(message.contains("' does not exist"), "{message}");
        assert!(node.world.link(&pod.host_end).is_none());
        let held = allocated("podnet");
        assert!(!pod.ips.iter().any(|ip| held.contains(ip)), "{held:?}");
    }
    del.run().ok();
}

/// The lines of our tables.
fn of_ours(rules: &[String]) -> BTreeSet<String> {
    let mut ours = false;
    let mut lines = BTreeSet::new();
    for line in rules {
        if line.starts_with("table ") {
            ours = line.ends_with(" pausenet {");
        }
        if ours {
            lines.insert(line.clone());
        }
    }
    lines
}

/// The command of the documentation.
fn documented() -> &'static str {
    let text = include_str!("../../src/docs/switching.md");
    let command = text.lines().find(|line| line.starts_with("nft "));
    command.expect("a line that starts with nft")
}
