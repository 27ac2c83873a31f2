//! `pausectl` killed at each of its own steps: a file that is put in place or removed, a plugin that is
//! started, a change of nftables. strace shows which there are.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

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
    "NETLINK:[NETFILTER",
    "CLONE_VFORK",
];

/// How many messages to nftables are steps: the last ones, which are changes.
const LAST_SENDS: usize = 5;

/// A system call, and the how manieth of its name it is.
pub(super) type Step = (String, u32);

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
    let mut counts = BTreeMap::new();
    let mut steps = Vec::new();
    for line in log.lines() {
        let Some((name, _)) = line.split_once('(') else {
            continue;
        };
        let count = counts.entry(name).or_insert(0);
        *count += 1;
        let is_about = |place: &&str| line.contains(*place) || name == "vfork";
        if STEPS.contains(&name) && PLACES.iter().any(is_about) {
            steps.push((name.to_owned(), *count));
        }
    }
    // Most are questions, and come before.
    let mut sends = steps
        .iter()
        .filter(|(name, _)| name.starts_with("send"))
        .count();
    steps.retain(|(name, _)| {
        sends -= usize::from(name.starts_with("send"));
        !name.starts_with("send") || sends < LAST_SENDS
    });
    steps
}

/// Runs it again, and kills it at a step. False when it did not come to that.
pub(super) fn kill_at(docker: &Docker, args: &[&str], (name, nth): &Step) -> bool {
    let options = [
        "-e".to_owned(),
        format!("trace={name}"),
        "-e".to_owned(),
        format!("inject={name}:signal=KILL:when={nth}"),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let (output, _) = strace(docker, args, &options);
    use std::os::unix::process::ExitStatusExt;
    output.status.signal() == Some(9) || output.status.code() == Some(137)
}
