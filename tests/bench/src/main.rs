//! Measures pausenet beside the reference's plugins, and beside the floor: a bare program that has
//! the kernel make the same objects. Started by `scripts/bench`, which builds and fetches what is
//! needed and puts this into process and mount namespaces of its own, so that nothing outlives it.
//!
//! # Layout
//!
//! * [`works`]: what is measured, one file for each kind of it.
//! * [`scene`], [`network`]: the networks, as each side has them, and how they are wired.
//! * [`world`], [`call`], [`traffic`]: hosts and containers to measure in, one timed call of a
//!   plugin, and traffic.
//! * [`series`], [`targets`], [`report`], [`plot`], [`machine`]: what came of it.
//! * `bin/floor`: the floor.

mod call;
mod machine;
mod network;
mod plot;
mod report;
mod scene;
mod series;
mod targets;
mod traffic;
mod works;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use machine::Machine;
use network::Tools;
use report::Report;
use series::Results;
use works::{Bench, Extent};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures pausenet beside the reference's plugins and beside the kernel's own cost
#[derive(Debug, Parser)]
struct Options {
    /// Every row of the table of targets in reduced form, in two minutes
    #[arg(long)]
    quick: bool,

    /// Only works whose name contains this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// Say which works there are, and end
    #[arg(long)]
    list: bool,

    /// Where results.txt, results.json and results.svg are written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The folder with pausenet, pausectl, pause and floor
    #[arg(long, value_name = "DIR", hide = true, default_value = "")]
    programs: PathBuf,

    /// The folder with the reference's plugins
    #[arg(long, value_name = "DIR", hide = true, default_value = "")]
    peers: PathBuf,

    /// Which commit of pausenet this is
    #[arg(long, hide = true, default_value = "unknown")]
    commit: String,

    /// Which version of the reference
    #[arg(long, hide = true, default_value = "unknown")]
    reference: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match end_on_signals().and_then(|()| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bench: {err}");
            ExitCode::FAILURE
        }
    }
}

/// As the first process of its namespace it would hear no signal that it does not ask for. With it
/// everything ends that it has started.
fn end_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let extent = if options.quick {
        Extent::Quick
    } else {
        Extent::Full
    };
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|pattern| name.contains(pattern))
    };
    let works: Vec<_> = works::all()
        .into_iter()
        .filter(|work| (work.quick || extent == Extent::Full) && wanted(&work.name))
        .collect();
    if options.list {
        works.iter().for_each(|work| println!("{}", work.name));
        return Ok(());
    }
    if works.is_empty() {
        return Err("no work has such a name; --list shows them".into());
    }
    let machine = Machine::read(
        &options.commit,
        &options.reference,
        extent.pick("quick", "full"),
    );
    let program = |name: &str| options.programs.join(name);
    let tools = Tools {
        pausenet: program("pausenet"),
        pausectl: program("pausectl"),
        pause: program("pause"),
        floor: program("floor"),
        peers: options.peers.clone(),
    };
    let mut results = Results::default();
    let mut failed = Vec::new();
    let start = Instant::now();
    for (at, work) in works.iter().enumerate() {
        eprintln!(
            "[{:>4} s] {}/{} {}",
            start.elapsed().as_secs(),
            at + 1,
            works.len(),
            work.name
        );
        let mut bench = Bench {
            tools: &tools,
            extent,
            results: &mut results,
        };
        if let Err(err) = work.run(&mut bench) {
            eprintln!("bench: {}: {err}", work.name);
            failed.push(work.name.as_str());
        }
        let report = Report {
            machine: &machine,
            works: (at + 1 - failed.len(), works.len()),
            targets: &targets::all(&results, extent),
            results: &results,
        };
        // Each time, so that who ends it early has what was measured until then.
        if let Some(out) = &options.out {
            write(&report, out)?;
        }
        if at + 1 == works.len() {
            print!("{}", report.text());
        }
    }
    eprintln!("[{:>4} s] done", start.elapsed().as_secs());
    if let Some(out) = &options.out {
        eprintln!("bench: written to {}", out.display());
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("these works failed: {}", failed.join(", ")).into()),
    }
}

/// The report's three forms, in the place of what is there.
fn write(report: &Report, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("results.txt"), report.text())?;
    fs::write(
        out.join("results.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    plot::draw(report.results, &out.join("results.svg"))
}
