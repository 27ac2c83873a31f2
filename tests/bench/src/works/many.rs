//! A host that fills up: what the n-th attachment takes, the list of all, and GC with half of them
//! valid.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Bench, Extent, Work, addresses, order, workers};
use crate::Result;
use crate::machine::wait_idle;
use crate::network::{Attachment, Wirer};
use crate::scene::{Scene, Stage};
use crate::series::{FLOOR, OURS, REFERENCE, Side, Unit};
use crate::world::settle;

/// The n that are looked at. A bridge has at most 1,024 ports; ptp has no such limit.
fn steps(scene: Scene, extent: Extent) -> &'static [usize] {
    match (scene, extent) {
        (Scene::Ptp, Extent::Full) => &[1, 100, 500, 1_000, 2_000],
        _ => &[1, 100, 500, 1_000],
    }
}

/// How many attachments around each n are measured: those before it and itself.
fn around(extent: Extent) -> usize {
    extent.pick(10, 25)
}

pub fn works() -> Vec<Work> {
    [Scene::Bridge, Scene::Ptp]
        .into_iter()
        .map(|scene| Work::new(name(scene), true, move |bench| play(bench, scene)))
        .collect()
}

/// The work that fills a host with attachments of a scene.
pub fn name(scene: Scene) -> String {
    format!("{}/nth", scene.name())
}

/// The case of one verb of the n-th.
pub fn case(verb: &str, n: usize) -> String {
    format!("{verb} at {n}")
}

/// One side's host, as full as it is by now.
struct Filled {
    side: Side,
    stage: Stage,
    attachments: Vec<Attachment>,
    results: Vec<Value>,
}

fn play(bench: &mut Bench, scene: Scene) -> Result<()> {
    let sides: &[Side] = match bench.extent {
        Extent::Quick => &[OURS, FLOOR],
        Extent::Full => &[REFERENCE, OURS, FLOOR],
    };
    let steps = steps(scene, bench.extent);
    let mut hosts = Vec::new();
    for side in sides {
        let stage = Stage::new(scene, bench.tools, side)?;
        let containers = stage
            .world
            .containers("c", steps.last().copied().unwrap_or(0))?;
        let attachments = containers
            .iter()
            .enumerate()
            .map(|(at, netns)| Attachment::new(at + 1, netns))
            .collect();
        hosts.push(Filled {
            side,
            stage,
            attachments,
            results: Vec::new(),
        });
    }
    for &n in steps {
        for host in &mut hosts {
            let from = host.results.len();
            let to = n.saturating_sub(around(bench.extent)).max(from);
            let more = workers::crowd(
                &host.stage.world,
                &host.stage.wirer,
                &host.attachments[from..to],
            )?;
            host.results.extend(more);
        }
        wait_idle(Duration::from_secs(30))?;
        measure(bench, scene, &mut hosts, n)?;
    }
    for host in &hosts {
        collect(bench, scene, host)?;
    }
    drop(hosts);
    settle()
}

/// Fills the hosts up to n, in turn, each round beginning with another. The last ones are removed and
/// made again, for DEL.
fn measure(bench: &mut Bench, scene: Scene, hosts: &mut [Filled], n: usize) -> Result<()> {
    let (name, start, sides) = (name(scene), hosts[0].results.len(), hosts.len());
    for round in 0..2 {
        for number in start..n {
            for side in order(number, sides) {
                let host = &mut hosts[side];
                let at = &host.attachments[number];
                let wirer = &host.stage.wirer;
                wait_idle(Duration::from_secs(2))?;
                let added = host.stage.world.inside(|| wirer.add(at))?;
                let taken = added.time.as_secs_f64() * 1e3;
                bench
                    .results
                    .add(&name, &case("ADD", n), host.side, Unit::Milliseconds, taken);
                host.results.push(added.value);
            }
        }
        if round == 1 {
            break;
        }
        for number in (start..n).rev() {
            for side in order(number, sides) {
                let host = &mut hosts[side];
                let at = &host.attachments[number];
                let result = host.results.pop().unwrap_or_default();
                let wirer = &host.stage.wirer;
                let removed = host.stage.world.inside(|| wirer.del(at, &result))?;
                let taken = removed.as_secs_f64() * 1e3;
                bench
                    .results
                    .add(&name, &case("DEL", n), host.side, Unit::Milliseconds, taken);
            }
        }
    }
    Ok(())
}

/// The list of all, and GC with every second one valid.
fn collect(bench: &mut Bench, scene: Scene, host: &Filled) -> Result<()> {
    let Wirer::Plugins(network) = &host.stage.wirer else {
        return Ok(());
    };
    let name = name(scene);
    if host.side == OURS && can_list(bench)? {
        for _ in 0..bench.extent.pick(3, 20) {
            let start = std::time::Instant::now();
            let pausectl = bench.tools.pausectl.clone();
            let outcome = host.stage.world.inside(|| {
                Ok(Command::new(pausectl)
                    .args(["ls", "--output", "json"])
                    .output()?)
            })?;
            let taken = start.elapsed().as_secs_f64() * 1e3;
            if !outcome.status.success() {
                return Err(
                    format!("pausectl ls: {}", String::from_utf8_lossy(&outcome.stderr)).into(),
                );
            }
            bench.results.add(
                &name,
                &format!("pausectl ls at {}", host.attachments.len()),
                OURS,
                Unit::Milliseconds,
                taken,
            );
        }
    }
    let valid: Vec<_> = host.attachments.iter().step_by(2).cloned().collect();
    let (taken, left) = host
        .stage
        .world
        .inside(|| Ok((network.gc(&valid)?, addresses::in_use()?)))?;
    // The reference's plugins answer GC and remove nothing (1.9.1): that takes no time.
    if left > valid.len() {
        eprintln!("bench: {name}: GC by {} left {left} of them", host.side);
        return Ok(());
    }
    bench.results.add(
        &name,
        &format!("GC of {}, {} valid", host.attachments.len(), valid.len()),
        host.side,
        Unit::Milliseconds,
        taken.as_secs_f64() * 1e3,
    );
    Ok(())
}

/// Whether this pausectl lists attachments.
fn can_list(bench: &Bench) -> Result<bool> {
    let help = Command::new(&bench.tools.pausectl)
        .args(["ls", "--help"])
        .output()?;
    Ok(help.status.success())
}
