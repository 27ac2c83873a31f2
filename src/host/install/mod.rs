//! Installs the plugin and its networks in the folders where runtimes look for them, and restores
//! what was there before.
//!
//! [`managed_folder`] replaces the files atomically.

pub mod file;
pub mod managed_folder;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::Error;
use pausenet::cni::Plugin;
use serde_json::Value;

use self::managed_folder::ManagedFolder;
use crate::block_on;

/// The names to install the plugin under: its own, the requested ones, and those of an earlier
/// install that are still ours, so that all of them get the same version.
pub fn names(asked: &[Plugin], place: &ManagedFolder) -> Result<Vec<String>, Error> {
    let asked = asked.iter().map(|plugin| plugin.name().to_owned());
    let mut names: Vec<_> = std::iter::once(Plugin::Pausenet.name().to_owned())
        .chain(asked)
        .collect();
    let record = place.record()?;
    for name in record.names() {
        if record.has(name, &file::Found::at(&place.path(name))?) {
            names.push(name.to_owned());
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// Runs the plugin from the folder it will be called from, before runtimes can find it there: one
/// built for another architecture, or on a filesystem mounted noexec, must not replace one that
/// works.
pub fn try_out(program: &Path) -> Result<(), Error> {
    const LIMIT: Duration = Duration::from_secs(10);
    let wrong = |why: String| {
        Error::new(format!("the plugin does not work in {}: {why}; nothing was replaced", folder(program)),
        )
        .hint("is it pausenet, and built for this machine (uname -m)? --from FILE names another; a filesystem mounted noexec runs no plugins")
    };
    let mut command = tokio::process::Command::new(program);
    command
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = block_on(async {
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        output.map_err(|_| wrong(format!("no answer to VERSION in {LIMIT:?}")))
    })?;
    let output = output.map_err(|err| wrong(format!("cannot run it: {err}")))?;
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    match answer {
        Some(answer) if answer["supportedVersions"].is_array() => Ok(()),
        _ => Err(wrong(format!(
            "it ended with {} and no answer to VERSION",
            output.status
        ))),
    }
}

/// The folder that runtimes use, given the temporary file in its subfolder.
fn folder(program: &Path) -> String {
    let dir = program.parent().and_then(Path::parent);
    dir.unwrap_or(program).display().to_string()
}
