//! The container's side of an attachment: its interface, addresses and routes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::names::{NEW_GROUP, STEADY_GROUP};
use crate::cni::MacAddr;
use crate::cni::result::Route;
use crate::ipam::Allocated;

/// The container's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerPlan {
    /// Whether the interface is to be switched on.
    pub(crate) up: bool,
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<Allocated>,
    pub(crate) known: KnownMacs,
    /// Whether the kernel adds a route to the subnet of each address. False in mode ptp.
    pub(crate) prefix_routes: bool,
    /// The kernel checks IPv6 addresses for duplicates before it uses them.
    pub(crate) detect_duplicates: bool,
    pub(crate) routes: Vec<PlannedRoute>,
}

impl ContainerPlan {
    /// The addresses, with the prefix lengths of their subnets.
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        self.addresses.iter().map(|given| given.address).collect()
    }

    /// True when an IPv6 address is among the addresses.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|given| given.address.is_ipv6())
    }
}

/// Which MACs neighbours may know for its addresses: if no other than its own, they need no announcement.
/// True of addresses from a store on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownMacs {
    /// It has one address, which always has this MAC ([`mac_of`](super::mac_of)).
    pub(crate) is_derived: bool,
    /// Its IPv4 address, if it has one, always has this MAC, and nobody had its IPv6 addresses before.
    pub(crate) is_new: bool,
}

impl KnownMacs {
    /// The link group of a bridge that is made for this container: its mark, or 0.
    pub(crate) fn mark(self) -> u32 {
        match self {
            Self {
                is_derived: true, ..
            } => STEADY_GROUP,
            Self { is_new: true, .. } => NEW_GROUP,
            _ => 0,
        }
    }

    /// Whether a bridge of the given group keeps its mark with this container. It loses it for good with the first one
    /// whose addresses neighbours may know by another MAC. False for one without a mark.
    pub(crate) fn keep_mark(self, group: u32) -> bool {
        match group {
            STEADY_GROUP => self.is_derived,
            NEW_GROUP => self.is_new,
            _ => false,
        }
    }
}

/// A route, complete as the kernel gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedRoute {
    pub(crate) route: Route,
    /// The next hop: the route's own or the gateway of its family.
    pub(crate) via: Option<IpAddr>,
    /// The preferred source address.
    pub(crate) source: Option<IpAddr>,
}
