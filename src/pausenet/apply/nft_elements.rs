//! An attachment's nftables elements: added by ADD, removed by DEL and GC.
//!
//! An element's key is an address or a port, and may belong to another owner by now. So a removal
//! first compares the owner, and it takes effect only if the ruleset has not changed in between.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

pub use super::claim::{Extent, port_of, restore_shared};
use super::element_record;
use crate::cni::request::{Attachment, Request};
use crate::cni::{Code, During, Error, Family, MacAddr, Result};
use crate::kernel::KernelError;
use crate::kernel::nft::{Chain, Change, Element, Nft, Set, Table, is_outdated};
use crate::plan::Mapper;
use crate::plan::elements::{
    BRIDGE_TABLE, DesiredElement, TABLE, elements_to_remove, flows_through, port_marks,
    shared_chains,
};

/// The attempt that errors of removals name.
pub(super) const REMOVAL: &str = "remove the attachment's elements from nftables";

/// How often a change is tried when the ruleset changed in between. Each failure means that another
/// program's change succeeded, so this many in a row are not a coincidence.
pub(super) const TRIES: usize = 64;

/// Checks that every desired element exists and belongs to the attachment, and that there are rules
/// that look them up.
///
/// # Errors
/// Code 102 for the first one that does not.
pub(crate) fn verify_elements(desired: &[DesiredElement]) -> Result<()> {
    if desired.is_empty() {
        return Ok(());
    }
    let lacks = |what: &str, table: Table, lost: &str, hint| {
        let what = format!("{what} of table {} in nftables {lost}", table.name);
        Err(Error::new(Code::AttachmentDiffers, what).hint(hint))
    };
    let mut nft = open()?;
    let found = look_up(&mut nft, desired)?;
    for (wanted, found) in desired.iter().zip(found) {
        if !found.is_some_and(|found| wanted.is_met_by(&found)) {
            let (set, lost) = (&wanted.set, "lacks this attachment's element");
            let hint = "another program may have flushed the ruleset; DEL and ADD again";
            return lacks(&set.name, set.table, lost, hint);
        }
    }
    let empty = empty_chain(&mut nft, desired);
    match empty.map_err(|err| explain(err, "list our rules in nftables"))? {
        None => Ok(()),
        Some(chain) => lacks(
            &format!("chain {}", chain.name),
            chain.table,
            "has no rules",
            "another program has flushed them; pausectl doctor --fix puts them back",
        ),
    }
}

/// A shared chain of the desired elements that is gone, or has no rules any more. One that another
/// version made may have others than ours, and another name.
fn empty_chain(nft: &mut Nft, desired: &[DesiredElement]) -> Result<Option<Chain>, KernelError> {
    let chains: Vec<_> = shared_chains(desired).collect();
    let names = chains.iter().flat_map(|chain| {
        let names = [&chain.name, chain.name.trim_start_matches("dnat_")];
        names.map(|name| (chain.table, name))
    });
    let uses = nft.uses(&names.collect::<Vec<_>>())?;
    for (chain, uses) in chains.into_iter().zip(uses.chunks(2)) {
        let has_rules = match chain.hook {
            Some(_) => uses.iter().flatten().any(|uses| *uses > 0),
            // Jumps to it count as uses, too.
            None => !nft.rules(chain.table, Some(&chain.name))?.is_empty(),
        };
        if !has_rules {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// The existing element under the key of each desired one.
pub(super) fn look_up(nft: &mut Nft, desired: &[DesiredElement]) -> Result<Vec<Option<Element>>> {
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

/// Removes the elements of an attachment: those that the request says, and if it had others, all that
/// there are. ADD may have had another config, and a result that went through other plugins may have
/// other addresses.
pub(crate) fn remove_elements(
    nft: &mut Nft,
    request: &Request,
    addresses: &[IpNetwork],
    mac: Option<MacAddr>,
) -> Result<()> {
    let attachment = &request.attachment;
    if let Some(known) = elements_to_remove(request, addresses, mac) {
        let removed = remove_elements_by_key(nft, &Mapper::Own.owner(attachment), &known)?;
        if !element_record::has_others(attachment, Mapper::Own, removed) {
            return Ok(());
        }
    }
    remove_all_elements_of(nft, attachment).map(drop)
}

/// Removes port mappings of an attachment that its request does not mention.
pub(crate) fn remove_unmentioned_port_elements(
    nft: &mut Nft,
    attachment: &Attachment,
    addresses: &[IpNetwork],
) -> Result<()> {
    let owner = Mapper::Own.owner(attachment);
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
    let owner = Mapper::Own.owner(attachment);
    remove_elements_where(nft, |found| found.owner == owner)
}

/// Removes those elements of `owner` that have the keys of these: lets them expire
/// ([`Change::Expire`]), waits until they have, and forgets the UDP flows through them. Returns how
/// many there were.
pub fn remove_elements_by_key(
    nft: &mut Nft,
    owner: &str,
    known: &[(Set, Element)],
) -> Result<usize> {
    if known.is_empty() {
        return Ok(0);
    }
    let most = Cell::new(0);
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
        let owned: Vec<_> = owned.collect();
        most.set(owned.len().max(most.get()));
        Ok(owned)
    };
    let change = |nft: &mut Nft, change: fn((Set, Element)) -> Change| {
        amend(nft, REMOVAL, |nft| {
            Ok(owned(nft)?.into_iter().map(change).collect())
        })
    };
    let is_done = match change(nft, |(set, element)| Change::Expire(set, element)) {
        Ok(false) => true,
        Ok(true) => has_ended(nft, &owned)?,
        Err(_) => false,
    };
    if !is_done {
        // The kernel does not support it, or the set was created without timeouts.
        change(nft, |(set, element)| Change::Remove(set, element.key))?;
    }
    // Also if there was none: the ruleset may have been flushed, and the flows not.
    forget_flows(nft, known.iter().map(|(_, element)| element))?;
    Ok(most.get())
}

/// Forgets the UDP flows through mapped ports that were removed. A flow lasts as long as packets
/// arrive, and would go on to the address's next holder.
pub(super) fn forget_flows<'a>(
    nft: &mut Nft,
    removed: impl Iterator<Item = &'a Element>,
) -> Result<()> {
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

pub(super) fn removal((set, element): &(Set, Element)) -> Change {
    Change::Remove(set.clone(), element.key.clone())
}

/// Removes every element in our tables for which `unwanted` is true, and forgets the UDP flows
/// through them.
pub(crate) fn remove_elements_where(
    nft: &mut Nft,
    mut unwanted: impl FnMut(&Element) -> bool,
) -> Result<bool> {
    remove_elements_by(nft, &mut unwanted)
}

fn remove_elements_by(nft: &mut Nft, unwanted: &mut dyn FnMut(&Element) -> bool) -> Result<bool> {
    /// More than this are listed in several parts. A set that grows or shrinks between them may hide some.
    const LISTED_WHOLE: usize = 64;
    let mut removed = Vec::new();
    let mut found = false;
    for _ in 0..TRIES {
        let before = removed.len();
        found |= amend(nft, REMOVAL, |nft| {
            let found = elements_where(nft, unwanted)?;
            let changes = found.iter().map(removal).collect();
            // All of them, if they are removed in parts.
            removed.extend(found);
            Ok(changes)
        })?;
        if removed.len() - before <= LISTED_WHOLE {
            break;
        }
    }
    forget_flows(nft, removed.iter().map(|(_, element)| element))?;
    Ok(found)
}

/// Every element in our tables for which `is_wanted` is true.
pub(super) fn elements_where(
    nft: &mut Nft,
    is_wanted: &mut dyn FnMut(&Element) -> bool,
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
    amend_by(nft, attempt, &mut find)
}

/// The same once for all callers: the program would be 20 kB larger with a copy for each.
fn amend_by(
    nft: &mut Nft,
    attempt: &str,
    find: &mut dyn FnMut(&mut Nft) -> Result<Vec<Change>, KernelError>,
) -> Result<bool> {
    let mut at_once = usize::MAX;
    let mut has_changed = false;
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        let generation = match nft.generation() {
            // A kernel without nftables has nothing to change.
            Err(err) if is_unknown(&err) => return Ok(false),
            generation => generation.map_err(|err| explain(err, attempt))?,
        };
        let mut changes = find(nft).map_err(|err| explain(err, attempt))?;
        if changes.is_empty() {
            return Ok(has_changed);
        }
        let is_all = changes.len() <= at_once;
        changes.truncate(at_once);
        match nft.commit(&changes, Some(generation)) {
            Ok(()) if is_all => return Ok(true),
            Ok(()) => {
                has_changed = true;
                tries = 0;
            }
            Err(failed) if is_outdated(&failed.error) => {}
            // Larger than the socket's send buffer, which may not grow: a part at a time.
            Err(failed)
                if failed.error.is(rustix::io::Errno::MSGSIZE)
                    && changes.len() > 1
                    && matches!(changes[0], Change::Remove(..)) =>
            {
                at_once = changes.len() / 2;
            }
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
    let hint = if is_unknown(&err) {
        NEEDED_PARTS
    } else if err.is(rustix::io::Errno::TOOBIG) {
        TOO_MANY_CHAINS
    } else {
        ""
    };
    err.during(attempt).hint(hint)
}

/// MAX_HOOK_COUNT of the kernel.
const TOO_MANY_CHAINS: &str = "the kernel takes at most 1024 chains at one hook, and every subnet \
     that is masqueraded or has mapped ports needs one: use fewer and larger subnets";

/// What to do about a kernel without nftables, or without a part of it.
pub(super) const NEEDED_PARTS: &str = "the kernel needs nf_tables with nat, masq, fib and ct \
     (CONFIG_NF_TABLES_INET, NF_TABLES_BRIDGE, NFT_NAT, NFT_MASQ, NFT_FIB_INET, NFT_CT)";

pub(super) fn too_many_changes(attempt: &str) -> Error {
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
        let removed = remove_elements_by_key(&mut nft, "pausenet n c eth0", &known);
        assert_eq!(removed.unwrap(), 0);
        let addresses = ["10.1.0.5/24".parse().unwrap()];
        remove_unmentioned_port_elements(&mut nft, &attachment, &addresses).unwrap();
    }
}
