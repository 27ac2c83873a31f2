//! The pair of links of one attachment, seen from the host.

use super::{Host, SETTLE_LIMIT, container};
use crate::cni::request::Attachment;
use crate::cni::request::FrameMode;
use crate::cni::{Code, Error, MacAddr, Result};
use crate::kernel::link::{Link, NewVeth, Which};
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{RouteSocket, link};
use crate::plan::{LINK_GROUP, Owner, Plan, alias, host_end_name};

/// Makes the pair. Debris of a killed ADD that is in the way is removed first.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 101 when the kernel refuses.
pub fn create(
    host: &mut Host,
    netns: &Netns,
    plan: &Plan,
    bridge: &Link,
) -> Result<(Link, MacAddr)> {
    let random = || {
        MacAddr::random()
            .map_err(|err| Error::new(Code::Internal, format!("no random bytes: {err}")))
    };
    let container_mac = match plan.veth.container_mac {
        Some(mac) => mac,
        None => random()?,
    };
    let new = NewVeth {
        host_name: &plan.veth.host_name,
        container_name: &plan.attachment.ifname,
        container_netns: std::os::fd::AsFd::as_fd(netns),
        container_mac,
        host_mac: random()?,
        mtu: plan.veth.mtu,
        controller: Some(bridge.index),
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
        outcome = link::create_veth(&mut host.socket, &new);
    }
    match outcome {
        Ok(host_end) => Ok((host_end, container_mac)),
        Err(refusal) if refusal.is(rustix::io::Errno::EXIST) => {
            Err(name_taken(&plan.attachment, netns))
        }
        Err(refusal) => Err(refusal.during(format!(
            "create the veth pair {} (host, port of {}) and {} (in {})",
            plan.veth.host_name,
            bridge.name,
            plan.attachment.ifname,
            netns.path().display()
        ))),
    }
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
    Ok(link.filter(|link| match Owner::of(link.alias.as_deref()) {
        Owner::Attachment(owner) => owner == *attachment,
        Owner::Nobody => is_half_made(link),
        Owner::Foreign(_) => false,
    }))
}

fn look_up(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let name = host_end_name(attachment);
    link::get(socket, Which::Name(&name))
        .map_err(|refusal| refusal.during(format!("look up the host end {name}")))
}

/// A link with our mark that never got its alias.
fn is_half_made(link: &Link) -> bool {
    link.alias.is_none() && link.group == LINK_GROUP && link.kind == "veth"
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
            link::delete(socket, found.index).map_err(|refusal| {
                refusal.during(format!("remove the half-made {}", found.name))
            })?;
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

/// Removes the attachment's pair, if it is there and the attachment's.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn remove(socket: &mut RouteSocket, attachment: &Attachment) -> Result<()> {
    match host_end(socket, attachment)? {
        Some(found) => link::delete(socket, found.index)
            .map_err(|refusal| refusal.during(format!("remove the host end {}", found.name))),
        None => Ok(()),
    }
}

/// Sets the port's flags, waits until it carries traffic, and writes the alias, last.
///
/// # Errors
/// Codes 5 and 101 when the kernel refuses, or the port does not come up.
pub fn finish(
    socket: &mut RouteSocket,
    plan: &Plan,
    bridge: &Link,
    host_end: &Link,
) -> Result<Link> {
    // Routes on this link are ours to give.
    Sysctl::AcceptRa(&plan.veth.host_name).set_if_there("0")?;
    let index = host_end.index;
    let attempt = || format!("finish the host end {}", host_end.name);
    let mut batch = Vec::with_capacity(4);
    if plan.veth.frames == FrameMode::Hairpin {
        batch.push(link::hairpin_request(index));
    }
    // Asking for a link's state makes the kernel settle it first (linkwatch_sync_dev), so the
    // port forwards from here on; older kernels do it a moment later.
    batch.push(link::get_request(Which::Index(index)));
    // The first port gives the bridge its carrier; until that is settled, the bridge drops what
    // the host sends.
    if !bridge.running {
        batch.push(link::get_request(Which::Index(bridge.index)));
    }
    batch.push(link::alias_request(index, &alias(&plan.attachment)));
    let answers = socket
        .exchange(batch)
        .map_err(|err| crate::kernel::Refusal::from(err).during(attempt()))?;
    let mut finished = None;
    for answer in answers {
        let messages = answer.map_err(|refusal| refusal.during(attempt()))?;
        let about_port = |link: &Link| link.index == index;
        finished = link::first(messages).filter(about_port).or(finished);
    }
    match finished {
        Some(link) if link.running => Ok(link),
        _ => link::wait_running(index, SETTLE_LIMIT).map_err(|refusal| {
            refusal.during(format!(
                "wait for the host end {} to come up",
                host_end.name
            ))
        }),
    }
}
