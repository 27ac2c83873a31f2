//! The plan: what the kernel should look like when an attachment is whole.
//!
//! A pure function of the request and the allocation. ADD makes what it says, CHECK compares
//! it with what is there. Nothing here asks the kernel, the disk, the clock or the environment.

mod bridge;
mod identity;

pub use bridge::{AddressChange, bridge_addresses, plan};
pub use identity::{Owner, alias, host_end_name};

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::request::{Attachment, FrameMode};
use crate::cni::result::{Dns, Route};
use crate::cni::{IfName, MacAddr};
use crate::ipam::Allocated;

/// The link group of everything that pausenet makes: "paus" in ASCII. It is set when a link is
/// born, so that even a half-made one can be told from somebody else's.
pub const LINK_GROUP: u32 = u32::from_be_bytes(*b"paus");

/// An attachment as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub attachment: Attachment,
    pub bridge: BridgePlan,
    pub veth: VethPlan,
    pub container: ContainerPlan,
    pub dns: Dns,
}

/// The bridge, shared by all attachments of its networks and never removed with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    pub name: IfName,
    /// For a bridge that has to be made; None leaves it to the kernel.
    pub mtu: Option<u32>,
    pub promiscuous: bool,
    /// Gateway addresses that the bridge is to hold; the host forwards for their families.
    pub gateways: Vec<IpNetwork>,
    /// Replace an address that is in a gateway's way.
    pub force_address: bool,
}

/// The pair of links. Its peer is the container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPlan {
    /// The host end's name, made from the attachment by [`host_end_name`].
    pub host_name: IfName,
    /// Of both ends; None leaves it to the kernel.
    pub mtu: Option<u32>,
    /// None: any.
    pub container_mac: Option<MacAddr>,
    pub frames: FrameMode,
}

/// The container's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    pub addresses: Vec<Allocated>,
    /// As they were configured; [`ContainerPlan::next_hop`] fills in what they leave open.
    pub routes: Vec<Route>,
}

impl ContainerPlan {
    /// A route's own next hop, or else the first gateway of its family.
    pub fn next_hop(&self, route: &Route) -> Option<IpAddr> {
        route.gw.or_else(|| {
            self.addresses
                .iter()
                .filter_map(|given| given.gateway)
                .find(|gateway| gateway.is_ipv4() == route.dst.is_ipv4())
        })
    }

    /// True when an IPv6 address is among the addresses.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|given| given.address.is_ipv6())
    }
}
