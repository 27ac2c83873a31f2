//! The plan: what the kernel should look like when an attachment is whole.
//!
//! A pure function of the request and the allocation. ADD makes what it says, CHECK compares
//! it with what is there. Nothing here asks the kernel, the disk, the clock or the environment.

mod bridge;
pub mod firewall;
mod identity;
mod ptp;
pub mod reference;
pub mod rules;

pub use bridge::{AddressChange, bridge_addresses};
pub use identity::{
    HOST_END_START, Owner, alias, chained_alias, element_owner, host_end_name, ifb_name, lock_name,
    mac_of,
};

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::bandwidth::Bandwidth;
use crate::cni::error::invalid;
use crate::cni::link::{LinkConf, PortIsolation, VlanConf};
use crate::cni::ports::PortsConf;
use crate::cni::request::{Attachment, IpamConf, Request};
use crate::cni::result::{Dns, Route};
use crate::cni::{IfName, MacAddr, Result};
use crate::ipam::{Allocated, Allocation};

/// The link group of everything that pausenet makes: "paus" in ASCII. It is set when a link is
/// born, so that even a half-made one can be told from somebody else's.
pub const LINK_GROUP: u32 = u32::from_be_bytes(*b"paus");

/// The first of the groups that links are put into to be removed together: "gone". They are whole
/// attachments, so whoever finds one that a killed GC has left there knows it by its alias.
pub const CONDEMNED_GROUP: u32 = u32::from_be_bytes(*b"gone");

/// The link group of bridges that we have made and where every address has had one MAC only, that of
/// [`mac_of`]: "1mac". It is set when the bridge is born. The first attachment that is not
/// [steady](ContainerPlan::steady) takes it away, for good.
pub const STEADY_GROUP: u32 = u32::from_be_bytes(*b"1mac");

/// An attachment as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub attachment: Attachment,
    /// None in mode ptp.
    pub bridge: Option<BridgePlan>,
    /// The host forwards for these families.
    pub forward: Families,
    pub host: HostPlan,
    pub container: ContainerPlan,
    /// What nftables should hold for the attachment.
    pub rules: Vec<rules::Wish>,
    /// What others' firewalls should let through.
    pub passages: Vec<firewall::Passage>,
    /// Ports of the host that lead to the container.
    pub ports: Option<PortsConf>,
    /// How much traffic the container may have.
    pub bandwidth: Option<Bandwidth>,
    /// As they were configured, for the result; the container's own list has them filled in.
    pub routes: Vec<Route>,
    pub dns: Dns,
}

/// Address families, as a set.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    /// The families of some addresses.
    pub fn of(addresses: impl IntoIterator<Item = IpNetwork>) -> Self {
        let mut families = Self::default();
        for address in addresses {
            match address {
                IpNetwork::V4(_) => families.ipv4 = true,
                IpNetwork::V6(_) => families.ipv6 = true,
            }
        }
        families
    }
}

/// The bridge, shared by all attachments of its networks and never removed with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    pub name: IfName,
    /// For a bridge that has to be made; None leaves it to the kernel.
    pub mtu: Option<u32>,
    pub promiscuous: bool,
    /// Gateway addresses that the bridge is to hold.
    pub gateways: Vec<IpNetwork>,
    /// Replace an address that is in a gateway's way.
    pub force_address: bool,
    /// The VLANs that the container's port is in. The gateways are in its own.
    pub vlans: Option<VlanConf>,
}

/// The host's end of the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    /// Made from the attachment by [`host_end_name`].
    pub name: IfName,
    /// Of both ends; None leaves it to the kernel.
    pub mtu: Option<u32>,
    /// As a bridge port: frames may go back where they came from.
    pub hairpin: bool,
    /// As a bridge port: no frames to other isolated ports.
    pub isolated: bool,
    /// In mode ptp: the gateways' addresses, as single hosts.
    pub addresses: Vec<IpNetwork>,
    /// In mode ptp: a route to each of the container's addresses.
    pub routes: Vec<PlannedRoute>,
}

/// The container's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Whether the interface is to be switched on.
    pub up: bool,
    pub mac: MacAddr,
    pub addresses: Vec<Allocated>,
    /// Whether its address comes with the same MAC whenever it is given out, so that neighbours need
    /// not be told: it is the only one, from the node's own store, and no other MAC was asked for.
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

/// A route with all that the kernel is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRoute {
    pub route: Route,
    /// The next hop: the route's own or the gateway of its family.
    pub via: Option<IpAddr>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

/// Plans an attachment. `allocation` is None when the config has no IPAM: then the container
/// is on layer 2 only. `mac` is for an interface that has no address to make it from
/// ([`mac_of`]), and for which none is asked for.
///
/// # Errors
/// Code 7 when gateways and addresses do not fit together.
pub fn plan(request: &Request, allocation: Option<Allocation>, mac: MacAddr) -> Result<Plan> {
    let network = &request.network;
    let mut allocation = allocation.unwrap_or_default();
    let mut bridge = None;
    let mut plan_host = HostPlan {
        name: host_end_name(&request.attachment),
        mtu: network.mtu,
        hairpin: false,
        isolated: false,
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    let mut up = true;
    let mut detect_duplicates = false;
    let mut first_routes = Vec::new();
    let forward;
    match &network.link {
        Some(LinkConf::Bridge(conf)) => {
            let planned = bridge::plan(conf, network.mtu, &mut allocation)?;
            forward = Families::of(planned.gateways.iter().copied());
            bridge = Some(planned);
            plan_host.hairpin = conf.hairpin();
            plan_host.isolated = conf.isolation == PortIsolation::Isolated;
            up = !conf.leave_down;
            detect_duplicates = conf.detect_duplicates;
        }
        Some(LinkConf::Ptp) if allocation.addresses.is_empty() => {
            return Err(invalid(
                "mode ptp routes to addresses, and the config has no ipam",
            ));
        }
        Some(LinkConf::Ptp) => {
            forward = Families::of(allocation.addresses.iter().map(|given| given.address));
            plan_host.addresses = ptp::host_addresses(&allocation.addresses)?;
            plan_host.routes = ptp::host_routes(&allocation.addresses);
            first_routes = ptp::container_routes(&allocation.addresses);
        }
        None => {
            return Err(invalid(
                "no link to plan: somebody else wires the container",
            ));
        }
    }
    let gateway_of = |v4: bool| {
        let gateways = allocation
            .addresses
            .iter()
            .filter_map(|given| given.gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == v4)
    };
    let mut routes = first_routes;
    routes.extend(allocation.routes.iter().map(|route| PlannedRoute {
        via: route.gw.or_else(|| gateway_of(route.dst.is_ipv4())),
        source: None,
        route: route.clone(),
    }));
    let own_mac = allocation
        .addresses
        .first()
        .map(|given| mac_of(given.address.ip()));
    let mac = request.requested_mac.or(own_mac).unwrap_or(mac);
    let from_store = network.ipam.as_ref().is_some_and(IpamConf::is_host_local);
    let container = ContainerPlan {
        up,
        mac,
        steady: from_store && allocation.addresses.len() == 1 && own_mac == Some(mac),
        prefix_routes: bridge.is_some(),
        detect_duplicates,
        routes,
        addresses: allocation.addresses,
    };
    let rules = rules::wishes(request, &container.networks(), Some(container.mac));
    let passages = firewall::passages(network, &container.networks());
    let dns = if network.dns.is_empty() {
        allocation.dns
    } else {
        network.dns.clone()
    };
    Ok(Plan {
        attachment: request.attachment.clone(),
        bridge,
        forward,
        host: plan_host,
        container,
        rules,
        passages,
        ports: network.ports.clone(),
        bandwidth: network.bandwidth,
        routes: allocation.routes,
        dns,
    })
}

#[cfg(test)]
mod tests;
