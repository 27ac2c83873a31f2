//! The pair of links of one attachment, seen from the host.

use std::os::fd::AsFd;

use ipnetwork::IpNetwork;

use super::container::route_request;
use super::{Host, SETTLE_LIMIT, container, rules};
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, MacAddr, Result};
use crate::kernel::link::{Link, NewVeth, Which};
use crate::kernel::netns::Netns;
use crate::kernel::{RouteSocket, address, link, route as kernel_route};
use crate::plan::{LINK_GROUP, Owner, Plan, alias, host_end_name, ifb_name};

/// Makes the pair. Debris of a killed ADD that is in the way is removed first.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 101 when the kernel refuses.
pub fn create(host: &mut Host, netns: &Netns, plan: &Plan, bridge: Option<&Link>) -> Result<Link> {
    let new = NewVeth {
        host_name: &plan.host.name,
        container_name: &plan.attachment.ifname,
        container_netns: netns.as_fd(),
        container_mac: plan.container.mac,
        host_mac: MacAddr::random()?,
        mtu: plan.host.mtu,
        controller: bridge.map(|bridge| bridge.index),
        group: LINK_GROUP,
    };
    let mut outcome = link::create_veth(&mut host.socket, &new);
    if outcome
        .as_ref()
        .is_err_and(|refusal| refusal.is(rustix::io::Errno::EXIST))
    {
        if !clear_debris(&mut host.socket, &plan.attachment)? {
            return Err(name_taken(&plan.attachment, netns));
        }
        if !plan.rules.is_empty() {
            rules::release_all(&mut rules::open()?, &plan.attachment)?;
        }
        outcome = link::create_veth(&mut host.socket, &new);
    }
    outcome.map_err(|refusal| {
        if refusal.is(rustix::io::Errno::EXIST) {
            return name_taken(&plan.attachment, netns);
        }
        // It may be the answer that was lost, and not the pair.
        let _ = clear_debris(&mut host.socket, &plan.attachment);
        let port = bridge.map_or_else(String::new, |bridge| format!(", port of {}", bridge.name));
        refusal.during(format!(
            "create the veth pair {} (host{port}) and {} (in {})",
            plan.host.name,
            plan.attachment.ifname,
            netns.path().display()
        ))
    })
}

/// Makes sure that the container has no interface of the attachment's name, whoever made it.
///
/// # Errors
/// Code 100 when it has one; 8 and 101 when that cannot be told.
pub fn ensure_name_is_free(host: &Host, netns: &Netns, attachment: &Attachment) -> Result<()> {
    let mut socket = netns.enter(&host.netns, container::open)?;
    let name = &attachment.ifname;
    match link::get(&mut socket, Which::Name(name)) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(name_taken(attachment, netns)),
        Err(refusal) => Err(refusal.during(format!("look up {name} in the container"))),
    }
}

fn name_taken(attachment: &Attachment, netns: &Netns) -> Error {
    Error::new(
        Code::InterfaceExists,
        format!(
            "interface {} exists already in {}; nothing was changed",
            attachment.ifname,
            netns.path().display()
        ),
    )
    .hint(
        "each attachment of a container needs an interface name of its own; DEL the old one first",
    )
}

/// The host end of an attachment, whole or half made; None when there is none, or when the
/// name belongs to somebody else.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn host_end(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let link = look_up(socket, attachment)?;
    Ok(link.filter(|link| is_of(link, attachment)))
}

/// True when it is known that the attachment has no host end.
pub fn is_gone(socket: &mut RouteSocket, attachment: &Attachment) -> bool {
    matches!(host_end(socket, attachment), Ok(None))
}

fn look_up(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let name = host_end_name(attachment);
    link::get(socket, Which::Name(&name)).during_with(|| format!("look up the host end {name}"))
}

/// A link with our mark that never got its alias.
fn is_half_made(link: &Link) -> bool {
    let ours = matches!(link.kind.as_str(), "veth" | "ifb");
    link.alias.is_none() && link.group == LINK_GROUP && ours
}

/// Removes what a killed ADD of this attachment left. True when there was something. The
/// caller holds the attachment's lock, so what is half made has no maker any more.
///
/// # Errors
/// Code 100 when the host end is whole, or somebody else's; 101 when the kernel refuses.
pub fn clear_debris(socket: &mut RouteSocket, attachment: &Attachment) -> Result<bool> {
    let Some(found) = look_up(socket, attachment)? else {
        return Ok(false);
    };
    let exists = |msg: String| Error::new(Code::InterfaceExists, msg);
    match Owner::of(found.alias.as_deref()) {
        Owner::Nobody if is_half_made(&found) => {
            remove(socket, attachment)?;
            Ok(true)
        }
        Owner::Attachment(owner) if owner == *attachment => Err(exists(format!(
            "this attachment exists already (host end {})",
            found.name
        ))
        .hint("a runtime that wants it anew has to DEL it first")),
        Owner::Attachment(other) => Err(exists(format!(
            "the host end's name {} is that of another attachment ({other})",
            found.name
        ))
        .hint("two attachments with one hash: DEL one, or change its interface name")),
        Owner::Nobody | Owner::Foreign(_) => Err(exists(format!(
            "a link named {} exists and is not ours",
            found.name
        ))
        .hint(format!("see: ip -d link show {}", found.name))),
    }
}

/// Removes the attachment's links, as far as they are there and the attachment's: the pair,
/// and the IFB of one whose bandwidth is limited. True when the host end was there.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn remove(socket: &mut RouteSocket, attachment: &Attachment) -> Result<bool> {
    let (host_end, ifb) = (host_end_name(attachment), ifb_name(attachment));
    let attempt = || format!("look up {host_end} and {ifb}");
    let requests = [&host_end, &ifb].map(|name| link::get_request(Which::Name(name)));
    let answers = socket.exchange(requests.into()).during_with(attempt)?;
    let mut found_host_end = false;
    for answer in answers {
        let found = match answer {
            Ok(messages) => link::first(messages).filter(|link| is_of(link, attachment)),
            Err(refusal) if refusal.is(rustix::io::Errno::NODEV) => None,
            Err(refusal) => return Err(refusal.during(attempt())),
        };
        if let Some(found) = found {
            found_host_end |= found.name == host_end.as_str();
            link::delete(socket, found.index).during_with(|| format!("remove {}", found.name))?;
        }
    }
    Ok(found_host_end)
}

/// True when a link is the attachment's, whole or half made.
pub fn is_of(link: &Link, attachment: &Attachment) -> bool {
    match Owner::of(link.alias.as_deref()) {
        Owner::Attachment(owner) => owner == *attachment,
        Owner::Nobody => is_half_made(link),
        Owner::Foreign(_) => false,
    }
}

/// Gives the host end the addresses and routes that mode ptp has it hold, and waits until the
/// host answers to them.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn route(socket: &mut RouteSocket, plan: &Plan, host_end: &Link) -> Result<()> {
    let (mut batch, mut attempts) = (Vec::new(), Vec::new());
    for address in &plan.host.addresses {
        batch.push(address::add_request(
            host_end.index,
            *address,
            address::AddOptions::PLAIN,
        ));
        attempts.push(format!("add address {address} to {}", host_end.name));
    }
    for planned in &plan.host.routes {
        let (request, attempt) = route_request(host_end.index, &plan.host.name, planned)?;
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
    let ipv6 = plan
        .host
        .addresses
        .iter()
        .filter_map(|address| match address {
            IpNetwork::V6(address) => Some(address.ip()),
            IpNetwork::V4(_) => None,
        });
    kernel_route::wait_local(socket, ipv6, SETTLE_LIMIT, RouteSocket::open)
        .during_with(|| format!("wait for the IPv6 addresses of {}", host_end.name))
}

/// Sets the port's flags, waits until it carries traffic, and writes the alias, last.
///
/// # Errors
/// Code 101 when the kernel refuses, or the port does not come up.
pub fn finish(
    socket: &mut RouteSocket,
    plan: &Plan,
    bridge: Option<&Link>,
    host_end: &Link,
) -> Result<Link> {
    let index = host_end.index;
    let attempt = || format!("finish the host end {}", host_end.name);
    let mut batch = Vec::with_capacity(4);
    if plan.host.hairpin || plan.host.isolated {
        batch.push(link::port_request(
            index,
            plan.host.hairpin,
            plan.host.isolated,
        ));
    }
    // Asking for a link's state makes the kernel settle it first (linkwatch_sync_dev), so the
    // port forwards from here on; older kernels do it a moment later.
    batch.push(link::get_request(Which::Index(index)));
    // The first port gives the bridge its carrier; until that is settled, the bridge drops what
    // the host sends.
    if let Some(bridge) = bridge.filter(|bridge| !bridge.running) {
        batch.push(link::get_request(Which::Index(bridge.index)));
    }
    batch.push(link::alias_request(index, &alias(&plan.attachment)));
    let answers = socket.exchange(batch).during_with(attempt)?;
    let mut finished = None;
    for answer in answers {
        let messages = answer.during_with(attempt)?;
        let about_port = |link: &Link| link.index == index;
        finished = link::first(messages).filter(about_port).or(finished);
    }
    match finished {
        Some(link) if link.running || !plan.container.up => Ok(link),
        _ => link::wait_running(index, SETTLE_LIMIT)
            .during_with(|| format!("wait for the host end {} to come up", host_end.name)),
    }
}
