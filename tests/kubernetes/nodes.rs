//! Two nodes as in a real cluster: each with a kubelet, containerd, kube-proxy, and pausenetd as a pod
//! of conf/kubernetes from the image pausenet/node.

mod documented;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Node, OF_BOTH_FAMILIES, Runtime, WITH_SERVICES, pod_ip};
use crate::node_image::node_image;
use crate::outside::{OUTSIDE, OUTSIDE_PORT, Outside};
use crate::scene::{ClusterSlot, container_of, wait_for_slot};
use crate::script::{CHECKOUT, kill};
use common::daemon::{assert_nothing_was_forbidden, is_allowed, requests};
use common::pings::{Pings, reaches};
use common::traffic::seen_as;
use common::wait::wait_until;
use common::{Container, allocated_in, lab, run};

#[test]
fn two_nodes_live_with_pausenetd_as_pods() {
    let Some(mut pair) = Pair::start(&[], WITH_SERVICES) else {
        return;
    };
    pair.daemons_need_no_nameserver_of_the_cluster();
    pair.kind_test_passes();
    pair.bandwidth_limits_are_applied();
    pair.a_host_port_is_restored_after_a_flush();
    pair.pausectl_works_as_documented();
    let pods = [pair.pod("one", 0), pair.pod("two", 1)];
    pair.pods_reach_each_other(&pods);
    pair.the_api_server_is_unreachable(&pods);
    pair.daemons_are_killed_during_adds_and_dels(&pods);
    pair.a_node_returns_with_another_pod_cidr(&pods[0]);
    pair.end();
}

#[test]
fn pods_of_two_nodes_reach_everything_over_both_families() {
    let Some(pair) = Pair::start(&["--dual-stack"], OF_BOTH_FAMILIES) else {
        return;
    };
    let said = pair.kind_test_passes();
    for there in [
        "[fd00:10:244:",      // a pod
        "[fd00:10:96::",      // the Service
        "[fd00:77::1]:30080", // a NodePort
        "[fd00:77::2]:30080",
        "[fd00:77::1]:18080", // a hostPort
        "[fd00:77::2]:18080",
        "[fd00:77::254]:", // the outside
        "10.244.",
        "10.96.",
        "192.168.77.2:30080",
    ] {
        assert!(said.contains(&format!("reaches http://{there}")), "{said}");
    }
    pair.end();
}

/// The number of pods on each node that are created and deleted while the daemons are killed.
const CHURN: usize = 6;

// Dropped in this order.
struct Pair {
    nodes: [Node; 2],
    /// How much of the API server's audit log was read.
    audit_read: Cell<usize>,
    outside: Outside,
    /// The image of CoreDNS.
    dns: PathBuf,
    cluster: Cluster,
    _slot: ClusterSlot,
}

/// A running pod.
struct Pod {
    inside: Container,
    ip: IpAddr,
}

impl Pair {
    /// Creates the cluster, and applies the manifest.
    fn start(of_cluster: &[&str], of_nodes: &'static [&'static str]) -> Option<Self> {
        let slot = wait_for_slot();
        let dns = lab::coredns()?;
        let cluster = Cluster::start(of_cluster)?;
        let outside = Outside::start();
        let nodes = ["node1", "node2"]
            .map(|name| Node::with(&cluster, name, Runtime::Containerd, None, of_nodes));
        // As Kubespray leaves them: they belong to the user kube.
        nodes[0]
            .script
            .run("chown", &["997", "/opt/cni/bin", "/etc/cni/net.d"]);
        let image = node_image();
        for node in &nodes {
            node.load(image.to_str().unwrap());
        }
        let manifest = Path::new(CHECKOUT).join("conf/kubernetes");
        cluster.kubectl(&format!("apply -k {}", manifest.display()));
        cluster.kubectl("-n kube-system rollout status daemonset/pausenet --timeout=180s");
        let pair = Self {
            nodes,
            audit_read: Cell::new(0),
            outside,
            dns,
            cluster,
            _slot: slot,
        };
        for node in &pair.nodes {
            let name = format!("node/{}", node.name);
            pair.cluster.wait("condition=Ready", &name);
        }
        pair.await_routes();
        Some(pair)
    }

    /// The cluster's nameserver is a pod, which needs the daemon first.
    fn daemons_need_no_nameserver_of_the_cluster(&self) {
        for daemon in self.daemons() {
            let asked = fs::read_to_string(format!("/proc/{daemon}/root/etc/resolv.conf")).unwrap();
            // The node's own, as machines of the lab have it.
            assert!(asked.contains("nameserver 127.0.0.1"), "{asked}");
            assert!(!asked.contains("10.96.0.10"), "{asked}");
        }
    }

    /// scripts/kind-test.sh, as after scripts/kind-up.sh, with the images of the lab.
    fn kind_test_passes(&self) -> String {
        // Leftovers of a failed run, which are still being deleted.
        self.cluster.kubectl("create namespace pausenet-test");
        let slow = manifest("slow", "slow", 0, "hwchiu/netutils")
            .replace("{name: slow, ", "{name: slow, namespace: pausenet-test, ")
            .replace(
                "terminationGracePeriodSeconds: 0",
                "terminationGracePeriodSeconds: 3",
            );
        self.cluster.apply(&slow);
        let ready = "-n pausenet-test wait --for=condition=Ready pod/slow --timeout=180s";
        self.cluster.kubectl(ready);
        self.cluster
            .kubectl("delete namespace pausenet-test --wait=false");
        let nodes: BTreeSet<_> = self.node_addresses().into_iter().collect();
        let families = if nodes.len() > 2 {
            &OUTSIDE[..]
        } else {
            &OUTSIDE[..1]
        };
        let outside: Vec<_> = families
            .iter()
            .map(|host| format!("http://{host}:{OUTSIDE_PORT}"))
            .collect();
        self.with_dns(true);
        let output = Command::new(Path::new(CHECKOUT).join("scripts/kind-test.sh"))
            .args(["--client", "hwchiu/netutils", "--server", "nginx"])
            .args(outside.iter().flat_map(|url| ["--outside", url]))
            .env_clear()
            .envs(&self.cluster.script.env)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{stderr}");
        assert!(!said.contains("skip"), "{said}");
        self.with_dns(false);
        // Who came from a pod was seen as its node.
        let seen = self.outside.seen.lock().unwrap().clone();
        assert_eq!(seen, Some(nodes));
        said.into_owned()
    }

    /// Gives the cluster a DNS, or takes it away again: other parts count the pods.
    fn with_dns(&self, wanted: bool) {
        let manifest = Path::new(CHECKOUT).join("scripts/lab/coredns.yaml");
        let manifest = manifest.display();
        if wanted {
            for node in &self.nodes {
                node.load(self.dns.to_str().unwrap());
            }
            self.cluster.kubectl(&format!("apply -f {manifest}"));
            self.cluster
                .kubectl("-n kube-system rollout status deployment/coredns --timeout=180s");
        } else {
            self.cluster.kubectl(&format!("delete -f {manifest}"));
            let gone = "-n kube-system wait --for=delete pod -l k8s-app=kube-dns --timeout=180s";
            self.cluster.kubectl(gone);
        }
    }

    /// The addresses of both nodes.
    fn node_addresses(&self) -> Vec<IpAddr> {
        let nodes = self.cluster.get("nodes");
        let nodes = nodes["items"].as_array().unwrap().iter();
        let addresses = nodes.flat_map(|node| node["status"]["addresses"].as_array().unwrap());
        let own = addresses.filter(|address| address["type"] == "InternalIP");
        own.map(|address| parse(address["address"].as_str().unwrap()))
            .collect()
    }

    /// The limits come from annotations; the runtime passes them to the plugin.
    fn bandwidth_limits_are_applied(&self) {
        let limited = manifest("limited", "limited", 0, "pausenet/pause").replace(
            "labels:",
            "annotations: {kubernetes.io/ingress-bandwidth: 8M, kubernetes.io/egress-bandwidth: 16M}, labels:",
        );
        self.cluster.apply(&limited);
        self.cluster.wait("condition=Ready", "pod/limited");
        let shown = self.nodes[0].script.inside(|| run("tc", ["qdisc", "show"]));
        assert!(
            shown.contains("rate 8Mbit") && shown.contains("rate 16Mbit"),
            "{shown}"
        );
        self.cluster.kubectl("delete pod limited");
        wait_until("the limits are gone", || {
            let shown = self.nodes[0].script.inside(|| run("tc", ["qdisc", "show"]));
            !shown.contains("tbf")
        });
    }

    /// From the runtime's result cache, which the manifest mounts for the daemon.
    fn a_host_port_is_restored_after_a_flush(&self) {
        let port = "IfNotPresent, ports: [{containerPort: 80, hostPort: 8088}]";
        let ported = manifest("ported", "ported", 0, "nginx").replace("IfNotPresent", port);
        self.cluster.apply(&ported);
        self.cluster.wait("condition=Ready", "pod/ported");
        let at_node = SocketAddr::new(parse("192.168.77.1"), 8088);
        let answers = || TcpStream::connect_timeout(&at_node, Duration::from_secs(1)).is_ok();
        wait_until("the port answers", answers);
        for _ in 0..2 {
            // What a flush takes of the plugin's. (kube-proxy's is its own to repair.)
            let delete = || run("nft", ["delete", "table", "inet", "pausenet"]);
            self.nodes[0].script.inside(delete);
            wait_until("the port is back", answers);
        }
        self.cluster.kubectl("delete pod ported");
        wait_until("the port is gone", || {
            let list = || run("nft", ["list", "table", "inet", "pausenet"]);
            !self.nodes[0].script.inside(list).contains("8088")
        });
    }

    fn pods_reach_each_other(&self, [one, two]: &[Pod; 2]) {
        assert_eq!(seen_as(&one.inside, &two.inside, two.ip), Some(one.ip));
        assert_eq!(seen_as(&two.inside, &one.inside, one.ip), Some(two.ip));
    }

    /// Pods keep running, damage is repaired, and changes are applied when it is back.
    fn the_api_server_is_unreachable(&self, [one, two]: &[Pod; 2]) {
        let across = Pings::start(&one.inside, two.ip);
        let out = Pings::start(&one.inside, parse(OUTSIDE[0]));
        self.assert_nothing_was_forbidden();
        let of_first = self.subnet(0);
        let home = Path::new(self.cluster.script.variable("KUBE_HOME"));
        let hold = home.join("kube-apiserver.hold");
        fs::write(&hold, "").unwrap();
        kill(self.cluster.script.daemon("kube-apiserver"));
        let answers = || self.cluster.output("get --raw /readyz").status.success();
        wait_until("it does not answer", || !answers());

        let second = &self.nodes[1];
        second
            .script
            .inside(|| run("nft", ["delete", "table", "inet", "pausenetd"]));
        let flushed = Instant::now();
        second.script.inside(|| common::ip("route flush proto 112"));
        wait_until("its route is back", || self.has_route(1, &of_first));
        let cut_off = flushed.elapsed();
        wait_until("its masquerade is back", || {
            let tables = second.script.inside(|| run("nft", ["list", "tables"]));
            tables.contains("inet pausenetd")
        });

        fs::remove_file(hold).unwrap();
        wait_until("it answers again", answers);
        // One that has just started may refuse what it allows once it knows its own rules.
        wait_until("it has told both daemons of the Nodes again", || {
            let requests = requests(&self.new_audit());
            ["192.168.77.1", "192.168.77.2"].iter().all(|node| {
                let mut of_node = requests
                    .iter()
                    .rev()
                    .filter(|it| it["sourceIPs"][0] == *node);
                of_node.next().is_some_and(is_allowed)
            })
        });
        self.audit_read
            .set(self.audit_read.get() + self.new_audit().len());
        let late = self.pod("late", 1);
        assert!(reaches(&one.inside, late.ip) && reaches(&late.inside, one.ip));
        self.cluster.kubectl("delete pod late");
        let (sent, back) = out.stop();
        assert!(sent > 100 && sent - back <= 1, "outside: {back} of {sent}");
        let (sent, back) = across.stop();
        assert!(
            sent > 100 && sent - back <= Pings::in_the_time(cut_off),
            "{back} of {sent}, {cut_off:?} without a route"
        );
    }

    fn daemons_are_killed_during_adds_and_dels(&self, [one, two]: &[Pod; 2]) {
        let across = Pings::start(&one.inside, two.ip);
        let manifests: String = (0..2 * CHURN)
            .map(|number| {
                manifest(
                    &format!("churn-{number}"),
                    "churn",
                    number % 2,
                    "pausenet/pause",
                )
            })
            .collect();
        let old = self.daemons();
        self.cluster.apply(&manifests);
        wait_until("the first of them are being wired", || {
            self.nodes.iter().all(|node| node.host_ends().len() > 1)
        });
        for daemon in &old {
            kill(*daemon);
        }
        let others = "wait --timeout=180s --for=condition=Ready pod -l app=churn";
        self.cluster.kubectl(others);
        self.cluster.kubectl("delete pod -l app=churn --wait=false");
        wait_until("the daemons have been started again", || {
            let new = self.daemons();
            new.len() == 2 && new.iter().all(|pid| !old.contains(pid))
        });
        for daemon in self.daemons() {
            kill(daemon);
        }
        wait_until("all that is left are the pods that stay", || {
            let left = |node: &Node| (node.host_ends().len(), taken(node).len());
            self.nodes.iter().all(|node| left(node) == (1, 1))
        });
        self.cluster
            .kubectl("-n kube-system rollout status daemonset/pausenet --timeout=180s");
        let (sent, back) = across.stop();
        assert!(sent > 100 && sent - back <= 1, "{back} of {sent}");
    }

    /// The Node is deleted; when its kubelet registers it again, it gets another podCIDR.
    fn a_node_returns_with_another_pod_cidr(&mut self, stays: &Pod) {
        let old = self.subnet(1);
        self.cluster.kubectl("delete pod two");
        self.cluster.kubectl("delete node node2");
        wait_until("its route is gone", || !self.has_route(0, &old));

        self.nodes[1].script.kill("kubelet");
        let new = self.subnet(1);
        assert_ne!(new, old);
        self.cluster.wait("condition=Ready", "node/node2");
        self.await_routes();
        wait_until("its pods are to have other addresses", || {
            let conflist = "/etc/cni/net.d/10-pausenet.conflist";
            let text = self.nodes[1].script.inside(|| fs::read_to_string(conflist));
            text.unwrap().contains(&new)
        });
        assert!(!self.has_route(0, &old) && !self.has_route(1, &old));
        let three = self.pod("three", 1);
        assert!(
            new.parse::<ipnetwork::IpNetwork>()
                .unwrap()
                .contains(three.ip)
        );
        assert_eq!(
            seen_as(&stays.inside, &three.inside, three.ip),
            Some(stays.ip)
        );
        assert_eq!(
            seen_as(&three.inside, &stays.inside, stays.ip),
            Some(three.ip)
        );
    }

    /// Deletes everything, and checks that nothing is left.
    fn end(self) {
        self.cluster.kubectl("delete pod --all");
        wait_until("nothing of pods is left", || {
            let is_empty = |node: &Node| node.host_ends().is_empty() && taken(node).is_empty();
            self.nodes.iter().all(is_empty)
        });
        self.assert_nothing_was_forbidden();
        self.run_from_page("conf/kubernetes/uninstall.yaml");
        for node in &self.nodes {
            node.script.inside(|| {
                for folder in ["/opt/cni/bin", "/etc/cni/net.d"] {
                    let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
                    assert!(left.is_empty(), "{left:?}");
                }
                assert_eq!(common::ip("route show proto 112"), "");
                let tables = run("nft", ["list", "tables"]);
                assert!(!tables.contains("pausenetd"), "{tables}");
            });
        }
        for node in self.nodes {
            node.end();
        }
        self.cluster.end();
    }

    /// The part of the API server's audit log since the last call.
    fn new_audit(&self) -> String {
        let home = Path::new(self.cluster.script.variable("KUBE_HOME"));
        fs::read_to_string(home.join("audit.log")).unwrap()[self.audit_read.get()..].to_owned()
    }

    #[track_caller]
    fn assert_nothing_was_forbidden(&self) {
        let log = self.new_audit();
        assert_nothing_was_forbidden(&log);
        self.audit_read.set(self.audit_read.get() + log.len());
    }

    /// Creates a pod on a node, and waits until it runs.
    fn pod(&self, name: &str, node: usize) -> Pod {
        self.cluster.apply(&manifest(name, "stays", node, "nginx"));
        self.cluster.wait("condition=Ready", &format!("pod/{name}"));
        let ip = pod_ip(&self.cluster.get(&format!("pod {name}"))).unwrap();
        let inside = container_of(self.nodes[node].running(name)["POD"].pid);
        Pod { inside, ip }
    }

    /// The PIDs of the running pausenetd processes.
    fn daemons(&self) -> Vec<u32> {
        let pods = self
            .cluster
            .get("-n kube-system pods -l app.kubernetes.io/name=pausenet");
        let pods = pods["items"].as_array().unwrap().iter();
        let found = pods.filter_map(|pod| {
            let at = |node: &&Node| pod["spec"]["nodeName"] == *node.name;
            let node = self.nodes.iter().find(at).unwrap();
            let mut running = node.running(pod["metadata"]["name"].as_str().unwrap());
            Some(running.remove("pausenetd")?.pid)
        });
        found.collect()
    }

    /// The podCIDR of a node.
    fn subnet(&self, node: usize) -> String {
        self.nodes[node].pods(&self.cluster).to_string()
    }

    fn await_routes(&self) {
        let subnets = [0, 1].map(|node| self.subnet(node));
        wait_until("each has a route to the other's pods", || {
            self.has_route(0, &subnets[1]) && self.has_route(1, &subnets[0])
        });
    }

    /// Whether a node has a route of the daemon to this subnet.
    fn has_route(&self, node: usize, subnet: &str) -> bool {
        let shown = || common::ip("route show proto 112");
        let shown = self.nodes[node].script.inside(shown);
        shown.lines().any(|line| line.trim().starts_with(subnet))
    }
}

/// The addresses in use on a node.
fn taken(node: &Node) -> Vec<String> {
    let store = Path::new("/run/pausenet/ipam/pausenet");
    node.script.inside(|| allocated_in(store))
}

fn manifest(name: &str, app: &str, node: usize, image: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  \
         nodeSelector: {{kubernetes.io/hostname: node{}}}\n  containers:\n  \
         - {{name: main, image: {image}, imagePullPolicy: IfNotPresent}}\n",
        node + 1
    )
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}
