//! Starts and ends the pause process of a pod.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::name::PodName;
pub use super::processes::PROGRAM;
use super::processes::Process;
use crate::{Error, Result};
use pausenet::kernel::netns::NetnsId;
use pausenet::kernel::syscalls::spawn_in_own_session;

/// How long a process may take to exit after SIGTERM. (Our pause exits at once.)
const GRACE: Duration = Duration::from_secs(5);

/// Starts the pause process in the calling thread's namespaces. It outlives the caller: it has a
/// session of its own, no open files, no environment, and / as its working directory.
///
/// # Errors
/// An error that names the program.
pub fn start(program: &Path, pod: &PodName) -> Result<Child> {
    let mut command = Command::new(program);
    command
        .arg0(format!("pause: pod {pod}")) // what ps -f shows
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    spawn_in_own_session(&mut command).map_err(|err| {
        Error::new(format!(
            "cannot start the pause process {}: {err}",
            program.display()
        ))
        .hint("--pause names the program; it usually lies beside pausectl")
    })
}

/// Ends a process, unless it has left the namespace: by SIGTERM, and by SIGKILL if it does not exit
/// in time. A process that is gone already is no error.
///
/// # Errors
/// The caller may not signal it, or it does not exit.
pub fn end(process: &Process, netns: NetnsId) -> Result<()> {
    end_by_pid(process.pid, netns)
        .map_err(|err| Error::new(format!("end process {process}: the kernel says: {err}")))
}

fn end_by_pid(pid: u32, netns: NetnsId) -> io::Result<()> {
    let gone = |err| err == rustix::io::Errno::SRCH;
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Err(err) if gone(err) => return Ok(()),
        handle => handle?,
    };
    // The PID may have been reused before the handle was opened.
    if NetnsId::of_process(pid) != Some(netns) {
        return Ok(());
    }
    for (signal, limit) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        match pidfd_send_signal(&handle, signal) {
            Err(err) if gone(err) => return Ok(()),
            outcome => outcome?,
        }
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut ended = [PollFd::new(&handle, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut ended, Some(&limit)))? > 0 {
            return Ok(());
        }
    }
    Err(rustix::io::Errno::TIMEDOUT.into())
}
