//! The container's side of an attachment: its interface, addresses and routes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

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
    /// Whether its address always has the same MAC, so that neighbours need no announcement: it is
    /// the only address, from a store on this node, and no other MAC is requested.
    pub(crate) steady: bool,
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

/// A route, complete as the kernel gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedRoute {
    pub(crate) route: Route,
    /// The next hop: the route's own or the gateway of its family.
    pub(crate) via: Option<IpAddr>,
    /// The preferred source address.
    pub(crate) source: Option<IpAddr>,
}
