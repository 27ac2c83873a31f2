//! What an ADD costs besides time: program size, memory, system calls, netlink messages. Counted in
//! separate runs, because counting takes time.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Benchmark, Context};
use crate::Result;
use crate::network::{Attachment, Implementation};
use crate::scenario::{Scenario, Setup};
use crate::series::{Side, Unit};
use crate::world::settle;

/// The file in a world that counting tools write to.
const REPORT: &str = "/run/report";

pub(super) fn benchmarks() -> Vec<Benchmark> {
    [Scenario::Bridge, Scenario::Masquerade, Scenario::Kind]
        .into_iter()
        .map(|scenario| {
            let name = format!("{}/footprint", scenario.name());
            Benchmark::new(name.clone(), scenario == Scenario::Bridge, move |context| {
                run(context, &name, scenario)
            })
        })
        .collect()
}

fn run(context: &mut Context, name: &str, scenario: Scenario) -> Result<()> {
    for side in scenario.sides() {
        let setup = Setup::new(scenario, context.tools, side)?;
        let netns = setup.world.containers("c", 1)?.remove(0);
        let at = Attachment::new(1, &netns);
        for (verb, what, unit) in [
            ("size", "programs", Unit::Kilobytes),
            ("memory", "ADD: memory at most", Unit::Kilobytes),
            ("faults", "ADD: page faults", Unit::Count),
            ("calls", "ADD: system calls", Unit::Count),
            ("messages", "ADD: netlink messages", Unit::Count),
        ] {
            let figure = match verb {
                "size" => size(context, &setup.implementation, side)?,
                verb => setup
                    .world
                    .inside(|| count(&setup.implementation, &at, verb))?,
            };
            context.results.add(name, what, side, unit, figure);
        }
        drop(setup);
        settle()?;
    }
    Ok(())
}

/// The size of all programs of an ADD, in kB.
fn size(context: &Context, implementation: &Implementation, side: Side) -> Result<f64> {
    let mut programs = match implementation {
        Implementation::Floor(floor) => vec![floor.program.path.clone()],
        Implementation::Plugins(network) => network
            .steps
            .iter()
            .map(|step| step.program.path.clone())
            .collect(),
    };
    if side != crate::series::OURS && matches!(implementation, Implementation::Plugins(_)) {
        programs.push(context.tools.peers.join("host-local"));
    }
    let mut sum = 0;
    for program in programs {
        sum += fs::metadata(program)?.len();
    }
    Ok(sum as f64 / 1e3)
}

/// Runs ADD under a tool that counts, then DEL without it.
fn count(implementation: &Implementation, at: &Attachment, what: &str) -> Result<f64> {
    let (mut figure, mut result) = (0.0_f64, Value::Null);
    match implementation {
        Implementation::Floor(floor) => {
            figure = run_under_tool(&floor.command("add", at), "", what)?.0;
        }
        Implementation::Plugins(network) => {
            for step in &network.steps {
                let command = network.command(step, "ADD", at);
                let (more, answer) =
                    run_under_tool(&command, &network.stdin(step, at, &result), what)?;
                figure = match what {
                    "memory" => figure.max(more),
                    _ => figure + more,
                };
                result = answer;
            }
        }
    }
    implementation.del(at, &result)?;
    Ok(figure)
}

/// Runs a command under a tool. Returns the tool's count, and the command's output.
fn run_under_tool(command: &Command, stdin: &str, what: &str) -> Result<(f64, Value)> {
    let tool: &[&str] = match what {
        "memory" => &["/usr/bin/time", "--format", "%M", "--output", REPORT],
        "faults" => &["/usr/bin/time", "--format", "%R", "--output", REPORT],
        "calls" => &[
            "/usr/bin/strace",
            "-f",
            "-c",
            "-U",
            "calls,name",
            "-o",
            REPORT,
        ],
        _ => &[
            "/usr/bin/strace",
            "-f",
            "-v",
            "-s",
            "65536",
            "-e",
            "trace=sendto,sendmsg",
            "-o",
            REPORT,
        ],
    };
    // The tool starts the program under its file name. That is right for these scenarios: they call our
    // program by no other name than pausenet.
    let mut watched = Command::new(tool[0]);
    watched
        .args(&tool[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = watched.spawn()?;
    let _ = child
        .stdin
        .take()
        .ok_or("no stdin")?
        .write_all(stdin.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{watched:?}: {}", String::from_utf8_lossy(&output.stdout)).into());
    }
    let report = fs::read_to_string(REPORT)?;
    let figure = match what {
        "memory" | "faults" => report.trim().parse()?,
        "calls" => {
            let total = report
                .lines()
                .find(|line| line.trim_end().ends_with("total"));
            let total = total.and_then(|line| line.split_whitespace().next());
            total.ok_or("strace reports no total")?.parse()?
        }
        _ => report.matches("nlmsg_type=").count() as f64,
    };
    let answer = match output.stdout.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&output.stdout)?,
    };
    Ok((figure, answer))
}
