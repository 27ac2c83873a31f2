//! What goes wrong in the middle of a create leaves nothing, or something that `rm` removes.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::host::{PodHost, signal};
use common::processes::{through, with_default_signals};
use common::wait::wait_until;

/// A plugin that says that it has begun, and then takes its time.
const SLOW: &str = "[ $CNI_COMMAND != ADD ] || { touch \"$log/begun\"; sleep 600 & echo $! >\"$log/child\"; wait; }";

/// A create that hangs in its second plugin.
fn hanging(host: &PodHost) -> Child {
    host.plugin("slow", SLOW);
    let file = host.chain(&["slow"]);
    let inner = host.command(&["pod", "create", "web", "--conf", file.to_str().unwrap()]);
    let mut command = with_default_signals(&inner);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the plugin has begun", || {
        host.logged("child").is_some_and(|pid| !pid.is_empty())
    });
    child
}

fn plugin_s_child(host: &PodHost) -> u32 {
    host.logged("child").unwrap().trim().parse().unwrap()
}

#[test]
fn when_the_second_plugin_fails_the_first_is_undone_too() {
    let host = PodHost::new();
    host.plugin("refuse", "[ $CNI_COMMAND != ADD ] || { echo '{\"code\": 7, \"msg\": \"I refuse\", \"details\": \"ask somebody else\"}'; exit 1; }");
    host.plugin("never", "exit 0");
    let file = host.chain(&["refuse", "never"]);
    let said = host.fails(
        1,
        &["pod", "create", "web", "--conf", file.to_str().unwrap()],
    );
    assert!(said.contains("plugin 2 of 3 (refuse)"), "{said}");
    assert!(
        said.contains("code 7: I refuse") && said.contains("ask somebody else"),
        "{said}"
    );
    // What was tried is deleted, with the last good result; what was not tried is let alone.
    assert_eq!(host.logged("calls").unwrap(), "refuse ADD\nrefuse DEL\n");
    let result = &host.config_of("refuse", "DEL")["prevResult"];
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    host.assert_nothing_is_left();
}

#[test]
fn a_plugin_that_dies_is_named_with_its_stderr() {
    let host = PodHost::new();
    host.plugin(
        "mute",
        "[ $CNI_COMMAND != ADD ] || { echo 'out of luck' >&2; kill -9 $$; }",
    );
    let file = host.chain(&["mute"]);
    let said = host.fails(
        1,
        &["pod", "create", "web", "--conf", file.to_str().unwrap()],
    );
    assert!(
        said.contains("mute") && said.contains("signal: 9"),
        "{said}"
    );
    assert!(said.contains("out of luck"), "{said}");
    host.assert_nothing_is_left();
}

#[test]
fn an_interrupted_create_is_undone() {
    for (sent, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        std::thread::spawn(move || {
            let host = PodHost::new();
            let child = hanging(&host);
            signal(child.id(), sent);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{said}");
            assert_eq!(said, format!("error: stopped by signal {}\n", status - 128));
            assert_eq!(host.logged("calls").unwrap(), "slow ADD\nslow DEL\n");
            wait_until("what the plugin started is dead", || {
                !crate::host::is_alive(plugin_s_child(&host))
            });
            host.assert_nothing_is_left();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_plugin_that_times_out_is_killed_and_undone() {
    let host = PodHost::new();
    host.plugin("slow", SLOW);
    let file = host.chain(&["slow"]);
    let begun = Instant::now();
    let args = ["pod", "create", "web", "--timeout", "1", "--conf"];
    let said = host.fails(1, &[&args[..], &[file.to_str().unwrap()]].concat());
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        said.contains("within 1s") && said.contains("--timeout"),
        "{said}"
    );
    host.assert_nothing_is_left();
}

#[test]
fn a_killed_create_is_removed_by_rm() {
    let host = PodHost::new();
    let mut child = hanging(&host);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(host.pods()[0]["state"], "running");
    host.ok(&["pod", "rm", "web"]);
    assert_eq!(host.logged("calls").unwrap(), "slow ADD\nslow DEL\n");
    signal(plugin_s_child(&host), Signal::KILL);
    host.assert_nothing_is_left();
}

#[test]
fn a_leftover_netns_file_does_not_block_create() {
    let host = PodHost::new();
    std::fs::create_dir_all("/run/pausenet/netns").unwrap();
    std::fs::write("/run/pausenet/netns/web", "").unwrap();
    host.create("web");
    host.ok(&["pod", "rm", "web"]);
    std::fs::write("/run/pausenet/netns/web", "").unwrap();
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let host = PodHost::new();
    host.plugin("wait", "[ $CNI_COMMAND != ADD ] || { touch \"$log/begun\"; until [ -e \"$log/go\" ]; do sleep 0.05; done; echo '{\"cniVersion\": \"1.0.0\"}'; }");
    let file = host.chain(&["wait"]);
    let inner = host.command(&["pod", "create", "web", "--conf", file.to_str().unwrap()]);
    let mut command = through("nohup", &[], &inner);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("the plugin has begun", || host.logged("begun").is_some());
    signal(child.id(), Signal::HUP);
    let log = file.parent().unwrap().parent().unwrap().join("log");
    std::fs::write(log.join("go"), "").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(host.pods().len(), 1);
}
