//! One attachment that has many of something: published ports, flows through one, routes, ranges, range
//! sets.

use std::net::UdpSocket;

use serde_json::{Value, json};

use super::{Benchmark, Context, Extent};
use crate::Result;
use crate::network::{Attachment, Network, Step, Tools, first_port};
use crate::series::{OURS, Unit};
use crate::world::{World, settle};

/// What there are many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Ports,
    /// UDP flows to a port, before it is mapped.
    Flows,
    Routes,
    /// Ranges of one set.
    Ranges,
    /// Range sets, with an address of each, by `host-local` alone: the kernel walks through all addresses
    /// of a link for each new one.
    Sets,
}

pub(crate) const ALL: [Counted; 5] = [
    Counted::Ports,
    Counted::Flows,
    Counted::Routes,
    Counted::Ranges,
    Counted::Sets,
];

impl Counted {
    /// What they are called in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Flows => "flows",
            Self::Routes => "routes",
            Self::Ranges => "ranges",
            Self::Sets => "range-sets",
        }
    }

    fn network(self, tools: &Tools, count: usize) -> Network {
        let range = |at: usize| json!({"subnet": format!("10.{}.{}.0/24", 1 + at / 256, at % 256)});
        let ipam = match self {
            Self::Ports | Self::Flows => ipam(json!([[{"subnet": "10.1.0.0/16"}]]), json!([])),
            Self::Routes => {
                let route =
                    |at: usize| json!({"dst": format!("11.{}.{}.0/24", at / 256, at % 256)});
                let routes = (0..count).map(route).collect();
                ipam(json!([[{"subnet": "10.1.0.0/16"}]]), routes)
            }
            Self::Ranges => {
                let ranges: Value = (0..count).map(range).collect();
                ipam(json!([ranges]), json!([]))
            }
            Self::Sets => ipam((0..count).map(|at| json!([range(at)])).collect(), json!([])),
        };
        let config =
            json!({"type": "pausenet", "bridge": "bench0", "isDefaultGateway": true, "ipam": ipam});
        let step = Step {
            program: tools.ours(match self {
                Self::Sets => "host-local",
                _ => "pausenet",
            }),
            config,
        };
        let (tcp, udp) = match self {
            Self::Ports => (count - 1, 1),
            Self::Flows => (0, 1),
            Self::Routes | Self::Ranges | Self::Sets => (0, 0),
        };
        Network::new(tools, vec![step]).with_ports(tcp, udp)
    }
}

fn ipam(sets: Value, routes: Value) -> Value {
    json!({"type": "host-local", "ranges": sets, "routes": routes})
}

/// The benchmark's name.
pub(crate) fn name(counted: Counted) -> String {
    format!("many/{}", counted.name())
}

/// The case of a verb with so many.
pub(crate) fn case(verb: &str, count: usize) -> String {
    format!("{verb} with {count}")
}

/// How many there are, from case to case: ten or a hundred times as many.
pub(crate) fn counts(extent: Extent) -> &'static [usize] {
    match extent {
        Extent::Quick => &[1, 100, 1_000],
        Extent::Full => &[1, 100, 1_000, 10_000],
    }
}

pub(super) fn benchmarks() -> Vec<Benchmark> {
    ALL.into_iter()
        .map(|counted| {
            Benchmark::new(name(counted), true, move |context| {
                run(context, &name(counted), counted)
            })
        })
        .collect()
}

fn run(context: &mut Context, benchmark: &str, counted: Counted) -> Result<()> {
    for &count in counts(context.extent) {
        let world = World::new()?;
        let containers = world.containers("c", 2)?;
        let network = counted.network(context.tools, count);
        let at = Attachment::new(1, &containers[1]);
        // Shared objects are there before, and the kernel tracks connections.
        let resident = counted.network(context.tools, 1);
        world.inside(|| resident.add(&Attachment::new(0, &containers[0])))?;
        for round in 0..1 + context.extent.pick(3, 15) {
            let (added, removed) = world.inside(|| {
                if counted == Counted::Flows {
                    send(count, first_port(1, 1))?;
                }
                let added = network.add(&at)?;
                Ok((added.time, network.del(&at, &added.value)?))
            })?;
            for (verb, time) in [("ADD", added), ("DEL", removed)] {
                if round > 0 {
                    let case = case(verb, count);
                    let taken = time.as_secs_f64() * 1e3;
                    let results = &mut context.results;
                    results.add(benchmark, &case, OURS, Unit::Milliseconds, taken);
                }
            }
        }
    }
    settle()
}

/// Sends a datagram to a UDP port of the host from each of so many clients.
fn send(clients: usize, port: usize) -> Result<()> {
    let port = u16::try_from(port)?;
    for _ in 0..clients {
        UdpSocket::bind("10.1.0.1:0")?.send_to(b"x", ("10.1.0.1", port))?;
    }
    Ok(())
}
