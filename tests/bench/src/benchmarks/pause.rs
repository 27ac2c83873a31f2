//! Memory and wake-ups of an idle process that holds a pod's namespaces.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Benchmark, Context};
use crate::Result;
use crate::series::{OURS, Side, Unit};

/// What others use in place of a pause process.
pub(crate) const BUSYBOX: Side = "busybox sleep";

/// The benchmark's name in the report.
pub(crate) const NAME: &str = "pause";

pub(super) fn benchmarks() -> Vec<Benchmark> {
    vec![Benchmark::new(NAME, true, run)]
}

fn run(context: &mut Context) -> Result<()> {
    let mut ours = Command::new(&context.tools.pause);
    let mut busybox = Command::new("busybox");
    busybox.args(["sleep", "infinity"]);
    let watched = Duration::from_secs(context.extent.pick(3, 60));
    let mut running = Vec::new();
    for (side, command) in [(OURS, &mut ours), (BUSYBOX, &mut busybox)] {
        let process = Process(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        process.wait_asleep()?;
        let before = process.switches()?;
        running.push((side, process, before));
    }
    std::thread::sleep(watched); // the time in which they should do nothing
    for (side, process, before) in &running {
        let woken = process.switches()? - before;
        let (private, resident) = process.memory()?;
        for (what, unit, figure) in [
            ("private memory", Unit::Kilobytes, private),
            ("resident memory", Unit::Kilobytes, resident),
            ("wake-ups", Unit::Count, woken),
        ] {
            context.results.add(NAME, what, side, unit, figure);
        }
    }
    let size = fs::metadata(&context.tools.pause)?.len();
    context
        .results
        .add(NAME, "program", OURS, Unit::Kilobytes, size as f64 / 1e3);
    Ok(())
}

/// A child that ends with this value.
struct Process(Child);

impl Process {
    fn read(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.0.id()))?)
    }

    fn wait_asleep(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // The state follows the name, which ends with the last parenthesis.
        while !self
            .read("stat")?
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('S'))
        {
            if std::time::Instant::now() > deadline {
                return Err("a pause process does not go to sleep".into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// How often it was scheduled.
    fn switches(&self) -> Result<f64> {
        Ok(sum(
            &self.read("status")?,
            &["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"],
        ))
    }

    /// Private and resident memory in kB.
    fn memory(&self) -> Result<(f64, f64)> {
        let rollup = self.read("smaps_rollup")?;
        Ok((
            sum(&rollup, &["Private_Clean:", "Private_Dirty:"]),
            sum(&rollup, &["Rss:"]),
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sum of the numbers in the lines that start with one of these words.
fn sum(text: &str, words: &[&str]) -> f64 {
    let number = |line: &str| {
        let mut parts = line.split_whitespace();
        words
            .contains(&parts.next()?)
            .then(|| parts.next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(number).sum()
}
