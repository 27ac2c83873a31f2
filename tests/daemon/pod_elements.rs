//! Ports of pods, after somebody's `nft flush ruleset`.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::nft::Nft;
use pausenetd::conflist::render;
use pausenetd::options::Options;
use pausenetd::pod_elements::PodElements;
use serde_json::{Value, json};

use crate::api::{Api, Tools};
use crate::site::{Node, host, kubeconfig_of_nobody, make_bridge};
use common::daemon::stripped;
use common::programs;
use common::traffic::bound;
use common::wait::wait_until;
use common::{Container, World, lab, run};

const PODS: &str = "10.244.1.0/24";

/// Where libcni remembers what it asked for.
const RESULTS: &str = "/var/lib/cni/results";

fn nft(node: &Node, rules: &str) -> String {
    node.host.enter(|| run("nft", rules.split_whitespace()))
}

/// The plugin's tables line by line: what came first does not matter.
fn lines(node: &Node) -> Vec<String> {
    let ruleset = nft(node, "list ruleset");
    let mut lines: Vec<_> = ruleset.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn serve(pod: &Container, address: IpAddr) -> TcpListener {
    pod.enter(|| bound(|| TcpListener::bind((address, 80))).unwrap())
}

fn answers(from: &Container, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
}

#[test]
fn a_port_of_a_pod_is_reachable_again_after_somebody_s_flush() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let (api, node, kubeconfig) = Api::for_one_node(&tools);
    api.create_node(&node, json!({}));
    let daemon = node.start(&kubeconfig);
    node.await_ready();
    let outside = host(&api.world, "outside", 200);
    let [web, dead] = ["web", "dead"].map(|name| api.world.container(name));
    let at = node.add_with_port(&tools.cnitool, &web, 8080);
    let _server = serve(&web, at);
    let at_node = "192.168.77.1:8080";
    assert!(answers(&outside, at_node));
    let whole = lines(&node);
    // A runtime that forgot its DEL remembers it still.
    node.add_with_port(&tools.cnitool, &dead, 8081);
    dead.destroy();
    wait_until("its link is gone", || {
        node.host.ip("-o link show type veth").lines().count() == 2 // the node's own is one
    });

    let put_back = || node.metric("pausenet_changes_total{part=\"ports\"}");
    assert_eq!(put_back(), None);
    nft(&node, "flush ruleset");
    wait_until("the port is back", || answers(&outside, at_node));
    wait_until("that is counted", || put_back() == Some(1.0));
    wait_until("all is as it was", || lines(&node) == whole);
    daemon.await_log("restored nftables elements of 1 pods");

    nft(&node, "delete element inet pausenet ports4 { tcp . 8080 }");
    wait_until("that is counted too", || put_back() == Some(2.0));
    assert!(answers(&outside, at_node));
    nft(&node, "flush chain inet pausenet prerouting");
    wait_until("and chains too", || put_back() == Some(3.0));
    assert!(answers(&outside, at_node));
    assert_eq!(lines(&node), whole);

    // Nobody saw this one, and no API server tells of Nodes.
    assert_eq!(daemon.stop(), Some(0));
    nft(&node, "flush ruleset");
    assert!(!answers(&outside, at_node));
    let _daemon = node.start(&kubeconfig_of_nobody());
    wait_until("the port is back", || answers(&outside, at_node));
    node.cnitool(&tools.cnitool, "del", &web);
    assert!(!nft(&node, "list ruleset").contains("8080"));
}

/// A node whose network was configured by hand, and what puts back its pods' elements.
fn without_a_daemon(world: &World) -> (Node, PodElements) {
    make_bridge();
    let node = Node::new(world, "node1", 1);
    let store = node.dir.join("ipam");
    let options = ["pausenetd", "--store-dir", store.to_str().unwrap()];
    let options = Options::try_parse_from(options).unwrap();
    let conflist = render(&options.settings(), &[PODS.parse().unwrap()], None);
    for dir in ["net.d", "bin"] {
        fs::create_dir_all(node.dir.join(dir)).unwrap();
    }
    fs::write(node.conflist(), conflist).unwrap();
    let plugin = stripped(programs::pausenet());
    std::os::unix::fs::symlink(plugin, node.dir.join("bin/pausenet")).unwrap();
    (node, PodElements::new(&options))
}

fn restore(node: &Node, elements: &mut PodElements) -> pausenet_host::Result<usize> {
    node.host.enter(|| {
        let (mut socket, mut nft) = (RouteSocket::open().unwrap(), Nft::open().unwrap());
        elements.restore(&mut socket, &mut nft)
    })
}

#[test]
fn what_is_remembered_of_an_earlier_life_is_not_put_back() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let (node, mut elements) = without_a_daemon(&world);
    let web = world.container("web");
    node.add_with_port(&cnitool, &web, 8080);
    let file = fs::read_dir(RESULTS)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let right = fs::read(&file).unwrap();
    let mut entry: Value = serde_json::from_slice(&right).unwrap();
    entry["result"]["ips"][0]["address"] = "10.244.1.99/24".into();
    fs::write(&file, entry.to_string()).unwrap();
    nft(&node, "flush ruleset");
    assert_eq!(restore(&node, &mut elements).unwrap(), 0);
    assert_eq!(nft(&node, "list ruleset"), "");

    // Once the runtime has written down what is so, it is; and nothing is written twice.
    fs::write(&file, right).unwrap();
    assert_eq!(restore(&node, &mut elements).unwrap(), 1);
    assert!(nft(&node, "list ruleset").contains("8080"));
    assert_eq!(restore(&node, &mut elements).unwrap(), 0);
    assert!(Path::new(RESULTS).is_dir());
}

#[test]
fn a_port_that_another_has_taken_meanwhile_stays_his_and_the_rest_comes_back() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let world = World::new();
    let (node, mut elements) = without_a_daemon(&world);
    let [web, heir, other] = ["web", "heir", "other"].map(|name| world.container(name));
    node.add_with_port(&cnitool, &web, 8080);
    node.add_with_port(&cnitool, &other, 8081);
    nft(&node, "flush ruleset");
    let at_heir = node.add_with_port(&cnitool, &heir, 8080);
    let err = restore(&node, &mut elements).unwrap_err();
    assert!(
        err.message.contains("host port 8080/tcp is mapped to"),
        "{err}"
    );
    let ruleset = nft(&node, "list ruleset");
    for port in ["tcp . 8080 comment", "tcp . 8081 comment"] {
        assert!(ruleset.contains(port), "{port}\n{ruleset}");
    }
    assert!(ruleset.contains(&format!("{at_heir} . 80")), "{ruleset}");
}
