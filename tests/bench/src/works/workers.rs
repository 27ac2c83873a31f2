//! Many attachments made and removed by several workers at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Bench, Work};
use crate::Result;
use crate::network::{Attachment, Wirer};
use crate::scene::{Scene, Stage};
use crate::series::{OURS, REFERENCE, Unit, quantile};
use crate::world::{World, settle};

pub fn works() -> Vec<Work> {
    let mut works = Vec::new();
    for scene in [Scene::Bridge, Scene::Masquerade] {
        for (count, workers) in [200, 500]
            .into_iter()
            .flat_map(|count| [1, 4, 16, 64].map(|workers| (count, workers)))
        {
            let name = name(scene, count, workers);
            works.push(Work::new(
                name.clone(),
                (count, workers) == (200, 16),
                move |bench| play(bench, &name, scene, count, workers),
            ));
        }
    }
    works
}

/// The work with so many attachments and workers.
pub fn name(scene: Scene, count: usize, workers: usize) -> String {
    format!("{}/{count}-by-{workers}", scene.name())
}

fn play(bench: &mut Bench, name: &str, scene: Scene, count: usize, workers: usize) -> Result<()> {
    let rounds = if count > 200 { 2 } else { 3 };
    for _ in 0..bench.extent.pick(1, rounds) {
        for side in [REFERENCE, OURS] {
            let stage = Stage::new(scene, bench.tools, side)?;
            let containers = stage.world.containers("c", count)?;
            let attachments: Vec<_> = containers
                .iter()
                .enumerate()
                .map(|(at, netns)| Attachment::new(at + 1, netns))
                .collect();
            let (added, results) = in_parallel(&stage.world, workers, &attachments, |at, _| {
                let added = stage.wirer.add(at)?;
                Ok((added.time, added.value))
            })?;
            let (removed, _) = in_parallel(&stage.world, workers, &attachments, |at, number| {
                Ok((stage.wirer.del(at, &results[number])?, Value::Null))
            })?;
            for (verb, run) in [("ADD", added), ("DEL", removed)] {
                let rate = count as f64 / run.wall.as_secs_f64();
                bench
                    .results
                    .add(name, &format!("{verb} rate"), side, Unit::PerSecond, rate);
                let times = run.times.iter().map(|time| time.as_secs_f64() * 1e3);
                let times: Vec<f64> = times.collect();
                let unit = Unit::Milliseconds;
                for (what, part) in [("p99", 0.99), ("worst", 1.0)] {
                    let case = format!("{verb} {what}");
                    bench
                        .results
                        .add(name, &case, side, unit, quantile(&times, part));
                }
                for taken in times {
                    bench.results.add(name, verb, side, unit, taken);
                }
            }
            drop(stage);
            settle()?;
        }
    }
    Ok(())
}

/// What a run of workers took.
struct Run {
    wall: Duration,
    times: Vec<Duration>,
}

/// Does `work` for every attachment; each worker takes the next that nobody has taken.
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

/// Makes attachments, a few at a time, for a work that needs a host full of them.
pub fn crowd(world: &World, wirer: &Wirer, attachments: &[Attachment]) -> Result<Vec<Value>> {
    let (_, results) = in_parallel(world, 4, attachments, |at, _| {
        let added = wirer.add(at)?;
        Ok((added.time, added.value))
    })?;
    Ok(results)
}
