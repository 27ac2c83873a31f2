//! `pausectl docker` killed at any moment: what it leaves, the next one heals.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::connected_container::ConnectedContainer;
use common::docker::{Docker, NO_BRIDGE};
use common::wait::wait_until;

/// How many moments of a command's life are tried.
const MOMENTS: u32 = 12;

#[test]
fn a_killed_up_is_finished_or_forgotten() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let before = docker.host();
    let up = [
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ];
    let whole = time(&docker, &up);
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.assert_nothing_is_left(&before);
    for moment in 0..MOMENTS {
        kill_after(&docker, &up, whole * moment / MOMENTS);
        if docker.run(&["ps", "-aq"]).is_empty() {
            docker.pausectl_ok(&["docker", "watch", "--once"]);
        } else if moment % 2 == 0 {
            // Finished by the next command.
            docker.run(&["start", "web"]);
            docker.pausectl_ok(&["docker", "watch", "--once"]);
            assert_eq!(docker.view("web").addresses("eth0").len(), 1, "{moment}");
        }
        docker.output(&["rm", "-f", "web"]);
        docker.pausectl_ok(&["docker", "watch", "--once"]);
        // The file of a lock stays when its holder is killed, for the next one to remove.
        let _ = fs::remove_file("/run/pausenet/lock/docker/docker-web");
        docker.assert_nothing_is_left(&before);
    }
    docker.stop();
}

#[test]
fn a_killed_change_of_ports_is_finished_by_the_next() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let before = docker.host();
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let [publish, unpublish] = [
        ["docker", "publish", "web", "8080:80"],
        ["docker", "unpublish", "web", "8080"],
    ];
    let rules = || common::run("nft", ["list", "ruleset"]);
    let whole = time(&docker, &publish);
    for moment in 0..MOMENTS {
        kill_after(&docker, &publish, whole * moment / MOMENTS);
        docker.pausectl_ok(&publish);
        assert!(rules().contains("tcp . 8080"));
        kill_after(&docker, &unpublish, whole * moment / MOMENTS);
        // Perhaps it had done its work.
        docker
            .pausectl(&unpublish)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(!rules().contains("tcp . 8080"));
    }
    // Killed in the middle, it is known to DEL.
    kill_after(&docker, &publish, whole / 2);
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.assert_nothing_is_left(&before);
    assert!(!rules().contains("tcp . 8080"));
    docker.stop();
}

#[test]
fn a_killed_reanchor_is_finished_by_the_next() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let before = docker.host();
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let mut api = ConnectedContainer::start(&docker, "api", "container:web", "10.1.0.1");
    let reanchor = ["docker", "reanchor", "web"];
    docker.run(&["rm", "-f", "web"]);
    let whole = time(&docker, &reanchor);
    for moment in 0..MOMENTS {
        // Gone, and only stopped: then another name comes first.
        docker.run(&[if moment % 2 == 0 { "stop" } else { "kill" }, "web"]);
        kill_after(&docker, &reanchor, whole * moment / MOMENTS);
        docker.pausectl_ok(&reanchor);
        api.answers();
        assert_eq!(
            docker.view("web").addresses("eth0"),
            ["10.1.0.2/24"],
            "{moment}"
        );
        assert_eq!(docker.run(&["ps", "-aq"]).lines().count(), 2, "{moment}");
    }
    docker.run(&["rm", "-f", "web", "api"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left(&before);
}

#[test]
fn a_killed_follow_is_finished_by_the_next() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let before = docker.host();
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    let members = ["api", "db"];
    for name in members {
        docker.sleeper(name, "container:web");
    }
    let has_it = |name: &str| {
        let output = docker.output(&["exec", name, "ip", "-4", "address", "show", "eth0"]);
        String::from_utf8_lossy(&output.stdout).contains("inet 10.1.0.2/24")
    };
    let ways: [&[&str]; 2] = [
        &["docker", "watch", "--once", "--restart-members"],
        &["docker", "reanchor", "web", "--restart-members"],
    ];
    docker.run(&["restart", "web"]);
    let whole = time(&docker, ways[0]);
    for moment in 0..MOMENTS {
        docker.run(&["restart", "web"]);
        let [killed, next] = [moment % 2, moment / 2 % 2].map(|way| ways[way as usize]);
        kill_after(&docker, killed, whole * moment / MOMENTS);
        docker.pausectl_ok(next);
        assert_eq!(
            docker.view("web").addresses("eth0"),
            ["10.1.0.2/24"],
            "{moment}"
        );
        // Docker goes on with a restart whose asker is gone.
        wait_until("all have the network", || members.into_iter().all(has_it));
    }
    docker.run(&["rm", "-f", "web", "api", "db"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    let _ = fs::remove_file("/run/pausenet/lock/docker/docker-web");
    docker.stop_with_nothing_left(&before);
}

/// How long a command takes that succeeds.
fn time(docker: &Docker, args: &[&str]) -> Duration {
    let start = Instant::now();
    docker.pausectl_ok(args);
    start.elapsed()
}

/// Kills a command, if it has not ended by then.
fn kill_after(docker: &Docker, args: &[&str], age: Duration) {
    let mut command = docker.pausectl(args);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(age); // the moment is what is tried, not an event that is waited for
    let _ = child.kill();
    child.wait().unwrap();
}
