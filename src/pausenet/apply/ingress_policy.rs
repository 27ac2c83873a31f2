//! Closes a network against the containers of others, for the plugin `firewall`: elements that name the links of the
//! host by which its traffic goes. A bridge is its network's, and stays closed until GC finds the network without
//! attachments; a host end is the attachment's, and its elements go with it: in mode ptp that it is closed, and on a
//! bridge that it is isolated.

use std::collections::BTreeSet;

use super::host::Host;
use super::nft_elements::{
    amend, explain, look_up, open, ready, remove_elements_by_key, remove_elements_where,
};
use crate::cni::firewall::IngressPolicy;
use crate::cni::request::Attachment;
use crate::cni::result::AddResult;
use crate::cni::{Code, During, Error, IfName, NetworkName, Result};
use crate::kernel::KernelError;
use crate::kernel::link::{self, Link, Which};
use crate::kernel::nft::{Change, Nft};
use crate::plan::elements::{
    CLOSED, DesiredElement, TABLE, elements_of, ingress_elements, isolated_element, shared_chains,
    shared_objects,
};
use crate::plan::{Mapper, closed_network, network_owner};

const ATTEMPT: &str = "close the network against others in nftables";

/// The names of a result's interfaces on the host.
fn on_host(promised: &AddResult) -> impl Iterator<Item = &str> {
    let interfaces = promised.interfaces.iter();
    let interfaces = interfaces.filter(|interface| interface.sandbox.is_empty());
    interfaces.map(|interface| interface.name.as_str())
}

/// The links by which a container's traffic goes through the host.
pub(crate) struct Links {
    host_end: Link,
    /// The bridge that the host end is a port of, and links above it (the gateway's VLAN); empty in mode ptp.
    bridges: Vec<Link>,
}

impl Links {
    /// Those of a container that another plugin attached, by its result.
    ///
    /// # Errors
    /// Code 101 when the kernel cannot be asked.
    pub(crate) fn find(host: &mut Host, host_end: Link, promised: &AddResult) -> Result<Self> {
        let mut bridges = Vec::new();
        let is_other = |name: &&str| host_end.controller.is_some() && *name != host_end.name;
        for name in on_host(promised).filter(is_other) {
            let Ok(name) = IfName::parse(name) else {
                continue;
            };
            let found = link::get(&mut host.socket, Which::Name(&name))
                .during_with(|| format!("look up {name}"))?;
            bridges.extend(found.filter(|found| !matches!(found.kind.as_str(), "veth" | "ifb")));
        }
        Ok(Self { host_end, bridges })
    }

    /// The bridge, if the host end is a port of one that the result names.
    pub(crate) fn bridge(&self) -> Option<&Link> {
        let index = self.host_end.controller?;
        self.bridges.iter().find(|bridge| bridge.index == index)
    }

    /// The elements of all links, and those of them that the policy wants.
    fn elements(
        &self,
        attachment: &Attachment,
        policy: IngressPolicy,
    ) -> (Vec<DesiredElement>, Vec<DesiredElement>) {
        let own = Mapper::Firewall.owner(attachment);
        let (owner, links): (_, Vec<_>) = match self.bridges.is_empty() {
            true => (own.clone(), vec![&self.host_end]),
            false => (
                network_owner(&attachment.network),
                self.bridges.iter().collect(),
            ),
        };
        let names = links
            .iter()
            .filter_map(|link| IfName::parse(&link.name).ok());
        let (mut all, mut wanted) = (Vec::new(), Vec::new());
        for name in names {
            let [closed, inside] = ingress_elements(&name, &owner);
            match policy {
                IngressPolicy::Open => {}
                IngressPolicy::SameBridge => wanted.extend([closed.clone(), inside.clone()]),
                IngressPolicy::Isolated => wanted.push(closed.clone()),
            }
            all.extend([closed, inside]);
        }
        if self.bridge().is_some() {
            let host_end = IfName::parse(&self.host_end.name);
            let isolated = host_end.map(|host_end| isolated_element(&host_end, &own));
            // What a bridge switches is not forwarded, unless br_netfilter makes it so.
            wanted.extend(
                isolated
                    .iter()
                    .filter(|_| policy == IngressPolicy::Isolated)
                    .cloned(),
            );
            all.extend(isolated);
        }
        (all, wanted)
    }
}

/// Closes the network, or with the policy `open` leaves it as it is.
///
/// # Errors
/// Code 101 when the kernel refuses; 11 when other programs keep changing the ruleset.
pub(crate) fn close(links: &Links, attachment: &Attachment, policy: IngressPolicy) -> Result<()> {
    if policy == IngressPolicy::Open {
        return Ok(());
    }
    let (all, wanted) = links.elements(attachment, policy);
    // A kernel without nftables leaves it open.
    ready()?;
    amend(&mut open()?, ATTEMPT, |nft| {
        let places: Vec<_> = all
            .iter()
            .map(|one| (&one.set, one.element.key.clone()))
            .collect();
        let found = nft.look_up(&places)?;
        let mut changes = Vec::new();
        for (one, found) in all.iter().zip(found) {
            let is_wanted = wanted.contains(one);
            // One that expires is what a DEL just now has left.
            if is_wanted && found.as_ref().is_some_and(|found| !found.expires) {
                continue;
            }
            changes.extend(found.map(|found| Change::Remove(one.set.clone(), found.key)));
            if is_wanted {
                changes.push(Change::Add(one.set.clone(), one.element.clone()));
            }
        }
        if !changes.is_empty() {
            changes = [shared_objects(&wanted), changes].concat();
        }
        Ok(changes)
    })?;
    Ok(())
}

/// Checks that the network is closed as the policy wants.
///
/// # Errors
/// Code 102 when it is not; 101 when the kernel cannot be asked.
pub(crate) fn verify(links: &Links, attachment: &Attachment, policy: IngressPolicy) -> Result<()> {
    if policy == IngressPolicy::Open {
        return Ok(());
    }
    let (all, wanted) = links.elements(attachment, policy);
    let mut nft = open()?;
    let found = look_up(&mut nft, &all)?;
    let as_wanted =
        |(one, found): (&DesiredElement, _)| wanted.contains(one) == Option::is_some(&found);
    let chains: Vec<_> = shared_chains(&wanted).collect();
    let chains: Vec<_> = chains
        .iter()
        .map(|chain| (chain.table, chain.name.as_str()))
        .collect();
    let uses = nft.uses(&chains);
    let uses = uses.map_err(|err| explain(err, "look up elements in nftables"))?;
    let has_rules = uses.iter().all(|uses| uses.is_some_and(|uses| uses > 0));
    if all.iter().zip(found).all(as_wanted) && has_rules {
        return Ok(());
    }
    Err(Error::new(
        Code::AttachmentDiffers,
        "the network is not closed against others as its ingressPolicy says",
    )
    .hint("another program may have flushed the ruleset; DEL and ADD again"))
}

/// Opens what was closed for one attachment alone: its host end. Without its result, all elements are
/// searched.
pub(crate) fn open_again(attachment: &Attachment, promised: Option<&AddResult>) -> Result<()> {
    let owner = Mapper::Firewall.owner(attachment);
    let mut nft = open()?;
    let Some(promised) = promised else {
        return remove_elements_where(&mut nft, |found| found.owner == owner).map(drop);
    };
    let names = on_host(promised).filter_map(|name| IfName::parse(name).ok());
    let known: Vec<_> = names
        .flat_map(|name| {
            let [closed, inside] = ingress_elements(&name, &owner);
            elements_of(&[closed, inside, isolated_element(&name, &owner)])
        })
        .collect();
    remove_elements_by_key(&mut nft, &owner, &known).map(drop)
}

/// Opens a network that has no attachment any more. True when it was closed.
pub(super) fn forget(network: &NetworkName) -> Result<bool> {
    let owner = network_owner(network);
    let mut nft = open()?;
    // Most networks were never closed.
    match networks(&mut nft) {
        Ok(closed) if !closed.contains(network) => Ok(false),
        _ => remove_elements_where(&mut nft, |found| found.owner == owner),
    }
}

/// The networks that are closed by their bridge.
pub(super) fn networks(nft: &mut Nft) -> Result<BTreeSet<NetworkName>, KernelError> {
    let found = nft.elements(TABLE, CLOSED)?;
    let owners = found.iter().map(|found| found.owner.as_str());
    Ok(owners.filter_map(closed_network).collect())
}
