//! A host that fills up: the time of the n-th attachment, of pausectl's commands, and of GC with half of them
//! valid, and with none.

use std::time::Duration;

use serde_json::Value;

use super::{Benchmark, Context, Extent, addresses, commands, order, workers};
use crate::Result;
use crate::machine::wait_idle;
use crate::network::{Attachment, Implementation};
use crate::scenario::{Scenario, Setup};
use crate::series::{BEFORE, FLOOR, OURS, REFERENCE, Side, Unit};
use crate::world::settle;

/// The measured n. A bridge has at most 1,024 ports; ptp has no such limit.
pub(crate) fn steps(scenario: Scenario, extent: Extent) -> &'static [usize] {
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
    [Scenario::Bridge, Scenario::Ptp, Scenario::DualStack]
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

/// The case of a GC of this many attachments, of which some are valid.
pub(crate) fn gc_case(count: usize, valid: usize) -> String {
    format!("GC of {count}, {valid} valid")
}

/// The host of one side, with its attachments so far.
struct FilledHost {
    side: Side,
    setup: Setup,
    attachments: Vec<Attachment>,
    results: Vec<Value>,
}

fn run(context: &mut Context, scenario: Scenario) -> Result<()> {
    let mut sides = match context.extent {
        Extent::Quick => vec![OURS, FLOOR],
        Extent::Full => vec![REFERENCE, OURS, FLOOR],
    };
    if context.tools.before.is_some() {
        sides.push(BEFORE);
    }
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
    // The commands read all namespaces in any mode, and find the most on a bridge.
    if let (Scenario::Bridge, Some(count)) = (scenario, steps.last()) {
        let ours = hosts
            .iter()
            .filter(|host| [OURS, BEFORE].contains(&host.side));
        let hosts: Vec<_> = ours
            .filter_map(|host| Some((host.side, &host.setup.world, host.attachments.last()?)))
            .collect();
        commands::measure(context, &name(scenario), &hosts, *count)?;
    }
    for host in &mut hosts {
        collect(context, scenario, host)?;
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
                let checked = host
                    .setup
                    .world
                    .inside(|| implementation.check(at, &added.value))?;
                if let Some(taken) = checked {
                    let taken = taken.as_secs_f64() * 1e3;
                    let case = case("CHECK", n);
                    context
                        .results
                        .add(&name, &case, host.side, Unit::Milliseconds, taken);
                }
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

/// Runs GC with every second attachment valid and, when all are there again, with none.
fn collect(context: &mut Context, scenario: Scenario, host: &mut FilledHost) -> Result<()> {
    let Implementation::Plugins(network) = &host.setup.implementation else {
        return Ok(());
    };
    // The reference plugins accept GC and remove nothing (1.9.1) or addresses alone (1.10.0).
    if host.side == REFERENCE {
        return Ok(());
    }
    let (name, world) = (name(scenario), &host.setup.world);
    let every_second = |from| host.attachments.iter().skip(from).step_by(2).cloned();
    let [valid, stale] = [0, 1].map(|from| every_second(from).collect::<Vec<_>>());
    for valid in [&valid[..], &[]] {
        wait_idle(Duration::from_secs(10))?;
        let (taken, left) = world.inside(|| Ok((network.gc(valid)?, addresses::in_use()?)))?;
        if left > valid.len() {
            return Err(format!("GC by {} left {left} of them", host.side).into());
        }
        context.results.add(
            &name,
            &gc_case(host.attachments.len(), valid.len()),
            host.side,
            Unit::Milliseconds,
            taken.as_secs_f64() * 1e3,
        );
        if !valid.is_empty() {
            workers::attach_all(world, &host.setup.implementation, &stale)?;
        }
    }
    Ok(())
}
