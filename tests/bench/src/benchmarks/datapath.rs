//! Traffic of one pod on a host with few or many others, each with masquerade and a published port.
//!
//! The measured pod is attached last: where rules are a list, its packets traverse all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pausenet::cni::{During, IfName, MacAddr};
use pausenet::kernel::link::{self, NewVeth};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::{RouteSocket, address};
use serde_json::Value;

use super::{Benchmark, Context, Extent, order, workers};
use crate::Result;
use crate::network::{Attachment, Implementation, Network, Tools, first_port};
use crate::scenario::Scenario;
use crate::series::{IPTABLES, OURS, REFERENCE, Side};
use crate::traffic::{self, Kind, PORT};
use crate::world::{World, in_container, set_link_up, settle};
use std::os::fd::AsFd;

/// The benchmark's name in the report.
pub(crate) const NAME: &str = "datapath";

/// The length of a sample. Samples are short and taken in turn, so that a disturbance of the machine
/// affects one sample only, or one of each side.
const SAMPLE: Duration = Duration::from_millis(200);

/// If ours is slower by more than this, the case is measured [`EXTRA_ROUNDS`] times more.
const MARGIN: f64 = 0.03;
const EXTRA_ROUNDS: usize = 3;

const HOST: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";

pub(super) fn benchmarks() -> Vec<Benchmark> {
    vec![Benchmark::new(NAME, true, run)]
}

/// Where traffic comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    PodToPod,
    /// Through masquerade.
    PodToOutside,
    /// Through a published port.
    OutsideToPod,
}

const DIRECTIONS: [(Direction, &str); 3] = [
    (Direction::PodToPod, "pod to pod"),
    (Direction::PodToOutside, "pod to outside"),
    (Direction::OutsideToPod, "host port to pod"),
];

/// The case of one kind of traffic in one direction with this many attachments.
pub(crate) fn case(direction: Direction, kind: Kind, count: usize) -> String {
    let direction = DIRECTIONS
        .iter()
        .find(|(found, _)| *found == direction)
        .map_or("", |(_, name)| name);
    format!("{direction}, {}, {count} attached", kind.name())
}

/// The numbers of attachments to measure with.
pub(crate) fn counts(extent: Extent) -> &'static [usize] {
    extent.pick(&[100], &[2, 100, 1_000])
}

/// A host, its pods, and a machine outside.
struct Host {
    side: Side,
    world: World,
    implementation: Implementation,
    attached: usize,
}

/// The two pods that are measured: server and client.
struct Pair {
    pods: [Attachment; 2],
    results: Vec<Value>,
}

fn run(context: &mut Context) -> Result<()> {
    let hosts = [REFERENCE, IPTABLES, OURS].map(|side| Host::new(context.tools, side));
    let mut hosts = hosts.into_iter().collect::<Result<Vec<_>>>()?;
    for count in counts(context.extent) {
        let mut pairs = Vec::new();
        for host in &mut hosts {
            host.attach_up_to(count - 2)?;
            pairs.push(host.pair()?);
        }
        let directions = directions(context.extent);
        rounds(context, &hosts, &pairs, &directions, *count)?;
        // Measure cases that look slower again.
        let suspicious: Vec<_> = directions
            .into_iter()
            .filter(|(direction, kind)| seems_slower(context, *direction, *kind, *count))
            .collect();
        for _ in 0..EXTRA_ROUNDS {
            rounds(context, &hosts, &pairs, &suspicious, *count)?;
        }
        for (host, pair) in hosts.iter().zip(&pairs) {
            host.world.inside(|| {
                for (pod, result) in pair.pods.iter().zip(&pair.results) {
                    host.implementation.del(pod, result)?;
                }
                Ok(())
            })?;
        }
    }
    drop(hosts);
    settle()
}

/// All measured cases: each kind of traffic in each direction.
fn directions(extent: Extent) -> Vec<(Direction, Kind)> {
    let kinds: &[Kind] = match extent {
        Extent::Quick => &[Kind::Stream, Kind::Connections],
        Extent::Full => &[
            Kind::Stream,
            Kind::SmallPackets,
            Kind::Echo,
            Kind::Connections,
        ],
    };
    let all = DIRECTIONS
        .iter()
        .flat_map(|(direction, _)| kinds.iter().map(|kind| (*direction, *kind)));
    // The published port is a TCP port.
    all.filter(|direction| *direction != (Direction::OutsideToPod, Kind::SmallPackets))
        .collect()
}

/// Whether ours seems slower than the reference with either of its backends.
fn seems_slower(context: &Context, direction: Direction, kind: Kind, count: usize) -> bool {
    let case = case(direction, kind, count);
    [REFERENCE, IPTABLES].iter().any(|side| {
        let ratio = context.results.ratio(NAME, &case, OURS, side);
        ratio.is_some_and(|ratio| ratio < 1.0 - MARGIN)
    })
}

/// Measures these cases on all hosts, which take turns at being first.
fn rounds(
    context: &mut Context,
    hosts: &[Host],
    pairs: &[Pair],
    directions: &[(Direction, Kind)],
    count: usize,
) -> Result<()> {
    for round in 0..context.extent.pick(7, 15) {
        for (direction, kind) in directions {
            for at in order(round, hosts.len()) {
                let (server, client, target) = hosts[at].endpoints(&pairs[at], *direction)?;
                let rate = hosts[at]
                    .world
                    .inside(|| traffic::run(*kind, &server, &client, target, SAMPLE))?;
                let case = case(*direction, *kind, count);
                context
                    .results
                    .add(NAME, &case, hosts[at].side, kind.unit(), rate);
            }
        }
    }
    Ok(())
}

impl Host {
    fn new(tools: &Tools, side: Side) -> Result<Self> {
        let world = World::new()?;
        let outside = world.containers("outside", 1)?.remove(0);
        world.inside(|| connect(&outside))?;
        let implementation = Implementation::Plugins(match side {
            OURS => Scenario::Masquerade.ours(tools).with_ports(1, 0),
            side => Network {
                steps: [Scenario::Masquerade, Scenario::Kind]
                    .iter()
                    .flat_map(|scenario| scenario.theirs(tools, side).steps)
                    .filter(|step| step.program.name != "ptp")
                    .collect(),
                ..Network::new(tools, Vec::new()).with_ports(1, 0)
            },
        });
        Ok(Self {
            side,
            world,
            implementation,
            attached: 0,
        })
    }

    /// Attaches containers until there are `count`.
    fn attach_up_to(&mut self, count: usize) -> Result<()> {
        let prefix = format!("crowd{}x", self.attached);
        let containers = self.world.containers(&prefix, count - self.attached)?;
        let attachments: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(at, netns)| Attachment::new(self.attached + at + 1, netns))
            .collect();
        workers::attach_all(&self.world, &self.implementation, &attachments)?;
        self.attached = count;
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        let containers = self
            .world
            .containers(&format!("pair{}x", self.attached), 2)?;
        let number = |at: usize| self.attached + at + 1;
        let pods = [0, 1].map(|at| Attachment::new(number(at), &containers[at]));
        let results = self.world.inside(|| {
            pods.iter()
                .map(|pod| Ok(self.implementation.add(pod)?.value))
                .collect::<Result<_>>()
        })?;
        Ok(Pair { pods, results })
    }

    /// Where the server is, where the client is, and what the client connects to.
    fn endpoints(
        &self,
        pair: &Pair,
        direction: Direction,
    ) -> Result<(PathBuf, PathBuf, (String, u16))> {
        let outside = PathBuf::from("/run/netns/outside0");
        let [server, client] = &pair.pods;
        let (server, client) = (server.netns.clone(), client.netns.clone());
        let address = pair.results[0]["ips"][0]["address"]
            .as_str()
            .unwrap_or_default();
        let pod = address.split('/').next().unwrap_or_default().to_owned();
        let mapped = first_port(pair.pods[0].number, 1) as u16;
        Ok(match direction {
            Direction::PodToPod => (server, client, (pod, PORT)),
            Direction::PodToOutside => (outside, client, (OUTSIDE.to_owned(), PORT)),
            Direction::OutsideToPod => (server, outside, (HOST.to_owned(), mapped)),
        })
    }
}

/// Links the host to a machine outside, which has no route to the pods.
fn connect(outside: &Path) -> Result<()> {
    let netns = Netns::open(outside)?;
    let (here, there) = (IfName::parse("uplink")?, IfName::parse("eth0")?);
    let new = NewVeth {
        host_name: &here,
        container_name: &there,
        container_netns: netns.as_fd(),
        container_mac: MacAddr::random()?,
        host_mac: MacAddr::random()?,
        mtu: None,
        controller: None,
        group: 0,
    };
    let link =
        link::create_veth(&mut RouteSocket::open()?, &new).during("connect the machine outside")?;
    add_address(link.index, HOST)?;
    in_container(outside, || {
        add_address(crate::world::index_of("eth0")?, OUTSIDE)?;
        set_link_up("eth0")
    })
}

fn add_address(index: u32, ip: &str) -> Result<()> {
    let address = format!("{ip}/24").parse()?;
    let request = address::add_request(index, address, address::AddOptions::PLAIN);
    RouteSocket::open()?
        .all(vec![request])
        .during_with(|| format!("add {address}"))?;
    Ok(())
}
