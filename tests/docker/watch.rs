//! `pausectl docker watch`: whatever happens, and whatever it misses, the same state results.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pausenet::kernel::netns::NetnsId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::connected_container::ConnectedContainer;
use common::allocated;
use common::docker::{Docker, LIVE_RESTORE, NO_BRIDGE};
use common::programs::CHECKOUT;
use common::wait::wait_until;

const HOST: &str = "10.1.0.1";

#[test]
fn watch_attaches_labelled_containers_while_they_run() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    run(&docker, "early", &["pausenet.network=podnet"]);
    let watch = Watcher::start(&docker, &["--output", "json"]);
    watch.says(r#""event":"attached","name":"early""#);
    run(
        &docker,
        "late",
        &[
            "pausenet.network=podnet",
            "pausenet.ip=10.1.0.50",
            "pausenet.publish=8080:80, 9090:90/udp",
        ],
    );
    let line = watch.says(r#""event":"attached","name":"late""#);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["addresses"][0], "10.1.0.50/24");
    assert_eq!(docker.view("late").addresses("eth0"), ["10.1.0.50/24"]);
    let rules = common::run("nft", ["list", "ruleset"]);
    assert!(
        rules.contains("tcp . 8080") && rules.contains("udp . 9090"),
        "{rules}"
    );

    // A restart gives it a new namespace, and the same address.
    let old = docker.pid("late");
    docker.run(&["restart", "late"]);
    wait_until("it is attached again", || {
        docker.pid("late") != old && docker.view("late").addresses("eth0") == ["10.1.0.50/24"]
    });
    let old = docker.view("early").addresses("eth0");
    docker.run(&["stop", "early"]);
    wait_until("the address is free", || {
        allocated("podnet") == ["10.1.0.50"]
    });
    docker.run(&["start", "early"]);
    wait_until("it is as before", || {
        docker.view("early").addresses("eth0") == old
    });

    for (name, labels, reason) in [
        ("lost", &["pausenet.network=nonet"][..], "no network"),
        (
            "bad",
            &["pausenet.network=podnet", "pausenet.ip=10.1.0"],
            "pausenet.ip",
        ),
        (
            "worse",
            &["pausenet.network=podnet", "pausenet.publish=80"],
            "pausenet.publish",
        ),
        (
            "evil",
            &["pausenet.network=podnet", "pausenet.anchor=../../x"],
            "pausenet.anchor",
        ),
    ] {
        run(&docker, name, labels);
        let line = watch.says(&format!(r#""name":"{name}""#));
        assert!(line.contains(reason), "{line}");
        assert!(docker.view(name).link("eth0").is_none());
    }
    docker.run(&[
        "run",
        "-d",
        "--net=host",
        "--label",
        "pausenet.network=podnet",
        "--name",
        "host",
        "pausenet/pause",
    ]);
    watch.says("--net=host");
    docker.run(&[
        "rm", "-f", "early", "late", "lost", "bad", "worse", "evil", "host",
    ]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn a_container_detached_by_hand_stays_detached() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    run(&docker, "job", &["pausenet.network=podnet"]);
    watch.says("job: attached");
    docker.pausectl_ok(&["docker", "detach", "job"]);
    // The next one is attached, in a round that has seen the first.
    run(&docker, "other", &["pausenet.network=podnet"]);
    watch.says("other: attached");
    assert!(docker.view("job").link("eth0").is_none());
    docker.pausectl_ok(&["docker", "attach", "job"]);
    assert!(docker.view("job").link("eth0").is_some());
    watch.stop();
    docker.stop();
}

#[test]
fn a_network_stays_with_the_members_of_an_anchor_until_the_last_has_left() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let [mut api, mut db] =
        ["api", "db"].map(|name| ConnectedContainer::start(&docker, name, "container:web", HOST));
    docker.run(&["restart", "web"]);
    watch.says("web: was restarted, but its network stays with api, db");
    watch.says(
        "api: is in an old namespace of web; restarted alone, it would be in the new one \
         without a network; to move all members and the network there: \
         pausectl docker reanchor web --restart-members",
    );
    api.answers();
    db.answers();
    // In a round that has seen one of them go, too.
    docker.run(&["rm", "-f", "api"]);
    api.ends();
    watch.says("web: was restarted, but its network stays with db ");
    db.answers();
    docker.run(&["rm", "-f", "db"]);
    watch.says("web: attached to network podnet: 10.1.0.2/24 on eth0");
    assert_eq!(docker.view("web").addresses("eth0"), ["10.1.0.2/24"]);

    let mut api = ConnectedContainer::start(&docker, "api", "container:web", HOST);
    docker.run(&["rm", "-f", "web"]);
    watch.says("web: is gone, but its network stays with api; to give them a new anchor: pausectl docker reanchor web");
    let line = watch.says("api: cannot be restarted");
    let repair = ": pausectl docker reanchor web && docker rename api api.old && ";
    assert!(line.contains(repair), "{line}");
    api.answers();
    docker.run(&["rm", "-f", "api"]);
    watch.says("web: detached from network podnet: no process is left in it");
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn a_killed_anchor_that_docker_starts_again_leaves_its_network_with_the_members() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let mut clients =
        ["api", "db"].map(|name| ConnectedContainer::start(&docker, name, "container:web", HOST));
    let is = |name: &str| (docker.pid(name), docker.view(name).state());
    let living = [is("api"), is("db")];
    let netns = |name: &str| NetnsId::of_process(docker.pid(name)).unwrap();
    let kill = |name: &str| {
        let pid = docker.pid(name);
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        wait_until("Docker has started it again", || {
            let now = docker.inspect(name, ".State.Pid");
            now != "0" && now != pid.to_string()
        });
    };
    kill("web");
    watch.says("web: was restarted, but its network stays with api, db in the old namespace");
    clients.iter_mut().for_each(ConnectedContainer::answers);
    assert_eq!([is("api"), is("db")], living);
    assert!(docker.view("web").link("eth0").is_none());
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);

    docker.pausectl_ok(&["docker", "reanchor", "web"]);
    assert_eq!(netns("web"), netns("api"));
    // Docker knows now where its network is.
    kill("web");
    wait_until("it is back among them", || netns("web") == netns("api"));
    run(&docker, "other", &["pausenet.network=podnet"]);
    watch.says("other: attached"); // in a round that has seen all that
    clients.iter_mut().for_each(ConnectedContainer::answers);
    assert_eq!([is("api"), is("db")], living);
    assert_eq!(docker.view("web").addresses("eth0"), ["10.1.0.2/24"]);
    docker.run(&["rm", "-f", "web", "api", "db", "other"]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn the_systemd_unit_starts_the_watch() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let unit = Path::new(CHECKOUT).join("conf/docker/pausectl-docker-watch.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let commands: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart="))
        .collect();
    let [command] = commands[..] else {
        panic!("{commands:?}");
    };
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("/usr/local/bin/pausectl"));
    let words: Vec<_> = words.collect();
    let watch = Watcher::start_as(docker.pausectl(&words));
    watch.says("watching Docker at ");
    // What KillMode=process sends, and Restart=always would otherwise count as a failure.
    watch.stop();
    docker.stop();
}

#[test]
fn members_are_restarted_after_their_anchor_if_configured() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &["--restart-members"]);
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ]);
    for name in ["api", "db"] {
        docker.sleeper(name, "container:web");
    }
    docker.pausectl_ok(&["docker", "publish", "web", "9090:90"]);
    docker.run(&["restart", "web"]);
    watch.says("web: has its network again (10.1.0.2); restarted into it: api, db");
    for name in ["web", "api", "db"] {
        assert_eq!(
            docker.view(name).addresses("eth0"),
            ["10.1.0.2/24"],
            "{name}"
        );
    }
    let rules = common::run("nft", ["list", "ruleset"]);
    assert!(
        rules.contains("tcp . 8080") && rules.contains("tcp . 9090"),
        "{rules}"
    );
    watch.stop();
    docker.stop();
}

#[test]
fn a_killed_watch_resumes_as_if_never_stopped() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let mut api = ConnectedContainer::start(&docker, "api", "container:web", HOST);
    run(&docker, "gone", &["pausenet.network=podnet"]);
    watch.says("gone: attached");
    watch.kill();
    // Nothing watches what happens now.
    docker.run(&["rm", "-f", "gone"]);
    docker.run(&["restart", "web"]);
    run(&docker, "new", &["pausenet.network=podnet"]);
    let watch = Watcher::start(&docker, &[]);
    watch.says("gone: detached");
    watch.says("new: attached");
    watch.says("web: was restarted, but its network stays with api");
    api.answers();
    // Killed right in its work, again and again.
    for at in 0..10 {
        let name = format!("busy{at}");
        run(&docker, &name, &["pausenet.network=podnet"]);
        let hasty = Watcher::start(&docker, &[]);
        std::thread::yield_now();
        hasty.kill();
    }
    for at in 0..10 {
        let name = format!("busy{at}");
        wait_until("all are attached", || {
            docker.view(&name).link("eth0").is_some()
        });
        docker.run(&["rm", "-f", &name]);
    }
    docker.run(&["rm", "-f", "web", "new", "api"]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn a_daemon_that_restarts_with_its_containers_finds_them_attached() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "--restart",
        "always",
    ]);
    let _api = ConnectedContainer::start(&docker, "api", "container:web", HOST);
    run(&docker, "job", &["pausenet.network=podnet"]);
    watch.says("job: attached");
    docker.restart_daemon(); // all containers end, and the anchor is started again
    watch.says("waiting for Docker");
    wait_until("the anchor has its network again", || {
        docker.view("web").addresses("eth0") == ["10.1.0.2/24"]
    });
    watch.says("job: detached");
    watch.until(|| allocated("podnet") == ["10.1.0.2"]);
    watch.stop();
    docker.stop();
}

#[test]
fn a_daemon_that_restarts_without_its_containers_changes_nothing() {
    let Some(docker) = Docker::start_with_applications(LIVE_RESTORE) else {
        return;
    };
    let watch = Watcher::start(&docker, &[]);
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let mut api = ConnectedContainer::start(&docker, "api", "container:web", HOST);
    let (pid, state) = (docker.pid("web"), docker.view("web").state());
    docker.restart_daemon();
    watch.says("waiting for Docker");
    api.answers();
    // The events of the new daemon are followed.
    run(&docker, "job", &["pausenet.network=podnet"]);
    watch.says("job: attached");
    api.answers();
    assert_eq!(
        (docker.pid("web"), docker.view("web").state()),
        (pid, state)
    );
    docker.run(&["rm", "-f", "job", "web", "api"]);
    watch.until(|| docker.nothing_is_left());
    watch.stop();
    docker.stop();
}

#[test]
fn watch_waits_for_docker_and_fails_with_once() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let watch = Watcher::start(&docker, &["--docker", "/not/there.sock"]);
    watch.says("waiting for Docker: Docker is not running: there is no socket at /not/there.sock");
    watch.stop();
    let said = docker.pausectl_fails(
        1,
        &["docker", "watch", "--once", "--docker", "/not/there.sock"],
    );
    assert!(said.contains("Docker is not running"), "{said}");
    docker.pausectl_fails(2, &["docker", "watch", "--docker", "tcp://10.0.0.1:2375"]);
    docker.stop();
}

/// Starts a container for the service to attach.
fn run(docker: &Docker, name: &str, labels: &[&str]) {
    let mut args = vec!["run", "-d", "--net=none", "--name", name];
    args.extend(labels.iter().flat_map(|label| ["--label", *label]));
    args.push("pausenet/pause");
    docker.run(&args);
}

/// The service at work, and what it has said.
pub(crate) struct Watcher {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watcher {
    /// Starts it, and waits until it has said its first word.
    pub(crate) fn start(docker: &Docker, args: &[&str]) -> Self {
        Self::start_as(docker.pausectl(&[&["docker", "watch"], args].concat()))
    }

    fn start_as(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, said) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                said.lock().unwrap().push(line);
            }
        });
        let watch = Self { child, lines };
        watch.until(|| !watch.lines.lock().unwrap().is_empty());
        watch
    }

    /// Waits until it has said this, and gives back the line.
    #[track_caller]
    pub(crate) fn says(&self, what: &str) -> String {
        let find = || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|line| line.contains(what)).cloned()
        };
        self.until(|| find().is_some());
        find().unwrap()
    }

    #[track_caller]
    pub(crate) fn until(&self, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            let lines = self.lines.lock().unwrap();
            assert!(
                Instant::now() < deadline,
                "timed out; its output was {lines:#?}"
            );
            drop(lines);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to leave, which is no failure.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
