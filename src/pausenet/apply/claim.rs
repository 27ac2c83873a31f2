//! Adds an attachment's nftables elements, all or none, and removes what is in their way.

use std::collections::HashSet;

use super::dead_containers::Deaths;
use super::nft_elements::{
    NEEDED_PARTS, REMOVAL, TRIES, elements_where, explain, forget_flows, look_up, open, removal,
    remove_elements_by_key, too_many_changes,
};
use crate::cni::{Code, During, Error, Result};
use crate::kernel::KernelError;
use crate::kernel::nft::{Change, Element, Nft, Set, Table, is_outdated};
use crate::plan::element_owner;
use crate::plan::elements::{
    DesiredElement, REPLACED_CHAINS, address_of, elements_of, names_one_of, shared_objects, target,
};

/// Adds the desired elements, all or none. Pass an open socket if there is one: closing a socket
/// has to wait for nftables' lock.
///
/// # Errors
/// Code 103 when a host port is taken; 101 when the kernel refuses.
pub(super) fn claim(
    nft: Option<Nft>,
    desired: &[DesiredElement],
    extent: Extent,
    mut deaths: Deaths<'_>,
) -> Result<()> {
    if desired.is_empty() {
        return Ok(());
    }
    let mut nft = nft.map_or_else(open, Ok)?;
    match claim_at_once(&mut nft, desired, extent, &mut deaths)? {
        Claimed::All => Ok(()),
        Claimed::TooMany => claim_in_parts(&mut nft, desired, extent, &mut deaths),
    }
}

/// The outcome of a transaction of additions.
#[derive(PartialEq, Eq)]
enum Claimed {
    All,
    /// None: they do not fit into the socket's send buffer, which needs CAP_NET_ADMIN on the host to
    /// grow beyond net.core.wmem_max.
    TooMany,
}

/// How many elements are added at once where a transaction for all is too large: half of the usual
/// send buffer at most.
const PART: usize = 400;

/// Adds the desired elements, part by part; none if one part is refused.
fn claim_in_parts(
    nft: &mut Nft,
    desired: &[DesiredElement],
    mut extent: Extent,
    deaths: &mut Deaths<'_>,
) -> Result<()> {
    let mut done: Vec<&DesiredElement> = Vec::new();
    for part in desired.chunks(PART) {
        let outcome = claim_at_once(nft, part, extent, deaths).and_then(|claimed| match claimed {
            Claimed::All => Ok(()),
            Claimed::TooMany => Err(explain(
                rustix::io::Errno::MSGSIZE.into(),
                "add the attachment's elements to nftables",
            )
            .hint("net.core.wmem_max is too small for a transaction")),
        });
        if let Err(err) = outcome {
            let done: Vec<_> = done.into_iter().cloned().collect();
            if let Some(first) = done.first() {
                let owner = first.element.owner.clone();
                let _ = remove_elements_by_key(nft, &owner, &elements_of(&done));
            }
            return Err(err);
        }
        done.extend(part);
        // What the first part has left of the owner's is new.
        extent = Extent::Part;
    }
    Ok(())
}

fn claim_at_once(
    nft: &mut Nft,
    desired: &[DesiredElement],
    extent: Extent,
    deaths: &mut Deaths<'_>,
) -> Result<Claimed> {
    let attempt = || "add the attachment's elements to nftables";
    let adds: Vec<_> = desired
        .iter()
        .map(|wanted| Change::Add(wanted.set.clone(), wanted.element.clone()))
        .collect();
    let (mut objects, mut removals) = (Vec::new(), Vec::new());
    let mut generation = None;
    for _ in 0..TRIES {
        let removing = removals.iter().map(removal);
        let changes: Vec<_> = objects.iter().cloned().chain(removing).collect();
        let changes = [changes, adds.clone()].concat();
        let error = match nft.commit(&changes, generation) {
            // What the tables themselves need.
            Err(failed) if !objects.is_empty() && failed.error.is(rustix::io::Errno::NOENT) => {
                return Err(failed.error.during(attempt()).hint(NEEDED_PARTS));
            }
            Ok(()) => {
                forget_flows(nft, removals.iter().map(|(_, element)| element))?;
                return Ok(Claimed::All);
            }
            Err(failed) if failed.error.is(rustix::io::Errno::MSGSIZE) => {
                return Ok(Claimed::TooMany);
            }
            Err(failed) => failed.error,
        };
        if error.is(rustix::io::Errno::NOENT) {
            // This is the first attachment of its kind, or the ruleset was flushed.
            objects = objects_to_make(nft, desired).during_with(attempt)?;
        } else if !error.is(rustix::io::Errno::EXIST) && !is_outdated(&error) {
            return Err(explain(error, attempt()));
        }
        if generation.is_some() || !error.is(rustix::io::Errno::NOENT) {
            generation = Some(nft.generation().during_with(attempt)?);
            removals = removals_for(nft, desired, extent, deaths)?;
        }
    }
    Err(too_many_changes(attempt()))
}

/// Restores the objects that these elements need and the rules of their chains, after the ruleset
/// was flushed. Existing elements stay.
pub fn restore_shared(desired: &[DesiredElement]) -> Result<()> {
    let attempt = "put our tables and chains back into nftables";
    let mut nft = open()?;
    let changes = objects_to_make(&mut nft, desired).during(attempt)?;
    nft.commit(&changes, None)
        .map_err(|failed| explain(failed.error, attempt))
}

/// The objects that these elements need, and the removal of chains that they replace.
fn objects_to_make(
    nft: &mut Nft,
    desired: &[DesiredElement],
) -> std::result::Result<Vec<Change>, KernelError> {
    let mut changes = shared_objects(desired);
    let replaced = nft.have(&REPLACED_CHAINS)?;
    let replaced = REPLACED_CHAINS.iter().zip(replaced);
    changes.extend(
        replaced
            .filter(|(_, is_there)| *is_there)
            .map(|((table, name), _)| Change::RemoveChain(*table, (*name).to_owned())),
    );
    Ok(changes)
}

/// How much of an attachment's elements are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All that the owner should have: it has no others.
    Whole,
    /// Some, of an attachment that is alive.
    Part,
}

/// What to remove to make room: elements under the desired keys whose owner is gone; and when an
/// address had an earlier holder, everything that names it.
///
/// # Errors
/// Code 103 when a host port is taken; 101 when the kernel refuses.
fn removals_for(
    nft: &mut Nft,
    desired: &[DesiredElement],
    extent: Extent,
    deaths: &mut Deaths<'_>,
) -> Result<Vec<(Set, Element)>> {
    let found = look_up(nft, desired)?;
    let mut removals = Vec::new();
    let mut has_earlier_holder = false;
    for (wanted, found) in desired.iter().zip(found) {
        let Some(found) = found else {
            continue;
        };
        let is_dead = found.expires
            || wanted.own_key
            || found.owner == wanted.element.owner
            || target(&found) == target(&wanted.element)
                && !deaths.shares_its_address(&found, &wanted.element.owner)
            || deaths.include(&found);
        if !is_dead {
            return Err(port_taken(&found));
        }
        let is_own = extent == Extent::Part && found.owner == wanted.element.owner;
        has_earlier_holder |= !found.expires && !is_own;
        removals.push((wanted.set.clone(), found));
    }
    if has_earlier_holder {
        let places: HashSet<_> = removals.iter().map(place).collect();
        let others = left_by_earlier_holders(nft, desired, extent, deaths)
            .map_err(|err| explain(err, REMOVAL))?
            .into_iter()
            .filter(|other| !places.contains(&place(other)));
        let others: Vec<_> = others.collect();
        removals.extend(others);
    }
    Ok(removals)
}

/// Elements that name an address of the desired ones, and those that an earlier life of the same
/// owner left.
fn left_by_earlier_holders(
    nft: &mut Nft,
    desired: &[DesiredElement],
    extent: Extent,
    deaths: &mut Deaths<'_>,
) -> Result<Vec<(Set, Element)>, KernelError> {
    let own = desired.iter().map(|wanted| &wanted.element);
    let addresses: HashSet<_> = own.clone().filter_map(address_of).collect();
    let owner = own.map(|element| element.owner.as_str()).next();
    let attachment = owner.and_then(element_owner).map(|(_, owner)| owner);
    elements_where(nft, &mut |found| {
        let found_owner = element_owner(&found.owner).map(|(_, owner)| owner);
        if found_owner.is_some() && found_owner == attachment {
            // The ports of a chained plugin are not the link's, and the other way round.
            return extent == Extent::Whole && owner == Some(&found.owner);
        }
        names_one_of(&addresses, found)
            && !deaths.shares_its_address(found, owner.unwrap_or_default())
    })
}

fn place((set, element): &(Set, Element)) -> (Table, String, Vec<u8>) {
    (set.table, set.name.clone(), element.key.clone())
}

fn port_taken(found: &Element) -> Error {
    let holder = match element_owner(&found.owner) {
        Some((_, other)) => other.to_string(),
        None if found.owner.is_empty() => "an element without a comment".to_owned(),
        None => found.owner.clone(),
    };
    Error::new(
        Code::PortTaken,
        format!("host port {} is mapped to {holder} already", port_of(found)),
    )
    .hint("choose another hostPort, or give each of the two a hostIP of its own")
}

/// The host port in the key of a port map's element, for example `8080/tcp`.
pub fn port_of(element: &Element) -> String {
    // The key ends with the protocol and the port, 4 bytes each.
    let (protocol, port) = match element
        .key
        .len()
        .checked_sub(8)
        .map(|at| &element.key[at..])
    {
        Some([protocol, _, _, _, high, low, ..]) => (*protocol, u16::from_be_bytes([*high, *low])),
        _ => (0, 0),
    };
    let protocol = match protocol {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => "?",
    };
    format!("{port}/{protocol}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::ports::PortsConf;
    use crate::kernel::RouteSocket;
    use crate::plan::elements::desired_port_elements;

    #[test]
    fn what_needs_nftables_names_it_when_it_is_missing() {
        let conf = PortsConf::for_test(r#"[{"hostPort": 53, "containerPort": 53}]"#);
        let ports = desired_port_elements(
            &conf,
            &["10.1.0.5/24".parse().unwrap()],
            "pausenet n c eth0",
        );
        let mut socket = RouteSocket::open().unwrap();
        let deaths = Deaths::new(&mut socket);
        let err = claim(Some(Nft::missing()), &ports, Extent::Whole, deaths).unwrap_err();
        assert_eq!(err.code, Code::KernelRefused);
        assert!(err.details.contains("CONFIG_NF_TABLES_INET"), "{err}");
    }
}
