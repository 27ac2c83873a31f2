//! Measures pausenet beside the reference plugins, and beside the floor: a bare program that has the
//! kernel make the same objects. `scripts/bench` starts it: the script builds and fetches what is needed
//! and runs this in process and mount namespaces of its own, so that nothing outlives it.
//!
//! # Layout
//!
//! * [`benchmarks`]: what is measured, one file per topic.
//! * [`scenario`], [`network`]: the measured networks, as each side configures them, and how each side
//!   attaches a container.
//! * [`world`], [`call`], [`traffic`]: hosts and containers to measure in, one timed call of a plugin,
//!   and traffic.
//! * [`series`], [`targets`], [`report`], [`plot`], [`machine`]: samples, promises and reports.
//! * `bin/floor`: the floor.

mod benchmarks;
mod call;
mod machine;
mod network;
mod plot;
mod report;
mod scenario;
mod series;
mod targets;
mod traffic;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use benchmarks::{Context, Extent};
use machine::Machine;
use network::Tools;
use report::Report;
use series::Results;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures pausenet beside the reference's plugins and beside the kernel's own cost
#[derive(Debug, Parser)]
struct Options {
    /// Measure every promise in reduced form, in two minutes
    #[arg(long)]
    quick: bool,

    /// Run only benchmarks whose name contains this; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// List the benchmarks and exit
    #[arg(long)]
    list: bool,

    /// The folder for results.txt, results.json and results.svg
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The folder with pausenet, pausectl, pause and floor
    #[arg(long, value_name = "DIR", hide = true, default_value = "")]
    programs: PathBuf,

    /// The folder with the reference's plugins
    #[arg(long, value_name = "DIR", hide = true, default_value = "")]
    peers: PathBuf,

    /// The commit of pausenet
    #[arg(long, hide = true, default_value = "unknown")]
    commit: String,

    /// The version of the reference plugins
    #[arg(long, hide = true, default_value = "unknown")]
    reference: String,

    /// The folder with pausenet and pausectl of an earlier commit
    #[arg(long, value_name = "DIR", hide = true)]
    before: Option<PathBuf>,

    /// That commit
    #[arg(long, hide = true, requires = "before")]
    before_commit: Option<String>,

    /// podman's netavark
    #[arg(long, value_name = "FILE", hide = true)]
    netavark: Option<PathBuf>,
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

/// As the first process of its PID namespace it receives no signal without a handler. When it exits, the
/// kernel ends everything it has started.
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
    let benchmarks: Vec<_> = benchmarks::all()
        .into_iter()
        .filter(|benchmark| (benchmark.quick || extent == Extent::Full) && wanted(&benchmark.name))
        .collect();
    if options.list {
        benchmarks
            .iter()
            .for_each(|benchmark| println!("{}", benchmark.name));
        return Ok(());
    }
    if benchmarks.is_empty() {
        return Err("no benchmark has such a name; --list shows them".into());
    }
    let machine = Machine::read(
        &options.commit,
        &options.reference,
        options.before_commit.as_deref(),
        extent.pick("quick", "full"),
    );
    let program = |name: &str| options.programs.join(name);
    let tools = Tools {
        pausenet: program("pausenet"),
        pausectl: program("pausectl"),
        pause: program("pause"),
        floor: program("floor"),
        peers: options.peers.clone(),
        before: options.before.clone(),
        netavark: options.netavark.clone(),
    };
    let mut results = Results::default();
    let mut failed = Vec::new();
    let start = Instant::now();
    for (at, benchmark) in benchmarks.iter().enumerate() {
        eprintln!(
            "[{:>4} s] {}/{} {}",
            start.elapsed().as_secs(),
            at + 1,
            benchmarks.len(),
            benchmark.name
        );
        let mut context = Context {
            tools: &tools,
            extent,
            results: &mut results,
        };
        if let Err(err) = benchmark.run(&mut context) {
            eprintln!("bench: {}: {err}", benchmark.name);
            failed.push(benchmark.name.as_str());
        }
        let report = Report {
            machine: &machine,
            benchmarks: (at + 1 - failed.len(), benchmarks.len()),
            targets: &targets::all(&results, extent),
            results: &results,
        };
        // After each benchmark, so that an interrupted run keeps its results.
        if let Some(out) = &options.out {
            write(&report, out)?;
        }
        if at + 1 == benchmarks.len() {
            print!("{}", report.text());
        }
    }
    eprintln!("[{:>4} s] done", start.elapsed().as_secs());
    if let Some(out) = &options.out {
        eprintln!("bench: written to {}", out.display());
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("these benchmarks failed: {}", failed.join(", ")).into()),
    }
}

/// Writes the report in its three formats, in place of earlier ones.
fn write(report: &Report, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    fs::write(out.join("results.txt"), report.text())?;
    fs::write(
        out.join("results.json"),
        serde_json::to_string_pretty(report)?,
    )?;
    plot::draw(report.results, &out.join("results.svg"))
}
