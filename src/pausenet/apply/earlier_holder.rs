//! Elements of nftables that a dead container left: who has its address next must not be reached by
//! them, and who wants its port must get it.
//!
//! A runtime's cache, a list of valid attachments and the address store may all say that the
//! container lives. What counts here is the kernel's state: nothing on the host has its address.

use std::collections::HashSet;
use std::net::IpAddr;

use super::dead_containers::Deaths;
use super::nft_elements::{self, open, remove_elements_where};
use crate::cni::Result;
use crate::cni::request::Attachment;
use crate::kernel::nft::{Element, Nft, Set};
use crate::plan::Mapper;
use crate::plan::elements::names_one_of;

/// Removes what names these addresses, or the attachment, if one of these places has an element.
/// The attachment is being made, so nothing in nftables can be its own yet. What another container
/// has that is alive with the same address, in another network, is left alone. Pass an open socket
/// if there is one; it comes back, as does one that was opened.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub(crate) fn clear(
    nft: Option<Nft>,
    attachment: &Attachment,
    addresses: &HashSet<IpAddr>,
    places: &[(Set, Vec<u8>)],
    deaths: &mut Deaths<'_>,
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
        let own = Mapper::Own.owner(attachment);
        remove_elements_where(&mut nft, |found| {
            is_of(attachment, found)
                || names_one_of(addresses, found) && !deaths.shares_its_address(found, &own)
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
    Mapper::ALL
        .into_iter()
        .any(|mapper| element.owner == mapper.owner(attachment))
}
