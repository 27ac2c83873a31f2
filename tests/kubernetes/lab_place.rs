//! The place of the lab's daemons (scripts/lab/place.sh) ends without a trace, however it is told to.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::script::CHECKOUT;
use common::wait::wait_until;

/// As the first process of a namespace of processes, it is the parent of all orphans, and of its daemons, too.
#[test]
fn a_place_that_is_a_first_process_ends_when_its_process_group_is_told_to() {
    let script = r#"
        source ./lib.sh
        source ./place.sh
        place_open test
        place_keep daemon bash -c "exec -a '$home/daemon' sleep infinity"
        place_await 'the daemon' pgrep -f "$home/daemon"
        place_live sh -c 'echo "$1" && exec sleep infinity' sh "$home"
    "#;
    let namespaces = ["--net", "--mount", "--pid", "--mount-proc"];
    let mut place = Command::new("unshare")
        .args(namespaces)
        .args(["--fork", "--kill-child", "bash", "-c", script])
        .current_dir(Path::new(CHECKOUT).join("scripts/lab"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut home = String::new();
    let stdout = place.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut home).unwrap();
    let home = Path::new(home.trim());
    assert!(home.is_dir(), "{home:?}");

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
