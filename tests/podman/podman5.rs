//! podman 5, whose networks are netavark's: what `pausectl` says of its containers, which it knows from
//! /proc alone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::podman::BUSYBOX;
use common::programs::{self, CHECKOUT};
use common::{World, lab};

/// Ends with the test, and its containers with it.
struct Podman {
    _world: World,
    script: Child,
    path: String,
}

impl Podman {
    /// None, and the test skipped, where podman cannot run.
    fn start() -> Option<Self> {
        lab::podman5()?;
        let world = World::new();
        let mut script = Command::new(Path::new(CHECKOUT).join("scripts/lab/podman5.sh"))
            // Until the end of its stdin, which comes even if this process is killed.
            .args(["run", "sh", "-c", "echo \"$PATH\"; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut path = String::new();
        BufReader::new(script.stdout.take().unwrap())
            .read_line(&mut path)
            .unwrap();
        assert!(path.contains('/'), "podman5.sh has ended");
        let podman = Self {
            _world: world,
            script,
            path: path.trim().to_owned(),
        };
        let change = "ENTRYPOINT [\"/bin/busybox\"]";
        podman.run(&["import", "--change", change, "/lab/busybox.tar", BUSYBOX]);
        Some(podman)
    }

    fn output(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new("env");
        command.env("PATH", &self.path).arg(program).args(args);
        command.env("DOCKER_HOST", "unix:///nonexistent");
        command.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        said(&self.output("podman", args))
    }

    #[track_caller]
    fn explain(&self, pid: &str) -> Value {
        let args = ["explain", pid, "--output", "json"];
        serde_json::from_str(&said(&self.output(programs::pausectl(), &args))).unwrap()
    }

    /// The process that sleeps so long, by its PID here.
    fn sleeper(seconds: &str) -> String {
        let found = common::run("pgrep", ["-xf", &format!("/bin/busybox sleep {seconds}")]);
        found.trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

#[track_caller]
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn podman_5_removes_the_network_with_its_owner_as_explain_predicted() {
    let Some(podman) = Podman::start() else {
        return;
    };
    podman.run(&["network", "create", "own"]);
    let first = ["run", "-d", "--name=first", "--network=own", BUSYBOX];
    podman.run(&[&first[..], &["sleep", "60001"]].concat());
    let second = [
        "run",
        "-d",
        "--name=second",
        "--network=container:first",
        BUSYBOX,
    ];
    podman.run(&[&second[..], &["sleep", "60002"]].concat());
    let pid = Podman::sleeper("60002");
    let explained = podman.explain(&pid);
    let owner = &explained["members"][0];
    assert_eq!(owner["container"]["engine"], "podman", "{explained:#}");
    assert_eq!(explained["summary"], "second shares the network of first.");
    let then = |at: usize| explained["deathEffects"][at]["effect"].as_str().unwrap();
    assert!(
        then(0).starts_with("podman removes eth0 for every member"),
        "{explained:#}"
    );
    assert_eq!(then(1), "nothing for the others");

    podman.run(&["stop", "--time=0", "first"]);
    let links = common::run("nsenter", ["-t", &pid, "-n", "--", "ip", "-o", "link"]);
    assert!(links.contains("lo:") && !links.contains("eth0"), "{links}");
    let after = podman.explain(&pid);
    assert_eq!(after["interfaces"], Value::Array(Vec::new()), "{after:#}");
    assert_eq!(after["state"], "orphaned", "{after:#}");
}
