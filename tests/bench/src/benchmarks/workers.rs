//! Many attachments, created and removed by several workers at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Benchmark, Context};
use crate::Result;
use crate::network::{Attachment, Implementation};
use crate::scenario::{Scenario, Setup};
use crate::series::{OURS, REFERENCE, Unit, quantile};
use crate::world::{World, settle};

pub(super) fn benchmarks() -> Vec<Benchmark> {
    let mut benchmarks = Vec::new();
    for scenario in [Scenario::Bridge, Scenario::Masquerade] {
        for (count, workers) in [200, 500]
            .into_iter()
            .flat_map(|count| [1, 4, 16, 64].map(|workers| (count, workers)))
        {
            let name = name(scenario, count, workers);
            benchmarks.push(Benchmark::new(
                name.clone(),
                (count, workers) == (200, 16),
                move |context| run(context, &name, scenario, count, workers),
            ));
        }
    }
    benchmarks
}

/// The name of the benchmark with this many attachments and workers.
pub(crate) fn name(scenario: Scenario, count: usize, workers: usize) -> String {
    format!("{}/{count}-by-{workers}", scenario.name())
}

fn run(
    context: &mut Context,
    name: &str,
    scenario: Scenario,
    count: usize,
    workers: usize,
) -> Result<()> {
    let rounds = if count > 200 { 2 } else { 3 };
    for _ in 0..context.extent.pick(1, rounds) {
        for side in [REFERENCE, OURS] {
            let setup = Setup::new(scenario, context.tools, side)?;
            let containers = setup.world.containers("c", count)?;
            let attachments: Vec<_> = containers
                .iter()
                .enumerate()
                .map(|(at, netns)| Attachment::new(at + 1, netns))
                .collect();
            let (added, results) = in_parallel(&setup.world, workers, &attachments, |at, _| {
                let added = setup.implementation.add(at)?;
                Ok((added.time, added.value))
            })?;
            let (removed, _) = in_parallel(&setup.world, workers, &attachments, |at, number| {
                Ok((setup.implementation.del(at, &results[number])?, Value::Null))
            })?;
            for (verb, run) in [("ADD", added), ("DEL", removed)] {
                let rate = count as f64 / run.wall.as_secs_f64();
                context
                    .results
                    .add(name, &format!("{verb} rate"), side, Unit::PerSecond, rate);
                let times = run.times.iter().map(|time| time.as_secs_f64() * 1e3);
                let times: Vec<f64> = times.collect();
                let unit = Unit::Milliseconds;
                for (what, part) in [("p99", 0.99), ("worst", 1.0)] {
                    let case = format!("{verb} {what}");
                    context
                        .results
                        .add(name, &case, side, unit, quantile(&times, part));
                }
                for taken in times {
                    context.results.add(name, verb, side, unit, taken);
                }
            }
            drop(setup);
            settle()?;
        }
    }
    Ok(())
}

/// The times of a run of workers: in total, and of each call.
struct Run {
    wall: Duration,
    times: Vec<Duration>,
}

/// Does `work` for every attachment; each worker takes the next one from a common queue.
#[expect(clippy::expect_used, reason = "workers do not panic")]
fn in_parallel(
    world: &World,
    workers: usize,
    attachments: &[Attachment],
    work: impl Fn(&Attachment, usize) -> Result<(Duration, Value)> + Sync,
) -> Result<(Run, Vec<Value>)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let worker = || -> Result<()> {
            world.enter()?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(at) = attachments.get(number) else {
                    return Ok(());
                };
                let (time, value) = work(at, number)?;
                done.lock()
                    .expect("no worker panics")
                    .push((number, time, value));
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no worker panics"))
    })?;
    let wall = start.elapsed();
    let mut done = done.into_inner().expect("no worker panics");
    done.sort_by_key(|(number, _, _)| *number);
    let times = done.iter().map(|(_, time, _)| *time).collect();
    Ok((
        Run { wall, times },
        done.into_iter().map(|(_, _, value)| value).collect(),
    ))
}

/// Creates attachments, a few at a time, for a benchmark that needs a full host.
pub(super) fn attach_all(
    world: &World,
    implementation: &Implementation,
    attachments: &[Attachment],
) -> Result<Vec<Value>> {
    let (_, results) = in_parallel(world, 4, attachments, |at, _| {
        let added = implementation.add(at)?;
        Ok((added.time, added.value))
    })?;
    Ok(results)
}
