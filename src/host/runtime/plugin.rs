//! Runs the program of a plugin for one call.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::fs::Access;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::interrupt::Interrupt;
use super::parameters::{Parameters, Stop};
use crate::{Error, Result};
use pausenet::cni::{self, env::Verb};

/// One call of a plugin, ready to run.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) verb: Verb,
    pub(super) parameters: &'a Parameters,
    pub(super) path: &'a [PathBuf],
    /// The configuration, for stdin.
    pub(super) config: String,
    pub(super) limit: Duration,
}

/// Why a plugin was killed before it ended.
enum Cut {
    Late,
    Signal(i32),
}

/// Finds a plugin's program in the folders of CNI_PATH.
///
/// # Errors
/// The plugin is in none of them; the message lists the folders.
pub fn find(name: &str, path: &[PathBuf]) -> Result<PathBuf> {
    let is_program =
        |file: &PathBuf| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok();
    path.iter()
        .map(|dir| dir.join(name))
        .find(is_program)
        .ok_or_else(|| {
            let folders: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
            Error::new(format!(
                "plugin {name:?} is in none of {}",
                folders.join(", ")
            ))
            .hint("--cni-path names the folders to look in")
        })
}

impl Call<'_> {
    /// Runs the plugin and returns its stdout.
    ///
    /// # Errors
    /// The plugin's own error, a timeout, or a signal if `interrupt` receives them. The plugin
    /// does not run any more then.
    pub(super) async fn run(
        &self,
        interrupt: Option<&mut Interrupt>,
    ) -> std::result::Result<Vec<u8>, Stop> {
        let cannot_run = |err: io::Error| {
            let msg = format!("cannot run {}: {err}", self.program.display());
            Error::new(msg)
        };
        let mut child = self.command().spawn().map_err(cannot_run)?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let output = tokio::select! {
            output = self.feed_and_collect(&mut child) => Ok(output),
            () = tokio::time::sleep(self.limit) => Err(Cut::Late),
            signal = next_signal(interrupt) => Err(Cut::Signal(signal)),
        };
        match output {
            Ok(output) => Ok(self.judge(output.map_err(cannot_run)?)?),
            Err(cut) => {
                // Together with its children, such as an IPAM plugin.
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait().await;
                Err(match cut {
                    Cut::Signal(signal) => Stop::Interrupted(signal),
                    Cut::Late => Error::new(format!(
                        "{} did not end within {:?} and was killed",
                        self.program.display(),
                        self.limit
                    ))
                    .hint("--timeout gives it more")
                    .into(),
                })
            }
        }
    }

    fn command(&self) -> Command {
        let Parameters {
            attachment,
            netns,
            args,
            ..
        } = self.parameters;
        let netns = netns.as_deref().unwrap_or(Path::new(""));
        let args: Vec<_> = args
            .iter()
            .map(|[key, value]| format!("{key}={value}"))
            .collect();
        let path = std::env::join_paths(self.path).unwrap_or_else(|_| OsString::new());
        let mut command = Command::new(self.program);
        command
            .env("CNI_COMMAND", self.verb.as_str())
            .env("CNI_CONTAINERID", attachment.container.as_given())
            .env("CNI_IFNAME", attachment.ifname.as_str())
            .env("CNI_NETNS", netns)
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C must reach this process only: it then undoes what the plugin did.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Writes the configuration to stdin, and reads stdout and stderr to the end.
    async fn feed_and_collect(&self, child: &mut Child) -> io::Result<Output> {
        use tokio::io::AsyncReadExt;
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("no pipes"));
        };
        let write = async {
            // A plugin may exit without reading all of its stdin.
            let _ = stdin.write_all(self.config.as_bytes()).await;
            drop(stdin);
        };
        let (mut answer, mut complaint) = (Vec::new(), Vec::new());
        let ((), read, complained, status) = tokio::join!(
            write,
            stdout.read_to_end(&mut answer),
            stderr.read_to_end(&mut complaint),
            child.wait()
        );
        read.and(complained)?;
        Ok(Output {
            status: status?,
            stdout: answer,
            stderr: complaint,
        })
    }

    fn judge(&self, output: Output) -> Result<Vec<u8>> {
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            // A successful plugin may print warnings; pass them on.
            eprint!("{complaint}");
            return Ok(output.stdout);
        }
        let said =
            [String::from_utf8_lossy(&output.stdout), complaint].map(|text| text.trim().to_owned());
        let own = cni::Error::from_json(&output.stdout).map(|err| {
            let code = err.code as u32;
            Error::from(err).context(format!("code {code}"))
        });
        Err(own.unwrap_or_else(|| {
            let said: Vec<_> = said.into_iter().filter(|text| !text.is_empty()).collect();
            Error::new(format!(
                "{} ended with {}",
                self.program.display(),
                output.status
            ))
            .hint(said.join("; "))
        }))
    }
}

/// Waits for the next signal; forever if signals are not received here.
async fn next_signal(interrupt: Option<&mut Interrupt>) -> i32 {
    match interrupt {
        Some(interrupt) => interrupt.next().await,
        None => std::future::pending().await,
    }
}
