//! `explain` about anchors of ours that were restarted, removed, and forgotten by Docker: what it
//! advises is done, and does what it says.

use serde_json::Value;

use crate::explain::{explain_json, host_end, pausectl, screen};
use common::docker::{Docker, LIVE_RESTORE, NO_BRIDGE};

/// The commands that are advised, one after another.
#[track_caller]
fn advised(docker: &Docker, target: &str) -> Vec<String> {
    let explained = explain_json(docker, target);
    let advice = explained["advice"].as_array().unwrap().iter();
    let commands = advice.flat_map(|advice| advice["commands"].as_array().unwrap());
    commands
        .map(|command| command.as_str().unwrap().to_owned())
        .collect()
}

/// Runs a command that pausectl advised.
#[track_caller]
fn run_advice(docker: &Docker, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!(words[0], "pausectl");
    docker.pausectl_ok(&words[1..])
}

/// A daemon with an anchor and its members, or none and the test skipped.
fn start(options: &[&str], members: &[&str]) -> Option<Docker> {
    let docker = Docker::start_with_applications(options)?;
    anchored(&docker, members);
    Some(docker)
}

/// An anchor and its members.
fn anchored(docker: &Docker, members: &[&str]) {
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "--ip",
        "10.1.0.7",
    ]);
    for name in members {
        docker.sleeper(name, "container:web");
    }
}

#[test]
fn the_advice_for_a_restarted_anchor_keeps_its_members_network() {
    let Some(docker) = start(NO_BRIDGE, &["api", "db"]) else {
        return;
    };
    docker.run(&["restart", "-t", "0", "web"]);
    let mac = docker.view("api").link("eth0").unwrap().mac.unwrap();
    let screen = screen(&docker, &["api", "db", "web"])
        .hide(&mac.to_string(), "MAC")
        .hide(&host_end(&docker, "api", 0), "VETH");
    insta::assert_snapshot!(screen.show(&pausectl(&docker, &["explain", "api"])), @r"
    api was left behind: its owner web was restarted and has another namespace; eth0 stayed here.

    Network namespace NETNS: orphaned

    Owner
      web  container ID-OF-WEB, which was restarted and is in another namespace

    Members
      api  Docker container ID-OF-API, image hwchiu/netutils, process PID-OF-API (sleep)
      db  Docker container ID-OF-DB, image hwchiu/netutils, process PID-OF-DB (sleep)

    Interfaces
      eth0  10.1.0.7/24  MAC
            network podnet, made by pausenet
            host end VETH, a port of cni0

    What happens when one of them ends
      api or db  nothing for the others

    What to do
      put a new web into this namespace in place of the restarted one, without a restart:
        pausectl docker reanchor web
      or let the network follow web, and restart its members into the new namespace:
        pausectl docker reanchor web --restart-members
      a plain restart of api would take it into the new namespace of web, away from eth0
    ");
    assert_eq!(advised(&docker, "web"), ["pausectl explain api"]);

    let pids = ["api", "db"].map(|name| docker.pid(name));
    let stay = "pausectl docker reanchor web";
    let follow = "pausectl docker reanchor web --restart-members";
    assert_eq!(advised(&docker, "api"), [stay, follow]);
    run_advice(&docker, stay);
    assert_eq!(["api", "db"].map(|name| docker.pid(name)), pids);
    let shares = "db shares the network of web.";
    assert_eq!(explain_json(&docker, "db")["summary"], shares);
    assert_eq!(docker.view("web").addresses("eth0"), ["10.1.0.7/24"]);
    docker.run(&["rm", "-f", "web", "api", "db"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);

    // What it warns of: a member that is restarted alone leaves the network.
    anchored(&docker, &["api", "db"]);
    docker.run(&["restart", "-t", "0", "web"]);
    docker.run(&["restart", "-t", "0", "api"]);
    assert!(docker.view("api").link("eth0").is_none());
    assert_eq!(docker.view("db").addresses("eth0"), ["10.1.0.7/24"]);
    // And nothing can be put in the place of an anchor that has members again.
    assert_eq!(advised(&docker, "db"), [follow]);
    docker.pausectl_fails(1, &["docker", "reanchor", "web"]);
    run_advice(&docker, follow);
    for name in ["api", "db"] {
        assert_eq!(
            docker.view(name).addresses("eth0"),
            ["10.1.0.7/24"],
            "{name}"
        );
        assert_eq!(docker.run(&["exec", name, "hostname", "-i"]), "10.1.0.7");
    }
    docker.run(&["rm", "-f", "web", "api", "db"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn an_anchor_that_docker_has_forgotten_keeps_its_name() {
    let Some(docker) = start(LIVE_RESTORE, &["api"]) else {
        return;
    };
    let id = docker.inspect("web", ".Id");
    docker.run(&["rm", "-f", "web"]);
    docker.restart_daemon();
    // Docker has only its ID, as that whose network api joins.
    let explained = explain_json(&docker, "api");
    assert_eq!(
        explained["summary"],
        "api still uses the network of web, which was removed: eth0 stays until its last member \
         ends."
    );
    assert_eq!(explained["owner"]["gone"]["at"], Value::Null);
    let command = "pausectl docker reanchor web";
    assert_eq!(advised(&docker, "api"), [command]);
    assert_eq!(advised(&docker, "web"), [command]);
    assert_eq!(advised(&docker, &id), [command]);

    // By its ID, too, it gets its name again.
    let said = docker.pausectl_ok(&["docker", "reanchor", &id[..12]]);
    let begin = "web: anchors its network again, started via api; members: api\n";
    assert!(said.starts_with(begin), "{said}");
    docker.sleeper("late", "container:web");
    assert_eq!(docker.view("late").addresses("eth0"), ["10.1.0.7/24"]);
    let again = docker.pausectl_ok(&["docker", "reanchor", &docker.inspect("web", ".Id")[..12]]);
    assert_eq!(
        again,
        "web: nothing to do, it is the anchor of its network\n"
    );
    docker.run(&["rm", "-f", "web", "api", "late"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn a_container_that_is_gone_is_found_by_its_name_and_its_id() {
    let Some(docker) = start(NO_BRIDGE, &["api"]) else {
        return;
    };
    let id = docker.inspect("web", ".Id");
    docker.run(&["stop", "-t", "0", "web"]);
    let stopped = pausectl(&docker, &["explain", "web"]);
    assert!(
        stopped.ends_with("Its former namespace is still used by api: pausectl explain api\n"),
        "{stopped}"
    );
    docker.run(&["rm", "web"]);
    for target in ["web", "container:web", &id, &id[..12]] {
        let explained = explain_json(&docker, target);
        let summary = explained["summary"].as_str().unwrap();
        let begin = "api still uses the network of web, which was removed at ";
        assert!(summary.starts_with(begin), "{target}: {summary}");
        assert_eq!(explained["interfaces"][0]["addresses"][0], "10.1.0.7/24");
    }
    // Without Docker, from what pausectl remembers.
    let alone = pausectl(&docker, &["explain", "web", "--docker", "/nonexistent"]);
    let first = alone.lines().next().unwrap();
    assert!(
        first.contains("still uses the network of web, which is gone"),
        "{first}"
    );

    docker.run(&["rm", "-f", "api"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    let screen = screen(&docker, &[]);
    for target in ["web", &id[..12]] {
        let said = screen.show(&pausectl(&docker, &["explain", target]));
        assert_eq!(
            said,
            "web was removed at TIME, and nothing of its network is left.\n"
        );
    }
    let json = explain_json(&docker, "web");
    assert_eq!(json["state"], "removed");
    assert_eq!(json["container"]["id"], id.as_str());
    let unknown = docker.pausectl_fails(1, &["explain", "nobody"]);
    assert!(unknown.contains("there is no nobody here"), "{unknown}");
    docker.stop_with_nothing_left();
}
