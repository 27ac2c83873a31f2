//! The plugins that a runtime would call, and which of them are pausenet under another name.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::planned::Planned;
use pausenet::cni::Plugin;
use pausenet_host::runtime::add_calls;
use pausenet_host::runtime::find_plugin;
use pausenet_host::{Error, Result, block_on};

/// How long a program may take to print its version.
const LIMIT: Duration = Duration::from_secs(5);

/// A program with one of these names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// Pausenet, with this version.
    Ours(String),
    Another,
    /// It cannot be run, for this reason.
    Broken(String),
}

/// The first program of each name along CNI_PATH.
#[derive(Debug, Default)]
pub(super) struct Programs {
    path: Vec<PathBuf>,
    planned: BTreeMap<String, PathBuf>,
    found: HashMap<&'static str, (PathBuf, Program)>,
}

impl Programs {
    /// Finds them and asks each for its version. Those that are planned are found first.
    pub(super) fn find(path: &[PathBuf], planned: &Planned) -> Self {
        let mut found = HashMap::new();
        for name in Plugin::ALL.iter().map(|plugin| plugin.name()) {
            if let Some(file) = planned.programs.get(name) {
                found.insert(name, (file.clone(), identify(&planned.source)));
                continue;
            }
            // The one that a runtime would call, or else a file that it cannot call.
            let mut files = path.iter().map(|dir| dir.join(name));
            let program = find_plugin(name, path).ok();
            if let Some(file) = program.or_else(|| files.find(|file| file.exists())) {
                let program = identify(&file);
                found.insert(name, (file, program));
            }
        }
        Self {
            path: path.to_vec(),
            planned: planned.programs.clone(),
            found,
        }
    }

    /// The program that a runtime would call by this name.
    ///
    /// # Errors
    /// It is in none of the folders; the message names both.
    pub(super) fn of_name(&self, name: &str) -> Result<PathBuf> {
        match self.planned.get(name) {
            Some(file) => Ok(file.clone()),
            None => find_plugin(name, &self.path),
        }
    }

    pub(super) fn path(&self) -> &[PathBuf] {
        &self.path
    }

    /// Whether the plugin of this name is pausenet.
    pub(super) fn is_ours(&self, name: &str) -> bool {
        matches!(self.found.get(name), Some((_, Program::Ours(_))))
    }

    /// What computing the requests of an attachment needs to know of them.
    pub(super) fn known(&self) -> add_calls::Plugins<'_> {
        add_calls::Plugins {
            path: &self.path,
            portmap_is_ours: self.is_ours("portmap"),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&(PathBuf, Program)> {
        self.found.get(name)
    }
}

/// Called without a verb, a plugin prints its name and version and does nothing.
fn identify(file: &Path) -> Program {
    let mut command = tokio::process::Command::new(file);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output =
        block_on::<_, Error>(async { Ok(tokio::time::timeout(LIMIT, command.output()).await) });
    match output {
        Ok(Ok(Ok(output))) => version(&output.stdout).map_or(Program::Another, Program::Ours),
        Ok(Ok(Err(err))) => Program::Broken(err.to_string()),
        Ok(Err(_)) => Program::Broken(format!("no answer in {LIMIT:?}")),
        Err(err) => Program::Broken(err.message),
    }
}

/// The version in the first line of our help: `pausenet 0.1.0, a CNI plugin …`.
fn version(help: &[u8]) -> Option<String> {
    let help = String::from_utf8_lossy(help);
    let (version, rest) = help.strip_prefix("pausenet ")?.split_once(", ")?;
    rest.starts_with("a CNI plugin").then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_only_from_our_help() {
        let ours = b"pausenet 0.2.1, a CNI plugin (specification 0.1.0 to 1.1.0)\n";
        assert_eq!(version(ours).as_deref(), Some("0.2.1"));
        for another in [
            "CNI bridge plugin v1.1.1\n",
            "pausenet 1",
            "",
            "pausenet x, y",
        ] {
            assert_eq!(version(another.as_bytes()), None, "{another:?}");
        }
    }
}
