//! `host-local` alone, with many addresses in use in a /16.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Bench, Work, order};
use crate::Result;
use crate::network::{Attachment, Network, Step, Tools};
use crate::series::{OURS, REFERENCE, Side, Unit};
use crate::world::World;

/// The first address that is given to a container, and how many there are: 10.1.0.0/16 without
/// its own address, the gateway's and the broadcast's.
const FIRST: u32 = 0x0a01_0002;
const SIZE: u32 = 65_533;

const STORE: &str = "/var/lib/cni/networks/bench";

/// Where the search begins.
#[derive(Clone, Copy)]
enum Cursor {
    /// Behind all that is in use.
    Free,
    /// At the first of all that is in use, which lies in one run.
    Dense,
}

pub fn works() -> Vec<Work> {
    let mut works = Vec::new();
    for in_use in [0, 1_000, 10_000, 60_000] {
        let name = name(in_use);
        works.push(Work::new(
            name.clone(),
            matches!(in_use, 0 | 60_000),
            move |bench| play(bench, &name, in_use, Cursor::Free),
        ));
    }
    let dense = || {
        Work::new("host-local/60000-dense", false, |bench| {
            play(bench, "host-local/60000-dense", 60_000, Cursor::Dense)
        })
    };
    let last = || {
        Work::new("host-local/last-free", false, |bench| {
            play(bench, "host-local/last-free", SIZE - 1, Cursor::Dense)
        })
    };
    works.extend([dense(), last()]);
    works
}

/// The work with so many addresses in use.
pub fn name(in_use: u32) -> String {
    format!("host-local/{in_use}")
}

fn play(bench: &mut Bench, name: &str, in_use: u32, cursor: Cursor) -> Result<()> {
    // A reader of 60,000 files needs half a second for each call.
    let rounds = match in_use {
        0..=1_000 => bench.extent.pick(20, 100),
        _ => bench.extent.pick(3, 15),
    };
    let sides: [(Side, Network, World); 2] = [
        (REFERENCE, theirs(bench.tools), World::new()?),
        (OURS, ours(bench.tools), World::new()?),
    ];
    for (_, _, world) in &sides {
        world.inside(|| fill(in_use))?;
    }
    let at = Attachment::new(1, Path::new("/run/netns/none"));
    for round in 0..rounds {
        for next in order(round, sides.len()) {
            let (side, network, world) = &sides[next];
            let once = || {
                point(in_use, cursor)?;
                let added = network.add(&at)?;
                Ok((added.time, network.del(&at, &Value::Null)?))
            };
            // Once before it counts: half a second of the other side's work leaves little of this
            // one's in the processor's caches, and two milliseconds of it leave much.
            world.inside(once)?;
            let (added, removed) = world.inside(once)?;
            for (verb, time) in [("ADD", added), ("DEL", removed)] {
                let taken = time.as_secs_f64() * 1e3;
                bench
                    .results
                    .add(name, verb, side, Unit::Milliseconds, taken);
            }
        }
    }
    Ok(())
}

fn config() -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]});
    json!({"type": "host-local", "ipam": ipam})
}

fn theirs(tools: &Tools) -> Network {
    Network::new(
        tools,
        vec![Step {
            program: tools.peer("host-local"),
            config: config(),
        }],
    )
}

fn ours(tools: &Tools) -> Network {
    Network::new(
        tools,
        vec![Step {
            program: tools.ours("host-local"),
            config: config(),
        }],
    )
}

/// Address files as both plugins write them.
fn fill(in_use: u32) -> Result<()> {
    fs::create_dir_all(STORE)?;
    for at in 0..in_use {
        let ip = Ipv4Addr::from(FIRST + at);
        fs::write(format!("{STORE}/{ip}"), format!("filled{at}\r\neth0"))?;
    }
    Ok(())
}

/// Sets the cursor before a call.
fn point(in_use: u32, cursor: Cursor) -> Result<()> {
    let last = match cursor {
        Cursor::Free => FIRST + in_use,
        Cursor::Dense => FIRST,
    };
    fs::write(
        format!("{STORE}/last_reserved_ip.0"),
        Ipv4Addr::from(last).to_string(),
    )?;
    Ok(())
}
