//! The commands of `pausectl`: each reads what a person typed, calls the rooms of the library,
//! and says what came of it. Help texts stand with the options they are about.
//!
//! Anchors in Docker, from the problem to the clean-up: [`with_docker`]. What the commands print:
//! [`screens`].

mod attachment_settings;
pub mod docker;
pub mod docker_api;
mod docker_inventory;
pub mod doctor;
pub mod explain;
pub mod graph;
pub mod install;
pub mod ls;
mod options;
pub mod pod;
mod published_ports;
pub mod rescue;
mod sandboxes;
#[doc = include_str!("../docs/screens.md")]
pub mod screens {}
mod shell;
#[doc = include_str!("../docs/docker.md")]
pub mod with_docker {}

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use crate::docker_api::ApiError;
use pausenet::cni;
use pausenet_host::Error;
use pausenet_host::runtime::{self, Interrupt};

/// How answers are written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value.
    Json,
}

/// How a command ends when it does not end well.
#[derive(Debug)]
pub enum Stop {
    /// It was asked for something that cannot be meant: status 2, as for any wrong usage.
    Usage(Error),
    /// Status 1.
    Failed(Error),
    /// By a signal: status 128 and its number, as shells have it.
    Interrupted(i32),
}

pub type Result<T, E = Stop> = std::result::Result<T, E>;

impl Stop {
    fn usage(why: impl Into<String>) -> Self {
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

/// The exit status of a command; what went wrong goes to stderr.
pub fn finish(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(err)) => {
            complain(&err);
            ExitCode::FAILURE
        }
        Err(Stop::Usage(err)) => {
            complain(&err);
            ExitCode::from(2)
        }
        Err(Stop::Interrupted(signal)) => {
            say("error", "31", &format!("stopped by signal {signal}"));
            ExitCode::from(128u8.wrapping_add(signal as u8))
        }
    }
}

/// An error on stderr: what was attempted and what came back, then what to do about it.
fn complain(err: &Error) {
    say("error", "31", &err.message);
    if !err.hint.is_empty() {
        say("hint", "36", &err.hint);
    }
}

/// Something that did not stop the command.
fn warn(err: &Error) {
    say("warning", "33", &err.message);
    if !err.hint.is_empty() {
        say("hint", "36", &err.hint);
    }
}

fn say(kind: &str, colour: &str, text: &str) {
    let mut to = std::io::stderr().lock();
    let colourful = to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    // Without stderr there is nobody to tell.
    let _ = if colourful {
        writeln!(to, "\x1b[1;{colour}m{kind}:\x1b[0m {text}")
    } else {
        writeln!(to, "{kind}: {text}")
    };
}

/// Writes an answer to stdout. A reader who has left is no error.
fn print(text: &str) -> Result<()> {
    let mut to = std::io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(format!("cannot write the answer: {err}")).into())
        }
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Everything here is about namespaces and links, and the kernel gives neither away.
fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("network namespaces are for root")
        .hint("sudo, or be root in a user namespace of your own: unshare -Urnm (and mount a tmpfs on /run and /var/lib there)")
        .into())
}

fn listen_for_signals() -> Result<Interrupt, Error> {
    Interrupt::listen().map_err(|err| Error::new(format!("cannot listen for signals: {err}")))
}
