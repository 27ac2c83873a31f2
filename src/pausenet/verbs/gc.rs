//! GC: removes everything that no valid attachment owns. The runtime's list decides, because the
//! runtime owns the network; attachments of an ADD under way are left alone.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use crate::apply::{
    Host, element_record, nft_elements, reclaim_damaged, reclaim_empty, reference, remove_debris,
    try_lock,
};
use crate::cni::request::{Attachment, Network};
use crate::cni::{ContainerId, During, Error, IfName, Result};
use crate::ipam::Ipam;
use crate::kernel::link::Link;
use crate::kernel::nft::Element;
use crate::kernel::{RouteSocket, link};
use crate::plan::{BATCH_DELETE_GROUP, Ownership, abbreviated_owner, element_owner, host_end_name};

/// The valid attachments: those on the runtime's list, and those whose lock is held.
struct ValidAttachments<'a> {
    network: &'a Network,
    /// Of locks that could not be tried. Their attachments count as valid.
    lock_failure: Cell<Option<Error>>,
    /// IDs in the form that links carry.
    listed: HashSet<(Cow<'a, str>, &'a str)>,
    containers: HashSet<Cow<'a, str>>,
}

impl<'a> ValidAttachments<'a> {
    /// A config without the list says that none is valid, as `cnitool gc` means it: libcni has
    /// called DEL for all that it knew by then.
    fn new(network: &'a Network) -> Self {
        let listed = network.valid_attachments.iter();
        let listed = listed.map(|(id, ifname)| (ContainerId::shorten(id), ifname.as_str()));
        let listed: HashSet<_> = listed.collect();
        Self {
            network,
            lock_failure: Cell::new(None),
            containers: listed.iter().map(|(id, _)| id.clone()).collect(),
            listed,
        }
    }

    fn contains(&self, container: &str, ifname: &str) -> bool {
        let container = ContainerId::shorten(container);
        let attachment = (container, ifname);
        if self.listed.contains(&attachment) {
            return true;
        }
        let (container, _) = attachment;
        if ifname.is_empty() {
            // An address file of the old form, which names the container alone.
            return self.containers.contains(&container);
        }
        let attachment = Attachment::of_network(&self.network.name, &container, ifname);
        attachment.is_some_and(|attachment| match try_lock(&host_end_name(&attachment)) {
            Ok(lock) => lock.is_none(),
            Err(failure) => {
                self.lock_failure.set(Some(failure));
                true
            }
        })
    }

    /// The error of a lock that could not be tried: what it belongs to was left alone.
    fn lock_outcome(&self) -> Result<()> {
        self.lock_failure.take().map_or(Ok(()), Err)
    }

    fn attachments(&self) -> Vec<Attachment> {
        let listed = self.network.valid_attachments.iter();
        let parse = |(container, ifname): &(String, String)| {
            Attachment::of_network(&self.network.name, container, ifname)
        };
        listed.filter_map(parse).collect()
    }

    fn host_ends(&self) -> HashSet<IfName> {
        self.attachments().iter().map(host_end_name).collect()
    }

    /// Whether an attachment belongs to this network and is not valid.
    fn is_stale(&self, attachment: &Attachment) -> bool {
        attachment.network == self.network.name
            && !self.contains(attachment.container.as_str(), attachment.ifname.as_str())
    }
}

/// Serves GC for the plugins that wire containers: removes links, then nftables elements, and frees
/// the addresses last; those of a delegated IPAM first, as DEL does.
///
/// # Errors
/// All failures together, after removing everything possible.
pub(crate) fn run(network: &Network) -> Result<()> {
    let valid = ValidAttachments::new(network);
    let ipam = Ipam::to_release(network);
    let keep = |container: &str, ifname: &str| valid.contains(container, ifname);
    let stale = match &ipam {
        Ok(Some(ipam)) => ipam.stale(keep),
        _ => Ok(Vec::new()),
    };
    let (before, after) = match ipam {
        Ok(Some(ipam)) if ipam.is_delegated() => (ipam.collect(keep).map(drop), Ok(None)),
        ipam => (Ok(()), ipam),
    };
    join_errors([
        before,
        links(&valid),
        elements(&valid),
        other_firewalls(&valid),
        stale.and_then(|stale| reference::collect(&network.name, &valid.attachments(), &stale)),
        after.and_then(|ipam| match ipam {
            Some(ipam) if ipam.collect(keep)? => {
                reclaim_damaged(&ipam, SystemTime::now()).map(drop)
            }
            _ => Ok(()),
        }),
        valid.lock_outcome(),
    ])
}

/// Serves GC for `host-local`.
///
/// # Errors
/// Code 5, after freeing as many addresses as possible.
pub(super) fn addresses(network: &Network) -> Result<()> {
    if network.ipam.is_none() {
        return Ok(());
    }
    let valid = ValidAttachments::new(network);
    let ipam = Ipam::HostLocal(super::host_local::to_release(network)?);
    let keep = |container: &str, ifname: &str| valid.contains(container, ifname);
    let freed = ipam
        .collect(keep)
        .and_then(|has_damaged| match has_damaged {
            true => reclaim_empty(&ipam, SystemTime::now()).map(drop),
            false => Ok(()),
        });
    join_errors([freed, valid.lock_outcome()])
}

/// Serves GC for `portmap`.
pub(super) fn ports(network: &Network) -> Result<()> {
    let valid = ValidAttachments::new(network);
    let removed = elements(&valid);
    join_errors([removed, valid.lock_outcome()])
}

/// Serves GC for `firewall`.
pub(super) fn firewall(network: &Network) -> Result<()> {
    let valid = ValidAttachments::new(network);
    join_errors([
        elements(&valid),
        other_firewalls(&valid),
        valid.lock_outcome(),
    ])
}

/// Serves GC for `bandwidth`: the links that limit what containers send, which outlive them.
pub(super) fn limits(network: &Network) -> Result<()> {
    let valid = ValidAttachments::new(network);
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let mut outcome = Ok(());
    for found in links.into_iter().filter(|found| found.kind == "ifb") {
        let owner = Ownership::of(&found).attachment();
        if owner.is_some_and(|attachment| valid.is_stale(&attachment)) {
            outcome = outcome.and(remove(&mut socket, &found));
        }
    }
    join_errors([outcome, valid.lock_outcome()])
}

fn links(valid: &ValidAttachments<'_>) -> Result<()> {
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let (mut stale, mut debris, mut groups) = (Vec::new(), Vec::new(), HashSet::new());
    for found in links {
        match Ownership::of(&found) {
            Ownership::Attachment(attachment) if valid.is_stale(&attachment) => stale.push(found),
            Ownership::HalfMade => debris.push(found),
            Ownership::Attachment(_) | Ownership::Foreign => {
                groups.insert(found.group);
            }
        }
    }
    let mut outcome = Ok(());
    for found in &debris {
        // Unless an ADD is under way for it.
        outcome = outcome.and(remove_debris(&mut socket, found).map(drop));
    }
    let Some(group) = (BATCH_DELETE_GROUP..).find(|group| !groups.contains(group)) else {
        return outcome; // more groups than there can be links
    };
    for some in stale.chunks(TOGETHER) {
        outcome = outcome.and(remove_together(&mut socket, some, group));
    }
    outcome
}

/// How many links to remove at once. No other process can change links meanwhile.
const TOGETHER: usize = 64;

/// Puts links into a group of their own (which only another GC may share) and removes the group.
/// The kernel waits until no packet can be using the links only once per removal, so once for the
/// whole group.
fn remove_together(socket: &mut RouteSocket, links: &[Link], group: u32) -> Result<()> {
    if let [alone] = links {
        return remove(socket, alone);
    }
    let to_group = |link: &Link| link::group_request(link.index, group);
    let answers = socket
        .exchange(links.iter().map(to_group).collect())
        .during("put the host ends into one group")?;
    let mut outcome = Ok(());
    for (link, answer) in links.iter().zip(answers) {
        match answer {
            Err(refusal) if !refusal.is(rustix::io::Errno::NODEV) => {
                let attempt = format!("put the host end {} into a group", link.name);
                outcome = Err(refusal.during(attempt));
            }
            _ => {}
        }
    }
    link::delete_group(socket, group)
        .during_with(|| format!("remove {} host ends", links.len()))
        .and(outcome)
}

fn remove(socket: &mut RouteSocket, found: &Link) -> Result<()> {
    link::delete(socket, found.index).during_with(|| format!("remove the host end {}", found.name))
}

fn elements(valid: &ValidAttachments<'_>) -> Result<()> {
    let (mut stale, mut host_ends) = (HashMap::new(), None);
    let is_stale = |found: &Element| match element_owner(&found.owner) {
        Some((mapper, attachment)) if valid.is_stale(&attachment) => {
            stale.insert(found.owner.clone(), (mapper, attachment));
            true
        }
        Some(_) => false,
        None => match abbreviated_owner(&found.owner) {
            Some((_, network, host_end)) if network == valid.network.name => {
                let host_ends = host_ends.get_or_insert_with(|| valid.host_ends());
                // An ADD under way holds the lock.
                !host_ends.contains(&host_end) && matches!(try_lock(&host_end), Ok(Some(_)))
            }
            _ => false,
        },
    };
    nft_elements::remove_elements_where(&mut nft_elements::open()?, is_stale)?;
    for (mapper, attachment) in stale.values() {
        element_record::remove(attachment, *mapper);
    }
    Ok(())
}

/// Removes the network's rules from other firewalls when it has no attachment left. The bridge
/// stays, but an opening in another firewall must not outlast its use.
fn other_firewalls(valid: &ValidAttachments<'_>) -> Result<()> {
    if !valid.listed.is_empty() {
        return Ok(());
    }
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let in_use = links.iter().any(|found| match Ownership::of(found) {
        Ownership::Attachment(attachment) => attachment.network == valid.network.name,
        // An ADD under way, perhaps on this network.
        Ownership::HalfMade => true,
        Ownership::Foreign => false,
    });
    if in_use {
        return Ok(());
    }
    crate::apply::firewall::forget(&valid.network.name).map(drop)
}

/// Combines the errors of several steps into one.
fn join_errors<const N: usize>(outcomes: [Result<()>; N]) -> Result<()> {
    let mut errors = outcomes.into_iter().filter_map(Result::err);
    let Some(mut first) = errors.next() else {
        return Ok(());
    };
    for error in errors {
        // Several steps may meet the same.
        if !first.msg.contains(&error.msg) {
            first.msg = format!("{}; and {}", first.msg, error.msg);
        }
        if first.details.is_empty() {
            first.details = error.details;
        }
    }
    Err(first)
}
