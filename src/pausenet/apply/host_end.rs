//! Finds the host end of an attachment.

use crate::cni::request::Attachment;
use crate::cni::{During, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::{RouteSocket, link};
use crate::plan::{Ownership, host_end_name};

/// The host end of an attachment, complete or half made. None when it is gone, or when the link of
/// this name belongs to another attachment.
pub fn host_end(socket: &mut RouteSocket, attachment: &Attachment) -> Result<Option<Link>> {
    let link = look_up(socket, attachment)?;
    Ok(link.filter(|link| is_of(link, attachment)))
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
