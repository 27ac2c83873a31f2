//! What the commands share: output formats, errors, exit status, and signals.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use crate::docker_api::ApiError;
use pausenet::cni;
use pausenet_host::Error;
use pausenet_host::runtime::{self, Interrupt};

/// The output format.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for a terminal.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Wrong usage: status 2.
    Usage(Error),
    /// Status 1.
    Failed(Error),
    /// By a signal: status 128 plus its number, as in a shell.
    Interrupted(i32),
}

pub(crate) type Result<T, E = Stop> = std::result::Result<T, E>;

impl Stop {
    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self::Usage(Error::new(why))
    }
}

impl From<Error> for Stop {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl From<cni::Error> for Stop {
    fn from(err: cni::Error) -> Self {
        Self::Failed(err.into())
    }
}

impl From<ApiError> for Stop {
    fn from(failure: ApiError) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<runtime::Stop> for Stop {
    fn from(stop: runtime::Stop) -> Self {
        match stop {
            runtime::Stop::Failed(err) => Self::Failed(err),
            runtime::Stop::Interrupted(signal) => Self::Interrupted(signal),
        }
    }
}

/// Prints the error of a command, and gives its exit status.
pub(crate) fn finish(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(err)) => {
            print_error(&err);
            ExitCode::FAILURE
        }
        Err(Stop::Usage(err)) => {
            print_error(&err);
            ExitCode::from(2)
        }
        Err(Stop::Interrupted(signal)) => {
            say("error", "31", &format!("stopped by signal {signal}"));
            ExitCode::from(128u8.wrapping_add(signal as u8))
        }
    }
}

/// Prints an error and its hint to stderr.
pub(crate) fn print_error(err: &Error) {
    say("error", "31", &err.message);
    if !err.hint.is_empty() {
        say("hint", "36", &err.hint);
    }
}

/// Prints an error that did not stop the command.
pub(crate) fn warn(err: &Error) {
    say("warning", "33", &err.message);
    if !err.hint.is_empty() {
        say("hint", "36", &err.hint);
    }
}

fn say(kind: &str, colour: &str, text: &str) {
    let mut to = std::io::stderr().lock();
    let colourful = to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    // Nothing can be done about a closed stderr.
    let _ = if colourful {
        writeln!(to, "\x1b[1;{colour}m{kind}:\x1b[0m {text}")
    } else {
        writeln!(to, "{kind}: {text}")
    };
}

/// Does `work`, and says on stderr what is waited for if it takes long: to a person soon, to a program or a
/// file only after a while.
pub(crate) async fn waiting<T>(what: impl FnOnce() -> String, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        outcome = &mut work => return outcome,
        () = tokio::time::sleep(patience()) => say_waiting(&what()),
    }
    work.await
}

/// The same for work that blocks, such as waiting for a lock.
pub(crate) fn waiting_blocked<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(patience()) == Err(RecvTimeoutError::Timeout) {
                say_waiting(what);
            }
        });
        let outcome = work();
        drop(done);
        outcome
    })
}

/// How long something may take before it is said.
pub(crate) fn patience() -> Duration {
    match std::io::stderr().is_terminal() {
        true => Duration::from_secs(1),
        false => Duration::from_secs(8),
    }
}

pub(crate) fn say_waiting(what: &str) {
    say("waiting", "36", what);
}

/// Writes to stderr. Nothing can be done about a closed one.
pub(crate) fn say_on_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to stdout. A closed pipe is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut to = std::io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(format!("cannot write to stdout: {err}")).into())
        }
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// The kernel shows other processes' namespaces only to root.
pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("only root can use network namespaces")
        .hint("use sudo, or become root in a user namespace: unshare -Urnm (and mount a tmpfs on /run and /var/lib there)")
        .into())
}

pub(crate) fn listen_for_signals() -> Result<Interrupt, Error> {
    Interrupt::listen().map_err(|err| Error::new(format!("cannot listen for signals: {err}")))
}
