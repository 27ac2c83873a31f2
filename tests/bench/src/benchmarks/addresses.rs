//! `host-local` alone, with many addresses of a /16 in use.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Benchmark, Context, order};
use crate::Result;
use crate::network::{Attachment, Network, Step, Tools};
use crate::series::{OURS, REFERENCE, Side, Unit};
use crate::world::World;

/// The first address for containers, and how many there are: 10.1.0.0/16 without the network, gateway
/// and broadcast addresses.
const FIRST: u32 = 0x0a01_0002;
const SIZE: u32 = 65_533;

const FOLDER: &str = "/var/lib/cni/networks/bench";

/// Where the search for a free address starts.
#[derive(Clone, Copy)]
enum Cursor {
    /// After all addresses in use.
    Free,
    /// At the first of the addresses in use, which are contiguous.
    Dense,
}

pub(super) fn benchmarks() -> Vec<Benchmark> {
    let mut benchmarks = Vec::new();
    for in_use in [0, 1_000, 10_000, 60_000] {
        let name = name(in_use);
        benchmarks.push(Benchmark::new(
            name.clone(),
            matches!(in_use, 0 | 60_000),
            move |context| run(context, &name, in_use, Cursor::Free),
        ));
    }
    let dense = || {
        Benchmark::new("host-local/60000-dense", false, |context| {
            run(context, "host-local/60000-dense", 60_000, Cursor::Dense)
        })
    };
    let last = || {
        Benchmark::new("host-local/last-free", false, |context| {
            run(context, "host-local/last-free", SIZE - 1, Cursor::Dense)
        })
    };
    benchmarks.extend([dense(), last()]);
    benchmarks
}

/// The name of the benchmark with this many addresses in use.
pub(crate) fn name(in_use: u32) -> String {
    format!("host-local/{in_use}")
}

fn run(context: &mut Context, name: &str, in_use: u32, cursor: Cursor) -> Result<()> {
    // The reference reads all files: with 60,000 that takes half a second per call.
    let rounds = match in_use {
        0..=1_000 => context.extent.pick(20, 100),
        _ => context.extent.pick(3, 15),
    };
    let sides = [
        Store::new(REFERENCE, reference(context.tools), in_use, cursor)?,
        Store::new(OURS, ours(context.tools), in_use, cursor)?,
    ];
    for round in 0..rounds {
        for next in order(round, sides.len()) {
            sides[next].measure(context, name, str::to_owned)?;
        }
    }
    if in_use == 0 {
        return Ok(());
    }
    // Compare with our own time at 0 in use. The two are measured in turn: the difference is
    // microseconds, and the speed of the machine drifts within a minute.
    let [_, full] = sides;
    let empty = Store::new(OURS, ours(context.tools), 0, Cursor::Free)?;
    for round in 0..context.extent.pick(30, 100) {
        for next in order(round, 2) {
            match next {
                0 => full.measure(context, name, in_turn)?,
                _ => empty.measure(context, name, empty_in_turn)?,
            }
        }
    }
    Ok(())
}

/// The case of one verb, taken in turn with [`empty_in_turn`].
pub(crate) fn in_turn(verb: &str) -> String {
    format!("{verb} in turn")
}

/// The case of the same verb in an empty store of the same side.
pub(crate) fn empty_in_turn(verb: &str) -> String {
    format!("{verb} in turn, at 0")
}

/// The host of one side, with its store.
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
    fn measure(
        &self,
        context: &mut Context,
        benchmark: &str,
        case: impl Fn(&str) -> String,
    ) -> Result<()> {
        let at = Attachment::new(1, Path::new("/run/netns/none"));
        let once = || {
            set_cursor(self.in_use, self.cursor)?;
            let added = self.network.add(&at)?;
            Ok((added.time, self.network.del(&at, &Value::Null)?))
        };
        // One uncounted call first: the other side's call may have evicted this one's data from the
        // processor's caches.
        self.world.inside(once)?;
        let (added, removed) = self.world.inside(once)?;
        for (verb, time) in [("ADD", added), ("DEL", removed)] {
            let taken = time.as_secs_f64() * 1e3;
            let results = &mut context.results;
            results.add(benchmark, &case(verb), self.side, Unit::Milliseconds, taken);
        }
        Ok(())
    }
}

fn config() -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]});
    json!({"type": "host-local", "ipam": ipam})
}

fn reference(tools: &Tools) -> Network {
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

/// The number of addresses in use in the store of the calling thread's world.
pub(super) fn in_use() -> Result<usize> {
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

/// Writes address files in the format of both plugins.
fn fill(in_use: u32) -> Result<()> {
    fs::create_dir_all(FOLDER)?;
    for at in 0..in_use {
        let ip = Ipv4Addr::from(FIRST + at);
        fs::write(format!("{FOLDER}/{ip}"), format!("filled{at}\r\neth0"))?;
    }
    Ok(())
}

/// Sets the cursor before a call.
fn set_cursor(in_use: u32, cursor: Cursor) -> Result<()> {
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
