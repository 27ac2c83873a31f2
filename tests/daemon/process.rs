//! The program by itself: usage errors, and how it runs without an API server.

use std::process::{Command, Output};

use crate::nodes::{LISTEN, Node, get, make_bridge, unreachable_kubeconfig};
use common::World;
use common::programs;
use common::wait::wait_until;

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(programs::pausenetd());
    command
        .args(args)
        .env_clear()
        .stdin(std::process::Stdio::null());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_has_examples_and_variables() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "Examples:",
        "PAUSENETD_CLUSTER_CIDR",
        "--uninstall",
        "Exit status",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn wrong_usage_is_status_2_and_names_the_flag() {
    for (args, part) in [
        (&["--cluster-cidr", "10.1.2.3/8"][..], "not a subnet like"),
        (&["--mode", "vxlan"], "--mode"),
        (&["--listen", "9112"], "--listen"),
        (&["--network", "../x"], "--network"),
        (&["--interval", "0"], "--interval"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn failures_are_status_1_and_have_a_hint() {
    let _world = World::new();
    for (args, part) in [
        (&["--bin-dir", "x"][..], "it must start with /"),
        (&["--log", "a=b=c"], "--log"),
        (&["--listen", "192.0.2.1:1"], "another pausenetd"),
        (&["--listen", "127.0.0.1:0"], "set --kubeconfig FILE"),
        (
            &["--listen", "127.0.0.1:0", "--kubeconfig", "/nonexistent"],
            "/nonexistent",
        ),
    ] {
        let bin = "/run/bin";
        let own = [
            "--bin-dir",
            bin,
            "--conf-dir",
            "/run/net.d",
            "--node-name",
            "n",
        ];
        let all: Vec<_> = if args.contains(&"--bin-dir") {
            args.to_vec()
        } else {
            [&own[..], args].concat()
        };
        let output = run(&all);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{all:?}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn without_an_api_server_it_is_alive_and_not_ready_and_stops_on_sigterm() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let daemon = node.start(&unreachable_kubeconfig());
    wait_until("it answers", || node.get("/healthz").is_some());
    wait_until("the first pass has ended", || {
        node.get("/readyz")
            .is_some_and(|(_, why)| why.contains("API server"))
    });
    assert_eq!(node.get("/healthz").unwrap().0, 200);
    let (status, why) = node.get("/readyz").unwrap();
    assert_eq!(status, 503, "{why}");
    wait_until("the failure is counted", || {
        node.metric("pausenet_watch_errors_total") >= Some(1.0)
    });
    assert!(!node.conflist().exists());
    assert_eq!(node.get("/nothing").unwrap().0, 404);
    assert!(
        node.host
            .enter(|| get(LISTEN, "/metrics"))
            .unwrap()
            .1
            .ends_with("# EOF\n")
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_second_daemon_on_a_node_is_refused() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let _first = node.start(&unreachable_kubeconfig());
    wait_until("it answers", || node.get("/healthz").is_some());
    let second = node.command(&unreachable_kubeconfig()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("does another pausenetd run here?"));
}
