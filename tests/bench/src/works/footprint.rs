//! What an ADD costs beside time: sizes, memory, system calls, netlink messages. Counted in runs
//! of their own, since counting takes time.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Bench, Work};
use crate::Result;
use crate::network::{Attachment, Wirer};
use crate::scene::{Scene, Stage};
use crate::series::{Side, Unit};
use crate::world::settle;

/// Where, in a world, the counting tools write.
const REPORT: &str = "/run/report";

pub fn works() -> Vec<Work> {
    [Scene::Bridge, Scene::Masquerade, Scene::Kind]
        .into_iter()
        .map(|scene| {
            let name = format!("{}/footprint", scene.name());
            Work::new(name.clone(), scene == Scene::Bridge, move |bench| {
                play(bench, &name, scene)
            })
        })
        .collect()
}

fn play(bench: &mut Bench, name: &str, scene: Scene) -> Result<()> {
    for side in scene.sides() {
        let stage = Stage::new(scene, bench.tools, side)?;
        let netns = stage.world.containers("c", 1)?.remove(0);
        let at = Attachment::new(1, &netns);
        for (verb, what, unit) in [
            ("size", "programs", Unit::Kilobytes),
            ("memory", "ADD: memory at most", Unit::Kilobytes),
            ("faults", "ADD: page faults", Unit::Count),
            ("calls", "ADD: system calls", Unit::Count),
            ("messages", "ADD: netlink messages", Unit::Count),
        ] {
            let figure = match verb {
                "size" => size(bench, &stage.wirer, side)?,
                verb => stage.world.inside(|| counted(&stage.wirer, &at, verb))?,
            };
            bench.results.add(name, what, side, unit, figure);
        }
        drop(stage);
        settle()?;
    }
    Ok(())
}

/// All programs that an ADD runs of, in kB.
fn size(bench: &Bench, wirer: &Wirer, side: Side) -> Result<f64> {
    let mut programs = match wirer {
        Wirer::Floor(floor) => vec![floor.program.path.clone()],
        Wirer::Plugins(network) => network
            .steps
            .iter()
            .map(|step| step.program.path.clone())
            .collect(),
    };
    if side != crate::series::OURS && matches!(wirer, Wirer::Plugins(_)) {
        programs.push(bench.tools.peers.join("host-local"));
    }
    let mut sum = 0;
    for program in programs {
        sum += fs::metadata(program)?.len();
    }
    Ok(sum as f64 / 1e3)
}

/// ADD under a tool that counts, and DEL without.
fn counted(wirer: &Wirer, at: &Attachment, what: &str) -> Result<f64> {
    let (mut figure, mut result) = (0.0_f64, Value::Null);
    match wirer {
        Wirer::Floor(floor) => {
            figure = watched(&floor.command("add", at), "", what)?.0;
        }
        Wirer::Plugins(network) => {
            for step in &network.steps {
                let command = network.command(step, "ADD", at);
                let (more, answer) = watched(&command, &network.stdin(step, at, &result), what)?;
                figure = match what {
                    "memory" => figure.max(more),
                    _ => figure + more,
                };
                result = answer;
            }
        }
    }
    wirer.del(at, &result)?;
    Ok(figure)
}

/// Runs a command under a tool; what the tool counted, and what the command answered.
fn watched(command: &Command, stdin: &str, what: &str) -> Result<(f64, Value)> {
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
    // Called by its other names, our program would have to be found by them: there is but one
    // in these scenes, and it is called pausenet.
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
            total.ok_or("strace tells no total")?.parse()?
        }
        _ => report.matches("nlmsg_type=").count() as f64,
    };
    let answer = match output.stdout.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&output.stdout)?,
    };
    Ok((figure, answer))
}
