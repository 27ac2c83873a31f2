//! Programs of the machine that have to succeed, and its sysctls.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a program that has to succeed, and gives back what it printed.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(
        output.status.success(),
        "{program}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `ip`, which has to succeed, with arguments between spaces.
#[track_caller]
pub fn ip(args: &str) -> String {
    run("ip", args.split_whitespace())
}

/// A setting under /proc/sys/net, in the calling thread's namespace.
#[track_caller]
pub fn sysctl(key: &str) -> String {
    let path = Path::new("/proc/sys/net").join(key);
    fs::read_to_string(&path)
        .unwrap_or_else(|err| panic!("{}: {err}", path.display()))
        .trim()
        .to_owned()
}

/// Changes a setting under /proc/sys/net, in the calling thread's namespace.
#[track_caller]
pub fn set_sysctl(key: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(key);
    fs::write(&path, value).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}
