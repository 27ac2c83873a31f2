//! Published ports of pods, after `nft flush ruleset`.

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
use crate::nodes::{Node, host, make_bridge, unreachable_kubeconfig};
use common::daemon::stripped;
use common::programs;
use common::traffic::bound;
use common::wait::wait_until;
use common::{Container, World, lab, run};

const PODS: &str = "10.244.1.0/24";

/// libcni's result cache.
const RESULTS: &str = "/var/lib/cni/results";

fn nft(node: &Node, rules: &str) -> String {
    node.host.enter(|| run("nft", rules.split_whitespace()))
}

/// The ruleset as sorted lines: the order of elements does not matter.
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
fn a_published_port_works_again_after_nft_flush_ruleset() {
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
    // A runtime that forgot a DEL still has the attachment in its result cache.
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
    nft(&node, "flush chain inet pausenet dnat_prerouting");
    wait_until("and chains too", || put_back() == Some(3.0));
    assert!(answers(&outside, at_node));
    assert_eq!(lines(&node), whole);

    // A flush while no daemon runs, and no API server for the next one.
    assert_eq!(daemon.stop(), Some(0));
    nft(&node, "flush ruleset");
    assert!(!answers(&outside, at_node));
    let _daemon = node.start(&unreachable_kubeconfig());
    wait_until("the port is back", || answers(&outside, at_node));
    node.cnitool(&tools.cnitool, "del", &web);
    assert!(!nft(&node, "list ruleset").contains("8080"));
}

/// A node without a daemon, and the daemon's part that restores pods' elements.
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
fn a_cached_result_of_an_earlier_attachment_is_not_restored() {
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

    // With the right result in the cache it is restored, and only once.
    fs::write(&file, right).unwrap();
    assert_eq!(restore(&node, &mut elements).unwrap(), 1);
    assert!(nft(&node, "list ruleset").contains("8080"));
    assert_eq!(restore(&node, &mut elements).unwrap(), 0);
    assert!(Path::new(RESULTS).is_dir());
}

#[test]
fn a_port_that_another_pod_has_by_now_is_not_taken_back_and_the_rest_is_restored() {
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
