//! The veth pair of one attachment, from the host's side.

use std::os::fd::AsFd;

use netlink_packet_route::RouteNetlinkMessage;

use super::host::{Host, SETTLE_LIMIT, try_lock};
use super::host_end::{is_of, look_up};
use super::uplink::Uplink;
use super::{container, nft_elements};
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, MacAddr, Result};
use crate::kernel::link::{Link, NewVeth, Which};
use crate::kernel::lock::Lock;
use crate::kernel::netns::Netns;
use crate::kernel::{KernelError, KernelPart, Request, RouteSocket, departure, link};
use crate::plan::{
    LINK_GROUP, Ownership, Plan, alias, host_end_name, ifb_name, is_half_made, lock_name,
};

/// Creates the pair. First removes conflicting debris of a killed ADD.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 101 when the kernel refuses.
pub(super) fn create(
    host: &mut Host,
    netns: &Netns,
    plan: &Plan,
    bridge: Option<&Link>,
) -> Result<Link> {
    let new = NewVeth {
        host_name: &plan.host_end.name,
        container_name: &plan.attachment.ifname,
        container_netns: netns.as_fd(),
        container_mac: plan.container.mac,
        host_mac: MacAddr::random_high()?,
        mtu: plan.host_end.mtu,
        controller: bridge.map(|bridge| bridge.index),
        group: LINK_GROUP,
    };
    let mut outcome = link::create_veth(&mut host.socket, &new);
    if outcome
        .as_ref()
        .is_err_and(|err| err.is(rustix::io::Errno::EXIST))
    {
        if !clear_debris(&mut host.socket, &plan.attachment)? {
            return Err(name_taken(&plan.attachment, netns));
        }
        if !plan.elements.is_empty() {
            nft_elements::remove_all_elements_of(&mut nft_elements::open()?, &plan.attachment)?;
        }
        outcome = link::create_veth(&mut host.socket, &new);
    }
    outcome.map_err(|err| {
        if err.is(rustix::io::Errno::EXIST) {
            return name_taken(&plan.attachment, netns);
        }
        // The pair may exist and only the reply be lost.
        let _ = clear_debris(&mut host.socket, &plan.attachment);
        let port = bridge.map_or_else(String::new, |bridge| format!(", port of {}", bridge.name));
        let pairs = KernelPart {
            module: "veth",
            option: "CONFIG_VETH",
        };
        let attempt = format!(
            "create the veth pair {} (host{port}) and {} (in {})",
            plan.host_end.name,
            plan.attachment.ifname,
            netns.path().display()
        );
        err.during_use_of(pairs, attempt)
    })
}

/// Checks that the container has no interface of the attachment's name.
///
/// # Errors
/// Code 100 when it has one; 8 and 101 when its namespace cannot be read.
pub fn ensure_name_is_free(host: &Host, netns: &Netns, attachment: &Attachment) -> Result<()> {
    let mut socket = netns.enter(&host.netns, container::open)?;
    let name = &attachment.ifname;
    match link::get(&mut socket, Which::Name(name)) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(name_taken(attachment, netns)),
        Err(err) => Err(err.during(format!("look up {name} in the container"))),
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

/// Removes the debris of a killed ADD of this attachment. True when there was any. The caller holds
/// the attachment's lock, so no ADD is under way for it.
///
/// # Errors
/// Code 100 when the host end is complete or not this attachment's; 101 when the kernel refuses.
pub fn clear_debris(socket: &mut RouteSocket, attachment: &Attachment) -> Result<bool> {
    let Some(found) = look_up(socket, attachment)? else {
        return Ok(false);
    };
    let exists = |msg: String| Error::new(Code::InterfaceExists, msg);
    match Ownership::of(&found) {
        Ownership::HalfMade => {
            remove(socket, attachment)?;
            Ok(true)
        }
        Ownership::Attachment(owner) if owner == *attachment => Err(exists(format!(
            "this attachment exists already (host end {})",
            found.name
        ))
        .hint("DEL it before adding it again")),
        Ownership::Attachment(other) => Err(exists(format!(
            "the host end's name {} is that of another attachment ({other})",
            found.name
        ))
        .hint("hash collision between two attachments: DEL one, or change its interface name")),
        Ownership::Foreign => Err(exists(format!(
            "a link named {} exists and is not ours",
            found.name
        ))
        .hint(format!("see: ip -d link show {}", found.name))),
    }
}

/// Removes the attachment's links, if they exist and belong to it: the pair, and the IFB if its
/// bandwidth is limited. True when the host end existed.
pub fn remove(socket: &mut RouteSocket, attachment: &Attachment) -> Result<bool> {
    remove_by(socket, attachment, |socket, indexes| {
        indexes
            .iter()
            .try_for_each(|index| link::delete(socket, *index))
    })
}

/// The same for a program that ends soon: it does not wait until the kernel has freed what they were.
pub(crate) fn remove_early(socket: &mut RouteSocket, attachment: &Attachment) -> Result<bool> {
    remove_by(socket, attachment, departure::remove)
}

fn remove_by(
    socket: &mut RouteSocket,
    attachment: &Attachment,
    by: impl Fn(&mut RouteSocket, &[u32]) -> Result<(), KernelError>,
) -> Result<bool> {
    let (host_end, ifb) = (host_end_name(attachment), ifb_name(attachment));
    let attempt = |what| format!("{what} {host_end} and {ifb}");
    let requests = [&host_end, &ifb].map(|name| link::get_request(Which::Name(name)));
    let answers = socket
        .exchange(requests.into())
        .during_with(|| attempt("look up"))?;
    let mut found = Vec::with_capacity(2);
    for answer in answers {
        match answer {
            Ok(messages) => {
                found.extend(link::first(messages).filter(|link| is_of(link, attachment)))
            }
            Err(err) if err.is(rustix::io::Errno::NODEV) => {}
            Err(err) => return Err(err.during(attempt("look up"))),
        }
    }
    let indexes: Vec<_> = found.iter().map(|link| link.index).collect();
    if !indexes.is_empty() {
        by(socket, &indexes).during_with(|| attempt("remove"))?;
    }
    Ok(found.iter().any(|link| link.name == host_end.as_str()))
}

/// Whether a link found half made is debris: its lock is free, and it is still half made.
///
/// # Errors
/// Codes 5 and 101 when the lock or the link cannot be checked.
pub fn is_debris(socket: &mut RouteSocket, found: &Link) -> Result<bool> {
    lock_debris(socket, found).map(|lock| lock.is_some())
}

/// Removes a half-made link of any attachment, unless an ADD is under way for it. True when it was
/// debris.
pub fn remove_debris(socket: &mut RouteSocket, found: &Link) -> Result<bool> {
    let Some(_lock) = lock_debris(socket, found)? else {
        return Ok(false);
    };
    link::delete(socket, found.index)
        .during_with(|| format!("remove the host end {}", found.name))?;
    Ok(true)
}

/// Takes the lock of a link and checks that it is still half made. None when it is not debris.
fn lock_debris(socket: &mut RouteSocket, found: &Link) -> Result<Option<Lock>> {
    let Some(name) = lock_name(&found.name) else {
        return Ok(None);
    };
    let Some(lock) = try_lock(&name)? else {
        return Ok(None);
    };
    let now = link::get(socket, Which::Index(found.index))
        .during_with(|| format!("look up {}", found.name))?;
    Ok(now.is_some_and(|now| is_half_made(&now)).then_some(lock))
}

/// Sets the port's flags, waits until the link is running, and sets the alias last.
pub(super) fn finish(
    socket: &mut RouteSocket,
    plan: &Plan,
    uplink: &Uplink<'_>,
    host_end: &Link,
) -> Result<Link> {
    let alias = link::alias_request(host_end.index, &alias(&plan.attachment));
    settle_with(socket, plan, uplink, host_end, Some(alias))
}

/// The same without the alias: the attachment is not complete yet.
pub(super) fn settle(
    socket: &mut RouteSocket,
    plan: &Plan,
    uplink: &Uplink<'_>,
    host_end: &Link,
) -> Result<Link> {
    settle_with(socket, plan, uplink, host_end, None)
}

fn settle_with(
    socket: &mut RouteSocket,
    plan: &Plan,
    uplink: &Uplink<'_>,
    host_end: &Link,
    last: Option<Request<RouteNetlinkMessage>>,
) -> Result<Link> {
    let index = host_end.index;
    let attempt = || format!("finish the host end {}", host_end.name);
    let mut batch = Vec::with_capacity(4);
    batch.extend(uplink.port_flags(host_end));
    // Reading a link's state makes the kernel update it first (linkwatch_sync_dev), so the port
    // forwards from here on; older kernels update it a moment later.
    batch.push(link::get_request(Which::Index(index)));
    batch.extend(uplink.settle_carrier());
    batch.extend(last);
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
