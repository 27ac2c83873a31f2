//! The program itself: without a verb, with VERSION, and with its output closed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{Call, HOST_END, PluginOutput, World, allocated, podnet};

/// Far longer than any call takes, so that one that hangs fails here and not in CI's patience.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for a process that may hang.
#[track_caller]
fn finish(mut child: Child) -> PluginOutput {
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::yield_now();
    }
    PluginOutput(child.wait_with_output().unwrap())
}

#[test]
fn without_cni_command_help_is_printed() {
    for call in [
        Call::new("", &json!(null)),
        Call::new("", &podnet()).without("CNI_COMMAND"),
    ] {
        let answer = call.run();
        assert!(answer.0.status.success());
        let help = String::from_utf8(answer.0.stdout).unwrap();
        for word in ["pausenet", "CNI_COMMAND", "ADD", "VERSION"] {
            assert!(help.contains(word), "no {word} in {help}");
        }
    }
}

fn supported() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    })
}

#[test]
fn version_does_not_wait_for_stdin_and_needs_no_other_variable() {
    let call = Call::new("VERSION", &json!(null))
        .without("CNI_CONTAINERID")
        .without("CNI_IFNAME")
        .without("CNI_PATH");
    let mut child = call.command().spawn().unwrap();
    let stdin = child.stdin.take();

    let answer = finish(child);

    assert_eq!(answer.ok(), supported());
    drop(stdin);
}

#[test]
fn version_takes_a_config_of_any_version() {
    for config in [
        json!({"cniVersion": "0.2.0"}),
        json!({"cniVersion": "9.9.9"}),
        podnet(),
    ] {
        assert_eq!(Call::new("VERSION", &config).run().ok(), supported());
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let world = World::new();
    let container = world.container("x");
    let add = Call::new("ADD", &podnet()).netns(&container);
    let full = || OwnedFd::from(File::options().write(true).open("/dev/full").unwrap());
    let (reader, no_reader) = pipe();
    drop(reader);
    for stdout in [full(), no_reader] {
        let mut command = add.command();
        let mut child = command.stdout(Stdio::from(stdout)).spawn().unwrap();
        std::io::Write::write_all(
            &mut child.stdin.take().unwrap(),
            podnet().to_string().as_bytes(),
        )
        .unwrap();

        let answer = finish(child);

        assert_eq!(answer.0.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&answer.0.stderr).into_owned();
        assert!(stderr.contains("cannot write the answer"), "{stderr}");
        // The runtime has seen a failure, and calls DEL.
        Call::new("DEL", &podnet()).netns(&container).run().ok();
        assert!(world.link(HOST_END).is_none());
        assert!(allocated("podnet").is_empty());
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), writer.into())
}

#[test]
fn an_error_that_cannot_be_written_is_a_failure() {
    let mut command = Call::new("ADD", &podnet()).command();
    let (reader, writer) = pipe();
    drop(reader);
    let mut child = command.stdout(Stdio::from(writer)).spawn().unwrap();
    drop(child.stdin.take());

    assert_eq!(finish(child).0.status.code(), Some(1));
}

/// A runtime that waits for the end of stdin must not be answered before it: it may be writing.
#[test]
fn a_config_that_arrives_in_pieces_is_read_completely() {
    let world = World::new();
    let container = world.container("x");
    let mut child = Call::new("ADD", &podnet())
        .netns(&container)
        .command()
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for piece in podnet().to_string().as_bytes().chunks(16) {
        std::io::Write::write_all(&mut stdin, piece).unwrap();
    }
    drop(stdin);

    finish(child).ok();
    assert_eq!(container.addresses("eth0"), ["10.1.0.2/24"]);
}
