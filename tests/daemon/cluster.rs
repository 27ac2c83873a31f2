//! Clusters: the real API server, with the account and RBAC of the manifest, and a pausenetd on each of
//! a few nodes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::api::{Api, Tools};
use crate::nodes::{Daemon, Node, host};
use common::pings::{Pings, reaches};
use common::traffic::seen_as;
use common::wait::wait_until;
use common::{Container, run};

/// Two nodes with a daemon each, and what else a test needs.
struct Cluster {
    api: Api,
    tools: Tools,
    kubeconfig: PathBuf,
    nodes: [Node; 2],
    daemons: Vec<Daemon>,
}

impl Cluster {
    /// None where there is no Kubernetes; the test is skipped then.
    fn start(options: &[&str]) -> Option<Self> {
        let tools = Tools::find()?;
        let api = Api::start(&tools, options);
        let kubeconfig = api.apply_manifest();
        let nodes = [
            Node::new(&api.world, "node1", 1),
            Node::new(&api.world, "node2", 2),
        ];
        for node in &nodes {
            api.create_node(node, json!({}));
        }
        let daemons = nodes.iter().map(|node| node.start(&kubeconfig)).collect();
        for node in &nodes {
            node.await_ready();
        }
        Some(Self {
            api,
            tools,
            kubeconfig,
            nodes,
            daemons,
        })
    }

    /// A pod on a node, attached by cnitool with the daemon's conflist and plugin.
    fn pod(&self, node: usize, name: &str) -> (Container, Vec<IpAddr>) {
        let pod = self.api.world.container(name);
        let addresses = self.nodes[node].add(&self.tools.cnitool, &pod);
        (pod, addresses)
    }

    fn await_routes(&self) {
        let [one, two] = &self.nodes;
        wait_until("each has a route to the other", || {
            one.has_route(&format!("{} via 192.168.77.2", self.api.pod_cidr("node2")))
                && two.has_route(&format!("{} via 192.168.77.1", self.api.pod_cidr("node1")))
        });
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_traffic_to_outside_is_masqueraded() {
    let Some(cluster) = Cluster::start(&["--dual-stack"]) else {
        return;
    };
    let [one, two] = &cluster.nodes;
    let outside = host(&cluster.api.world, "outside", 200);
    let old = &cluster.tools.cnitool_1_1;

    let (a, at_a) = cluster.pod(0, "a");
    // A runtime of CNI 1.0, which does not know cniVersions.
    let b = cluster.api.world.container("b");
    let at_b = two.add(old, &b);
    assert_eq!((at_a.len(), at_b.len()), (2, 2), "{at_a:?} {at_b:?}");
    cluster.await_routes();
    for (from, to, source) in [(&a, &b, &at_a), (&b, &a, &at_b)] {
        let targets = if std::ptr::eq(to, &b) { &at_b } else { &at_a };
        for (target, source) in targets.iter().zip(source) {
            assert!(reaches(from, *target), "{target}");
            assert_eq!(seen_as(from, to, *target), Some(*source));
        }
    }
    // A node reaches the pods of another, and a pod reaches all nodes.
    assert!(reaches(&one.host, at_b[0]) && reaches(&one.host, at_a[0]));
    assert!(reaches(&a, ip("192.168.77.1")) && reaches(&a, ip("192.168.77.2")));
    // Outside hosts have no routes to pods.
    assert_eq!(
        seen_as(&a, &outside, ip("192.168.77.200")),
        Some(ip("192.168.77.1"))
    );
    assert_eq!(
        seen_as(&b, &outside, ip("fd00:77::200")),
        Some(ip("fd00:77::2"))
    );

    let conflist: Value = serde_json::from_slice(&std::fs::read(one.conflist()).unwrap()).unwrap();
    assert_eq!(conflist["plugins"][0]["mtu"], 1500);
    assert_eq!(one.metric("pausenet_nodes"), Some(2.0));
    assert_eq!(one.metric("pausenet_routes"), Some(4.0));

    one.cnitool(&cluster.tools.cnitool, "check", &a);
    one.cnitool(&cluster.tools.cnitool, "del", &a);
    two.cnitool(old, "del", &b);
    assert!(one.taken().is_empty() && two.taken().is_empty());
    cluster.api.assert_nothing_was_forbidden();
}

#[test]
fn routes_follow_a_node_that_is_added_moved_or_deleted() {
    let Some(mut cluster) = Cluster::start(&[]) else {
        return;
    };
    cluster.await_routes();
    let (a, _) = cluster.pod(0, "a");
    let (b, at_b) = cluster.pod(1, "b");
    let other = "10.244.77.0/24";
    let [one, two] = &cluster.nodes;
    let three = Node::new(&cluster.api.world, "node3", 3);
    cluster
        .api
        .create_node(&three, json!({"podCIDR": "10.244.78.0/24"}));
    for node in [one, two] {
        wait_until("the new one has a route", || {
            node.has_route("10.244.78.0/24 via 192.168.77.3")
        });
    }
    // The Node gets another address.
    cluster.api.set_address("node3", "192.168.77.33");
    wait_until("the route has moved", || {
        one.has_route("10.244.78.0/24 via 192.168.77.33")
    });
    cluster
        .api
        .kubectl(&["delete", "node", "node3", "--wait=false"]);
    wait_until("the route is gone", || !one.has_route("10.244.78.0/24"));

    // A Node that is deleted and created again gets another podCIDR.
    assert!(reaches(&a, at_b[0]));
    let before = cluster.api.pod_cidr("node2");
    two.cnitool(&cluster.tools.cnitool, "del", &b);
    cluster
        .api
        .kubectl(&["delete", "node", "node2", "--wait=false"]);
    wait_until("the route is gone", || !one.has_route(&before));
    assert!(
        two.conflist().exists(),
        "a deleted Node does not remove the conflist"
    );
    cluster.daemons[1].await_log("is not among the 1 Nodes");
    cluster.api.create_node(two, json!({"podCIDR": other}));
    wait_until("the new route", || {
        one.has_route(&format!("{other} via 192.168.77.2"))
    });
    wait_until("the new network", || {
        std::fs::read_to_string(two.conflist())
            .unwrap()
            .contains(other)
    });
    assert!(!two.has_route(&format!("unreachable {before}")));
    let at_b = two.add(&cluster.tools.cnitool, &b);
    assert!(at_b[0].to_string().starts_with("10.244.77."), "{at_b:?}");
    assert!(reaches(&a, at_b[0]));
    two.cnitool(&cluster.tools.cnitool, "del", &b);

    // Its link gets another MTU.
    two.host.ip("link set eth0 mtu 1400");
    wait_until("pods have it too", || {
        std::fs::read_to_string(two.conflist())
            .unwrap()
            .contains("\"mtu\": 1400")
    });
    // Nothing was logged as a problem.
    let log = cluster.daemons.remove(0).log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    cluster.api.assert_nothing_was_forbidden();
}

#[test]
fn traffic_is_not_interrupted_while_the_api_server_and_daemons_restart() {
    let Some(mut cluster) = Cluster::start(&[]) else {
        return;
    };
    cluster.await_routes();
    let (a, _) = cluster.pod(0, "a");
    let (_b, at_b) = cluster.pod(1, "b");
    let outside = host(&cluster.api.world, "outside", 200);
    assert!(reaches(&a, at_b[0]));
    let pings = Pings::start(&a, at_b[0]);
    let out = Pings::start(&a, ip("192.168.77.200"));

    // (Before the API server stops: a starting one may refuse requests until it has loaded its RBAC rules.)
    cluster.api.assert_nothing_was_forbidden();
    cluster.api.stop();
    // Without it, a new daemon changes nothing,
    let [one, two] = &cluster.nodes;
    let routes = one.routes();
    let conflist = std::fs::read(one.conflist()).unwrap();
    cluster.daemons.remove(0).kill();
    cluster.daemons.insert(0, one.start(&cluster.kubeconfig));
    wait_until("it has noticed that nobody answers", || {
        one.metric("pausenet_watch_errors_total") >= Some(1.0)
    });
    assert_eq!(one.routes(), routes);
    assert_eq!(std::fs::read(one.conflist()).unwrap(), conflist);
    // a daemon that knows the Nodes repairs damage,
    two.host.enter(|| run("nft", ["flush", "ruleset"]));
    let flushed = Instant::now();
    two.host.ip("route flush proto 112");
    wait_until("its routes are back", || two.routes().len() == 2);
    let cut_off = flushed.elapsed();
    wait_until("its masquerade is back", || {
        let tables = two.host.enter(|| run("nft", ["list", "tables"]));
        tables.contains("inet pausenetd")
    });
    // pods can be added and deleted,
    let (c, at_c) = cluster.pod(0, "c");
    assert!(reaches(&c, at_b[0]));
    one.cnitool(&cluster.tools.cnitool, "del", &c);
    assert!(!one.taken().contains(&at_c[0].to_string()));
    // and changes are applied when it is back.
    cluster.api.resume();
    let three = Node::new(&cluster.api.world, "node3", 3);
    cluster
        .api
        .create_node(&three, json!({"podCIDR": "10.244.78.0/24"}));
    for node in &cluster.nodes {
        node.await_ready();
        wait_until("the new one has a route", || {
            node.has_route("10.244.78.0/24 via")
        });
    }

    let (sent, back) = out.stop();
    assert!(sent > 100 && sent - back <= 1, "outside: {back} of {sent}");
    let (sent, back) = pings.stop();
    // Only packets from the time without routes on node two are lost.
    assert!(
        sent > 100 && sent - back <= Pings::in_the_time(cut_off),
        "{back} of {sent}, {cut_off:?} without routes"
    );
    assert!(seen_as(&a, &outside, ip("192.168.77.200")).is_some());
}

#[test]
fn sigkill_during_adds_and_dels_loses_no_packet_and_leaks_no_address() {
    let Some(mut cluster) = Cluster::start(&[]) else {
        return;
    };
    cluster.await_routes();
    let (a, _) = cluster.pod(0, "a");
    let (_b, at_b) = cluster.pod(1, "b");
    let pings = Pings::start(&a, at_b[0]);
    let pods: Vec<_> = (0..8)
        .map(|at| cluster.api.world.container(&format!("churn{at}")))
        .collect();
    let cnitool = cluster.tools.cnitool.clone();
    let daemons = std::mem::take(&mut cluster.daemons);
    let [one, two] = &cluster.nodes;
    // Threads of the scope share the test's world, which entering a container needs.
    std::thread::scope(|scope| {
        let churn = |node: &'static str, pods: &[Container]| -> Vec<Command> {
            let node = if node == "node1" { one } else { two };
            let commands = pods.iter().flat_map(|pod| {
                ["add", "del"].map(|verb| node.cnitool_command(&cnitool, verb, pod))
            });
            commands.collect()
        };
        let rounds: Vec<_> = [churn("node1", &pods[..4]), churn("node2", &pods[4..])]
            .into_iter()
            .map(|commands| {
                scope.spawn(move || {
                    let mut commands = commands;
                    for _ in 0..3 {
                        for command in &mut commands {
                            let output = command.output().unwrap();
                            assert!(output.status.success(), "{output:?}");
                        }
                    }
                })
            })
            .collect();
        let mut daemons = daemons;
        while rounds.iter().any(|round| !round.is_finished()) {
            for (at, node) in [one, two].into_iter().enumerate() {
                daemons.remove(at).kill();
                daemons.insert(at, node.start(&cluster.kubeconfig));
            }
            one.await_ready();
        }
        for round in rounds {
            round.join().unwrap();
        }
        two.await_ready();
        cluster.daemons = daemons;
    });
    let (sent, back) = pings.stop();
    assert!(sent > 50 && sent - back <= 1, "{back} of {sent}");
    assert_eq!(one.taken().len(), 1, "{:?}", one.taken());
    assert_eq!(two.taken().len(), 1, "{:?}", two.taken());
    let tables = one.host.enter(|| run("nft", ["list", "tables"]));
    assert_eq!(tables.trim(), "table inet pausenetd");
    cluster.api.assert_nothing_was_forbidden();
}

#[test]
fn a_problem_of_one_node_is_reported_and_does_not_affect_others() {
    let Some(cluster) = Cluster::start(&[]) else {
        return;
    };
    cluster.await_routes();
    let [one, two] = &cluster.nodes;
    one.host.ip("route add default via 192.168.77.254");
    let far = Node::new(&cluster.api.world, "node3", 3);
    cluster
        .api
        .create_node(&far, json!({"podCIDR": "10.244.78.0/24"}));
    wait_until("a route", || {
        one.has_route("10.244.78.0/24 via 192.168.77.3")
    });
    cluster.api.set_address("node3", "203.0.113.3");
    let of = |problem: &str| {
        one.metric(&format!(
            "pausenet_node_problems{{node=\"node3\",problem=\"{problem}\"}}"
        ))
    };
    wait_until("the metric reports it", || of("not_on_link") == Some(1.0));
    cluster.daemons[0].await_log(
        "Node node3: no route to its pods in 10.244.78.0/24: its InternalIP 203.0.113.3 is not on a \
         link of this node, but behind 192.168.77.254",
    );
    assert!(!one.has_route("10.244.78.0/24"));
    assert_eq!(one.get("/readyz").unwrap().0, 200);
    cluster.api.set_address("node3", "192.168.77.3");
    wait_until("it is over", || of("not_on_link").is_none());
    cluster.daemons[0].await_log("solved: Node node3");

    // A foreign route to the same pods takes precedence, and stays.
    one.host.ip("route add 10.244.78.0/24 via 192.168.77.9");
    wait_until("that is reported too", || of("shadowed") == Some(1.0));
    one.host.ip("route del 10.244.78.0/24 via 192.168.77.9");
    wait_until("it is over", || of("shadowed").is_none());
    assert!(two.has_route("10.244.78.0/24 via 192.168.77.3"));
    cluster.api.assert_nothing_was_forbidden();
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    let Some(mut cluster) = Cluster::start(&[]) else {
        return;
    };
    cluster.await_routes();
    let one = &cluster.nodes[0];
    one.host.ip("route add 198.51.100.0/24 via 192.168.77.9");
    // A published port makes a table that all pods of a host share.
    let a = cluster.api.world.container("a");
    one.add_with_port(&cluster.tools.cnitool, &a, 8080);
    let tables = || one.host.enter(|| run("nft", ["list", "tables"]));
    assert!(tables().lines().any(|table| table == "table inet pausenet"));
    assert_eq!(cluster.daemons.remove(0).stop(), Some(0));
    assert!(
        one.conflist().exists() && !one.routes().is_empty(),
        "stopping removes nothing"
    );

    let uninstall = |wait: &str| {
        let mut command = one.command(&cluster.kubeconfig);
        command.args(["--uninstall", "--uninstall-wait", wait]);
        command
    };
    let output = uninstall("0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("1 pods on pausenet networks are left"),
        "{text}"
    );
    // All is still there for the pod's DEL.
    let plugin = one.dir.join("bin/pausenet");
    assert!(one.conflist().exists() && !one.routes().is_empty() && plugin.exists());

    let waiting = one.start_as(uninstall("120"));
    waiting.await_log("waiting until no pod is attached");
    assert!(one.conflist().exists());
    one.cnitool(&cluster.tools.cnitool, "del", &a);
    assert_eq!(waiting.end(), Some(0));
    assert!(!one.conflist().exists() && one.routes().is_empty());
    assert!(!plugin.exists());
    assert_eq!(tables(), "");
    assert!(one.host.ip("route").contains("198.51.100.0/24"));
}
