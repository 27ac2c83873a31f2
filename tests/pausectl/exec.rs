//! `pod exec`: the command, its streams and its status are the caller's.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::host::{PodHost, feed};

#[test]
fn exec_returns_the_command_s_status() {
    let host = PodHost::new();
    host.create("web");
    let status = |command: &[&str]| {
        let args = [&["pod", "exec", "web", "--"], command].concat();
        host.output(&args).status
    };
    assert_eq!(status(&["true"]).code(), Some(0));
    assert_eq!(status(&["sh", "-c", "exit 42"]).code(), Some(42));
    // It takes our place, so a shell that called us shows 128 and 9.
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]).signal(), Some(9));
    assert_eq!(status(&["no-such-command"]).code(), Some(127));
    assert_eq!(status(&["/etc/passwd"]).code(), Some(126));
}

#[test]
fn exec_passes_stdio_through_and_needs_no_dashes() {
    let host = PodHost::new();
    host.create("web");
    let mut command = host.command(&["pod", "exec", "web", "sed", "-e", "s/a/b/"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    feed(&mut child, "banana\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "bbnana\n");
}

#[test]
fn an_unknown_pod_is_an_error_that_lists_the_known_pods() {
    let host = PodHost::new();
    let said = host.fails(1, &["pod", "exec", "web", "--", "true"]);
    assert!(
        said.contains("no pod web") && said.contains("pod create"),
        "{said}"
    );
    host.create("db");
    let said = host.fails(1, &["pod", "exec", "web", "--", "true"]);
    assert!(said.contains("pods: db"), "{said}");
    host.fails(2, &["pod", "exec", "web"]);
}
