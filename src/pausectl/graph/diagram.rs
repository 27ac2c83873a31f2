//! What a picture shows, before it is drawn: places on the host, namespaces, and the links
//! between them. All texts in it are fit for people's eyes.

use std::collections::HashMap;

use ipnetwork::IpNetwork;

use pausenet::kernel::link::Link;
use pausenet_host::anchor::origin::Origin;
use pausenet_host::anchor::sandbox::{Sandbox, SandboxInterface, State};
use pausenet_host::anchor::text::plain;

/// A picture.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Picture {
    pub places: Vec<Place>,
    pub rooms: Vec<Room>,
}

/// Where links leave the host: a bridge, or the host itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub title: String,
    pub details: Vec<String>,
    pub links: Vec<Cable>,
}

/// A link from a place into a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cable {
    pub host_end: String,
    pub interface: String,
    /// Which room it leads to.
    pub room: usize,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub title: String,
    pub state: State,
    pub members: Vec<String>,
    /// Interfaces that do not lead to the host.
    pub others: Vec<String>,
}

impl Picture {
    /// Of the host's links and addresses, and the namespaces.
    pub fn new(
        links: &HashMap<u32, Link>,
        addresses: &[(u32, IpNetwork)],
        sandboxes: &[Sandbox],
    ) -> Self {
        let mut bridges: Vec<_> = links
            .values()
            .filter(|link| link.kind == "bridge")
            .collect();
        bridges.sort_by_key(|link| link.index);
        let mut places: Vec<_> = bridges
            .iter()
            .map(|bridge| Place {
                title: format!("bridge {}", plain(&bridge.name)),
                details: of_link(bridge.index, addresses),
                links: cables(sandboxes, Some(&bridge.name)),
            })
            .collect();
        let routed = cables(sandboxes, None);
        if !routed.is_empty() {
            places.push(Place {
                title: "on no bridge".to_owned(),
                details: Vec::new(),
                links: routed,
            });
        }
        Self {
            places,
            rooms: sandboxes.iter().map(room).collect(),
        }
    }

    /// The rooms that no link leads to.
    pub fn apart(&self) -> impl Iterator<Item = &Room> {
        let linked = |room: usize| {
            let mut cables = self.places.iter().flat_map(|place| &place.links);
            cables.any(|cable| cable.room == room)
        };
        let rooms = self.rooms.iter().enumerate();
        rooms
            .filter(move |(at, _)| !linked(*at))
            .map(|(_, room)| room)
    }
}

impl Room {
    /// The first line about it.
    pub fn head(&self) -> String {
        format!("{}: {}", self.title, self.state.as_str())
    }

    /// The lines below that.
    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.members.iter().chain(&self.others)
    }
}

impl Cable {
    /// Both ends.
    pub fn label(&self) -> String {
        format!("{} - {}", self.host_end, self.interface)
    }
}

fn of_link(index: u32, addresses: &[(u32, IpNetwork)]) -> Vec<String> {
    let is_shown = |address: &IpNetwork| match address {
        IpNetwork::V4(_) => true,
        IpNetwork::V6(net) => !net.ip().is_unicast_link_local(),
    };
    let own = addresses
        .iter()
        .filter(|(link, address)| *link == index && is_shown(address));
    own.map(|(_, address)| address.to_string()).collect()
}

fn cables(sandboxes: &[Sandbox], bridge: Option<&str>) -> Vec<Cable> {
    let mut cables = Vec::new();
    for (room, sandbox) in sandboxes.iter().enumerate() {
        for wire in sandbox
            .interfaces
            .iter()
            .filter(|wire| wire.bridge.as_deref() == bridge)
        {
            if let Some(host_end) = &wire.interface.host_end {
                cables.push(Cable {
                    host_end: plain(&host_end.name),
                    interface: interface(wire),
                    room,
                });
            }
        }
    }
    cables
}

fn interface(wire: &SandboxInterface) -> String {
    let mut words = vec![plain(&wire.interface.link.name)];
    words.extend(wire.interface.addresses.iter().map(ToString::to_string));
    let network = wire.origin.network().map(plain);
    words.extend(match (&wire.origin, network) {
        (Origin::Docker { .. }, Some(network)) => Some(format!("(Docker's {network})")),
        (_, network) => network.map(|network| format!("({network})")),
    });
    words.join(" ")
}

fn room(sandbox: &Sandbox) -> Room {
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
    Room {
        title: sandbox.title(),
        state: sandbox.state(),
        members: anchor.into_iter().chain(sharers).collect(),
        others: others.map(interface).collect(),
    }
}
