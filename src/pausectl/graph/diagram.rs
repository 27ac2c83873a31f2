//! What a diagram shows, before it is drawn: the host's bridges, the namespaces, and the links
//! between them. All texts in it are safe to print.

use std::collections::HashMap;

use ipnetwork::IpNetwork;

use pausenet::kernel::link::Link;
use pausenet_host::anchor::origin::Origin;
use pausenet_host::anchor::sandbox::{Sandbox, SandboxInterface, State};
use pausenet_host::anchor::text::{few, plain};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Diagram {
    pub(super) groups: Vec<BridgeGroup>,
    pub(super) namespaces: Vec<Namespace>,
}

/// A bridge and the links on it; one group holds the links on no bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeGroup {
    pub(super) title: String,
    pub(super) details: Vec<String>,
    pub(super) links: Vec<Edge>,
}

/// A veth pair from a bridge to a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) host_end: String,
    pub(super) interface: String,
    /// The index of its namespace.
    pub(super) namespace: usize,
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) title: String,
    pub(super) state: State,
    pub(super) members: Vec<String>,
    /// Interfaces without a host end.
    pub(super) others: Vec<String>,
}

impl Diagram {
    /// From the host's links and addresses, and the sandboxes.
    pub(super) fn new(
        links: &HashMap<u32, Link>,
        addresses: &[(u32, IpNetwork)],
        sandboxes: &[Sandbox],
    ) -> Self {
        let mut bridges: Vec<_> = links
            .values()
            .filter(|link| link.kind == "bridge")
            .collect();
        bridges.sort_by_key(|link| link.index);
        let mut groups: Vec<_> = bridges
            .iter()
            .map(|bridge| BridgeGroup {
                title: format!("bridge {}", plain(&bridge.name)),
                details: addresses_of(bridge.index, addresses),
                links: edges(sandboxes, Some(&bridge.name)),
            })
            .collect();
        let routed = edges(sandboxes, None);
        if !routed.is_empty() {
            groups.push(BridgeGroup {
                title: "on no bridge".to_owned(),
                details: Vec::new(),
                links: routed,
            });
        }
        Self {
            groups,
            namespaces: sandboxes.iter().map(namespace).collect(),
        }
    }

    /// The namespaces without a link to the host.
    pub(super) fn unlinked(&self) -> impl Iterator<Item = &Namespace> {
        let linked = |namespace: usize| {
            let mut edges = self.groups.iter().flat_map(|group| &group.links);
            edges.any(|edge| edge.namespace == namespace)
        };
        let namespaces = self.namespaces.iter().enumerate();
        namespaces
            .filter(move |(at, _)| !linked(*at))
            .map(|(_, namespace)| namespace)
    }
}

impl Namespace {
    /// The first line of its box.
    pub(super) fn head(&self) -> String {
        format!("{}: {}", self.title, self.state.as_str())
    }

    /// The other lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &String> {
        self.members.iter().chain(&self.others)
    }
}

impl Edge {
    /// Both ends.
    pub(super) fn label(&self) -> String {
        format!("{} - {}", self.host_end, self.interface)
    }
}

fn addresses_of(index: u32, addresses: &[(u32, IpNetwork)]) -> Vec<String> {
    let is_shown = |address: &IpNetwork| match address {
        IpNetwork::V4(_) => true,
        IpNetwork::V6(net) => !net.ip().is_unicast_link_local(),
    };
    let own = addresses
        .iter()
        .filter(|(link, address)| *link == index && is_shown(address));
    own.map(|(_, address)| address.to_string()).collect()
}

fn edges(sandboxes: &[Sandbox], bridge: Option<&str>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (namespace, sandbox) in sandboxes.iter().enumerate() {
        for wire in sandbox
            .interfaces
            .iter()
            .filter(|wire| wire.bridge.as_deref() == bridge)
        {
            if let Some(host_end) = &wire.interface.host_end {
                edges.push(Edge {
                    host_end: plain(&host_end.name),
                    interface: interface(wire),
                    namespace,
                });
            }
        }
    }
    edges
}

/// How many addresses of an interface are shown before they are only counted.
const ADDRESSES: usize = 4;

fn interface(wire: &SandboxInterface) -> String {
    let mut words = vec![plain(&wire.interface.link.name)];
    let addresses = wire.interface.addresses.iter().map(ToString::to_string);
    let addresses: Vec<_> = addresses.collect();
    if !addresses.is_empty() {
        words.push(few(&addresses, ADDRESSES, " "));
    }
    let network = wire.origin.network().map(plain);
    words.extend(match (&wire.origin, network) {
        (Origin::Docker { .. }, Some(network)) => Some(format!("(Docker's {network})")),
        (_, network) => network.map(|network| format!("({network})")),
    });
    words.join(" ")
}

fn namespace(sandbox: &Sandbox) -> Namespace {
    let anchor = sandbox.anchor().map(|anchor| {
        let title = anchor.title();
        match anchor.container {
            Some(_) => format!("{title}, the owner, process {}", anchor.first()),
            None => format!("{title}, the owner"),
        }
    });
    let sharers = sandbox.sharers().map(|member| match member.container {
        Some(_) => format!("{}, process {}", member.title(), member.first()),
        None => member.title(),
    });
    let others = sandbox
        .interfaces
        .iter()
        .filter(|wire| wire.interface.host_end.is_none());
    Namespace {
        title: sandbox.title(),
        state: sandbox.state(),
        members: anchor.into_iter().chain(sharers).collect(),
        others: others.map(interface).collect(),
    }
}
