//! What the kernel should hold for an attachment beyond nftables, for tools that look at a host
//! from outside: computed by the plan, as ADD computes it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::check;
use crate::apply::gateway_name;
use crate::cni::request::Request;
use crate::cni::{Error, IfName, MacAddr, Result};
use crate::ipam::{Allocated, Allocation, Ipam};
use crate::kernel::route::MAIN_TABLE;
use crate::plan::{LinkPlan, PlannedRoute, plan};

/// Where the addresses and routes of a request come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromisedBy {
    /// Its prevResult is the result of the attachment's ADD.
    Result,
    /// The configuration and the address store; prevResult was made of what the interface has.
    Config,
}

/// The links, addresses and routes of an attachment, on the host and in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedState {
    /// The host's link towards the container: the bridge, its interface in a VLAN, or the host end.
    pub towards: IfName,
    /// The addresses of that link.
    pub gateways: Vec<IpNetwork>,
    /// Whether the interface in the container is on.
    pub up: bool,
    /// The addresses of the interface.
    pub addresses: Vec<IpNetwork>,
    /// Whether the kernel adds a route to the subnet of each of them.
    pub prefix_routes: bool,
    /// The other routes in the container, in the order in which they can be added.
    pub routes: Vec<ExpectedRoute>,
}

/// A route in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedRoute {
    pub dst: IpNetwork,
    pub via: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub table: u32,
}

impl From<&PlannedRoute> for ExpectedRoute {
    fn from(planned: &PlannedRoute) -> Self {
        Self {
            dst: network_of(planned.route.dst),
            via: planned.via,
            source: planned.source,
            table: planned.route.table.unwrap_or(MAIN_TABLE),
        }
    }
}

/// Without host bits, as the kernel lists it.
fn network_of(dst: IpNetwork) -> IpNetwork {
    IpNetwork::new(dst.network(), dst.prefix()).unwrap_or(dst)
}

/// Computes what the kernel should hold for an attachment.
///
/// # Errors
/// The plan's and the store's; no addresses are known.
pub fn expected_state(request: &Request, promised: PromisedBy) -> Result<ExpectedState> {
    let allocation = match promised {
        PromisedBy::Result => of_result(request)?,
        PromisedBy::Config => of_config(request)?,
    };
    let plan = plan(request, allocation, MacAddr::ZERO)?;
    let (towards, gateways) = match plan.link {
        LinkPlan::Bridge { bridge, .. } => {
            let vlan = bridge.vlans.as_ref().and_then(|vlans| vlans.own);
            let towards = match vlan.filter(|_| !bridge.gateways.is_empty()) {
                Some(vid) => gateway_name(bridge.name.as_str(), vid)?,
                None => bridge.name,
            };
            (towards, bridge.gateways)
        }
        LinkPlan::Ptp(ptp) => (plan.host_end.name, ptp.addresses),
    };
    Ok(ExpectedState {
        towards,
        gateways,
        up: plan.container.up,
        addresses: plan.container.networks(),
        prefix_routes: plan.container.prefix_routes,
        routes: plan
            .container
            .routes
            .iter()
            .map(ExpectedRoute::from)
            .collect(),
    })
}

/// What the ADD has promised. An address without an interface is the container's: old results have
/// no interfaces.
fn of_result(request: &Request) -> Result<Option<Allocation>> {
    let promised = check::promised(request)?;
    let inside = promised.interfaces.iter().position(|interface| {
        interface.name == request.attachment.ifname.as_str() && !interface.sandbox.is_empty()
    });
    let own = promised.ips.iter().filter(|ip| {
        let interface = promised.interface_of(ip);
        interface.is_none() || interface == inside
    });
    let addresses: Vec<_> = own
        .map(|ip| Allocated {
            address: ip.address,
            gateway: ip.gateway,
        })
        .collect();
    Ok(Some(Allocation {
        addresses,
        routes: promised.routes.clone(),
        ..Allocation::default()
    }))
}

/// What the store has reserved, or the configuration names.
fn of_config(request: &Request) -> Result<Option<Allocation>> {
    match Ipam::new(&request.network)? {
        None => Ok(None),
        Some(Ipam::HostLocal(ipam)) => ipam.held_allocation(&request.attachment).map(Some),
        Some(Ipam::Static(ipam)) => ipam.allocate(&request.requested_ips).map(Some),
        Some(Ipam::Delegated(_)) => Err(Error::new(
            crate::cni::Code::InvalidConfig,
            "the addresses of a delegated ipam are known to its plugin only",
        )),
    }
}
