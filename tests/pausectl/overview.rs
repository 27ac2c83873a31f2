//! `ls` and `graph`: everything on the host at once.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::host::{PodHost, kill, seen, signal};
use common::processes::{UnsharedProcess, with_default_signals};
use common::screen::Screen;
use common::{Call, ip, podnet};

fn attachments(host: &PodHost) -> Vec<Value> {
    let mut json: Value = serde_json::from_str(&host.ok(&["ls", "--output", "json"])).unwrap();
    serde_json::from_value(json["attachments"].take()).unwrap()
}

#[test]
fn an_empty_host_has_its_own_message() {
    let host = PodHost::new();
    assert_eq!(host.ok(&["ls"]), "no attachments on this host\n");
    assert_eq!(attachments(&host), Vec::<Value>::new());
    let tree = seen(&host, &["graph"]);
    assert!(!tree.contains("bridge "), "{tree}");
}

#[test]
fn every_attachment_has_a_line() {
    let host = PodHost::new();
    let made = host.create("web");
    let member = host.member("web");
    host.world.container("blue");
    Call::new("ADD", &podnet())
        .var("CNI_NETNS", "/run/netns/blue")
        .run()
        .ok();
    let screen = Screen::default()
        .hide(&made["pause"].to_string(), "PAUSE")
        .hide(&member.pid().to_string(), "SLEEP");
    insta::assert_snapshot!(screen.show(&host.ok(&["ls"])), @r"
    NETWORK  CONTAINER  INTERFACE  ADDRESSES  VETH  BRIDGE  ANCHOR  STATE  MEMBERS
    podnet  c1  eth0  10.1.0.3/24  vethkqtm6rbkqlw  cni0  -  empty  -
    podnet  web  eth0  10.1.0.2/24  veth76sittls6tf  cni0  PAUSE  running  SLEEP (sleep)
    ");
    let json = attachments(&host);
    assert_eq!(json.len(), 2);
    assert_eq!(json[1]["container"], "web");
    assert_eq!(json[1]["containerId"], "pausectl-web");
    assert_eq!(json[1]["addresses"], json!(["10.1.0.2/24"]));
    assert_eq!(json[1]["anchor"], made["pause"]);
    assert_eq!(json[0]["state"], "empty");
}

#[test]
fn foreign_interfaces_are_shown_with_all() {
    let host = PodHost::new();
    host.world.container("blue");
    ip("link add hostside type veth peer name inside netns blue");
    assert_eq!(attachments(&host), Vec::<Value>::new());
    let all: Value = serde_json::from_str(&seen(&host, &["ls", "--all", "-o", "json"])).unwrap();
    let rows = all["attachments"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["hostEnd"] == "hostside")
        .unwrap();
    assert_eq!(row["container"], "/run/netns/blue");
    assert_eq!(row["interface"], "inside");
    assert_eq!(row["network"], Value::Null);
}

#[test]
fn a_namespace_that_only_an_open_file_holds_keeps_its_line() {
    let host = PodHost::new();
    let blue = host.world.container("blue");
    Call::new("ADD", &podnet()).netns(&blue).run().ok();
    let held = std::fs::File::open(&blue.path).unwrap();
    blue.destroy();
    let rows = attachments(&host);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["state"], "unseen");
    assert_eq!(rows[0]["container"], "c1");
    assert_eq!(rows[0]["addresses"], json!(["10.1.0.2/24"]));
    drop(held);
}

#[test]
fn ls_watch_follows_links_and_processes_until_ctrl_c() {
    let host = PodHost::new();
    let mut watch = with_default_signals(&host.command(&["ls", "--watch", "--output", "json"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut states_until = |wanted: &[&str]| loop {
        // Each line is a whole value; between two states there may be others.
        let line = lines.next().expect("a line").unwrap();
        let json: Value = serde_json::from_str(&line).unwrap();
        let rows = json["attachments"].as_array().unwrap();
        let states: Vec<_> = rows
            .iter()
            .map(|row| row["state"].as_str().unwrap())
            .collect();
        let whole = rows.iter().all(|row| row["addresses"] != json!([]));
        if states == wanted && whole {
            break;
        }
    };
    states_until(&[]);
    let made = host.create("web");
    states_until(&["running"]);
    let member = host.member("web");
    // No link changes with these two: only the processes show it.
    kill(made["pause"].as_u64().unwrap() as u32);
    states_until(&["orphaned"]);
    member.kill();
    states_until(&["empty"]);
    host.ok(&["pod", "rm", "web"]);
    states_until(&[]);
    signal(watch.id(), Signal::INT);
    assert_eq!(watch.wait().unwrap().code(), Some(130));
}

#[test]
fn ls_watch_ends_when_its_reader_leaves() {
    let host = PodHost::new();
    let mut watch = host
        .command(&["ls", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(watch.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    assert_eq!(first, "no attachments on this host\n");
    drop(reader);
    host.create("web");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn the_graph_is_the_same_in_every_form() {
    let host = PodHost::new();
    let made = host.create("web");
    let member = host.member("web");
    let screen = Screen::default()
        .hide(&made["pause"].to_string(), "PAUSE")
        .hide(&member.pid().to_string(), "SLEEP");
    let _apart = UnsharedProcess::start();
    let of_ours = |text: String| -> String {
        // Other tests' worlds, as far as the machine shows them, are not ours.
        let end = text.find("└─ no link to the host").unwrap();
        text[..end].to_owned()
    };
    let tree = of_ours(seen(&host, &["graph"]));
    insta::assert_snapshot!(screen.show_exactly(&tree), @r"
    host
    ├─ bridge cni0  10.1.0.1/24
    │  └─ veth76sittls6tf - eth0 10.1.0.2/24 (podnet)
    │     └─ web: running
    │        ├─ PAUSE (pause), the owner
    │        └─ SLEEP (sleep)
    ");
    assert_eq!(of_ours(seen(&host, &["graph", "--format", "tree"])), tree);

    let svg = seen(&host, &["graph", "--format", "svg"]);
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = document
        .descendants()
        .filter_map(|node| node.text())
        .collect();
    let dot = seen(&host, &["graph", "--format", "dot"]);
    let host_end = made["result"]["interfaces"][1]["name"].as_str().unwrap();
    for shown in [host_end, "bridge cni0", "web: running", "10.1.0.2/24"] {
        assert!(
            texts.iter().any(|text| text.contains(shown)),
            "{shown}: {svg}"
        );
        assert!(dot.contains(shown), "{shown}: {dot}");
    }
    let json: Value = serde_json::from_str(&seen(&host, &["graph", "-o", "json"])).unwrap();
    assert_eq!(json["bridges"][0]["name"], "cni0");
    let rooms = json["sandboxes"].as_array().unwrap();
    let web = rooms.iter().find(|room| room["title"] == "web").unwrap();
    assert_eq!(web["interfaces"][0]["hostEnd"], host_end);
    assert_eq!(web["interfaces"][0]["bridge"], "cni0");

    let stderr = host.fails(2, &["graph", "--format", "svg", "-o", "json"]);
    assert!(stderr.contains("only one of them"), "{stderr}");
}
