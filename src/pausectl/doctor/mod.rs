//! `pausectl doctor`: what is wrong with this host, and what of it can be repaired without harm.
//!
//! [`scene`] reads the host once, each check (one file per theme) judges what it sees, and says
//! what it found as [`finding::Finding`]s. A finding carries a [`repair::Repair`] only where that
//! is provably safe; when in doubt, things are kept, and it is said.

mod checks;
mod finding;
mod programs;
mod repair;
mod report;
mod snapshot;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::json;

use self::checks::{firewall, kernel, legacy, links, networks, plugins, rules, store, sysctls};
use self::finding::{Check, Finding, Severity};
use self::report::{Outcome, Repaired, Report};
use self::snapshot::{Places, Scene};
use super::options::own_folder;
use super::{Output, Result, Stop, need_root, print, print_json};
use pausenet::ipam::host_local::DATA_DIR;
use pausenet_host::table::table;

const EXAMPLES: &str = "\
Examples:
  pausectl doctor
  pausectl doctor --fix
  pausectl doctor --check rules --check store --output json
  pausectl doctor --list

Each line is `ok`, a `note` (worth knowing, or not to be seen from here) or a `problem`,
with what it means and what to do about it. Nothing is changed without --fix, and with it
only what is provably safe: for example elements of nftables that a foreign flush took are
put back, and addresses that no interface has are freed. What an ADD or DEL is working on
is left alone. What was done, and what was not, is listed; then it looks again.

Exit status: 0 when nothing is wrong, 1 when a problem is left, 2 for wrong usage.";

/// Look for what is wrong on this host, and repair what is safe to repair
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Repair what is provably safe to repair, and say what that was
    #[arg(long, conflicts_with = "list")]
    fix: bool,

    /// Run only this check; may be given more than once
    #[arg(long = "check", value_name = "NAME", value_enum)]
    checks: Vec<Check>,

    /// List the checks, and do nothing else
    #[arg(long)]
    list: bool,

    /// The folder of configurations of container runtimes
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    runtime_conf_dir: PathBuf,

    /// The folder of configurations of `pausectl pod`
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENET_CONF_DIR",
        default_value = "/etc/pausenet/net.d"
    )]
    conf_dir: PathBuf,

    /// The folder with a store of addresses for each network
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,

    /// Folders of CNI plugins, with colons between them; by default /opt/cni/bin and
    /// /usr/lib/cni, then that of pausectl itself
    #[arg(long, value_name = "DIRS", env = "CNI_PATH")]
    cni_path: Option<OsString>,
}

/// Runs the checks, and the repairs if they are asked for.
///
/// # Errors
/// When a problem is left, or without privileges.
pub fn doctor(options: &Doctor, output: Output) -> Result<()> {
    if options.list {
        return list(output);
    }
    need_root()?;
    let mut report = Report {
        findings: look(options),
        ..Report::default()
    };
    if options.fix {
        report.repaired = fix(&report.findings);
        report.findings = look(options);
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
            let about = |check: Check| json!({"name": check.name(), "about": check.about()});
            print_json(&json!({"checks": Check::ALL.map(about)}))
        }
        Output::Text => {
            let row = |check: Check| [check.name(), check.about()].map(str::to_owned);
            print(&table(["CHECK", "LOOKS AT"], &Check::ALL.map(row)))
        }
    }
}

fn look(options: &Doctor) -> Vec<Finding> {
    let scene = Scene::read(options.places(), SystemTime::now());
    let mut findings = Vec::new();
    let wanted = |check: &Check| options.checks.is_empty() || options.checks.contains(check);
    for check in Check::ALL.into_iter().filter(wanted) {
        let found = match check {
            Check::Kernel => kernel::check(&scene),
            Check::Sysctls => sysctls::check(&scene),
            Check::Firewall => firewall::check(&scene),
            Check::Plugins => plugins::check(&scene),
            Check::Networks => networks::check(&scene),
            Check::Store => store::check(&scene),
            Check::Rules => rules::check(&scene),
            Check::Links => links::check(&scene),
            Check::Legacy => legacy::check(&scene),
        };
        if found.is_empty() {
            findings.push(Finding::ok(check, "all of it", check.all_is_well()));
        }
        findings.extend(found);
    }
    findings
}

fn fix(findings: &[Finding]) -> Vec<Repaired> {
    let mut repaired = Vec::new();
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
            finding: finding.clone(),
            outcome,
        });
    }
    repaired
}

impl Doctor {
    fn places(&self) -> Places {
        let cni_path = match &self.cni_path {
            Some(path) if !path.is_empty() => std::env::split_paths(path).collect(),
            _ => ["/opt/cni/bin".into(), "/usr/lib/cni".into()]
                .into_iter()
                .chain(own_folder())
                .collect(),
        };
        Places {
            conf_dirs: vec![self.runtime_conf_dir.clone(), self.conf_dir.clone()],
            data_dir: self.data_dir.clone(),
            cni_path,
        }
    }
}
