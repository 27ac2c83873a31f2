//! Tells the elements of dead containers from those of live ones.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{host_end, reclaim};
use crate::cni::{IfName, NetworkName};
use crate::kernel::nft::Element;
use crate::kernel::{KernelError, RouteSocket, link, route};
use crate::plan::elements::{address_of, target};
use crate::plan::{Mapper, abbreviated_owner, element_owner};

/// What is known of containers, asked once each.
pub(crate) struct Deaths<'a> {
    socket: &'a mut RouteSocket,
    /// By owner and target.
    known: HashMap<(String, Option<IpAddr>), bool>,
    /// What the namespaces behind the host's links have, once it was asked.
    visible: Option<Visible>,
    /// How many interfaces have an address.
    holders: HashMap<IpAddr, usize>,
}

/// The addresses in the namespaces behind the host's links.
#[derive(Default)]
struct Visible {
    addresses: HashSet<IpAddr>,
    /// Not all namespaces can be read, or one has its addresses elsewhere.
    is_partial: bool,
}

impl<'a> Deaths<'a> {
    pub(crate) fn new(socket: &'a mut RouteSocket) -> Self {
        Self {
            socket,
            known: HashMap::new(),
            visible: None,
            holders: HashMap::new(),
        }
    }

    /// True when it is known that the container of a port's element is gone.
    pub(super) fn include(&mut self, element: &Element) -> bool {
        let key = (element.owner.clone(), target(element));
        if let Some(is_dead) = self.known.get(&key) {
            return *is_dead;
        }
        let is_dead = match element_owner(&element.owner) {
            None => match abbreviated_owner(&element.owner) {
                Some((Mapper::Own, _, host_end)) => is_no_link(self.socket, &host_end),
                _ => false,
            },
            Some((Mapper::Own, owner)) if host_end::is_gone(self.socket, &owner) => true,
            // Another plugin may have wired the container; or it is a new life of the same ID.
            Some(_) => key.1.is_some_and(|ip| {
                // What cannot be read may be alive.
                self.is_unused(ip).unwrap_or(false)
            }),
        };
        self.known.insert(key, is_dead);
        is_dead
    }

    /// True when another container than the one that is being made, whose elements have this owner,
    /// has the element's address too: in another network, whose bridge has the same subnet. Within a
    /// network the store gives an address to one at a time, so the other is an earlier holder.
    pub(super) fn shares_its_address(&mut self, element: &Element, owner: &str) -> bool {
        if network_of(&element.owner) == network_of(owner) {
            return false;
        }
        let is_gone = match element_owner(&element.owner) {
            Some((Mapper::Own, owner)) => host_end::is_gone(self.socket, &owner),
            Some((Mapper::Chained | Mapper::Firewall, _)) => false,
            None => match abbreviated_owner(&element.owner) {
                Some((Mapper::Own, _, host_end)) => is_no_link(self.socket, &host_end),
                Some((Mapper::Chained | Mapper::Firewall, ..)) => false,
                None => true,
            },
        };
        if is_gone {
            return false;
        }
        let Some(ip) = address_of(element) else {
            return false;
        };
        let socket = &mut *self.socket;
        let holders = self.holders.entry(ip);
        // One of them is being made.
        *holders.or_insert_with(|| holders_of(socket, ip)) > 1
    }

    /// Whether it is known that no container of this host has the address.
    fn is_unused(&mut self, ip: IpAddr) -> Result<bool, KernelError> {
        if let Some(route) = route::towards(self.socket, ip)?
            && route.via.is_none()
        {
            // The namespaces behind bridges and pairs can be seen; a macvlan's or a physical link's
            // container cannot.
            let link = match route.link {
                Some(index) => link::get(self.socket, link::Which::Index(index))?,
                None => None,
            };
            if !link.is_some_and(|link| matches!(link.kind.as_str(), "bridge" | "veth")) {
                return Ok(false);
            }
        }
        let visible = match &mut self.visible {
            Some(visible) => visible,
            none => none.insert(look_behind_links(self.socket)?),
        };
        Ok(!visible.is_partial && !visible.addresses.contains(&ip))
    }
}

/// The network of an element's owner.
fn network_of(owner: &str) -> Option<NetworkName> {
    match element_owner(owner) {
        Some((_, attachment)) => Some(attachment.network),
        None => abbreviated_owner(owner).map(|(_, network, _)| network),
    }
}

/// Whether it is known that the host has no link of this name.
fn is_no_link(socket: &mut RouteSocket, name: &IfName) -> bool {
    matches!(link::get(socket, link::Which::Name(name)), Ok(None))
}

/// How many interfaces behind the host's links have the address; 0 when one cannot be read.
fn holders_of(socket: &mut RouteSocket, ip: IpAddr) -> usize {
    let namespaces = reclaim::addresses_behind_links(socket).ok().flatten();
    let all = namespaces.into_iter().flatten().flatten();
    all.filter(|has| *has == ip).count()
}

fn look_behind_links(socket: &mut RouteSocket) -> Result<Visible, KernelError> {
    let Some(namespaces) = reclaim::addresses_behind_links(socket)? else {
        return Ok(Visible {
            is_partial: true,
            ..Visible::default()
        });
    };
    // A sandbox with a network stack of its own (gVisor) takes the addresses off the interface.
    let is_global = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    Ok(Visible {
        is_partial: !namespaces
            .iter()
            .all(|addresses| addresses.iter().any(is_global)),
        addresses: namespaces.into_iter().flatten().collect(),
    })
}
