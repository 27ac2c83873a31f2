//! GC: removes what no valid attachment owns. The runtime's list decides, for it owns the
//! network; what an ADD is making right now is left alone.

use std::collections::HashSet;

use crate::apply::{Host, is_at_work, reference, rules, try_lock};
use crate::cni::request::{Attachment, Network};
use crate::cni::{Code, During, Error, Result};
use crate::ipam::Ipam;
use crate::kernel::link::{Link, Which};
use crate::kernel::nft::Element;
use crate::kernel::{RouteSocket, link};
use crate::plan::{self, CONDEMNED_GROUP, LINK_GROUP, Owner};

/// What is valid: the runtime's list, and whatever somebody holds the lock of.
struct Valid<'a> {
    network: &'a Network,
    listed: HashSet<(&'a str, &'a str)>,
}

impl<'a> Valid<'a> {
    /// # Errors
    /// Code 7 when the runtime gave no list: that is not an empty one.
    fn new(network: &'a Network) -> Result<Self> {
        let Some(list) = &network.valid_attachments else {
            return Err(Error::new(
                Code::InvalidConfig,
                "GC without \"cni.dev/valid-attachments\"; nothing was removed",
            )
            .hint("an empty list means that no attachment is valid; a missing one means nothing"));
        };
        let listed = list
            .iter()
            .map(|(id, ifname)| (id.as_str(), ifname.as_str()))
            .collect();
        Ok(Self { network, listed })
    }

    fn keeps(&self, container: &str, ifname: &str) -> bool {
        if self.listed.contains(&(container, ifname)) {
            return true;
        }
        if ifname.is_empty() {
            // An old address file, which names the container alone.
            return self.listed.iter().any(|(listed, _)| *listed == container);
        }
        Attachment::of_network(&self.network.name, container, ifname)
            .is_some_and(|attachment| is_at_work(&attachment))
    }

    fn attachments(&self) -> Vec<Attachment> {
        let parse = |(container, ifname): &(&str, &str)| {
            Attachment::of_network(&self.network.name, container, ifname)
        };
        self.listed.iter().filter_map(parse).collect()
    }

    fn wants_gone(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Attachment(attachment) => {
                attachment.network == self.network.name
                    && !self.keeps(attachment.container.as_str(), attachment.ifname.as_str())
            }
            Owner::Nobody | Owner::Foreign(_) => false,
        }
    }
}

/// Serves GC for the plugins that wire containers: links first, then nftables, and the
/// addresses last.
///
/// # Errors
/// All that went wrong, together, after everything that could be removed was.
pub fn run(network: &Network) -> Result<()> {
    let valid = Valid::new(network)?;
    let ipam = Ipam::new(network);
    let keep = |container: &str, ifname: &str| valid.keeps(container, ifname);
    let stale = match &ipam {
        Ok(Some(ipam)) => ipam.stale(keep),
        _ => Ok(Vec::new()),
    };
    together([
        links(&valid),
        elements(&valid),
        firewall(&valid),
        stale.and_then(|stale| reference::collect(&network.name, &valid.attachments(), &stale)),
        ipam.and_then(|ipam| match ipam {
            Some(ipam) => ipam.collect(keep),
            None => Ok(()),
        }),
    ])
}

/// Serves GC for `host-local`.
///
/// # Errors
/// Code 5 after having freed what could be.
pub fn addresses(network: &Network) -> Result<()> {
    let valid = Valid::new(network)?;
    match Ipam::new(network)? {
        Some(ipam) => ipam.collect(|container, ifname| valid.keeps(container, ifname)),
        None => Ok(()),
    }
}

/// Serves GC for `portmap`.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn ports(network: &Network) -> Result<()> {
    elements(&Valid::new(network)?)
}

fn links(valid: &Valid) -> Result<()> {
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let (unwanted, kept): (Vec<_>, Vec<_>) = links
        .into_iter()
        .partition(|found| valid.wants_gone(&Owner::of(found.alias.as_deref())));
    let mut outcome = Ok(());
    for found in kept.iter().filter(|found| found.group == LINK_GROUP) {
        if Owner::of(found.alias.as_deref()) == Owner::Nobody {
            outcome = outcome.and(remove_debris(&mut socket, found).map(drop));
        }
    }
    let is_free = |group: &u32| kept.iter().all(|found| found.group != *group);
    let Some(group) = (CONDEMNED_GROUP..).find(is_free) else {
        return outcome; // more groups than there can be links
    };
    for some in unwanted.chunks(TOGETHER) {
        outcome = outcome.and(remove_together(&mut socket, some, group));
    }
    outcome
}

/// How many links are removed at once. The kernel lets nobody else change links meanwhile.
const TOGETHER: usize = 64;

/// Removes links by a group that nobody else is in, but for those that another GC condemns. For
/// each removal the kernel waits until no packet can be using what it removes, and it does so
/// once for all of a group.
fn remove_together(socket: &mut RouteSocket, links: &[Link], group: u32) -> Result<()> {
    if let [alone] = links {
        return remove(socket, alone);
    }
    let condemn = |link: &Link| link::group_request(link.index, group);
    let answers = socket
        .exchange(links.iter().map(condemn).collect())
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

/// Removes a half-made link. It is debris, whosever it was, unless its maker is still at work.
/// Only its lock tells: so it is taken first, and the link looked at once more. True when it was
/// debris.
///
/// # Errors
/// Codes 5 and 101.
pub fn remove_debris(socket: &mut RouteSocket, found: &Link) -> Result<bool> {
    let Some(_lock) = plan::lock_name(&found.name)
        .map(|name| try_lock(&name))
        .transpose()?
        .flatten()
    else {
        return Ok(false);
    };
    let now = link::get(socket, Which::Index(found.index))
        .during_with(|| format!("look up {}", found.name))?;
    let is_debris = now.is_some_and(|now| now.alias.is_none() && now.group == LINK_GROUP);
    if is_debris {
        remove(socket, found)?;
    }
    Ok(is_debris)
}

fn elements(valid: &Valid) -> Result<()> {
    let unwanted = |found: &Element| valid.wants_gone(&plan::element_owner(&found.owner));
    rules::release_where(&mut rules::open()?, unwanted).map(drop)
}

/// What other firewalls were told of the network goes when it has no attachment any more. The
/// bridge stays, but a hole in another's firewall is not to outlive its use.
fn firewall(valid: &Valid) -> Result<()> {
    if !valid.listed.is_empty() {
        return Ok(());
    }
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let in_use =
        links
            .iter()
            .filter(|found| found.group == LINK_GROUP)
            .any(|found| match Owner::of(found.alias.as_deref()) {
                Owner::Attachment(attachment) => attachment.network == valid.network.name,
                // Of an ADD at work, and perhaps on this network.
                Owner::Nobody => true,
                Owner::Foreign(_) => false,
            });
    if in_use {
        return Ok(());
    }
    crate::apply::firewall::forget(&valid.network.name).map(drop)
}

/// Goes on after errors and reports them together.
fn together<const N: usize>(outcomes: [Result<()>; N]) -> Result<()> {
    let mut errors = outcomes.into_iter().filter_map(Result::err);
    let Some(mut first) = errors.next() else {
        return Ok(());
    };
    for error in errors {
        first.msg = format!("{}; and {}", first.msg, error.msg);
        if first.details.is_empty() {
            first.details = error.details;
        }
    }
    Err(first)
}
