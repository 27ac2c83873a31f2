//! Mode `ptp`: no bridge; every pod is a single host behind its own routed link.
//!
//! The host end holds the gateway's address as a single host, and the host has a route to each
//! address of the pod. Inside, everything goes through the gateway, so that no two pods share
//! a layer 2.

use std::net::IpAddr;

use std::collections::HashSet;

use ipnetwork::IpNetwork;

use super::container::PlannedRoute;
use super::families::subnet_of;
use crate::cni::Result;
use crate::cni::error::invalid;
use crate::cni::result::Route;
use crate::ipam::Allocated;

/// The kernel's scopes (RT_SCOPE_…).
const LINK: u8 = 253;
const HOST: u8 = 254;

/// The host end as a link of its own: what the host holds and routes on it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PtpPlan {
    /// The gateways' addresses, as single hosts.
    pub(crate) addresses: Vec<IpNetwork>,
    /// A route to each of the container's addresses.
    pub(crate) routes: Vec<PlannedRoute>,
}

/// Plans the host end.
///
/// # Errors
/// Code 7 without an address, or when one has no gateway: mode ptp has nowhere else to send a
/// packet.
pub(super) fn plan(addresses: &[Allocated]) -> Result<PtpPlan> {
    if addresses.is_empty() {
        return Err(invalid(
            "mode ptp routes to addresses, and the config has no ipam",
        ));
    }
    Ok(PtpPlan {
        addresses: host_addresses(addresses)?,
        routes: host_routes(addresses),
    })
}

/// An address as a network of one.
fn single(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

/// The gateways, as the host end is to hold them, each once.
fn host_addresses(addresses: &[Allocated]) -> Result<Vec<IpNetwork>> {
    let mut gateways: Vec<IpNetwork> = Vec::new();
    let mut seen = HashSet::new();
    for given in addresses {
        let gateway = given.gateway.ok_or_else(|| {
            invalid(format!(
                "address {} came without a gateway, which mode ptp needs",
                given.address
            ))
        })?;
        if seen.insert(gateway) {
            gateways.push(single(gateway));
        }
    }
    Ok(gateways)
}

/// The host's routes to the pod.
fn host_routes(addresses: &[Allocated]) -> Vec<PlannedRoute> {
    let route = |given: &Allocated| PlannedRoute {
        route: Route {
            scope: Some(HOST),
            ..Route::via(single(given.address.ip()), None)
        },
        via: None,
        source: None,
    };
    addresses.iter().map(route).collect()
}

/// The pod's routes for each address: to the gateway on the link, and to the rest of the
/// subnet through it.
pub(super) fn container_routes(addresses: &[Allocated]) -> Vec<PlannedRoute> {
    let mut routes = Vec::with_capacity(2 * addresses.len());
    for given in addresses {
        let Some(gateway) = given.gateway else {
            continue;
        };
        let source = Some(given.address.ip());
        let subnet = subnet_of(given.address);
        routes.push(PlannedRoute {
            route: Route {
                scope: Some(LINK),
                ..Route::via(single(gateway), None)
            },
            via: None,
            source,
        });
        routes.push(PlannedRoute {
            route: Route::via(subnet, Some(gateway)),
            via: Some(gateway),
            source,
        });
    }
    routes
}
