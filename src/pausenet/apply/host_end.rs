//! Finds the host end of an attachment.

use super::container;
use super::host::Host;
use crate::cni::request::Attachment;
use crate::cni::{Code, During, Error, IfName, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::netns::Netns;
use crate::kernel::{RouteSocket, link};
use crate::plan::{Ownership, host_end_name};

/// The host end of an attachment, complete or half made. None when it is gone, or when the link of
/// this name belongs to another attachment.
pub fn host_end(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let link = look_up(socket, attachment)?;
    Ok(link.filter(|link| is_of(link, attachment)))
}

/// The host end of a container's interface that any plugin made.
///
/// # Errors
/// Code 7 when the interface is missing or is no end of a veth pair whose other end is on the host.
pub(crate) fn host_end_in(host: &mut Host, netns: &Netns, ifname: &IfName) -> Result<Link> {
    let place = netns.path().display();
    let attempt = || format!("look up the host end of {ifname} in {place}");
    let lacks = |what: &str| {
        Error::new(Code::InvalidConfig, format!("{ifname} in {place} {what}"))
            .hint("this plugin goes into a conflist behind one that makes a veth pair, such as bridge or ptp")
    };
    let mut inside = netns.enter(&host.netns, container::open)?;
    let end = link::get(&mut inside, Which::Name(ifname)).during_with(attempt)?;
    let end = end.ok_or_else(|| lacks("does not exist"))?;
    let index = end.peer.filter(|_| end.kind == "veth");
    let index = index.ok_or_else(|| lacks("is no end of a veth pair"))?;
    let found = link::get(&mut host.socket, Which::Index(index)).during_with(attempt)?;
    // Another namespace's links have the same numbers.
    found
        .filter(|found| found.kind == "veth" && found.peer == Some(end.index))
        .ok_or_else(|| lacks("has its other end in another namespace than the host's"))
}

/// True when it is known that the attachment has no host end.
pub(super) fn is_gone(socket: &mut RouteSocket, attachment: &Attachment) -> bool {
    matches!(host_end(socket, attachment), Ok(None))
}

/// The link that has the name of the attachment's host end, whosever it is.
pub(super) fn look_up(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let name = host_end_name(attachment);
    link::get(socket, Which::Name(&name)).during_with(|| format!("look up the host end {name}"))
}

/// True when a link with the attachment's name belongs to it, complete or half made.
pub(super) fn is_of(link: &Link, attachment: &Attachment) -> bool {
    match Ownership::of(link) {
        Ownership::Attachment(owner) => owner == *attachment,
        Ownership::HalfMade => true,
        Ownership::Foreign => false,
    }
}
