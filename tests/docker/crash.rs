//! `pausectl docker` and `rescue` killed or stopped by Ctrl-C at any moment: the same command, run again, ends
//! as if it had not been.
//!
//! The moments are each request to Docker that changes something, before and after Docker has carried it out
//! ([`proxy`]), each of pausectl's own steps ([`steps`]) and of the plugin's ([`plugin`]). What is compared is
//! everything ([`state`]).

mod plugin;
mod proxy;
mod state;
mod steps;

use std::cell::{Cell, RefCell};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::plugin::TracedPlugin;
use self::proxy::{Moment, Proxy, Strike};
use self::state::State;
use self::steps::Step;
use crate::networks::add_networks;
use common::docker::{Docker, NO_BRIDGE};
use common::lab::measured;
use common::wait::wait_until;

/// How many moments of the life of `watch` are tried.
const MOMENTS: u32 = 12;

/// How often the steps of a command are listed, if others were met meanwhile.
const LISTINGS: usize = 5;

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
    add_networks(&docker);
    bystanders(&docker);
    let proxy = Proxy::start(&docker);
    Some((docker, proxy))
}

fn pausectl(docker: &Docker, words: &str) {
    docker.pausectl_ok(&words.split(' ').collect::<Vec<_>>());
}

/// An anchor with two networks.
fn up_web(docker: &Docker) {
    pausectl(
        docker,
        "docker up web --network podnet --ip 10.1.0.7 -p 8080:80",
    );
    pausectl(docker, "docker attach web --network storage --ip 10.2.0.7");
}

/// Removes it and its two members.
fn down_web(docker: &Docker) {
    docker.run(&["rm", "-f", "api", "db"]);
    pausectl(docker, "docker down web");
}

/// An anchor with a member, two networks and a published port, which no command is about.
fn bystanders(docker: &Docker) {
    pausectl(docker, "docker up bystander --network podnet -p 9090:90");
    pausectl(docker, "docker attach bystander --network storage");
    member(docker, "guest", "bystander");
}

const BYSTANDERS: [&str; 2] = ["bystander", "guest"];

fn member(docker: &Docker, name: &str, anchor: &str) {
    let network = format!("--net=container:{anchor}");
    docker.run(&["run", "-d", &network, "--name", name, "pausenet/pause"]);
}

/// A case that is tried again and again, and how it should end.
struct Trials<'a> {
    docker: &'a Docker,
    case: &'a Case<'a>,
    /// What is done after the second run, before it is judged.
    settle: &'a dyn Fn(),
    bystanders: State,
    expected: State,
    /// The start of lines that may differ.
    ignored: Option<&'static str>,
    /// The requests to Docker that change something.
    requests: Vec<String>,
    count: usize,
}

impl<'a> Trials<'a> {
    /// It should end as when the command is left alone: a second run has nothing to do.
    fn new(docker: &'a Docker, proxy: &Proxy, case: &'a Case<'a>, settle: &'a dyn Fn()) -> Self {
        let bystanders = State::read(docker, case.untouched);
        let mut trials = Self {
            docker,
            case,
            settle,
            expected: bystanders.clone(),
            bystanders,
            ignored: None,
            requests: Vec::new(),
            count: 0,
        };
        let requests = RefCell::new(Vec::new());
        let (expected, _) = trials.attempt("not interrupted", &|| {
            let (changes, output) = proxy.run(docker, case.args, None);
            assert!(output.status.success(), "{output:?}");
            *requests.borrow_mut() = changes;
        });
        trials.expected = expected;
        trials.requests = requests.into_inner();
        trials
    }

    /// Prepares, has the command interrupted, runs it again and cleans up. Returns what there was before that,
    /// and what the second run said.
    fn attempt(&self, what: &str, interrupted: &dyn Fn()) -> (State, String) {
        let Self { docker, case, .. } = self;
        (case.prepare)(docker);
        interrupted();
        let again = docker.pausectl(case.args).output().unwrap();
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        (self.settle)();
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
        self.assert_same(
            &cleaned,
            &self.bystanders,
            &format!("{what}: after cleaning up"),
        );
        (now, said)
    }

    fn assert_same(&self, is: &State, should_be: &State, what: &str) {
        let difference = is.difference(should_be, self.ignored);
        assert!(
            difference.is_empty(),
            "{:?}, {what}:\n{difference}",
            self.case.args
        );
    }

    fn judge(&mut self, what: &str, interrupted: &dyn Fn()) {
        let (now, said) = self.attempt(what, interrupted);
        self.assert_same(&now, &self.expected, &format!("{what}: {said}"));
        self.count += 1;
    }

    /// Strikes at this request.
    fn strike(&mut self, proxy: &Proxy, at: usize, moment: Moment, strike: Strike) {
        let what = format!("{strike:?} {moment:?} {}", self.requests[at]);
        let (docker, args) = (self.docker, self.case.args);
        self.judge(&what, &|| {
            proxy.run(docker, args, Some((at, moment, strike)));
        });
    }

    /// Strikes at this step of pausectl. False when it did not come to that.
    fn strike_step(&mut self, step: &Step, signal: Signal) -> bool {
        let is_reached = Cell::new(false);
        let (docker, args) = (self.docker, self.case.args);
        self.judge(&format!("{signal:?} at {step:?}"), &|| {
            is_reached.set(steps::strike(docker, args, step, signal));
        });
        is_reached.get()
    }
}

/// The steps of a command that is left alone.
fn steps_of(docker: &Docker, case: &Case) -> Vec<Step> {
    (case.prepare)(docker);
    let steps = steps::of(docker, case.args);
    (case.clean)(docker);
    steps
}

/// Interrupts a command at each moment of its life, and runs it again. Returns at how many.
fn interrupt_everywhere(docker: &Docker, proxy: &Proxy, case: &Case) -> usize {
    let mut trials = Trials::new(docker, proxy, case, &|| {});
    for signal in [Signal::KILL, Signal::INT] {
        for at in 0..trials.requests.len() {
            for moment in [Moment::Before, Moment::After] {
                trials.strike(proxy, at, moment, Strike::Signal(signal));
            }
        }
    }
    let at_requests = trials.count;
    let mut steps = steps_of(docker, case);
    let signals =
        |(at, step): (usize, &Step)| step.signals().iter().map(move |signal| (at, *signal));
    let strikes: Vec<_> = steps.iter().enumerate().flat_map(signals).collect();
    let count = at_requests + strikes.len();
    let mut listings = 1;
    for (at, signal) in strikes {
        while !trials.strike_step(&steps[at], signal) {
            // What had changed meanwhile was read again when they were listed, so the count was higher.
            assert!(listings < LISTINGS, "no other run comes to {:?}", steps[at]);
            listings += 1;
            let again = steps_of(docker, case);
            if again.len() == steps.len() {
                steps = again;
            }
        }
    }
    let name = case.args[..2].join(" ");
    measured(&format!(
        "{name}: interrupted at {count} moments, {at_requests} of them at requests to Docker"
    ));
    count
}

/// Interrupts a command by Ctrl-C while its plugin is at each of its messages to the kernel, and runs it again.
fn interrupt_plugin(docker: &Docker, proxy: &Proxy, case: &Case) -> usize {
    let mut trials = Trials::new(docker, proxy, case, &|| {});
    let plugin = TracedPlugin::install(docker);
    (case.prepare)(docker);
    let messages = plugin.messages(case.args);
    (case.clean)(docker);
    for message in &messages {
        trials.judge(&format!("Ctrl-C at the plugin's {message:?}"), &|| {
            plugin.interrupt(case.args, message);
        });
    }
    trials.count
}

/// Kills containers before the command's first request to Docker and after each, and runs it again.
fn kill_containers(
    docker: &Docker,
    proxy: &Proxy,
    case: &Case,
    victims: &'static [&'static str],
    settle: &dyn Fn(),
) {
    let mut trials = Trials::new(docker, proxy, case, settle);
    // A new anchor joins whatever member is there.
    trials.ignored = Some("web: network: container:");
    trials.strike(proxy, 0, Moment::Before, Strike::Kill(victims));
    for at in 0..trials.requests.len() {
        trials.strike(proxy, at, Moment::After, Strike::Kill(victims));
    }
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
        clean: &|docker| pausectl(docker, "docker down web"),
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 15);
    assert!(interrupt_plugin(&docker, &proxy, &case) > 5);
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
            clean: &|docker| pausectl(docker, "docker detach job"),
        };
        assert!(interrupt_everywhere(&docker, &proxy, &case) > 4);
    }
    // Both of its networks, after a restart.
    let case = Case {
        args: &["docker", "attach", "job"],
        untouched: &BYSTANDERS,
        prepare: &|docker| {
            pausectl(
                docker,
                "docker attach job --network podnet --ip 10.1.0.7 --publish 8080:80",
            );
            pausectl(docker, "docker attach job --network storage --ip 10.2.0.7");
            docker.run(&["restart", "-t", "0", "job"]);
        },
        clean: &|docker| pausectl(docker, "docker detach job"),
    };
    assert!(interrupt_everywhere(&docker, &proxy, &case) > 10);
    docker.stop();
}

#[test]
fn an_interrupted_change_of_ports_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start) else {
        return;
    };
    pausectl(&docker, "docker up web --network podnet -p 8080:80");
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
    let pids = RefCell::new(Vec::new());
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
        down_web(docker);
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

/// A case that moves a network to its restarted anchor.
const MOVE: Case = Case {
    args: &["docker", "reanchor", "web", "--restart-members"],
    untouched: &BYSTANDERS,
    prepare: &|docker| {
        up_web(docker);
        docker.sleeper("api", "container:web");
        docker.sleeper("db", "container:web");
        docker.run(&["restart", "-t", "0", "web"]);
    },
    clean: &down_web,
};

#[test]
fn an_interrupted_move_to_the_restarted_anchor_is_made_good_by_the_next() {
    let Some((docker, proxy)) = start(Docker::start_with_applications) else {
        return;
    };
    assert!(interrupt_everywhere(&docker, &proxy, &MOVE) > 8);
    docker.stop();
}

#[test]
fn containers_killed_during_a_reanchor_do_not_keep_the_next_from_ending_it() {
    let Some((docker, proxy)) = start(Docker::start_with_applications) else {
        return;
    };
    let stay = Case {
        args: &MOVE.args[..3],
        ..MOVE
    };
    let anchors = &["web", "web.reanchor"];
    // Docker starts a dead member that it is asked to restart.
    let is_dead_or_attached = || {
        if docker.inspect("api", ".State.Running") == "true" {
            let view = docker.view("api");
            let addresses = ["eth0", "eth1"].map(|ifname| view.addresses(ifname));
            assert_eq!(addresses, [["10.1.0.7/24"], ["10.2.0.7/24"]]);
            docker.run(&["kill", "api"]);
        }
    };
    for case in [&stay, &MOVE] {
        kill_containers(&docker, &proxy, case, anchors, &|| {});
        kill_containers(&docker, &proxy, case, &["api"], &is_dead_or_attached);
    }
    docker.stop();
}

#[test]
fn a_killed_follow_is_finished_by_the_next() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
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
    docker.stop_with_nothing_left();
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
