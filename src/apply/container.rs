//! The container's side: addresses, routes, and the settings that belong to its interface.

use std::net::IpAddr;

use super::{Host, SETTLE_LIMIT};
use crate::cni::request::Attachment;
use crate::cni::{Code, Error, IfName, Result};
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{Refusal, RouteSocket, address, link, route};
use crate::plan::Plan;

/// Configures the container's end of a new pair, switched on last but for the routes. Gives back
/// the socket in the container, for [`settle`].
///
/// # Errors
/// Codes 5, 8 and 101, naming what was refused.
pub fn configure(host: &Host, netns: &Netns, plan: &Plan, index: u32) -> Result<RouteSocket> {
    let mut socket = netns.enter(&host.netns, || {
        settings(plan)?;
        open()
    })?;
    let (batch, attempts) = requests(plan, index)?;
    socket.all(batch).map_err(|(at, refusal)| {
        let attempt = attempts.get(at).map_or("configure", String::as_str);
        refusal.during(format!("{attempt} in {}", netns.path().display()))
    })?;
    Ok(socket)
}

/// Waits until the container answers to its IPv6 addresses.
///
/// # Errors
/// Code 101.
pub fn settle(host: &Host, netns: &Netns, plan: &Plan, mut socket: RouteSocket) -> Result<()> {
    let addresses = plan.container.addresses.iter();
    let addresses = addresses.filter_map(|given| match given.address.ip() {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    let open = || {
        netns
            .enter(&host.netns, open)
            .map_err(std::io::Error::other)
    };
    route::wait_local(&mut socket, addresses, SETTLE_LIMIT, open).map_err(|refusal| {
        let place = netns.path().display();
        refusal.during(format!("wait for the IPv6 addresses in {place}"))
    })
}

/// Opens a socket in the namespace that the thread is in.
///
/// # Errors
/// Code 101.
pub fn open() -> Result<RouteSocket> {
    RouteSocket::open()
        .map_err(|err| Refusal::from(err).during("open a netlink socket in the container"))
}

/// Settings that have to be there before addresses are added and the link comes up.
fn settings(plan: &Plan) -> Result<()> {
    let Attachment { ifname, .. } = &plan.attachment;
    // Neighbours learn at once who has the address now: its last holder was another MAC.
    Sysctl::ArpNotify(ifname).set_if_there("1")?;
    if plan.container.has_ipv6() {
        let loopback = IfName::parse("lo").expect("a fine name");
        // It may be off by default, and adding an address then fails.
        for link in [&loopback, ifname] {
            Sysctl::DisableIpv6(link).ensure("0")?;
        }
        Sysctl::KeepAddrOnDown(ifname).set("1")?;
        Sysctl::NdiscNotify(ifname).set_if_there("1")?;
    }
    Ok(())
}

type Batch = Vec<crate::kernel::netlink::Request<netlink_packet_route::RouteNetlinkMessage>>;

/// All requests in their order, and what each of them attempts. They address the link by the
/// index that its creation gave back, so one that fails cannot lead another astray.
fn requests(plan: &Plan, index: u32) -> Result<(Batch, Vec<String>)> {
    let ifname = &plan.attachment.ifname;
    let (mut batch, mut attempts) = (Vec::new(), Vec::new());
    for given in &plan.container.addresses {
        batch.push(address::add_request(index, given.address));
        attempts.push(format!("add address {} to {ifname}", given.address));
    }
    batch.push(link::up_request(index));
    attempts.push(format!("switch on {ifname}"));
    for planned in &plan.container.routes {
        let via = plan.container.next_hop(planned);
        let attempt = format!("add route {}{} to {ifname}", planned.dst, shown_via(via));
        let request = route::add_request(index, planned, via)
            .map_err(|why| Error::new(Code::InvalidConfig, format!("{attempt}: {why}")))?;
        batch.push(request);
        attempts.push(attempt);
    }
    Ok((batch, attempts))
}

fn shown_via(via: Option<IpAddr>) -> String {
    via.map_or_else(String::new, |via| format!(" via {via}"))
}
