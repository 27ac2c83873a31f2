//! `pausectl` killed at each of its own steps: a file that is put in place or removed, a plugin that is
//! started, a change of nftables, at which Ctrl-C is tried, too. strace shows which there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use rustix::process::Signal;

use common::docker::Docker;
use common::processes::through;

/// The system calls that are steps, if they are about one of [`PLACES`].
const STEPS: [&str; 9] = [
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "clone3",
    "vfork",
    "sendto",
    "sendmsg",
];

const PLACES: [&str; 4] = [
    "/var/lib/pausenet",
    "/var/lib/cni",
    "NFNL_MSG_BATCH_BEGIN",
    "CLONE_VFORK",
];

/// A system call, and the how manieth of its name it is.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) call: String,
    pub(super) nth: u32,
}

impl Step {
    /// Those that are tried at it.
    pub(super) fn signals(&self) -> &'static [Signal] {
        match self.call.starts_with("send") {
            true => &[Signal::KILL, Signal::INT],
            false => &[Signal::KILL],
        }
    }
}

/// Runs `pausectl` in strace with these options. Returns what it said, and the log.
fn strace(docker: &Docker, args: &[&str], options: &[&str]) -> (Output, String) {
    let log: PathBuf = docker.home().join("strace");
    let to_log = [
        "--quiet=all",
        "--decode-fds=all",
        "--output",
        log.to_str().unwrap(),
    ];
    let mut command = through(
        "strace",
        &[&to_log[..], options, &["--"]].concat(),
        &docker.pausectl(args),
    );
    let output = command.output().unwrap();
    (output, fs::read_to_string(&log).unwrap())
}

/// The steps of a run to the end.
pub(super) fn of(docker: &Docker, args: &[&str]) -> Vec<Step> {
    let (output, log) = strace(docker, args, &[]);
    assert!(output.status.success(), "{output:?}");
    let is_step = |(line, step): &(&str, Step)| {
        let is_about = |place: &&str| line.contains(*place) || step.call == "vfork";
        STEPS.contains(&step.call.as_str()) && PLACES.iter().any(is_about)
    };
    let steps = counted(&log).filter(is_step);
    steps.map(|(_, step)| step).collect()
}

/// The system calls of a log of strace, each with its line.
pub(super) fn counted(log: &str) -> impl Iterator<Item = (&str, Step)> {
    let mut counts = BTreeMap::new();
    log.lines().filter_map(move |line| {
        let (call, _) = line.split_once('(')?;
        let nth = counts.entry(call).or_insert(0);
        *nth += 1;
        let step = Step {
            call: call.to_owned(),
            nth: *nth,
        };
        Some((line, step))
    })
}

/// Runs it again, with a signal at a step. False when it did not come to that.
pub(super) fn strike(docker: &Docker, args: &[&str], step: &Step, signal: Signal) -> bool {
    let Step { call, nth } = step;
    let number = signal.as_raw();
    let options = [
        "-e".to_owned(),
        format!("trace={call}"),
        "-e".to_owned(),
        format!("inject={call}:signal={number}:when={nth}"),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let (output, log) = strace(docker, args, &options);
    use std::os::unix::process::ExitStatusExt;
    let is_killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    is_killed || log.contains("--- SIGINT ")
}
