//! `pausectl docker` and `rescue` killed or stopped by Ctrl-C at any moment: the same command, run again, ends
//! as if it had not been.
//!
//! The moments are each request to Docker that changes something, before and after Docker has carried it out
//! ([`proxy`]), and each of pausectl's own steps ([`steps`]). What is compared is everything ([`state`]).

mod proxy;
mod state;
mod steps;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::proxy::{Moment, Proxy};
use self::state::State;
use common::docker::{Docker, NO_BRIDGE};
use common::lab::measured;
use common::wait::wait_until;

/// How many moments of the life of `watch` are tried.
const MOMENTS: u32 = 12;

/// A command, and what is around it.
struct Case<'a> {
    args: &'a [&'a str],
    /// Containers whose processes must stay the same.
    untouched: &'a [&'a str],
    /// Makes what the command needs.
    prepare: &'a dyn Fn(&Docker),
    /// Removes what it and the command made.
    clean: &'a dyn Fn(&Docker),
}

/// A daemon with bystanders, and what stands between it and pausectl.
fn start(daemon: fn(&[&str]) -> Option<Docker>) -> Option<(Docker, Proxy)> {
    let docker = daemon(NO_BRIDGE)?;
    bystanders(&docker);
    let proxy = Proxy::start(&docker);
    Some((docker, proxy))
}

fn up_web(docker: &Docker) {
    let up = "docker up web --network podnet --ip 10.1.0.7 -p 8080:80";
    docker.pausectl_ok(&up.split(' ').collect::<Vec<_>>());
}

/// An anchor with a member and a published port, which no command is about.
fn bystanders(docker: &Docker) {
    docker.pausectl_ok(&[
        "docker",
        "up",
        "bystander",
        "--network",
        "podnet",
        "-p",
        "9090:90",
    ]);
    member(docker, "guest", "bystander");
}

const BYSTANDERS: [&str; 2] = ["bystander", "guest"];

fn member(docker: &Docker, name: &str, anchor: &str) {
    let network = format!("--net=container:{anchor}");
    docker.run(&["run", "-d", &network, "--name", name, "pausenet/pause"]);
}

/// Interrupts a command at each moment of its life, and runs it again. Returns how often.
fn interrupt_everywhere(docker: &Docker, proxy: &Proxy, case: &Case) -> usize {
    let bystanders = State::read(docker, case.untouched);
    let is_same = |is: &State, should_be: &State, what: &str| {
        let difference = is.difference(should_be);
        assert!(
            difference.is_empty(),
            "{:?}, {what}:\n{difference}",
            case.args
        );
    };
    let attempt = |what: &str, interrupted: &dyn Fn()| {
        (case.prepare)(docker);
        interrupted();
        let again = docker.pausectl(case.args).output().unwrap();
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        let now = State::read(docker, case.untouched);
        if !again.status.success() {
            // It had done its work, and says so. Whether it had is judged below.
            let is_done = ["already", "nothing to rescue", "does not publish"];
            assert!(
                is_done.iter().any(|words| said.contains(words)),
                "{:?}, {what}: {said}",
                case.args
            );
        }
        (case.clean)(docker);
        let cleaned = State::read(docker, case.untouched);
        is_same(&cleaned, &bystanders, &format!("{what}: after cleaning up"));
        (now, said)
    };
    // As it ends when it is left alone: a second run has nothing to do.
    let (expected, _) = attempt("not interrupted", &|| {
        docker.pausectl_ok(case.args);
    });
    let judge = |what: &str, interrupted: &dyn Fn()| {
        let (now, said) = attempt(what, interrupted);
        is_same(&now, &expected, &format!("{what}: {said}"));
    };

    (case.prepare)(docker);
    let (requests, output) = proxy.run(docker, case.args, None);
    assert!(output.status.success(), "{output:?}");
    (case.clean)(docker);
    let mut count = 0;
    for signal in [Signal::KILL, Signal::INT] {
        for (at, request) in requests.iter().enumerate() {
            for moment in [Moment::Before, Moment::After] {
                let what = format!("{signal:?} {moment:?} {request}");
                judge(&what, &|| {
                    proxy.run(docker, case.args, Some((at, moment, signal)));
                });
                count += 1;
            }
        }
    }
    (case.prepare)(docker);
    let steps = steps::of(docker, case.args);
    (case.clean)(docker);
    for step in &steps {
        // What is read again because it has changed meanwhile comes in no other run.
        let reached = std::cell::Cell::new(false);
        judge(&format!("killed at {} number {}", step.0, step.1), &|| {
            reached.set(steps::kill_at(docker, case.args, step));
        });
        count += usize::from(reached.get());
    }
    let name = case.args[..2].join(" ");
    measured(&format!(
        "{name}: interrupted at {count} moments, {} of them at requests to Docker",
        requests.len() * 4
    ));
    count
}

#[test]
fn an_interrupted_up_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start) else {
        return;
    };
    let up =
        "docker up web --network podnet --ip 10.1.0.7 --publish 8080:80 --add-host db:10.1.0.9";
    let case = Case {
        args: &up.split(' ').collect::<Vec<_>>(),
        untouched: &BYSTANDERS,
        prepare: &|_| {},
        clean: &|docker| {
            docker.pausectl_ok(&["docker", "down", "web"]);
        },
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 15);
    docker.stop();
}

#[test]
fn an_interrupted_attach_or_rescue_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start) else {
        return;
    };
    docker.run(&["run", "-d", "--net=none", "--name", "job", "pausenet/pause"]);
    for words in [
        "docker attach job --network podnet --ip 10.1.0.7 --publish 8080:80",
        "rescue job --network podnet --ip 10.1.0.7 --publish 8080:80",
    ] {
        let case = Case {
            args: &words.split(' ').collect::<Vec<_>>(),
            untouched: &["bystander", "guest", "job"],
            prepare: &|_| {},
            clean: &|docker| {
                docker.pausectl_ok(&["docker", "detach", "job"]);
            },
        };
        assert!(interrupt_everywhere(&docker, &proxy, &case) > 5);
    }
    docker.stop();
}

#[test]
fn an_interrupted_change_of_ports_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start) else {
        return;
    };
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ]);
    let untouched = &["bystander", "guest", "web"];
    let [publish, unpublish] = ["publish", "unpublish"].map(|verb| {
        let mut words = vec!["docker", verb, "web"];
        words.extend(["8081:81", "8082-8083:82-83/udp"]);
        words
    });
    let publishing = |docker: &Docker| {
        docker.pausectl_ok(&publish);
    };
    let unpublishing = |docker: &Docker| {
        docker.pausectl_ok(&unpublish);
    };
    let case = Case {
        args: &publish,
        untouched,
        prepare: &|_| {},
        clean: &unpublishing,
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 3);
    let case = Case {
        args: &unpublish,
        untouched,
        prepare: &publishing,
        clean: &|_| {},
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 3);
    docker.stop();
}

#[test]
fn an_interrupted_reanchor_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start) else {
        return;
    };
    let pids = std::cell::RefCell::new(Vec::new());
    let make = |docker: &Docker| {
        up_web(docker);
        member(docker, "api", "web");
        member(docker, "db", "web");
        *pids.borrow_mut() = ["api", "db"].map(|name| docker.pid(name)).to_vec();
    };
    let clean = |docker: &Docker| {
        assert_eq!(
            *pids.borrow(),
            ["api", "db"].map(|name| docker.pid(name)),
            "no member is restarted"
        );
        docker.run(&["rm", "-f", "api", "db"]);
        docker.pausectl_ok(&["docker", "down", "web"]);
    };
    for end in [&["rm", "-f", "web"][..], &["restart", "-t", "0", "web"]] {
        let case = Case {
            args: &["docker", "reanchor", "web"],
            untouched: &BYSTANDERS,
            prepare: &|docker| {
                make(docker);
                docker.run(end);
            },
            clean: &clean,
        };
        assert!(interrupt_everywhere(&docker, &proxy, &case) > 8);
    }
    docker.stop();
}

#[test]
fn an_interrupted_move_to_the_restarted_anchor_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start_with_applications) else {
        return;
    };
    let case = Case {
        args: &["docker", "reanchor", "web", "--restart-members"],
        untouched: &BYSTANDERS,
        prepare: &|docker| {
            up_web(docker);
            docker.sleeper("api", "container:web");
            docker.sleeper("db", "container:web");
            docker.run(&["restart", "-t", "0", "web"]);
        },
        clean: &|docker| {
            docker.run(&["rm", "-f", "api", "db"]);
            docker.pausectl_ok(&["docker", "down", "web"]);
        },
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 8);
    docker.stop();
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
