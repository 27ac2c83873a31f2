//! Any size of world: what is listed, explained, drawn and checked ends in bounded time, in lines that can be
//! read.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::host::PodHost;
use common::lab::measured;
use common::{Call, Container, podnet, with};

const PODS: usize = 2000;
const MEMBERS: usize = 300;
const ADDRESSES: usize = 5000;

/// For each command, of a build that is not optimised, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(30);

/// The widest line of text that is still a line.
const WIDTH: usize = 400;

/// Runs a command, which has to end in time, and gives back what it printed.
#[track_caller]
fn in_time(host: &PodHost, args: &[&str]) -> Output {
    let start = Instant::now();
    let output = host.output(args);
    let took = start.elapsed();
    assert!(took < LIMIT, "{args:?} took {took:?}");
    measured(&format!(
        "{PODS} pods: pausectl {} in {took:.1?}",
        args.join(" ")
    ));
    output
}

#[track_caller]
fn text(host: &PodHost, args: &[&str]) -> String {
    let output = in_time(host, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(
        widest < Some(WIDTH),
        "{args:?}: a line of {widest:?} characters"
    );
    text
}

#[track_caller]
fn json(host: &PodHost, args: &[&str]) -> Value {
    let output = in_time(host, &[args, &["--output", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A namespace under /run/netns, made without another program.
fn namespace(name: &str) -> Container {
    let path = std::path::PathBuf::from(format!("/run/netns/{name}"));
    File::create(&path).unwrap();
    let bind = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    };
    thread::scope(|scope| scope.spawn(bind).join().unwrap());
    Container { path }
}

/// Attaches that many containers, on both of the machine's processors.
fn attach(config: &Value) {
    let next = AtomicUsize::new(0);
    let work = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= PODS {
            break;
        }
        let pod = namespace(&format!("pod-{at}"));
        Call::new("ADD", config)
            .netns(&pod)
            .id(&format!("pod-{at}"))
            .run()
            .ok();
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
}

#[test]
fn two_thousand_pods_are_listed_explained_drawn_and_checked_in_time() {
    let host = PodHost::new();
    let ipam =
        json!({"type": "host-local", "subnet": "10.64.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]});
    let config = with(
        podnet(),
        json!({"name": "big", "mode": "ptp", "bridge": null, "isDefaultGateway": null, "ipam": ipam}),
    );
    host.network(&config);
    let start = Instant::now();
    attach(&config);
    let crowd = Container {
        path: "/run/netns/pod-7".into(),
    };
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|_| crowd.command("sleep").arg("600").spawn().unwrap())
        .collect();
    let many = Container {
        path: "/run/netns/pod-8".into(),
    };
    let mut batch = Command::new("ip");
    batch
        .args(["-n", many.name(), "-batch", "-"])
        .stdin(Stdio::piped());
    let mut batch = batch.spawn().unwrap();
    let mut stdin = batch.stdin.take().unwrap();
    for at in 0..ADDRESSES {
        writeln!(
            stdin,
            "addr add 172.16.{}.{}/32 dev eth0",
            at / 250,
            at % 250 + 1
        )
        .unwrap();
    }
    drop(stdin);
    assert!(batch.wait().unwrap().success());
    measured(&format!("{PODS} pods made in {:.1?}", start.elapsed()));

    let rows = text(&host, &["ls"]);
    assert_eq!(
        rows.lines().filter(|line| line.starts_with("big ")).count(),
        PODS,
        "{rows}"
    );
    let row = |pod: &str| {
        let pod = format!(" {pod} ");
        rows.lines()
            .find(|line| line.contains(&pod))
            .unwrap()
            .to_owned()
    };
    assert!(row("pod-7").contains("more"), "{}", row("pod-7"));
    assert!(row("pod-8").contains("more"), "{}", row("pod-8"));
    let listed = json(&host, &["ls"]);
    let listed = listed["attachments"].as_array().unwrap();
    assert_eq!(listed.len(), PODS);
    let of = |pod: &str| listed.iter().find(|row| row["container"] == pod).unwrap();
    assert_eq!(of("pod-7")["members"].as_array().unwrap().len(), MEMBERS);
    assert_eq!(
        of("pod-8")["addresses"].as_array().unwrap().len(),
        ADDRESSES + 1
    );

    for (pod, words) in [("pod-7", "more"), ("pod-8", "more"), ("pod-9", "10.64.")] {
        let said = text(&host, &["explain", &format!("/run/netns/{pod}")]);
        assert!(
            said.contains(words) && said.lines().count() < MEMBERS + 60,
            "{said}"
        );
    }
    let tree = text(&host, &["graph"]);
    assert!(tree.contains("pod-1999"), "{tree}");
    for format in ["svg", "dot"] {
        let output = in_time(&host, &["graph", "--format", format]);
        assert!(output.status.success());
    }
    assert!(
        json(&host, &["graph"])["sandboxes"]
            .as_array()
            .unwrap()
            .len()
            >= PODS
    );

    let output = in_time(&host, &["doctor"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().count() < 100, "{said}");
    let report = json(&host, &["doctor"]);
    let about = |finding: &&Value| finding["subject"].as_str().unwrap().contains("pod-");
    let wrong: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(about)
        .filter(|finding| finding["severity"] == "problem")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    for member in &mut members {
        member.kill().unwrap();
        member.wait().unwrap();
    }
}
