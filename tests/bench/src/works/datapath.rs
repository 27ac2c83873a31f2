//! Traffic of one pod on a host with few or many others, each with masquerade and a mapped port.
//!
//! The pod that is measured came last: where rules are a list, it is the one whose packets have
//! passed all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pausenet::cni::{During, IfName, MacAddr};
use pausenet::kernel::link::{self, NewVeth};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::{RouteSocket, address};
use serde_json::Value;

use super::{Bench, Extent, Work, order, workers};
use crate::Result;
use crate::network::{Attachment, Network, Tools, Wirer, first_port};
use crate::scene::Scene;
use crate::series::{IPTABLES, OURS, REFERENCE, Side};
use crate::traffic::{self, Kind, PORT};
use crate::world::{World, in_container, settle, switch_on};
use std::os::fd::AsFd;

/// The work's name in the report.
pub const NAME: &str = "datapath";

/// How long a sample is. Short, and many of them in turn: what disturbs the machine for a moment is in
/// one sample, or in one of each side.
const SAMPLE: Duration = Duration::from_millis(200);

/// By how much less ours may be before it is measured so many times more.
const DOUBT: f64 = 0.03;
const CLOSER: usize = 3;

const HOST: &str = "192.0.2.1";
const OUTSIDE: &str = "192.0.2.2";

pub fn works() -> Vec<Work> {
    vec![Work::new(NAME, true, play)]
}

/// What goes from where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    PodToPod,
    /// Through masquerade.
    PodToOutside,
    /// Through a mapped port.
    OutsideToPod,
}

const WAYS: [(Way, &str); 3] = [
    (Way::PodToPod, "pod to pod"),
    (Way::PodToOutside, "pod to outside"),
    (Way::OutsideToPod, "host port to pod"),
];

/// The case of one kind of traffic on one way with so many attachments.
pub fn case(way: Way, kind: Kind, count: usize) -> String {
    let way = WAYS
        .iter()
        .find(|(found, _)| *found == way)
        .map_or("", |(_, name)| name);
    format!("{way}, {}, {count} attached", kind.name())
}

/// With how many attachments it is measured.
pub fn counts(extent: Extent) -> &'static [usize] {
    extent.pick(&[100], &[2, 100, 1_000])
}

/// A host, its pods, and a machine outside.
struct Site {
    side: Side,
    world: World,
    wirer: Wirer,
    crowd: usize,
}

/// The two pods that are measured: server and client.
struct Pair {
    pods: [Attachment; 2],
    results: Vec<Value>,
}

fn play(bench: &mut Bench) -> Result<()> {
    let sites = [REFERENCE, IPTABLES, OURS].map(|side| Site::new(bench.tools, side));
    let mut sites = sites.into_iter().collect::<Result<Vec<_>>>()?;
    for count in counts(bench.extent) {
        let mut pairs = Vec::new();
        for site in &mut sites {
            site.grow(count - 2)?;
            pairs.push(site.pair()?);
        }
        let ways = ways(bench.extent);
        rounds(bench, &sites, &pairs, &ways, *count)?;
        // What looks like a loss is looked at more closely.
        let doubtful: Vec<_> = ways
            .into_iter()
            .filter(|(way, kind)| loses(bench, *way, *kind, *count))
            .collect();
        for _ in 0..CLOSER {
            rounds(bench, &sites, &pairs, &doubtful, *count)?;
        }
        for (site, pair) in sites.iter().zip(&pairs) {
            site.world.inside(|| {
                for (pod, result) in pair.pods.iter().zip(&pair.results) {
                    site.wirer.del(pod, result)?;
                }
                Ok(())
            })?;
        }
    }
    drop(sites);
    settle()
}

/// All that is measured: each kind of traffic on each way.
fn ways(extent: Extent) -> Vec<(Way, Kind)> {
    let kinds: &[Kind] = match extent {
        Extent::Quick => &[Kind::Stream, Kind::Connections],
        Extent::Full => &[
            Kind::Stream,
            Kind::SmallPackets,
            Kind::Echo,
            Kind::Connections,
        ],
    };
    let all = WAYS
        .iter()
        .flat_map(|(way, _)| kinds.iter().map(|kind| (*way, *kind)));
    // The mapped port is one of TCP.
    all.filter(|way| *way != (Way::OutsideToPod, Kind::SmallPackets))
        .collect()
}

/// Whether ours seems to be slower than the reference is with one of its backends.
fn loses(bench: &Bench, way: Way, kind: Kind, count: usize) -> bool {
    let case = case(way, kind, count);
    [REFERENCE, IPTABLES].iter().any(|side| {
        let ratio = bench.results.ratio(NAME, &case, OURS, side);
        ratio.is_some_and(|ratio| ratio < 1.0 - DOUBT)
    })
}

/// Measures these ways on all sites, which take turns at being first.
fn rounds(
    bench: &mut Bench,
    sites: &[Site],
    pairs: &[Pair],
    ways: &[(Way, Kind)],
    count: usize,
) -> Result<()> {
    for round in 0..bench.extent.pick(7, 15) {
        for (way, kind) in ways {
            for at in order(round, sites.len()) {
                let (server, client, target) = sites[at].ends(&pairs[at], *way)?;
                let rate = sites[at]
                    .world
                    .inside(|| traffic::run(*kind, &server, &client, target, SAMPLE))?;
                let case = case(*way, *kind, count);
                bench
                    .results
                    .add(NAME, &case, sites[at].side, kind.unit(), rate);
            }
        }
    }
    Ok(())
}

impl Site {
    fn new(tools: &Tools, side: Side) -> Result<Self> {
        let world = World::new()?;
        let outside = world.containers("outside", 1)?.remove(0);
        world.inside(|| connect(&outside))?;
        let wirer = Wirer::Plugins(match side {
            OURS => Scene::Masquerade.ours(tools).with_ports(1),
            side => Network {
                steps: [Scene::Masquerade, Scene::Kind]
                    .iter()
                    .flat_map(|scene| scene.theirs(tools, side).steps)
                    .filter(|step| step.program.name != "ptp")
                    .collect(),
                ..Network::new(tools, Vec::new()).with_ports(1)
            },
        });
        Ok(Self {
            side,
            world,
            wirer,
            crowd: 0,
        })
    }

    /// Attaches containers until there are so many.
    fn grow(&mut self, count: usize) -> Result<()> {
        let prefix = format!("crowd{}x", self.crowd);
        let containers = self.world.containers(&prefix, count - self.crowd)?;
        let attachments: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(at, netns)| Attachment::new(self.crowd + at + 1, netns))
            .collect();
        workers::crowd(&self.world, &self.wirer, &attachments)?;
        self.crowd = count;
        Ok(())
    }

    fn pair(&self) -> Result<Pair> {
        let containers = self.world.containers(&format!("pair{}x", self.crowd), 2)?;
        let number = |at: usize| self.crowd + at + 1;
        let pods = [0, 1].map(|at| Attachment::new(number(at), &containers[at]));
        let results = self.world.inside(|| {
            pods.iter()
                .map(|pod| Ok(self.wirer.add(pod)?.value))
                .collect::<Result<_>>()
        })?;
        Ok(Pair { pods, results })
    }

    /// Where the server is, where the client is, and what the client connects to.
    fn ends(&self, pair: &Pair, way: Way) -> Result<(PathBuf, PathBuf, (String, u16))> {
        let outside = PathBuf::from("/run/netns/outside0");
        let [server, client] = &pair.pods;
        let (server, client) = (server.netns.clone(), client.netns.clone());
        let address = pair.results[0]["ips"][0]["address"]
            .as_str()
            .unwrap_or_default();
        let pod = address.split('/').next().unwrap_or_default().to_owned();
        let mapped = first_port(pair.pods[0].number, 1) as u16;
        Ok(match way {
            Way::PodToPod => (server, client, (pod, PORT)),
            Way::PodToOutside => (outside, client, (OUTSIDE.to_owned(), PORT)),
            Way::OutsideToPod => (server, outside, (HOST.to_owned(), mapped)),
        })
    }
}

/// A link between the host and a machine outside, which knows no way to the pods.
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
    give(link.index, HOST)?;
    in_container(outside, || {
        give(crate::world::index_of("eth0")?, OUTSIDE)?;
        switch_on("eth0")
    })
}

fn give(index: u32, ip: &str) -> Result<()> {
    let address = format!("{ip}/24").parse()?;
    let request = address::add_request(index, address, address::AddOptions::PLAIN);
    RouteSocket::open()?
        .all(vec![request])
        .during_with(|| format!("add {address}"))?;
    Ok(())
}
