//! What the checks would find if files were there that are about to be written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::checks::{depends_on_files, needs_no_root};
use super::finding::Severity;
use super::report::Report;
use super::run_those;
use super::snapshot::Paths;
use crate::options::CONF_DIR;
use pausenet::ipam::host_local::DATA_DIR;

/// Files that the checks take as if they were there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Planned {
    /// Plugins by name, each with its file.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// The program that they all will be.
    pub(crate) source: PathBuf,
    /// A network's configuration: its file and the text in it.
    pub(crate) conf: Option<(PathBuf, Vec<u8>)>,
}

/// What the checks would find.
pub(crate) struct Forecast(Report);

impl Forecast {
    /// Judges the host with the planned files, by a runtime's folders of plugins and of configurations.
    pub(crate) fn of(planned: Planned, dir: PathBuf, conf_dir: PathBuf) -> Self {
        let own = std::env::var_os("PAUSENET_CONF_DIR").map_or(CONF_DIR.into(), PathBuf::from);
        let paths = Paths {
            conf_dirs: vec![conf_dir, own],
            data_dir: DATA_DIR.into(),
            cni_path: vec![dir],
            planned,
        };
        let is_root = rustix::process::geteuid().is_root();
        // On a thread of its own, since it looks through all of /proc: what the caller does to files stays
        // a short and steady list of system calls, at each of which the tests stop it.
        let checks = || run_those(paths, |check| is_root || needs_no_root(check));
        let mut results =
            std::thread::scope(|scope| scope.spawn(checks).join()).unwrap_or_default();
        for result in &mut results {
            let counts = depends_on_files(result.check);
            result.findings.retain(|found| match found.severity {
                Severity::Problem => true,
                Severity::Note => counts,
                Severity::Ok => false,
            });
        }
        results.retain(|result| !result.findings.is_empty());
        Self(Report {
            results,
            ..Report::default()
        })
    }

    /// The findings as `doctor` prints them; empty if nothing is wrong.
    pub(crate) fn text(&self) -> String {
        self.0.text()
    }

    pub(crate) fn json(&self) -> Value {
        self.0.json()["findings"].take()
    }
}
