//! When a node is ready: after one complete pass, whatever was left from before; and from then on even
//! without an API server.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};

use clap::Parser;
use pausenetd::metrics::{Metrics, text};
use pausenetd::node::Node as OfCluster;
use pausenetd::node_watch::NodeList;
use pausenetd::options::Options;
use pausenetd::reconcile::Reconciler;
use pausenetd::wakeup::PassScope;
use serde_json::json;

use crate::api::{Api, Tools};
use crate::nodes::{Node, make_bridge};
use common::World;
use common::daemon::stripped;
use common::programs;
use common::wait::wait_until;

const OLD: &str =
    r#"{"cniVersion": "1.0.0", "name": "pausenet", "plugins": [{"type": "pausenet"}]}"#;

/// As after a reboot: the conflist is on disk, and nothing is in the kernel.
fn leave_conflist(node: &Node) {
    fs::create_dir_all(node.conflist().parent().unwrap()).unwrap();
    fs::write(node.conflist(), OLD).unwrap();
}

/// A reconciler, and its passes one at a time.
struct Passes<'a> {
    node: &'a Node,
    reconciler: Reconciler,
    numbers: Box<dyn Fn() -> String>,
}

impl<'a> Passes<'a> {
    fn new(node: &'a Node) -> Self {
        let dir = |name: &str| node.dir.join(name).into_os_string();
        let options = Options::try_parse_from(
            ["pausenetd".into(), "--node-name".into()]
                .into_iter()
                .chain([
                    node.name.into(),
                    "--plugin".into(),
                    stripped(programs::pausenet()).into_os_string(),
                    "--bin-dir".into(),
                    dir("bin"),
                    "--conf-dir".into(),
                    dir("net.d"),
                    "--store-dir".into(),
                    dir("ipam"),
                ]),
        );
        let options = options.unwrap().complete().unwrap();
        let (metrics, registry) = Metrics::new();
        let new = || Reconciler::new(options, metrics, Default::default()).unwrap();
        Self {
            node,
            reconciler: node.host.enter(new),
            numbers: Box::new(move || text(&registry).unwrap()),
        }
    }

    /// Makes one pass. Returns why the node is not ready after it.
    fn make(&mut self, nodes: Option<&NodeList>, scope: PassScope) -> Option<String> {
        let reconciler = &mut self.reconciler;
        self.node
            .host
            .enter(|| reconciler.pass(nodes, scope).not_ready)
    }

    #[track_caller]
    fn assert_lacks(&mut self, nodes: Option<&NodeList>, lack: &str) {
        let why = self.make(nodes, PassScope::Network).expect("not ready");
        assert!(why.contains(lack), "{why}");
    }

    fn errors(&self, part: &str) -> Option<f64> {
        self.number(&format!("reconcile_errors_total{{part=\"{part}\"}}"))
    }

    fn number(&self, name: &str) -> Option<f64> {
        let name = format!("pausenet_{name} ");
        let text = (self.numbers)();
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map(|number| number.parse().unwrap())
    }
}

fn cluster(node: &Node, pod_cidrs: &[&str]) -> NodeList {
    let of_cluster = OfCluster {
        name: node.name.to_owned(),
        addresses: vec![node.address().parse().unwrap()],
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        unreadable: Vec::new(),
    };
    BTreeMap::from([(node.name.to_owned(), of_cluster)])
}

/// A foreign process that owns a table with the name of ours: no other process may change it.
struct Owner(Child);

impl Owner {
    fn of_table(node: &Node, table: &str) -> Self {
        use std::io::Write;
        let mut command = node.host.command("nft");
        let mut child = command
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let line = format!("add table {table} {{ flags owner; }}\n");
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        wait_until("the table is there", || tables(node).contains(table));
        Self(child)
    }

    fn leave(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn tables(node: &Node) -> String {
    node.host.enter(|| common::run("nft", ["list", "tables"]))
}

#[test]
fn a_leftover_conflist_does_not_make_the_node_ready_and_readyz_names_what_is_missing() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    leave_conflist(&node);
    let mut passes = Passes::new(&node);
    let why = passes.make(None, PassScope::Everything).expect("not ready");
    assert!(
        why.contains("no list of Nodes from the API server"),
        "{why}"
    );

    passes.assert_lacks(
        Some(&NodeList::new()),
        "node: this node, node1, is not among",
    );
    assert_eq!(passes.errors("node"), Some(1.0));
    let without = cluster(&node, &[]);
    passes.assert_lacks(Some(&without), "pod_cidr: Node node1 has no podCIDR");
    assert_eq!(passes.errors("pod_cidr"), Some(1.0));

    let whole = cluster(&node, &["10.244.1.0/24"]);
    let owner = Owner::of_table(&node, "inet pausenetd");
    passes.assert_lacks(
        Some(&whole),
        "masquerade: set the masquerade table in nftables",
    );
    assert_eq!(passes.errors("masquerade"), Some(1.0));
    assert_eq!(fs::read_to_string(node.conflist()).unwrap(), OLD);
    owner.leave();
    assert_eq!(passes.make(Some(&whole), PassScope::Network), None);
    let conflist = fs::read_to_string(node.conflist()).unwrap();
    assert!(conflist.contains("10.244.1.0/24"), "{conflist}");
}

#[test]
fn a_node_that_was_ready_stays_so_whatever_fails_while_its_network_is_there() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let mut passes = Passes::new(&node);
    let whole = cluster(&node, &["10.244.1.0/24"]);
    assert_eq!(passes.make(Some(&whole), PassScope::Everything), None);

    assert_eq!(
        passes.make(Some(&NodeList::new()), PassScope::Network),
        None
    );
    assert_eq!(passes.errors("node"), Some(1.0));
    node.host.enter(|| common::run("nft", ["flush", "ruleset"]));
    let owner = Owner::of_table(&node, "inet pausenetd");
    assert_eq!(passes.make(Some(&whole), PassScope::Network), None);
    assert_eq!(passes.errors("masquerade"), Some(1.0));
    owner.leave();

    // But without it no pod can be wired.
    fs::remove_file(node.conflist()).unwrap();
    let why = passes.make(Some(&NodeList::new()), PassScope::Network);
    let why = why.expect("not ready");
    assert!(why.contains("10-pausenet.conflist does not exist"), "{why}");
    assert_eq!(passes.make(Some(&whole), PassScope::Network), None);
}

#[test]
fn addresses_are_counted_as_soon_as_the_pod_cidr_is_known() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let mut passes = Passes::new(&node);
    // The first pass covers everything; the one after a list of Nodes covers the network only.
    passes.make(None, PassScope::Everything);
    for range in ["10.244.1.0/24", "10.244.2.0/24"] {
        let [used, free] =
            ["used", "free"].map(|it| format!("addresses_{it}{{range=\"{range}\"}}"));
        assert_eq!(passes.number(&free), None);
        passes.make(Some(&cluster(&node, &[range])), PassScope::Network);
        assert_eq!(passes.number(&used), Some(0.0));
        assert_eq!(passes.number(&free), Some(253.0));
    }
}

#[test]
fn a_running_daemon_reports_a_missing_node_and_counts_addresses_at_once() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let (api, node, kubeconfig) = Api::for_one_node(&tools);
    leave_conflist(&node);
    let _daemon = node.start(&kubeconfig);
    wait_until("it misses its Node", || {
        node.get("/readyz")
            .is_some_and(|(status, why)| status == 503 && why.contains("is not among the 0 Nodes"))
    });
    assert!(node.metric("pausenet_reconcile_errors_total{part=\"node\"}") >= Some(1.0));
    api.create_node(&node, json!({}));
    node.await_ready();
    // The timer is an hour away.
    let range = format!("{{range=\"{}\"}}", api.pod_cidr("node1"));
    wait_until("addresses are counted", || {
        node.metric(&format!("pausenet_addresses_free{range}")) == Some(253.0)
    });
    assert_eq!(
        node.metric(&format!("pausenet_addresses_used{range}")),
        Some(0.0)
    );
}
