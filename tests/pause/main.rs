//! The anchor as a black box: the built `pause`, started, signalled and watched through /proc.
//!
//! Needs unshare (as root, or with user namespaces for everyone), flock and GNU env. Its size is not
//! asserted here: only a release build says something about it.

use std::fs;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use common::programs;
use common::wait::wait_until;

#[test]
fn pause_exits_with_status_0_on_sigterm() {
    assert_leaves_on(Signal::TERM, &mut Command::new(programs::pause()));
}

#[test]
fn pause_exits_with_status_0_on_sigint() {
    assert_leaves_on(Signal::INT, &mut Command::new(programs::pause()));
}

#[test]
fn pause_exits_even_if_it_inherits_the_signal_blocked_or_ignored() {
    for signal in [Signal::TERM, Signal::INT] {
        for inherited in ["--block-signal", "--ignore-signal"] {
            assert_leaves_on(
                signal,
                Command::new("env").args([inherited, programs::pause()]),
            );
        }
    }
}

#[test]
fn every_other_signal_is_ignored() {
    let mut pause = PauseProcess::asleep(&mut Command::new(programs::pause()));
    for number in 1..32 {
        let signal = Signal::from_named_raw(number).unwrap();
        if ![Signal::KILL, Signal::STOP, Signal::TERM, Signal::INT].contains(&signal) {
            send(pause.pid(), signal);
            // Taken in before the next, so that it had its chance to do harm.
            wait_until(&format!("{signal:?} is taken in"), || {
                let pending = status_field(pause.pid(), "ShdPnd");
                pending.is_none_or(|set| set == "0000000000000000") && is_asleep(pause.pid())
            });
        }
    }
    send(pause.pid(), Signal::TERM);
    assert_eq!(pause.wait().code(), Some(0));
}

#[test]
fn pause_survives_being_stopped_and_continued() {
    let mut pause = PauseProcess::asleep(&mut Command::new(programs::pause()));
    send(pause.pid(), Signal::STOP);
    wait_until("it is stopped", || state(pause.pid()) == Some('T'));
    send(pause.pid(), Signal::CONT);
    wait_until("it sleeps again", || is_asleep(pause.pid()));
    send(pause.pid(), Signal::TERM);
    assert_eq!(pause.wait().code(), Some(0));
}

#[test]
fn pid_1_exits_on_sigterm_from_outside() {
    let mut pod = Pod::start("", &[programs::pause()]);
    send(pod.pause, Signal::TERM);
    assert_eq!(pod.unshare.wait().code(), Some(0));
}

#[test]
fn pid_1_exits_on_sigterm_from_inside() {
    let mut pod = Pod::start(
        "sh -c 'sleep 600; kill 1' 2>/dev/null &",
        &[programs::pause()],
    );
    let shell = only_child(pod.pause);
    send(only_child(shell), Signal::KILL);
    assert_eq!(pod.unshare.wait().code(), Some(0));
}

#[test]
fn pid_1_reaps_an_orphan() {
    assert_reaps_an_orphan(&[programs::pause()]);
}

#[test]
fn pid_1_reaps_an_orphan_even_if_it_inherits_sigchld_blocked_or_ignored() {
    assert_reaps_an_orphan(&["env", "--block-signal", programs::pause()]);
    assert_reaps_an_orphan(&["env", "--ignore-signal", programs::pause()]);
}

#[test]
fn pid_1_reaps_an_orphan_that_is_already_a_zombie() {
    let mut pod = Pod::start("sh -c 'sleep 600 & exec sleep 600' &", &[programs::pause()]);
    let careless = only_child(pod.pause);
    wait_until("it became a sleep", || {
        status_field(careless, "Name").unwrap() == "sleep"
    });
    let child = only_child(careless);
    send(child, Signal::KILL);
    wait_until("the child is a zombie", || state(child) == Some('Z'));
    send(careless, Signal::KILL);
    pod.assert_all_is_reaped(&[careless, child]);
}

#[test]
fn pause_reaps_children_that_died_before_it_started() {
    // Between shell and pause, a program that doesn't reap: flock, waiting for a lock of ours.
    let lock = tempfile::NamedTempFile::new().unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let script = "sleep 600 & exec flock --no-fork \"$0\" \"$1\"";
    let mut pause = Command::new("sh");
    pause
        .args(["-c", script])
        .arg(lock.path())
        .arg(programs::pause());
    let mut pause = PauseProcess::new(&mut pause);
    wait_until("it became a flock", || {
        status_field(pause.pid(), "Name").unwrap() == "flock"
    });
    let child = only_child(pause.pid());
    send(child, Signal::KILL);
    wait_until("the child is a zombie", || state(child) == Some('Z'));
    flock(&lock, FlockOperation::Unlock).unwrap();
    wait_until("it sleeps", || is_asleep(pause.pid()));
    assert_eq!(state(child), None);
    send(pause.pid(), Signal::TERM);
    assert_eq!(pause.wait().code(), Some(0));
}

#[test]
fn an_idle_pause_never_wakes_up() {
    let pause = PauseProcess::asleep(&mut Command::new(programs::pause()));
    let before = settled_switches(pause.pid());
    sleep(Duration::from_millis(500)); // the span that is measured, not a wait for something
    assert_eq!(switches(pause.pid()), before);
}

#[test]
fn private_memory_stays_within_100_kilobytes() {
    let pause = PauseProcess::asleep(&mut Command::new(programs::pause()));
    let path = format!("/proc/{}/smaps_rollup", pause.pid().as_raw_pid());
    let private: u64 = fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert!((1..=100).contains(&private), "{private} kB");
}

#[test]
fn the_binary_is_static() {
    const PT_DYNAMIC: u32 = 2;
    const PT_INTERP: u32 = 3;
    let elf = fs::read(programs::pause()).unwrap();
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "64 bits, little-endian");
    let number = |at: usize, size: usize| {
        elf[at..at + size]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (table, entry, entries) = (number(32, 8), number(54, 2), number(56, 2));
    let types: Vec<_> = (0..entries)
        .map(|i| number(table + i * entry, 4) as u32)
        .collect();
    assert!(!types.is_empty());
    assert!(
        !types.contains(&PT_INTERP) && !types.contains(&PT_DYNAMIC),
        "{types:?}"
    );
}

#[test]
fn the_version_flag_prints_name_and_version() {
    for flag in ["-v", "--version"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        let expected = concat!("pause ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn the_help_flag_prints_the_usage() {
    for flag in ["-h", "--help"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(b"Usage: pause"));
    }
}

#[test]
fn an_unknown_argument_is_named_in_the_error() {
    for argument in ["--verbose", "-x", "v", ""] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            message.contains(&format!("unknown argument '{argument}'")),
            "{message}"
        );
    }
}

#[test]
fn a_version_that_cannot_be_written_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(programs::pause())
        .arg("-v")
        .stdout(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

fn assert_leaves_on(signal: Signal, command: &mut Command) {
    let mut pause = PauseProcess::asleep(command);
    send(pause.pid(), signal);
    assert_eq!(pause.wait().code(), Some(0), "{signal:?} to {command:?}");
}

fn assert_reaps_an_orphan(pause: &[&str]) {
    let mut pod = Pod::start("sh -c 'sleep 600 & wait' &", pause);
    let parent = only_child(pod.pause);
    let orphan = only_child(parent);
    let before = settled_switches(pod.pause);
    send(parent, Signal::KILL);
    wait_until("the orphan has a new parent", || {
        parent_of(orphan) == Some(pod.pause)
    });
    send(orphan, Signal::KILL);
    pod.assert_all_is_reaped(&[parent, orphan]);
    assert_eq!(
        switches(pod.pause),
        before,
        "it slept on, as the kernel did the work"
    );
    send(pod.pause, Signal::TERM);
    assert_eq!(pod.unshare.wait().code(), Some(0));
}

fn run(arguments: &[&str]) -> Output {
    Command::new(programs::pause())
        .args(arguments)
        .output()
        .unwrap()
}

/// A process of ours that doesn't outlive its test.
struct PauseProcess(Child);

impl PauseProcess {
    fn new(command: &mut Command) -> Self {
        PauseProcess(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn asleep(command: &mut Command) -> Self {
        let pause = Self::new(command);
        wait_until("pause sleeps", || is_asleep(pause.pid()));
        pause
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("it ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for PauseProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A PID namespace with pause as its PID 1, watched from outside.
struct Pod {
    unshare: PauseProcess,
    pause: Pid,
}

impl Pod {
    /// A shell runs `script` as PID 1, then gives its place to `pause`.
    fn start(script: &str, pause: &[&str]) -> Self {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        unshare
            .args(["sh", "-c", &format!("{script} exec \"$@\""), "sh"])
            .args(pause);
        let unshare = PauseProcess::new(&mut unshare);
        let pause = only_child(unshare.pid());
        wait_until("pause sleeps as PID 1", || is_asleep(pause));
        assert!(status_field(pause, "NSpid").unwrap().ends_with("\t1"));
        Pod { unshare, pause }
    }

    fn assert_all_is_reaped(&mut self, dead: &[Pid]) {
        wait_until("all are reaped", || {
            dead.iter().all(|pid| state(*pid).is_none())
        });
        assert_eq!(children(self.pause), []);
        assert!(is_asleep(self.pause));
    }
}

fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
}

/// Whether this is pause by now (and not what exec'd it) and sleeps in the one call where it does.
fn is_asleep(pid: Pid) -> bool {
    let exe = fs::read_link(format!("/proc/{}/exe", pid.as_raw_pid()));
    exe.is_ok_and(|exe| exe == fs::canonicalize(programs::pause()).unwrap())
        && state(pid) == Some('S')
}

/// One line of /proc/PID/status, or None if there is no such process (a zombie is one).
fn status_field(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Some(value.expect("a field of /proc/PID/status").to_owned())
}

fn state(pid: Pid) -> Option<char> {
    status_field(pid, "State")?.chars().next()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(status_field(pid, "PPid")?.parse().unwrap())
}

/// How often it gave up the CPU or had to: it grows with each wake-up.
fn switches(pid: Pid) -> [Option<String>; 2] {
    ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"].map(|name| status_field(pid, name))
}

/// The same, when the switch that began its sleep is surely counted.
fn settled_switches(pid: Pid) -> [Option<String>; 2] {
    let mut last = switches(pid);
    wait_until("it has settled", || {
        sleep(Duration::from_millis(20));
        let before = std::mem::replace(&mut last, switches(pid));
        before == last
    });
    last
}

fn children(parent: Pid) -> Vec<Pid> {
    let names = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?))
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// Waits for the first child.
fn only_child(parent: Pid) -> Pid {
    let mut found = Vec::new();
    wait_until("there is one child", || {
        found = children(parent);
        found.len() == 1
    });
    found[0]
}
