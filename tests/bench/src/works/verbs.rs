//! ADD, CHECK and DEL of one attachment, scene by scene.

use super::{Bench, Work, order};
use crate::Result;
use crate::network::Attachment;
use crate::scene::{ALL, Scene, Stage};
use crate::series::{Side, Unit};
use crate::world::settle;

/// Rounds before the measured ones.
const WARM_UP: usize = 3;

pub fn works() -> Vec<Work> {
    let quick = [Scene::Bridge, Scene::Masquerade, Scene::Ptp, Scene::Kind];
    ALL.into_iter()
        .map(|scene| {
            Work::new(scene.name(), quick.contains(&scene), move |bench| {
                play(bench, scene)
            })
        })
        .collect()
}

fn play(bench: &mut Bench, scene: Scene) -> Result<()> {
    let rounds = bench.extent.pick(25, 60);
    let mut stages = Vec::new();
    for side in scene.sides() {
        let stage = Stage::new(scene, bench.tools, side)?;
        let netns = stage.world.containers("c", 1)?.remove(0);
        stages.push((side, stage, Attachment::new(1, &netns)));
    }
    for round in 0..WARM_UP + rounds {
        for next in order(round, stages.len()) {
            // Nobody is always the one behind the same other.
            let (side, stage, at) = &stages[next];
            let taken = stage.world.inside(|| once(stage, at))?;
            if round >= WARM_UP {
                record(bench, scene, side, taken);
            }
        }
    }
    drop(stages);
    settle()
}

/// What ADD, CHECK and DEL took, in milliseconds.
type Taken = [Option<f64>; 3];

fn once(stage: &Stage, at: &Attachment) -> Result<Taken> {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let added = stage.wirer.add(at)?;
    let checked = stage.wirer.check(at, &added.value)?;
    let removed = stage.wirer.del(at, &added.value)?;
    Ok([Some(ms(added.time)), checked.map(ms), Some(ms(removed))])
}

fn record(bench: &mut Bench, scene: Scene, side: Side, taken: Taken) {
    for (verb, taken) in ["ADD", "CHECK", "DEL"].into_iter().zip(taken) {
        if let Some(taken) = taken {
            bench
                .results
                .add(scene.name(), verb, side, Unit::Milliseconds, taken);
        }
    }
}
