//! What a host end is connected to: one variant per mode, with what the modes do differently on the
//! host.

use netlink_packet_route::RouteNetlinkMessage;

use super::bridge::{self, Bridge};
use super::{ptp, vlan};
use crate::cni::{IfName, Result};
use crate::kernel::Request;
use crate::kernel::link::{self, Link, Which};
use crate::kernel::{RouteSocket, sysctl::Sysctl};
use crate::plan::{BridgePlan, LinkPlan, Plan, PortPlan, PtpPlan};

/// A mode's connection, ready for the host end of one attachment.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in a process, and a box would be an allocation more"
)]
pub(crate) enum Uplink<'plan> {
    Bridge {
        plan: &'plan BridgePlan,
        port: &'plan PortPlan,
        bridge: Bridge,
        /// Neighbours may have cached the MAC of an address's previous holder.
        announce: bool,
    },
    Ptp(&'plan PtpPlan),
}

impl<'plan> Uplink<'plan> {
    /// Creates what attachments share, if it is missing.
    ///
    /// # Errors
    /// Code 7 when a link of another kind has the bridge's name, or another address conflicts with
    /// a gateway's; 5 and 101 when the kernel refuses a change.
    pub(super) fn prepare(socket: &mut RouteSocket, plan: &'plan Plan) -> Result<Self> {
        match &plan.link {
            LinkPlan::Bridge { bridge, port } => {
                let (plan, known) = (bridge, plan.container.known);
                let bridge = bridge::ensure(socket, plan, known)?;
                let announce = !known.keep_mark(bridge.link.group);
                Ok(Self::Bridge {
                    plan,
                    port,
                    bridge,
                    announce,
                })
            }
            LinkPlan::Ptp(ptp) => Ok(Self::Ptp(ptp)),
        }
    }

    /// Takes the mark off a bridge if it is not true of this container. Comes directly before the veth pair, so
    /// that an ADD that fails earlier changes nothing.
    pub(super) fn clear_mark(&self, socket: &mut RouteSocket) -> Result<()> {
        match self {
            Self::Bridge {
                bridge,
                announce: true,
                ..
            } if bridge::is_marked(&bridge.link) => bridge::clear_mark(socket, &bridge.link),
            Self::Bridge { .. } | Self::Ptp(_) => Ok(()),
        }
    }

    /// The bridge to create the host end as a port of.
    pub(super) fn controller(&self) -> Option<&Link> {
        match self {
            Self::Bridge { bridge, .. } => Some(&bridge.link),
            Self::Ptp(_) => None,
        }
    }

    /// The host's link towards the container.
    pub(super) fn towards_container<'a>(&'a self, plan: &'a Plan) -> &'a IfName {
        match self {
            Self::Bridge { plan, .. } => &plan.name,
            Self::Ptp(_) => &plan.host_end.name,
        }
    }

    /// Makes the settings that a new host end needs before the container has addresses: the VLANs
    /// of a bridge port.
    pub(super) fn set_up(
        &self,
        socket: &mut RouteSocket,
        plan: &Plan,
        host_end: &Link,
    ) -> Result<()> {
        match self {
            Self::Bridge { plan, bridge, .. } => match &plan.vlans {
                Some(vlans) => vlan::join(socket, &bridge.link, host_end, vlans),
                None => Ok(()),
            },
            Self::Ptp(_) => {
                let probed = host_end
                    .ipv6
                    .is_none_or(|settings| settings.accept_dad != 0);
                // Before a delegated IPAM has answered, there are none.
                let may_have_ipv6 =
                    plan.container.has_ipv6() || plan.container.addresses.is_empty();
                if may_have_ipv6 && probed {
                    // While its link-local address is probed, the host could not resolve the
                    // container's MAC, and routed IPv6 packets would not reach it.
                    Sysctl::AcceptDad(&plan.host_end.name).prefer("0");
                }
                Ok(())
            }
        }
    }

    /// Adds the host end's own addresses and routes.
    pub(super) fn route(
        &self,
        socket: &mut RouteSocket,
        plan: &Plan,
        host_end: &Link,
    ) -> Result<()> {
        match self {
            Self::Bridge { .. } => Ok(()),
            Self::Ptp(ptp) => ptp::route(socket, ptp, &plan.host_end.name, host_end),
        }
    }

    /// The flags of a bridge port, which the kernel accepts only once the link is a port.
    pub(super) fn port_flags(&self, host_end: &Link) -> Option<Request<RouteNetlinkMessage>> {
        match self {
            Self::Bridge { port, .. } if port.hairpin || port.isolated => Some(link::port_request(
                host_end.index,
                port.hairpin,
                port.isolated,
            )),
            Self::Bridge { .. } | Self::Ptp(_) => None,
        }
    }

    /// Makes the kernel update the carrier of a bridge when this is its first port: until then, the
    /// bridge drops what the host sends.
    pub(super) fn settle_carrier(&self) -> Option<Request<RouteNetlinkMessage>> {
        match self {
            Self::Bridge { bridge, .. } if !bridge.link.running => {
                Some(link::get_request(Which::Index(bridge.link.index)))
            }
            Self::Bridge { .. } | Self::Ptp(_) => None,
        }
    }

    /// Whether the container announces its addresses once it is reachable.
    pub(super) fn announces(&self) -> bool {
        match self {
            Self::Bridge { announce, .. } => *announce,
            // The host is the only neighbour, and its cache entries disappear with the link.
            Self::Ptp(_) => false,
        }
    }
}
