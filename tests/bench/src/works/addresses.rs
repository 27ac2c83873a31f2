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

const FOLDER: &str = "/var/lib/cni/networks/bench";

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
    let sides = [
        Store::new(REFERENCE, theirs(bench.tools), in_use, cursor)?,
        Store::new(OURS, ours(bench.tools), in_use, cursor)?,
    ];
    for round in 0..rounds {
        for next in order(round, sides.len()) {
            sides[next].measure(bench, name, str::to_owned)?;
        }
    }
    if in_use == 0 {
        return Ok(());
    }
    // Where it stands by its own time with nothing in use: the two in turn, for these are
    // microseconds, and the machine is not the same a minute later.
    let [_, full] = sides;
    let empty = Store::new(OURS, ours(bench.tools), 0, Cursor::Free)?;
    for round in 0..bench.extent.pick(30, 100) {
        for next in order(round, 2) {
            match next {
                0 => full.measure(bench, name, in_turn)?,
                _ => empty.measure(bench, name, empty_in_turn)?,
            }
        }
    }
    Ok(())
}

/// The case of one verb, taken in turn with [`empty_in_turn`].
pub fn in_turn(verb: &str) -> String {
    format!("{verb} in turn")
}

/// The case of the same verb in a store of the same side with no address in use.
pub fn empty_in_turn(verb: &str) -> String {
    format!("{verb} in turn, at 0")
}

/// One side's host with a store in it.
struct Store {
    side: Side,
    network: Network,
    world: World,
    in_use: u32,
    cursor: Cursor,
}

impl Store {
    fn new(side: Side, network: Network, in_use: u32, cursor: Cursor) -> Result<Self> {
        let world = World::new()?;
        world.inside(|| fill(in_use))?;
        Ok(Self {
            side,
            network,
            world,
            in_use,
            cursor,
        })
    }

    /// One ADD and its DEL.
    fn measure(&self, bench: &mut Bench, work: &str, case: impl Fn(&str) -> String) -> Result<()> {
        let at = Attachment::new(1, Path::new("/run/netns/none"));
        let once = || {
            point(self.in_use, self.cursor)?;
            let added = self.network.add(&at)?;
            Ok((added.time, self.network.del(&at, &Value::Null)?))
        };
        // Once before it counts: half a second of the other side's work leaves little of this
        // one's in the processor's caches, and two milliseconds of it leave much.
        self.world.inside(once)?;
        let (added, removed) = self.world.inside(once)?;
        for (verb, time) in [("ADD", added), ("DEL", removed)] {
            let taken = time.as_secs_f64() * 1e3;
            let results = &mut bench.results;
            results.add(work, &case(verb), self.side, Unit::Milliseconds, taken);
        }
        Ok(())
    }
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

/// How many addresses are in use in the store of the world that the thread is in.
pub fn in_use() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(FOLDER)? {
        let name = entry?.file_name();
        let is_address = name
            .to_str()
            .is_some_and(|name| name.parse::<Ipv4Addr>().is_ok());
        count += usize::from(is_address);
    }
    Ok(count)
}

/// Address files as both plugins write them.
fn fill(in_use: u32) -> Result<()> {
    fs::create_dir_all(FOLDER)?;
    for at in 0..in_use {
        let ip = Ipv4Addr::from(FIRST + at);
        fs::write(format!("{FOLDER}/{ip}"), format!("filled{at}\r\neth0"))?;
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
        format!("{FOLDER}/last_reserved_ip.0"),
        Ipv4Addr::from(last).to_string(),
    )?;
    Ok(())
}
