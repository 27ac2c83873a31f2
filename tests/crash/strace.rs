//! The plugin under strace: which system calls it makes, and one of them gone wrong.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::{Call, PluginOutput};

/// Calls that change nothing which outlives the process. What is not here is taken for a change,
/// so that a new way of making one is not forgotten.
const HARMLESS: &[&str] = &[
    "access",
    "arch_prctl",
    "bind",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    // Starts a thread, such as one that waits for a lock that another test's fork holds for a moment.
    "clone3",
    "close",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "execve",
    "faccessat",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getdents64",
    "getpid",
    "getrandom",
    "getsockname",
    "gettid",
    "getuid",
    "geteuid",
    "ioctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "set_tid_address",
    "setsockopt",
    "sigaltstack",
    "socket",
    "stat",
    "statx",
    "sysinfo",
    "uname",
];

/// Names of the calls by which the plugin changes something when it serves `call`.
pub(crate) fn changing(call: &Call) -> Vec<String> {
    let names = names(call).into_iter();
    names
        .filter(|name| !HARMLESS.contains(&name.as_str()))
        .collect()
}

/// Names of all system calls that the plugin makes when it serves `call`.
pub(crate) fn names(call: &Call) -> BTreeSet<String> {
    let (answer, log) = strace(call, &[]);
    answer.ok();
    // `PID name(arguments) = value`
    let name = |line: &str| {
        let (_, rest) = line.split_once(' ')?;
        let (name, _) = rest.trim_start().split_once('(')?;
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| name.to_owned())
    };
    log.lines().filter_map(name).collect()
}

/// Kills the plugin, or a child of it, before it makes the system call `name` for the `nth` time. False when
/// all came to their end before that, and well.
pub(crate) fn killed(call: &Call, name: &str, nth: usize) -> bool {
    let what = format!("signal=KILL:when={nth}");
    let (answer, log) = inject(call, name, &what, &[]);
    // strace ends by the signal that ended what it started; of a child, only its log tells.
    let killed = answer.0.status.signal() == Some(9);
    assert!(killed || answer.0.status.success(), "{answer:?}");
    killed || log.contains("+++ killed by SIGKILL")
}

/// The `nth` system call `name` fails, without having done anything. None when there was none.
pub(crate) fn refused(call: &Call, name: &str, nth: usize, errno: &str) -> Option<FailedCall> {
    // Faster; but with it, signals come after the call.
    let fast = ["--seccomp-bpf"];
    let (answer, log) = inject(call, name, &format!("error={errno}:when={nth}"), &fast);
    assert_eq!(answer.0.status.signal(), None, "{answer:?}");
    let line = log.lines().find(|line| line.ends_with("(INJECTED)"))?;
    Some(FailedCall {
        answer,
        line: line.to_owned(),
    })
}

/// How the plugin took a refusal, and the call as strace shows it.
pub(crate) struct FailedCall {
    pub(crate) answer: PluginOutput,
    pub(crate) line: String,
}

impl FailedCall {
    /// False for errors that no kernel returns: a full or read-only filesystem to a reader.
    pub(crate) fn can_be(&self) -> bool {
        let writes = ["O_CREAT", "O_WRONLY", "O_RDWR", "O_TMPFILE"];
        let opens = self.line.contains(" open(") || self.line.contains(" openat(");
        let disk = self.line.contains("ENOSPC") || self.line.contains("EROFS");
        !(opens && disk) || writes.iter().any(|flag| self.line.contains(flag))
    }
}

fn inject(call: &Call, name: &str, what: &str, options: &[&str]) -> (PluginOutput, String) {
    let trace = format!("trace={name}");
    let inject = format!("inject={name}:{what}");
    let inject = ["-e", &trace, "-e", &inject];
    strace(call, &[&inject, options].concat())
}

/// The plugin's answer, and strace's log.
fn strace(call: &Call, options: &[&str]) -> (PluginOutput, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command: Command = call.clone().program("strace").command();
    command
        .args(["--follow-forks", "--quiet=attach,personality", "--output"])
        .arg(log.path())
        .args(options)
        .arg("--")
        .arg(call.command().get_program());
    let answer = call.run_as(command);
    (answer, fs::read_to_string(log.path()).unwrap())
}
