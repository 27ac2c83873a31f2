//! The container's side of an attachment: its interface, addresses and routes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::MacAddr;
use crate::cni::result::Route;
use crate::ipam::Allocated;

/// The container's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Whether the interface is to be switched on.
    pub up: bool,
    pub mac: MacAddr,
    pub addresses: Vec<Allocated>,
    /// Whether its address comes with the same MAC whenever it is given out, so that neighbours need
    /// no announcement: it is the only one, from the node's own store, and no other MAC was asked for.
    pub steady: bool,
    /// False in mode ptp: the kernel is not to make a route to the subnet for each address.
    pub prefix_routes: bool,
    /// IPv6 addresses are checked for duplicates before they are used.
    pub detect_duplicates: bool,
    pub routes: Vec<PlannedRoute>,
}

impl ContainerPlan {
    /// The addresses, with the prefix lengths of their subnets.
    pub fn networks(&self) -> Vec<IpNetwork> {
        self.addresses.iter().map(|given| given.address).collect()
    }

    /// True when an IPv6 address is among the addresses.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|given| given.address.is_ipv6())
    }
}

/// A route, complete as the kernel gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRoute {
    pub route: Route,
    /// The next hop: the route's own or the gateway of its family.
    pub via: Option<IpAddr>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}
