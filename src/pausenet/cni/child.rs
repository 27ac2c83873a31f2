//! Runs a program with a time limit: writes its stdin, reads what it answers, and kills it, with all
//! that it started, when the time is over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How a program ended.
pub(super) enum Ended {
    Exited(ExitStatus),
    /// Killed at the time limit.
    Late,
    /// Killed because it wrote more than allowed.
    TooLong,
}

/// A program that was run.
pub(super) struct Finished {
    pub(super) pid: u32,
    pub(super) ended: Ended,
    pub(super) stdout: Vec<u8>,
    /// The end of what it wrote to stderr.
    pub(super) said: String,
}

/// How much of stderr is kept for a message.
const KEPT: usize = 1024;

/// What a pipe takes without waiting when poll(2) says that it is writable (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// A killed process ends at once, unless it is in a system call that cannot be interrupted.
const REAP_LIMIT: Duration = Duration::from_secs(2);

/// How often to look for the exit where the kernel has no file for it (before Linux 5.3).
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Runs a program in a process group of its own. What it writes to stderr is passed on.
///
/// # Errors
/// It cannot be started, or a pipe fails.
pub(super) fn run(
    command: &mut Command,
    input: &[u8],
    max_output: u64,
    limit: Duration,
) -> io::Result<Finished> {
    let deadline = Instant::now() + limit;
    let child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut running = Running::new(child, input, max_output);
    let ended = running.until(deadline);
    if !matches!(ended, Ok(Ended::Exited(_))) {
        running.kill();
    }
    Ok(Finished {
        pid: running.child.id(),
        ended: ended?,
        stdout: running.stdout.read,
        said: String::from_utf8_lossy(&running.stderr.read).into_owned(),
    })
}

struct Running<'a> {
    child: Child,
    /// Readable when the program has ended.
    exit: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    unwritten: &'a [u8],
    stdout: Output,
    stderr: Output,
    max_output: u64,
}

/// One of the program's outputs; its pipe is None after the end.
struct Output {
    pipe: Option<OwnedFd>,
    read: Vec<u8>,
}

impl Output {
    fn new(pipe: Option<impl Into<OwnedFd>>) -> Self {
        Self {
            pipe: pipe.map(Into::into),
            read: Vec::new(),
        }
    }

    /// Reads once, without waiting. Returns what was read: nothing when there is nothing now, or any
    /// more.
    fn read_some(&mut self) -> io::Result<&[u8]> {
        let before = self.read.len();
        let Some(pipe) = &self.pipe else {
            return Ok(&[]);
        };
        let mut part = [0; 16 * 1024];
        match rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut part)) {
            Ok(0) => self.pipe = None,
            Ok(length) => self.read.extend_from_slice(&part[..length]),
            Err(Errno::AGAIN) => {}
            Err(err) => return Err(err.into()),
        }
        Ok(&self.read[before..])
    }
}

impl<'a> Running<'a> {
    fn new(mut child: Child, unwritten: &'a [u8], max_output: u64) -> Self {
        let exit = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let exit = exit.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self {
            exit,
            stdin: child.stdin.take().map(Into::into),
            unwritten,
            stdout: Output::new(child.stdout.take()),
            stderr: Output::new(child.stderr.take()),
            max_output,
            child,
        }
    }

    fn until(&mut self, deadline: Instant) -> io::Result<Ended> {
        let pipes = [&self.stdin, &self.stdout.pipe, &self.stderr.pipe];
        for pipe in pipes.into_iter().flatten() {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        loop {
            // Before reading: what it wrote before its end is in the pipes by then. A child of it
            // may keep them open for longer.
            let status = self.child.try_wait()?;
            self.write_some()?;
            while !self.stdout.read_some()?.is_empty() {
                if self.stdout.read.len() as u64 > self.max_output {
                    return Ok(Ended::TooLong);
                }
            }
            while self.pass_on_stderr()? && Instant::now() < deadline {}
            if let Some(status) = status {
                return Ok(Ended::Exited(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ended::Late);
            }
            self.wait(left)?;
        }
    }

    /// Waits until something can be read or written, or the program has ended.
    fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = match &self.exit {
            Some(_) => limit,
            None => limit.min(LOOK_AGAIN),
        };
        let [stdin, outputs @ ..] = [
            &self.stdin,
            &self.stdout.pipe,
            &self.stderr.pipe,
            &self.exit,
        ];
        let stdin = stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT));
        let outputs = outputs.into_iter().flatten();
        let outputs = outputs.map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let mut polled: Vec<_> = stdin.chain(outputs).collect();
        let limit = limit.try_into().map_err(io::Error::other)?;
        match poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// A program may end, or close its stdin, without reading all of it.
    fn write_some(&mut self) -> io::Result<()> {
        while let Some(stdin) = &self.stdin {
            match rustix::io::retry_on_intr(|| rustix::io::write(stdin, self.unwritten)) {
                Ok(length) if length < self.unwritten.len() => {
                    self.unwritten = self.unwritten.get(length..).unwrap_or_default();
                }
                Ok(_) | Err(Errno::PIPE) => self.stdin = None,
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }

    /// Reads once from the program's stderr and passes it on, unless that would have to wait. Keeps
    /// the end.
    fn pass_on_stderr(&mut self) -> io::Result<bool> {
        let read = self.stderr.read_some()?;
        let own = std::io::stderr();
        for part in read.chunks(AT_ONCE) {
            let mut polled = [PollFd::from_borrowed_fd(own.as_fd(), PollFlags::OUT)];
            if poll(&mut polled, Some(&rustix::event::Timespec::default())) == Ok(1) {
                let _ = rustix::io::write(&own, part);
            }
        }
        let is_some = !read.is_empty();
        let old = self.stderr.read.len().saturating_sub(KEPT);
        self.stderr.read.drain(..old);
        Ok(is_some)
    }

    /// Kills the program with all of its process group, and reaps it.
    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        (self.stdin, self.stdout.pipe, self.stderr.pipe) = (None, None, None);
        let deadline = Instant::now() + REAP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(left).is_err() {
                break;
            }
        }
    }
}
