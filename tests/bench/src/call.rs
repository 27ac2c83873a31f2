//! One call of a program as a container runtime makes it: started directly, environment and
//! config given, answer read to its end, process waited for. Its time is that of all of it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;

/// A program, and the name that it is called by.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub name: String,
    /// PATH: where it finds the programs that it starts.
    pub search: &'static str,
}

/// A machine's own programs, iptables among them.
pub const EVERYTHING: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
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

    /// The same program on a machine with other programs.
    pub fn searching(self, search: &'static str) -> Self {
        Self { search, ..self }
    }

    /// The same program under another name.
    pub fn called(path: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::new(path)
        }
    }

    /// A command of it, with the stated environment and no other.
    pub fn command<'a>(&self, vars: impl IntoIterator<Item = (&'a str, String)>) -> Command {
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

/// What a call took, and what it answered.
pub struct Answer {
    pub time: Duration,
    pub value: Value,
}

/// Runs a command to its end; failure is an error with what it said.
pub fn timed(mut command: Command, stdin: &[u8]) -> Result<Answer> {
    let start = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // It may answer without having read everything.
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
    Ok(Answer { time, value })
}
