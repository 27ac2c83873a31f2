//! Elements of nftables that a dead container left: who has its address next must not be reached by
//! them, and who wants its port must get it.
//!
//! A runtime's cache, a list of valid attachments and the address store may all say that the
//! container lives. What counts here is the kernel's state: nothing on the host has its address.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::nft_elements::{self, open, remove_elements_where};
use super::{reclaim, veth};
use crate::cni::Result;
use crate::cni::request::Attachment;
use crate::kernel::nft::{Element, Nft, Set};
use crate::kernel::{KernelError, RouteSocket, link, route};
use crate::plan::elements::{names_one_of, target};
use crate::plan::{Mapper, element_owner};

/// Removes what names these addresses, or the attachment, if one of these places has an element.
/// The attachment is being made, so nothing in nftables can be its own yet. Pass an open socket if
/// there is one; it comes back, as does one that was opened.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub(crate) fn clear(
    nft: Option<Nft>,
    attachment: &Attachment,
    addresses: &HashSet<IpAddr>,
    places: &[(Set, Vec<u8>)],
) -> Result<Option<Nft>> {
    if places.is_empty() {
        return Ok(nft);
    }
    let mut nft = nft.map_or_else(open, Ok)?;
    let places: Vec<_> = places.iter().map(|(set, key)| (set, key.clone())).collect();
    let found = match nft.look_up(&places) {
        // A kernel without nftables has no elements.
        Err(err) if nft_elements::is_unknown(&err) => return Ok(None),
        found => found.map_err(|err| nft_elements::explain(err, "look up elements in nftables"))?,
    };
    if found.into_iter().flatten().any(|found| !found.expires) {
        remove_elements_where(&mut nft, |found| {
            is_of(attachment, found) || names_one_of(addresses, found)
        })?;
    }
    Ok(Some(nft))
}

/// Removes every element of an attachment, whichever plugin mapped it. The attachment has ended.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub(crate) fn forget(attachment: &Attachment) -> Result<()> {
    let mut nft = open()?;
    match nft.generation() {
        Err(err) if nft_elements::is_unknown(&err) => return Ok(()),
        _ => {}
    }
    remove_elements_where(&mut nft, |found| is_of(attachment, found)).map(drop)
}

fn is_of(attachment: &Attachment, element: &Element) -> bool {
    element_owner(&element.owner).is_some_and(|(_, owner)| owner == *attachment)
}

/// Tells the elements of dead containers from those of live ones.
pub(super) struct Deaths<'a> {
    socket: &'a mut RouteSocket,
    /// By owner and target.
    known: HashMap<(String, Option<IpAddr>), bool>,
}

impl<'a> Deaths<'a> {
    pub(super) fn new(socket: &'a mut RouteSocket) -> Self {
        Self {
            socket,
            known: HashMap::new(),
        }
    }

    /// True when it is known that the container of a port's element is gone.
    pub(super) fn include(&mut self, element: &Element) -> bool {
        let key = (element.owner.clone(), target(element));
        if let Some(is_dead) = self.known.get(&key) {
            return *is_dead;
        }
        let is_dead = match element_owner(&element.owner) {
            None => false,
            Some((Mapper::Own, owner)) if veth::is_gone(self.socket, &owner) => true,
            // Another plugin may have wired the container; or it is a new life of the same ID.
            Some(_) => key.1.is_some_and(|ip| {
                // What cannot be read may be alive.
                is_unused(self.socket, ip).unwrap_or(false)
            }),
        };
        self.known.insert(key, is_dead);
        is_dead
    }
}

/// Whether it is known that no container of this host has the address.
fn is_unused(socket: &mut RouteSocket, ip: IpAddr) -> Result<bool, KernelError> {
    if let Some(route) = route::towards(socket, ip)?
        && route.via.is_none()
    {
        // The namespaces behind bridges and pairs can be seen; a macvlan's or a physical link's
        // container cannot.
        let link = match route.link {
            Some(index) => link::get(socket, link::Which::Index(index))?,
            None => None,
        };
        if !link.is_some_and(|link| matches!(link.kind.as_str(), "bridge" | "veth")) {
            return Ok(false);
        }
    }
    let Some(namespaces) = reclaim::addresses_behind_links(socket)? else {
        return Ok(false);
    };
    // A sandbox with a network stack of its own (gVisor) takes the addresses off the interface.
    let is_global = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    Ok(namespaces
        .iter()
        .all(|addresses| addresses.iter().any(is_global) && !addresses.contains(&ip)))
}
