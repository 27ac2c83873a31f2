//! A host that fills up: the time of the n-th attachment, of listing all, and of GC with half of them
//! valid.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Benchmark, Context, Extent, addresses, order, workers};
use crate::Result;
use crate::machine::wait_idle;
use crate::network::{Attachment, Implementation};
use crate::scenario::{Scenario, Setup};
use crate::series::{FLOOR, OURS, REFERENCE, Side, Unit};
use crate::world::settle;

/// The measured n. A bridge has at most 1,024 ports; ptp has no such limit.
fn steps(scenario: Scenario, extent: Extent) -> &'static [usize] {
    match (scenario, extent) {
        (Scenario::Ptp, Extent::Full) => &[1, 100, 500, 1_000, 2_000],
        _ => &[1, 100, 500, 1_000],
    }
}

/// How many attachments are measured for each n: itself and those before it.
fn samples_before(extent: Extent) -> usize {
    extent.pick(10, 25)
}

pub(super) fn benchmarks() -> Vec<Benchmark> {
    [Scenario::Bridge, Scenario::Ptp]
        .into_iter()
        .map(|scenario| Benchmark::new(name(scenario), true, move |context| run(context, scenario)))
        .collect()
}

/// The name of the benchmark that fills a host with attachments of a scenario.
pub(crate) fn name(scenario: Scenario) -> String {
    format!("{}/nth", scenario.name())
}

/// The case of one verb for the n-th attachment.
pub(crate) fn case(verb: &str, n: usize) -> String {
    format!("{verb} at {n}")
}

/// The host of one side, with its attachments so far.
struct FilledHost {
    side: Side,
    setup: Setup,
    attachments: Vec<Attachment>,
    results: Vec<Value>,
}

fn run(context: &mut Context, scenario: Scenario) -> Result<()> {
    let sides: &[Side] = match context.extent {
        Extent::Quick => &[OURS, FLOOR],
        Extent::Full => &[REFERENCE, OURS, FLOOR],
    };
    let steps = steps(scenario, context.extent);
    let mut hosts = Vec::new();
    for side in sides {
        let setup = Setup::new(scenario, context.tools, side)?;
        let containers = setup
            .world
            .containers("c", steps.last().copied().unwrap_or(0))?;
        let attachments = containers
            .iter()
            .enumerate()
            .map(|(at, netns)| Attachment::new(at + 1, netns))
            .collect();
        hosts.push(FilledHost {
            side,
            setup,
            attachments,
            results: Vec::new(),
        });
    }
    for &n in steps {
        for host in &mut hosts {
            let from = host.results.len();
            let to = n.saturating_sub(samples_before(context.extent)).max(from);
            let more = workers::attach_all(
                &host.setup.world,
                &host.setup.implementation,
                &host.attachments[from..to],
            )?;
            host.results.extend(more);
        }
        wait_idle(Duration::from_secs(30))?;
        measure(context, scenario, &mut hosts, n)?;
    }
    for host in &hosts {
        list_and_gc(context, scenario, host)?;
    }
    drop(hosts);
    settle()
}

/// Fills the hosts up to n in turn, starting with another host each round. The last attachments are then
/// removed and created again, to measure DEL.
fn measure(
    context: &mut Context,
    scenario: Scenario,
    hosts: &mut [FilledHost],
    n: usize,
) -> Result<()> {
    let (name, start, sides) = (name(scenario), hosts[0].results.len(), hosts.len());
    for round in 0..2 {
        for number in start..n {
            for side in order(number, sides) {
                let host = &mut hosts[side];
                let at = &host.attachments[number];
                let implementation = &host.setup.implementation;
                wait_idle(Duration::from_secs(2))?;
                let added = host.setup.world.inside(|| implementation.add(at))?;
                let taken = added.time.as_secs_f64() * 1e3;
                context
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
                let implementation = &host.setup.implementation;
                let removed = host
                    .setup
                    .world
                    .inside(|| implementation.del(at, &result))?;
                let taken = removed.as_secs_f64() * 1e3;
                context
                    .results
                    .add(&name, &case("DEL", n), host.side, Unit::Milliseconds, taken);
            }
        }
    }
    Ok(())
}

/// Lists all attachments, then runs GC with every second one valid.
fn list_and_gc(context: &mut Context, scenario: Scenario, host: &FilledHost) -> Result<()> {
    let Implementation::Plugins(network) = &host.setup.implementation else {
        return Ok(());
    };
    let name = name(scenario);
    if host.side == OURS && can_list(context)? {
        for _ in 0..context.extent.pick(3, 20) {
            let start = std::time::Instant::now();
            let pausectl = context.tools.pausectl.clone();
            let outcome = host.setup.world.inside(|| {
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
            context.results.add(
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
        .setup
        .world
        .inside(|| Ok((network.gc(&valid)?, addresses::in_use()?)))?;
    // The reference plugins accept GC and remove nothing (1.9.1): their time says nothing.
    if left > valid.len() {
        eprintln!("bench: {name}: GC by {} left {left} of them", host.side);
        return Ok(());
    }
    context.results.add(
        &name,
        &format!("GC of {}, {} valid", host.attachments.len(), valid.len()),
        host.side,
        Unit::Milliseconds,
        taken.as_secs_f64() * 1e3,
    );
    Ok(())
}

/// Whether this pausectl has `ls`.
fn can_list(context: &Context) -> Result<bool> {
    let help = Command::new(&context.tools.pausectl)
        .args(["ls", "--help"])
        .output()?;
    Ok(help.status.success())
}
