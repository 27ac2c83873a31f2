//! What people type, on a host with many attachments: `pausectl ls`, `explain` and `doctor`.

use std::process::{Command, Output};
use std::time::Instant;

use super::Context;
use crate::Result;
use crate::network::Attachment;
use crate::series::{Side, Unit};
use crate::world::World;

pub(crate) const ALL: [&str; 3] = ["ls", "explain", "doctor"];

/// Programs of an ADD are measured in hundreds; these are slower, and few.
const ROUNDS: (usize, usize) = (5, 20);

/// The case of a command with this many attachments.
pub(crate) fn case(command: &str, count: usize) -> String {
    format!("pausectl {command} at {count}")
}

/// Runs each of them on the hosts in turn, and once more for its memory. `explain` is asked about the last
/// attachment.
pub(super) fn measure(
    context: &mut Context,
    benchmark: &str,
    hosts: &[(Side, &World, &Attachment)],
    count: usize,
) -> Result<()> {
    for name in ALL {
        let case = case(name, count);
        let command = |(side, _, last): (Side, &World, &Attachment)| {
            let mut command = Command::new(context.tools.of(side).pausectl);
            command.arg(name).args(["--output", "json"]);
            if name == "explain" {
                command.arg(&last.netns);
            }
            command
        };
        for round in 0..context.extent.pick(ROUNDS.0, ROUNDS.1) {
            for at in super::order(round, hosts.len()) {
                let (side, world, _) = hosts[at];
                let mut command = command(hosts[at]);
                let start = Instant::now();
                let output = world.inside(|| Ok(command.output()?))?;
                let taken = start.elapsed().as_secs_f64() * 1e3;
                answered(name, &output)?;
                context
                    .results
                    .add(benchmark, &case, side, Unit::Milliseconds, taken);
            }
        }
        for host in hosts {
            let (side, world, _) = *host;
            let memory = world.inside(|| most_memory(&command(*host)))?;
            let case = format!("{case}: memory at most");
            context
                .results
                .add(benchmark, &case, side, Unit::Kilobytes, memory);
        }
    }
    Ok(())
}

/// An error unless it answered. `doctor` finds this host unusual, and ends with 1.
fn answered(name: &str, output: &Output) -> Result<()> {
    let may_end = match name {
        "doctor" => [0, 1].map(Some).contains(&output.status.code()),
        _ => output.status.success(),
    };
    let answer: serde_json::Result<serde_json::Value> = serde_json::from_slice(&output.stdout);
    if may_end && answer.is_ok() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("pausectl {name}: {}: {said}", output.status).into())
}

/// The most memory that a command has had, in kB.
fn most_memory(command: &Command) -> Result<f64> {
    const REPORT: &str = "/run/memory";
    let output = Command::new("/usr/bin/time")
        .args(["--quiet", "--format", "%M", "--output", REPORT])
        .arg(command.get_program())
        .args(command.get_args())
        .output()?;
    let report = std::fs::read_to_string(REPORT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let figure = report.trim().parse();
    figure.map_err(|_| format!("{command:?}: {report}{said}").into())
}
