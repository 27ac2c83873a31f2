//! What attachments share and leave for the next one, when none is left: found and removed for the tools.
//! The plugin itself never removes it.

use std::collections::BTreeSet;

use super::bridge::is_marked;
use super::firewall;
use super::nft_elements::{amend, open};
use crate::cni::{During, NetworkName, Result};
use crate::kernel::link::{self, Link};
use crate::kernel::nft::{Change, Element, Nft, Table};
use crate::kernel::{KernelError, RouteSocket};
use crate::plan::closed_network;
use crate::plan::elements::{BRIDGE_TABLE, TABLE};

/// Our tables that exist and hold no attachment's element.
///
/// # Errors
/// The kernel's.
pub fn empty_tables() -> Result<Vec<Table>> {
    find_empty(&mut open()?).during("list the tables of nftables")
}

/// Removes our tables that hold no attachment's element; an ADD makes them again.
///
/// # Errors
/// The kernel's.
pub fn remove_empty_tables() -> Result<Vec<Table>> {
    let mut removed = Vec::new();
    amend(&mut open()?, "remove the empty tables of nftables", |nft| {
        removed = find_empty(nft)?;
        Ok(removed.iter().copied().map(Change::RemoveTable).collect())
    })?;
    Ok(removed)
}

fn find_empty(nft: &mut Nft) -> Result<Vec<Table>, KernelError> {
    let mut empty = Vec::new();
    for table in [TABLE, BRIDGE_TABLE] {
        let sets = nft.sets(table)?;
        if sets.is_empty() {
            continue;
        }
        let mut is_empty = true;
        for set in &sets {
            // What says that a network is closed is no attachment's.
            let is_attachment_s = |found: &Element| closed_network(&found.owner).is_none();
            is_empty = is_empty && !nft.elements(table, set)?.iter().any(is_attachment_s);
        }
        if is_empty {
            empty.push(table);
        }
    }
    Ok(empty)
}

/// The networks that have rules in other firewalls, or are closed against others.
///
/// # Errors
/// The kernel's.
pub fn networks_in_firewalls() -> Result<BTreeSet<NetworkName>> {
    firewall::networks()
}

/// Bridges without ports that the plugin made; known by their group, so not those that have lost their mark
/// since.
pub fn unused_bridges(links: &[Link]) -> Vec<&Link> {
    let is_unused = |link: &&Link| {
        let has_port = links.iter().any(|port| port.controller == Some(link.index));
        link.kind == "bridge" && is_marked(link) && !has_port
    };
    links.iter().filter(is_unused).collect()
}

/// Removes a bridge, unless it has a port. True when it is gone.
///
/// # Errors
/// The kernel's.
pub fn remove_unused_bridge(socket: &mut RouteSocket, bridge: &Link) -> Result<bool> {
    let attempt = || format!("remove bridge {}", bridge.name);
    let links = link::list(socket).during_with(attempt)?;
    if links
        .iter()
        .any(|port| port.controller == Some(bridge.index))
    {
        return Ok(false);
    }
    link::delete(socket, bridge.index).during_with(attempt)?;
    Ok(true)
}
