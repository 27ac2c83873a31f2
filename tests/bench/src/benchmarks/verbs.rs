//! ADD, CHECK and DEL of one attachment, in each scenario.

use super::{Benchmark, Context, order};
use crate::Result;
use crate::network::Attachment;
use crate::scenario::{ALL, Scenario, Setup};
use crate::series::{Side, Unit};
use crate::world::{await_orphans, settle};

/// Rounds before the measured ones.
const WARM_UP: usize = 3;

pub(super) fn benchmarks() -> Vec<Benchmark> {
    let quick = [
        Scenario::Bridge,
        Scenario::Masquerade,
        Scenario::UdpPort,
        Scenario::Ptp,
        Scenario::Kind,
    ];
    ALL.into_iter()
        .map(|scenario| {
            Benchmark::new(scenario.name(), quick.contains(&scenario), move |context| {
                run(context, scenario)
            })
        })
        .collect()
}

fn run(context: &mut Context, scenario: Scenario) -> Result<()> {
    let rounds = context.extent.pick(25, 60);
    let mut setups = Vec::new();
    for side in scenario.sides() {
        let setup = Setup::new(scenario, context.tools, side)?;
        let netns = setup.world.containers("c", 1)?.remove(0);
        setups.push((side, setup, Attachment::new(1, &netns)));
    }
    for round in 0..WARM_UP + rounds {
        for next in order(round, setups.len()) {
            let (side, setup, at) = &setups[next];
            let taken = setup.world.inside(|| once(setup, at))?;
            if round >= WARM_UP {
                record(context, scenario, side, taken);
            }
        }
    }
    drop(setups);
    settle()
}

/// The times of ADD, CHECK and DEL in milliseconds.
type Taken = [Option<f64>; 3];

fn once(setup: &Setup, at: &Attachment) -> Result<Taken> {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let added = setup.implementation.add(at)?;
    let checked = setup.implementation.check(at, &added.value)?;
    let removed = setup.implementation.del(at, &added.value)?;
    // pausenet's DEL may leave a child to the kernel. That is no part of the next sample.
    await_orphans()?;
    Ok([Some(ms(added.time)), checked.map(ms), Some(ms(removed))])
}

fn record(context: &mut Context, scenario: Scenario, side: Side, taken: Taken) {
    for (verb, taken) in ["ADD", "CHECK", "DEL"].into_iter().zip(taken) {
        if let Some(taken) = taken {
            context
                .results
                .add(scenario.name(), verb, side, Unit::Milliseconds, taken);
        }
    }
}
