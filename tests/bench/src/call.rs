//! One timed call of a program, as a container runtime makes it: it is started directly with environment
//! and config, its output is read to the end, and its exit is awaited. The time covers all of that.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;

/// A program, and the name it is called by (its `argv[0]`).
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// PATH, for the programs it starts.
    pub(crate) search: &'static str,
}

/// The programs of the machine, iptables included.
pub(crate) const EVERYTHING: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Program {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            path,
            name,
            search: EVERYTHING,
        }
    }

    /// The same program with another PATH.
    pub(crate) fn searching(self, search: &'static str) -> Self {
        Self { search, ..self }
    }

    /// The same program under another name.
    pub(crate) fn called(path: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::new(path)
        }
    }

    /// A command for it, with exactly these variables and PATH.
    pub(crate) fn command<'a>(&self, vars: impl IntoIterator<Item = (&'a str, String)>) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .env_clear()
            .env("PATH", self.search)
            .envs(vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// The time of a call, and its output.
pub(crate) struct CallResult {
    pub(crate) time: Duration,
    pub(crate) value: Value,
}

/// Runs a command to its end. A failure is an error that contains the output.
pub(crate) fn timed(mut command: Command, stdin: &[u8]) -> Result<CallResult> {
    let start = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // It may exit without reading everything.
        let _ = pipe.write_all(stdin);
    }
    let output = child.wait_with_output()?;
    let time = start.elapsed();
    if !output.status.success() {
        return Err(format!(
            "{command:?}: {}\nstdin: {}\nstdout: {}\nstderr: {}",
            output.status,
            String::from_utf8_lossy(stdin),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let value = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout)?
    };
    Ok(CallResult { time, value })
}
