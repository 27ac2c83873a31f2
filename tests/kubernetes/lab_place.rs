//! The place of the lab's daemons (scripts/lab/place.sh) ends without a trace, however it is told to.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::script::CHECKOUT;
use common::wait::wait_until;

const SCRIPT: &str = r#"
    source ./lib.sh
    source ./place.sh
    place_open test
    place_keep daemon bash -c "exec -a '$home/daemon' sleep infinity"
    place_await 'the daemon' pgrep -f "$home/daemon"
    place_live sh -c 'echo "$1" && exec sleep infinity' sh "$home"
"#;

/// A place with a daemon, in namespaces made with these options, and its folder.
fn place(options: &[&str]) -> (Child, PathBuf) {
    let mut place = Command::new("unshare")
        .args(["--net", "--mount"])
        .args(options)
        .args(["bash", "-c", SCRIPT])
        .current_dir(Path::new(CHECKOUT).join("scripts/lab"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut home = String::new();
    let stdout = place.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut home).unwrap();
    let home = PathBuf::from(home.trim());
    assert!(home.is_dir(), "{home:?}");
    (place, home)
}

/// As the first process of a namespace of processes, it is the parent of all orphans, and of its daemons, too.
#[test]
fn a_place_that_is_a_first_process_ends_when_its_process_group_is_told_to() {
    let (mut place, home) = place(&["--pid", "--mount-proc", "--fork", "--kill-child"]);
    let group = Pid::from_child(&place);
    kill_process_group(group, Signal::TERM).unwrap();
    let mut looks = 0;
    wait_until("the place has ended, or has had half a minute", || {
        looks += 1;
        place.try_wait().unwrap().is_some() || looks > 600
    });
    let status = place.try_wait().unwrap();
    place.kill().unwrap(); // and with it the namespace
    place.wait().unwrap();
    assert!(status.is_some() && !home.exists(), "{status:?}");
}

#[test]
fn a_place_whose_process_group_is_killed_is_closed_by_its_guard() {
    let (mut place, home) = place(&[]);
    kill_process_group(Pid::from_child(&place), Signal::KILL).unwrap();
    place.wait().unwrap();
    wait_until("its folder is gone, and so its daemon", || !home.exists());
    let daemon = format!("{}/daemon", home.display());
    let left = Command::new("pgrep")
        .args(["-f", &daemon])
        .status()
        .unwrap();
    assert_eq!(left.code(), Some(1), "the daemon of {home:?} runs");
}
