//! Several networks of a pod, and its published ports.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::host::PodHost;
use common::screen::assert_is_in_the_docs;
use common::{podnet, run, with};

/// A host whose network podnet maps ports, with a second network.
fn host() -> PodHost {
    let host = PodHost::new();
    host.network(&with(
        podnet(),
        json!({"capabilities": {"portMappings": true}}),
    ));
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]});
    let second = json!({"name": "storage", "bridge": "cni0", "ipam": ipam, "isGateway": false, "isDefaultGateway": false});
    host.network(&with(podnet(), second));
    host
}

const BOTH: [&str; 7] = [
    "pod",
    "create",
    "web",
    "--network",
    "storage",
    "--network",
    "podnet",
];

#[test]
fn a_pod_has_several_networks_and_lists_its_published_ports() {
    let host = host();
    assert_eq!(host.ok(&["pod", "ports"]), "no published ports\n");
    let ports = [
        "--publish",
        "8000-8001:80-81",
        "--publish",
        "127.0.0.1:53:53/udp",
    ];
    let said = host.ok(&[&BOTH[..], &ports].concat());
    assert!(
        said.contains("web: 10.2.0.2/24 on eth0 (network storage); pause is process"),
        "{said}"
    );
    assert!(
        said.contains("web: 10.1.0.2/24 on eth1 (network podnet)\n"),
        "{said}"
    );
    assert!(
        said.contains("web: host port 8001/tcp forwards to port 81"),
        "{said}"
    );
    let expected = "\
NAME  NETWORK  INTERFACE  HOST PORT         LEADS TO     STATE
web   podnet   eth1       8000/tcp          10.1.0.2:80  published
web   podnet   eth1       8001/tcp          10.1.0.2:81  published
web   podnet   eth1       127.0.0.1:53/udp  10.1.0.2:53  published
";
    assert_eq!(host.ok(&["pod", "ports"]), expected);
    assert_is_in_the_docs(expected);
    assert_eq!(host.ok(&["pod", "ports", "web"]), expected);
    run("nft", ["delete", "table", "inet", "pausenet"]);
    let json: Value = serde_json::from_str(&host.ok(&["pod", "ports", "-o", "json"])).unwrap();
    assert_eq!(json["ports"][1]["state"], "missing");
    assert_eq!(json["ports"][1]["addresses"], json!(["10.1.0.2"]));
    let said = host.fails(1, &["pod", "ports", "db"]);
    assert!(said.contains("there is no pod db"), "{said}");
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_pod_s_port_that_is_taken_is_refused_and_its_holder_named() {
    let host = host();
    host.ok(&[&BOTH[..], &["--publish", "8080:80"]].concat());
    let create = ["pod", "create", "db", "--network", "podnet", "--publish"];
    let said = host.fails(1, &[&create[..], &["8080:80"]].concat());
    assert!(said.contains("port 80 of pod web"), "{said}");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = host.fails(1, &[&create[..], &[&format!("{port}:80")]].concat());
    let process = format!("process {} (", std::process::id());
    assert!(said.contains(&process), "{said}");
    assert!(
        said.contains(&format!("already listens on port {port}/tcp")),
        "{said}"
    );
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}
