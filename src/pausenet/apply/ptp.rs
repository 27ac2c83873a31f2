//! Mode `ptp`: the host end has the gateways' addresses, and the host has routes to the
//! container's.

use ipnetwork::IpNetwork;

use super::container::route_request;
use super::host::SETTLE_LIMIT;
use crate::cni::{During, IfName, Result};
use crate::kernel::link::Link;
use crate::kernel::{RouteSocket, address, route as kernel_route};
use crate::plan::PtpPlan;

/// Adds the host end's addresses and routes, and waits until the host answers to the addresses.
pub(super) fn route(
    socket: &mut RouteSocket,
    plan: &PtpPlan,
    name: &IfName,
    host_end: &Link,
) -> Result<()> {
    let (mut batch, mut attempts) = (Vec::new(), Vec::new());
    for address in &plan.addresses {
        batch.push(address::add_request(
            host_end.index,
            *address,
            address::AddOptions::PLAIN,
        ));
        attempts.push(format!("add address {address} to {name}"));
    }
    for planned in &plan.routes {
        let (request, attempt) = route_request(host_end.index, name, planned)?;
        batch.push(request);
        attempts.push(attempt);
    }
    if batch.is_empty() {
        return Ok(());
    }
    socket.all(batch).map_err(|failed| {
        let attempt = attempts.get(failed.request).map(String::as_str);
        failed
            .error
            .during(attempt.unwrap_or("route to the container"))
    })?;
    let ipv6 = plan.addresses.iter().filter_map(|address| match address {
        IpNetwork::V6(address) => Some(address.ip()),
        IpNetwork::V4(_) => None,
    });
    kernel_route::wait_local(socket, ipv6, SETTLE_LIMIT, RouteSocket::open)
        .during_with(|| format!("wait for the IPv6 addresses of {name}"))
}
