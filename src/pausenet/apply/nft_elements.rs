//! An attachment's nftables elements: added by ADD, removed by DEL and GC.
//!
//! An element's key is an address or a port, and may belong to another owner by now. So a removal
//! first compares the owner, and it takes effect only if the ruleset has not changed in between.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::dead_containers::Deaths;
use crate::cni::request::{Attachment, Request};
use crate::cni::{Code, During, Error, Family, MacAddr, Result};
use crate::kernel::KernelError;
use crate::kernel::nft::{Change, Element, Nft, Set, Table, is_outdated};
use crate::plan::elements::{
    BRIDGE_TABLE, DesiredElement, REPLACED_CHAINS, TABLE, address_of, elements_to_remove,
    flows_through, names_one_of, port_marks, shared_objects, target,
};
use crate::plan::{alias, element_owner};

/// The attempt that errors of removals name.
const REMOVAL: &str = "remove the attachment's elements from nftables";

/// How often a change is tried when the ruleset changed in between. Each failure means that another
/// program's change succeeded, so this many in a row are not a coincidence.
const TRIES: usize = 64;

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
    let attempt = || "add the attachment's elements to nftables";
    let mut nft = nft.map_or_else(open, Ok)?;
    let adds: Vec<_> = desired
        .iter()
        .map(|wanted| Change::Add(wanted.set.clone(), wanted.element.clone()))
        .collect();
    let mut changes = adds.clone();
    let mut generation = None;
    let mut removed = Vec::new();
    let mut has_blocks = false;
    for _ in 0..TRIES {
        let error = match nft.commit(&changes, generation) {
            // What the tables themselves need.
            Err(failed) if has_blocks && failed.error.is(rustix::io::Errno::NOENT) => {
                return Err(failed.error.during(attempt()).hint(NEEDED_PARTS));
            }
            Ok(()) => return forget_flows(&mut nft, removed.iter()),
            Err(failed) => failed.error,
        };
        if error.is(rustix::io::Errno::NOENT) {
            // This is the first attachment of its kind, or the ruleset was flushed.
            changes = objects_to_make(&mut nft, desired).during_with(attempt)?;
            changes.extend(adds.iter().cloned());
            generation = None;
            has_blocks = true;
        } else if error.is(rustix::io::Errno::EXIST) || is_outdated(&error) {
            generation = Some(nft.generation().during_with(attempt)?);
            let removals = removals_for(&mut nft, desired, extent, &mut deaths)?;
            changes = removals.iter().map(removal).collect();
            changes.extend(adds.iter().cloned());
            removed = removals.into_iter().map(|(_, element)| element).collect();
            has_blocks = false;
        } else {
            return Err(explain(error, attempt()));
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
        let others = left_by_earlier_holders(nft, desired, extent)
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
) -> Result<Vec<(Set, Element)>, KernelError> {
    let own = desired.iter().map(|wanted| &wanted.element);
    let addresses: HashSet<_> = own.clone().filter_map(address_of).collect();
    let owner = own.map(|element| element.owner.as_str()).next();
    let attachment = owner.and_then(element_owner).map(|(_, owner)| owner);
    elements_where(nft, |found| {
        let found_owner = element_owner(&found.owner).map(|(_, owner)| owner);
        if found_owner.is_some() && found_owner == attachment {
            // The ports of a chained plugin are not the link's, and the other way round.
            return extent == Extent::Whole && owner == Some(&found.owner);
        }
        names_one_of(&addresses, found)
    })
}

fn place((set, element): &(Set, Element)) -> (Table, String, Vec<u8>) {
    (set.table, set.name.clone(), element.key.clone())
}

fn removal((set, element): &(Set, Element)) -> Change {
    Change::Remove(set.clone(), element.key.clone())
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

/// Checks that every desired element exists and belongs to the attachment.
///
/// # Errors
/// Code 102 for the first one that does not.
pub(crate) fn verify_elements(desired: &[DesiredElement]) -> Result<()> {
    if desired.is_empty() {
        return Ok(());
    }
    let found = look_up(&mut open()?, desired)?;
    for (wanted, found) in desired.iter().zip(found) {
        if !found.is_some_and(|found| wanted.is_met_by(&found)) {
            let set = &wanted.set;
            return Err(Error::new(
                Code::AttachmentDiffers,
                format!(
                    "{} of table {} in nftables lacks this attachment's element",
                    set.name, set.table.name
                ),
            )
            .hint("another program may have flushed the ruleset; DEL and ADD again"));
        }
    }
    Ok(())
}

/// The existing element under the key of each desired one.
fn look_up(nft: &mut Nft, desired: &[DesiredElement]) -> Result<Vec<Option<Element>>> {
    let wanted: Vec<_> = desired
        .iter()
        .map(|wanted| (&wanted.set, wanted.element.key.clone()))
        .collect();
    nft.look_up(&wanted)
        .map_err(|err| explain(err, "look up elements in nftables"))
}

/// Checks that nftables can be read and changed.
pub(crate) fn ready() -> Result<()> {
    let attempt = "ask for the generation of nftables";
    open()?
        .generation()
        .map(drop)
        .map_err(|err| explain(err, attempt))
}

/// Removes the elements of an attachment.
pub(crate) fn remove_elements(
    nft: &mut Nft,
    request: &Request,
    addresses: &[IpNetwork],
    mac: Option<MacAddr>,
) -> Result<bool> {
    match elements_to_remove(request, addresses, mac) {
        Some(known) => remove_elements_by_key(nft, &alias(&request.attachment), &known),
        None => remove_all_elements_of(nft, &request.attachment),
    }
}

/// Removes port mappings of an attachment that its request does not mention.
pub(crate) fn remove_unmentioned_port_elements(
    nft: &mut Nft,
    attachment: &Attachment,
    addresses: &[IpNetwork],
) -> Result<()> {
    let owner = alias(attachment);
    let marks = port_marks(addresses);
    let wanted: Vec<_> = marks.iter().map(|(set, key)| (set, key.clone())).collect();
    let found = match nft.look_up(&wanted) {
        // A kernel without nftables has no mappings, and must not make DEL fail.
        Err(err) if is_unknown(&err) => return Ok(()),
        found => found.map_err(|err| explain(err, REMOVAL))?,
    };
    if found
        .into_iter()
        .flatten()
        .any(|found| found.owner == owner)
    {
        remove_all_elements_of(nft, attachment)?;
    }
    Ok(())
}

/// Removes every element of an attachment, in all sets. True when there was one.
pub fn remove_all_elements_of(nft: &mut Nft, attachment: &Attachment) -> Result<bool> {
    let owner = alias(attachment);
    remove_elements_where(nft, |found| found.owner == owner)
}

/// Removes those elements of `owner` that have the keys of these: lets them expire
/// ([`Change::Expire`]), waits until they have, and forgets the UDP flows through them. True when
/// there was one.
pub fn remove_elements_by_key(
    nft: &mut Nft,
    owner: &str,
    known: &[(Set, Element)],
) -> Result<bool> {
    if known.is_empty() {
        return Ok(false);
    }
    let wanted: Vec<_> = known
        .iter()
        .map(|(set, element)| (set, element.key.clone()))
        .collect();
    let owned = |nft: &mut Nft| -> Result<Vec<(Set, Element)>, KernelError> {
        let found = nft.look_up(&wanted)?;
        let owned = wanted.iter().zip(found).filter_map(|((set, _), found)| {
            let found = found.filter(|found| found.owner == owner)?;
            Some(((*set).clone(), found))
        });
        Ok(owned.collect())
    };
    let change = |nft: &mut Nft, change: fn((Set, Element)) -> Change| {
        amend(nft, REMOVAL, |nft| {
            Ok(owned(nft)?.into_iter().map(change).collect())
        })
    };
    let found = match change(nft, |(set, element)| Change::Expire(set, element)) {
        Ok(false) => false,
        Ok(true) if has_ended(nft, &owned)? => true,
        // The kernel does not support it, or the set was created without timeouts.
        _ => {
            change(nft, |(set, element)| Change::Remove(set, element.key))?;
            true
        }
    };
    // Also if there was none: the ruleset may have been flushed, and the flows not.
    forget_flows(nft, known.iter().map(|(_, element)| element))?;
    Ok(found)
}

/// Forgets the UDP flows through mapped ports that were removed. A flow lasts as long as packets
/// arrive, and would go on to the address's next holder.
fn forget_flows<'a>(nft: &mut Nft, removed: impl Iterator<Item = &'a Element>) -> Result<()> {
    let flows: Vec<_> = removed.filter_map(flows_through).collect();
    if flows.is_empty() {
        return Ok(());
    }
    for family in Family::ALL {
        let of_family = flows.iter().filter(|(of, _)| *of == family);
        let of_family: Vec<_> = of_family.map(|(_, flows)| flows.clone()).collect();
        match nft.forget_udp(family, &of_family) {
            // A kernel that cannot list its flows did not map the ports.
            Err(error) if !is_unknown(&error) => {
                return Err(error.during("forget the flows through UDP ports that were mapped"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits until elements have expired; false when they do not. The kernel sends no notification, but
/// it takes only a tick.
fn has_ended(
    nft: &mut Nft,
    owned: &impl Fn(&mut Nft) -> Result<Vec<(Set, Element)>, KernelError>,
) -> Result<bool> {
    /// A few ticks of at most 10 ms.
    const LIMIT: Duration = Duration::from_millis(50);
    let start = Instant::now();
    loop {
        let left = owned(nft).map_err(|err| explain(err, REMOVAL))?;
        if left.is_empty() {
            return Ok(true);
        }
        if !left.iter().all(|(_, element)| element.expires) || start.elapsed() > LIMIT {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes every element in our tables for which `unwanted` is true, and forgets the UDP flows
/// through them.
pub(crate) fn remove_elements_where(
    nft: &mut Nft,
    unwanted: impl Fn(&Element) -> bool,
) -> Result<bool> {
    let mut removed = Vec::new();
    let found = amend(nft, REMOVAL, |nft| {
        removed = elements_where(nft, &unwanted)?;
        Ok(removed.iter().map(removal).collect())
    })?;
    forget_flows(nft, removed.iter().map(|(_, element)| element))?;
    Ok(found)
}

/// Every element in our tables for which `is_wanted` is true.
fn elements_where(
    nft: &mut Nft,
    is_wanted: impl Fn(&Element) -> bool,
) -> Result<Vec<(Set, Element)>, KernelError> {
    let mut wanted = Vec::new();
    for table in [TABLE, BRIDGE_TABLE] {
        for name in nft.sets(table)? {
            let elements = nft.elements(table, &name)?.into_iter();
            let found = elements.filter(|element| is_wanted(element));
            wanted.extend(found.map(|element| (by_name(table, &name), element)));
        }
    }
    Ok(wanted)
}

/// A set to remove from: only table and name matter.
fn by_name(table: Table, name: &str) -> Set {
    Set {
        table,
        name: name.to_owned(),
        key: Vec::new(),
        data: Vec::new(),
    }
}

/// Commits the changes that `find` returns, and retries if the ruleset changed in between. True
/// when there were any.
pub(super) fn amend(
    nft: &mut Nft,
    attempt: &str,
    mut find: impl FnMut(&mut Nft) -> Result<Vec<Change>, KernelError>,
) -> Result<bool> {
    for _ in 0..TRIES {
        let generation = match nft.generation() {
            // A kernel without nftables has nothing to change.
            Err(err) if is_unknown(&err) => return Ok(false),
            generation => generation.map_err(|err| explain(err, attempt))?,
        };
        let changes = find(nft).map_err(|err| explain(err, attempt))?;
        if changes.is_empty() {
            return Ok(false);
        }
        match nft.commit(&changes, Some(generation)) {
            Ok(()) => return Ok(true),
            Err(failed) if is_outdated(&failed.error) => {}
            // Removed in between.
            Err(failed) if failed.error.is(rustix::io::Errno::NOENT) => {}
            Err(failed) => return Err(explain(failed.error, attempt)),
        }
    }
    Err(too_many_changes(attempt))
}

/// Opens a socket for changes of the ruleset.
///
/// Closing it after a removal waits until no packet can be using what was removed, and holds a lock
/// meanwhile that every program's changes need. So do other waiting first.
pub fn open() -> Result<Nft> {
    Nft::open().during("open a netlink socket for nftables")
}

/// The errors of a kernel without the part that was asked.
pub(super) fn is_unknown(err: &KernelError) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT]
        .into_iter()
        .any(|errno| err.is(errno))
}

pub(super) fn explain(err: KernelError, attempt: &str) -> Error {
    let unknown = is_unknown(&err);
    let err = err.during(attempt);
    if unknown {
        return err.hint(NEEDED_PARTS);
    }
    err
}

/// What to do about a kernel without nftables, or without a part of it.
const NEEDED_PARTS: &str = "the kernel needs nf_tables with nat, masq, fib and ct \
     (CONFIG_NF_TABLES_INET, NF_TABLES_BRIDGE, NFT_NAT, NFT_MASQ, NFT_FIB_INET, NFT_CT)";

fn too_many_changes(attempt: &str) -> Error {
    Error::new(
        Code::TryAgainLater,
        format!("{attempt}: others changed the ruleset {TRIES} times in between"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::NetworkName;
    use crate::cni::ports::PortsConf;
    use crate::kernel::RouteSocket;
    use crate::plan::elements::{desired_port_elements, elements_of};

    fn ports() -> Vec<DesiredElement> {
        let conf =
            PortsConf::for_test(r#"[{"hostPort": 53, "containerPort": 53, "protocol": "udp"}]"#);
        desired_port_elements(
            &conf,
            &["10.1.0.5/24".parse().unwrap()],
            "pausenet n c eth0",
        )
    }

    #[test]
    fn a_kernel_without_nftables_has_nothing_to_remove() {
        let network = NetworkName::parse("n").unwrap();
        let attachment = Attachment::of_network(&network, "c", "eth0").unwrap();
        let mut nft = Nft::missing();
        assert!(!remove_all_elements_of(&mut nft, &attachment).unwrap());
        let known = elements_of(&ports());
        assert!(!remove_elements_by_key(&mut nft, "pausenet n c eth0", &known).unwrap());
        let addresses = ["10.1.0.5/24".parse().unwrap()];
        remove_unmentioned_port_elements(&mut nft, &attachment, &addresses).unwrap();
    }

    #[test]
    fn what_needs_nftables_names_it_when_it_is_missing() {
        let mut socket = RouteSocket::open().unwrap();
        let deaths = Deaths::new(&mut socket);
        let err = claim(Some(Nft::missing()), &ports(), Extent::Whole, deaths).unwrap_err();
        assert_eq!(err.code, Code::KernelRefused);
        assert!(err.details.contains("CONFIG_NF_TABLES_INET"), "{err}");
    }
}
