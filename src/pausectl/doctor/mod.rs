//! `pausectl doctor`: finds what is wrong on this host, and repairs what is safe to repair.
//!
//! [`snapshot`] reads the host once; each check in [`checks`] judges it and returns
//! [`finding::Finding`]s. Only a finding whose repair is provably safe carries one
//! ([`repair::Repair`]).
//!
//! # How to add a check
//!
//! 1. Write `checks/NAME.rs` with a `const CHECK:` [`check::Check`]: its name, its two lines of
//!    text, and a function from the snapshot to findings.
//! 2. Add it to [`checks::CHECKS`]; the order there is the order of the report.
//! 3. A safe repair is a type that implements [`repair::Repair`]. It takes the lock of what it
//!    changes and looks again, since the finding may be out of date.
//! 4. Test it on a real kernel in `tests/pausectl/doctor`.

mod check;
mod checks;
pub(crate) mod configured;
mod finding;
pub(crate) mod planned;
mod programs;
mod repair;
mod report;
mod snapshot;

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::SystemTime;

use clap::builder::PossibleValuesParser;
use serde_json::json;

use self::check::Check;
use self::checks::CHECKS;
use self::finding::{Finding, Severity};
use self::planned::Planned;
use self::report::{CheckResult, Outcome, Repaired, Report};
use self::snapshot::{Paths, Snapshot};
use super::options::own_folder;
use crate::command::{Output, Result, Stop, need_root, print, print_json};
use pausenet::ipam::host_local::DATA_DIR;
use pausenet_host::table::table;

const EXAMPLES: &str = "\
Examples:
  pausectl doctor
  pausectl doctor --fix
  pausectl doctor --check rules --check store --output json
  pausectl doctor --list

Each line is `ok`, a `note` (worth knowing, or not visible from here) or a `problem`, with
what it means and what to do about it. Without --fix nothing is changed. With --fix, only
repairs that are provably safe are made: flushed nftables elements are put back, for
example, and addresses that no interface has are freed. A running ADD or DEL is not
disturbed. The report lists what was repaired and what was not, then the state after it.

Exit status: 0 if there is no problem, 1 if a problem is left, 2 for wrong usage.";

/// Find what is wrong on this host, and repair what is safe to repair
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    /// Repair what is provably safe to repair, and report it
    #[arg(long, conflicts_with = "list")]
    fix: bool,

    /// Run only this check; may be given more than once
    #[arg(long = "check", value_name = "NAME", value_parser = names())]
    checks: Vec<String>,

    /// List the checks and do nothing else
    #[arg(long)]
    list: bool,

    /// The folder of the container runtimes' network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    runtime_conf_dir: PathBuf,

    /// The folder of the network configurations of `pausectl pod`
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENET_CONF_DIR",
        default_value = "/etc/pausenet/net.d"
    )]
    conf_dir: PathBuf,

    /// The folder with an address store for each network
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,

    /// Folders of CNI plugins, separated by colons; by default /opt/cni/bin, /usr/lib/cni and
    /// the folder of pausectl itself
    #[arg(long, value_name = "DIRS", env = "CNI_PATH")]
    cni_path: Option<OsString>,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(CHECKS.map(|check| check.name))
}

/// Runs the checks and, with `--fix`, the repairs.
///
/// # Errors
/// A problem is left, or the caller is not root.
pub(crate) fn doctor(options: &Doctor, output: Output) -> Result<()> {
    if options.list {
        return list(output);
    }
    need_root()?;
    let mut report = Report {
        results: run_checks(options),
        ..Report::default()
    };
    if options.fix {
        report.repaired = repair(report.results);
        report.results = run_checks(options);
    }
    match output {
        Output::Json => print_json(&report.json())?,
        Output::Text => print(&report.text())?,
    }
    match report.verdict(options.fix) {
        Some(problem) => Err(Stop::Failed(problem)),
        None => Ok(()),
    }
}

fn list(output: Output) -> Result<()> {
    match output {
        Output::Json => {
            let about = |check: &Check| json!({"name": check.name, "about": check.about});
            print_json(&json!({"checks": CHECKS.map(about)}))
        }
        Output::Text => {
            let row = |check: &Check| [check.name, check.about].map(str::to_owned);
            print(&table(["CHECK", "LOOKS AT"], &CHECKS.map(row)))
        }
    }
}

fn run_checks(options: &Doctor) -> Vec<CheckResult> {
    run_those(options.paths(), |check| {
        options.checks.is_empty() || options.checks.iter().any(|name| name == check.name)
    })
}

fn run_those(paths: Paths, is_chosen: impl Fn(&Check) -> bool) -> Vec<CheckResult> {
    let snapshot = Snapshot::read(paths, SystemTime::now());
    let run = |check: &'static Check| {
        let mut findings = (check.run)(&snapshot);
        if findings.is_empty() {
            findings.push(Finding::ok("all", check.all_is_well));
        }
        CheckResult { check, findings }
    };
    let chosen = CHECKS.into_iter().filter(|check| is_chosen(check));
    let (waiting, others): (Vec<_>, Vec<_>) = chosen.partition(|check| checks::waits(check));
    // Of the others, only one at a time may look whether an attachment is locked.
    let (mut results, more) = thread::scope(|scope| {
        let waiting = scope.spawn(|| waiting.into_iter().map(run).collect::<Vec<_>>());
        let others: Vec<_> = others.into_iter().map(run).collect();
        match waiting.join() {
            Ok(results) => (results, others),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    results.extend(more);
    results
}

fn repair(results: Vec<CheckResult>) -> Vec<Repaired> {
    let mut repaired = Vec::new();
    for CheckResult { check, findings } in results {
        for finding in findings {
            let outcome = match &finding.repair {
                Some(repair) => match repair.carry_out() {
                    Ok(true) => Outcome::Done,
                    Ok(false) => Outcome::NotNeeded,
                    Err(err) => Outcome::Failed(err),
                },
                None if finding.severity == Severity::Problem => Outcome::NotSafe,
                None => continue,
            };
            repaired.push(Repaired {
                check,
                finding,
                outcome,
            });
        }
    }
    repaired
}

impl Doctor {
    fn paths(&self) -> Paths {
        let cni_path = match &self.cni_path {
            Some(path) if !path.is_empty() => std::env::split_paths(path).collect(),
            _ => ["/opt/cni/bin".into(), "/usr/lib/cni".into()]
                .into_iter()
                // In an image it is the root, and no runtime sees what is there.
                .chain(own_folder().filter(|dir| dir.parent().is_some()))
                .collect(),
        };
        Paths {
            conf_dirs: vec![self.runtime_conf_dir.clone(), self.conf_dir.clone()],
            data_dir: self.data_dir.clone(),
            cni_path,
            planned: Planned::default(),
        }
    }
}
