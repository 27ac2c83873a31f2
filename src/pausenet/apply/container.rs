//! The container's side: addresses, routes, and the settings of its interface.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;

use super::host::{Host, SETTLE_LIMIT};
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, IfName, Result};
use crate::kernel::Request;
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::{ProcOfOurOwn, Sysctl};
use crate::kernel::{RouteSocket, address, link, route};
use crate::plan::{Plan, PlannedRoute};

/// Duplicate address detection takes a second or two (RFC 4862). The reference waits this long too.
const DETECTION_LIMIT: Duration = Duration::from_secs(5);

/// Configures the container end of a new pair; only the routes are added after it is switched on.
/// Returns the socket in the container, for [`settle`] and [`announce`].
///
/// # Errors
/// Codes 5, 8 and 101, naming the change that failed.
pub(super) fn configure(
    host: &Host,
    netns: &Netns,
    plan: &Plan,
    index: u32,
) -> Result<RouteSocket> {
    let (announcing, mut socket) = netns.enter(&host.netns, || {
        let announcing = settings(plan)?;
        Ok((announcing, open()?))
    })?;
    let (batch, attempts) = requests(plan, index)?;
    socket.all(batch).map_err(|failed| {
        let attempt = attempts.get(failed.request).map(String::as_str);
        let attempt = attempt.unwrap_or("configure");
        failed
            .error
            .during(format!("{attempt} in {}", netns.path().display()))
    })?;
    if let Some(mut announcing) = announcing {
        // Not before it is switched on, which would announce addresses that may be new to everybody.
        let _ = announcing.write_all(b"1");
    }
    Ok(socket)
}

/// Switches the container end on before its addresses are known, as an IPAM finds it.
pub(super) fn switch_on(host: &Host, netns: &Netns, plan: &Plan, index: u32) -> Result<()> {
    if !plan.container.up {
        return Ok(());
    }
    let attempt = || {
        let place = netns.path().display();
        format!("switch on {} in {place}", plan.attachment.ifname)
    };
    let mut socket = netns.enter(&host.netns, open)?;
    socket
        .one(link::notify_request(index, true))
        .during_with(attempt)?;
    Ok(())
}

/// Waits until the container answers to its IPv6 addresses.
pub(super) fn settle(
    host: &Host,
    netns: &Netns,
    plan: &Plan,
    index: u32,
    socket: &mut RouteSocket,
) -> Result<()> {
    if plan.container.detect_duplicates && plan.container.has_ipv6() {
        wait_for_detection(host, netns, index)?;
    }
    if !plan.container.up {
        return Ok(());
    }
    let addresses = plan.container.addresses.iter();
    let addresses = addresses.filter_map(|given| match given.address.ip() {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    let open = || {
        netns
            .enter(&host.netns, open)
            .map_err(|err| std::io::Error::other(err).into())
    };
    route::wait_local(socket, addresses, SETTLE_LIMIT, open).during_with(|| {
        let place = netns.path().display();
        format!("wait for the IPv6 addresses in {place}")
    })
}

/// Announces the addresses to neighbours, now that the port forwards: a neighbour with a cached
/// entry for the previous holder would send to its MAC for seconds.
pub(super) fn announce(socket: &mut RouteSocket, plan: &Plan, index: u32) {
    if plan.container.up && !plan.container.addresses.is_empty() {
        // Setting the MAC to its current value only triggers the announcement. If that fails,
        // neighbours learn the MAC by themselves.
        let _ = link::set_mac(socket, index, plan.container.mac);
    }
}

/// Waits until the kernel has verified that the IPv6 addresses are unique on the link.
fn wait_for_detection(host: &Host, netns: &Netns, index: u32) -> Result<()> {
    let attempt = || format!("duplicate address detection in {}", netns.path().display());
    let outcome = netns.enter(&host.netns, || {
        address::wait_settled(index, DETECTION_LIMIT).during_with(attempt)
    })?;
    match outcome {
        address::Detection::Unique => Ok(()),
        address::Detection::Duplicate(ip) => Err(Error::new(
            Code::KernelRefused,
            format!("{}: another host on the link already uses {ip}", attempt()),
        )),
    }
}

/// Opens a socket in the calling thread's namespace.
pub(crate) fn open() -> Result<RouteSocket> {
    RouteSocket::open().during("open a netlink socket in the container")
}

/// Makes the settings that must precede the addresses and switching on the link. Returns the one that is to
/// follow: that the kernel announces changes of the MAC, made by [`announce`] or by a chained plugin.
#[expect(clippy::expect_used, reason = "lo is a name")]
fn settings(plan: &Plan) -> Result<Option<File>> {
    let Attachment { ifname, .. } = &plan.attachment;
    if !plan.container.has_ipv6() {
        return Ok(None);
    }
    let loopback = IfName::parse("lo").expect("a fine name");
    let proc = ProcOfOurOwn::mount();
    // IPv6 may be off by default; then adding an address would fail.
    for link in [&loopback, ifname] {
        Sysctl::DisableIpv6(link).ensure_in(&proc, "0")?;
    }
    // Addresses work without it: they last longer.
    if let Some(mut keeping) = Sysctl::KeepAddrOnDown(ifname).open(&proc) {
        let _ = keeping.write_all(b"1");
    }
    Ok(Sysctl::NdiscNotify(ifname).open(&proc))
}

type Batch = Vec<Request<RouteNetlinkMessage>>;

/// All requests in order, and what each attempts, for error messages. They address the link by the
/// index from its creation, so they cannot hit another link even if one of them fails.
fn requests(plan: &Plan, index: u32) -> Result<(Batch, Vec<String>)> {
    let ifname = &plan.attachment.ifname;
    let (mut batch, mut attempts) = (Vec::new(), Vec::new());
    let how = address::AddOptions {
        prefix_route: plan.container.prefix_routes,
        detect_duplicates: plan.container.detect_duplicates,
    };
    for given in &plan.container.addresses {
        batch.push(address::add_request(index, given.address, how));
        attempts.push(format!("add address {} to {ifname}", given.address));
    }
    // From now on, the kernel announces changes of the MAC, made by `announce` or by a chained
    // plugin.
    batch.push(link::notify_request(index, plan.container.up));
    attempts.push(match plan.container.up {
        true => format!("switch on {ifname}"),
        false => format!("set arp_notify of {ifname}"),
    });
    for planned in &plan.container.routes {
        let (request, attempt) = route_request(index, ifname, planned)?;
        batch.push(request);
        attempts.push(attempt);
    }
    Ok((batch, attempts))
}

/// A request for a planned route, and what it attempts, for error messages.
///
/// # Errors
/// Code 7 when destination and next hop are of different families.
pub(super) fn route_request(
    index: u32,
    link: &IfName,
    planned: &PlannedRoute,
) -> Result<(Request<RouteNetlinkMessage>, String)> {
    let dst = planned.route.dst;
    let attempt = match planned.via {
        Some(via) => format!("add route {dst} via {via} to {link}"),
        None => format!("add route {dst} to {link}"),
    };
    let request = route::add_request(index, &planned.route, planned.via, planned.source)
        .map_err(|why| Error::new(Code::InvalidConfig, format!("{attempt}: {why}")))?;
    Ok((request, attempt))
}
