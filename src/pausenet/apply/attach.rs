//! ADD's changes to the kernel, in order: first what is shared, then the veth pair, and last the
//! alias, which marks the attachment as complete.

use super::bandwidth::Limiter;
use super::claim::{Extent, claim as claim_elements};
use super::dead_containers::Deaths;
use super::earlier_holder;
use super::host::Host;
use super::settings::{forward, refuse_router_advertisements};
use super::uplink::Uplink;
use super::{container, element_record, firewall, nft_elements, ports, veth};
use crate::cni::{Code, Error, Result};
use crate::kernel::link::Link;
use crate::kernel::netns::Netns;
use crate::kernel::nft::Nft;
use crate::plan::elements::elements_of;
use crate::plan::{Mapper, Plan};

/// The links of a new attachment, for the result.
#[derive(Debug)]
pub(crate) struct Attached<'plan> {
    pub(crate) uplink: Uplink<'plan>,
    pub(crate) host_end: Link,
    /// The IFB that limits what the container sends, if it is limited.
    pub(crate) ifb: Option<Link>,
}

/// Applies the plan. On failure, everything that belongs to this attachment is undone.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 103 when a host port is taken; 7 when a
/// link of another kind has the bridge's name, or the bridge has a conflicting address; 5 and 101
/// when the kernel refuses a change.
pub(crate) fn attach<'plan>(
    host: &mut Host,
    netns: &Netns,
    plan: &'plan Plan,
) -> Result<Attached<'plan>> {
    let (uplink, nft) = prepare(host, plan)?;
    let pair = NewPair::create(host, netns, plan, uplink)?;
    pair.complete(host, nft)
        .inspect_err(|_| remove_pair(host, plan))
}

/// Creates the links of an attachment whose addresses are not known yet, and switches them on: a
/// delegated IPAM may look at the interface, or send by it. What of the plan needs an address is
/// left to [`attach_links`].
///
/// # Errors
/// Those of [`attach`].
pub(crate) fn create_links(host: &mut Host, netns: &Netns, plan: &Plan) -> Result<Link> {
    let (uplink, nft) = prepare(host, plan)?;
    let pair = NewPair::create(host, netns, plan, uplink)?;
    pair.switch_on(host, nft)
        .inspect_err(|_| remove_pair(host, plan))
}

/// Applies the rest of a plan to the links of [`create_links`], given by their host end. On failure,
/// the links stay: the IPAM may need them to take its addresses back. See [`remove_links`].
///
/// # Errors
/// Those of [`attach`].
pub(crate) fn attach_links<'plan>(
    host: &mut Host,
    netns: &Netns,
    plan: &'plan Plan,
    host_end: Link,
) -> Result<Attached<'plan>> {
    let (uplink, nft) = prepare(host, plan)?;
    let pair = NewPair {
        netns,
        plan,
        uplink,
        host_end,
    };
    pair.complete(host, nft)
}

/// Undoes [`create_links`].
pub(crate) fn remove_links(host: &mut Host, plan: &Plan) {
    remove_pair(host, plan);
    forget_elements(plan);
}

/// Removes the links of an ADD that failed.
fn remove_pair(host: &mut Host, plan: &Plan) {
    // An error here would not help the reader: what is left has no alias, so the next ADD or DEL
    // removes it as debris.
    let _ = veth::remove(&mut host.socket, &plan.attachment);
}

/// Creates what attachments share, if it is missing. Returns the nftables socket, if one was opened.
fn prepare<'plan>(host: &mut Host, plan: &'plan Plan) -> Result<(Uplink<'plan>, Option<Nft>)> {
    let uplink = Uplink::prepare(&mut host.socket, plan)?;
    forward(&mut host.socket, plan.forward)?;
    let nft = firewall::ensure(&plan.allowed_traffic)?;
    uplink.clear_mark(&mut host.socket)?;
    Ok((uplink, nft))
}

/// A veth pair without an alias: half made until [`complete`](Self::complete).
struct NewPair<'a, 'plan> {
    netns: &'a Netns,
    plan: &'plan Plan,
    uplink: Uplink<'plan>,
    host_end: Link,
}

impl<'a, 'plan> NewPair<'a, 'plan> {
    /// Creates the pair, with the settings of the host end that need no address.
    fn create(
        host: &mut Host,
        netns: &'a Netns,
        plan: &'plan Plan,
        uplink: Uplink<'plan>,
    ) -> Result<Self> {
        let host_end = veth::create(host, netns, plan, uplink.controller())?;
        refuse_router_advertisements(&host_end, &plan.host_end.name);
        uplink
            .set_up(&mut host.socket, plan, &host_end)
            .inspect_err(|_| remove_pair(host, plan))?;
        Ok(Self {
            netns,
            plan,
            uplink,
            host_end,
        })
    }

    /// Switches both ends on, without addresses, and waits until the host end can carry traffic.
    fn switch_on(self, host: &mut Host, nft: Option<Nft>) -> Result<Link> {
        let Self {
            netns,
            plan,
            uplink,
            host_end,
        } = self;
        // The guard against forged MACs comes before what it guards.
        claim_elements(
            nft,
            &plan.elements,
            Extent::Whole,
            Deaths::new(&mut host.socket),
        )?;
        container::switch_on(host, netns, plan, peer_of(&host_end)?)
            .and_then(|()| veth::settle(&mut host.socket, plan, &uplink, &host_end))
            .inspect_err(|_| forget_elements(plan))
    }

    /// Configures both ends and sets the alias last.
    fn complete(self, host: &mut Host, nft: Option<Nft>) -> Result<Attached<'plan>> {
        let Self {
            netns,
            plan,
            uplink,
            host_end,
        } = self;
        let container_index = peer_of(&host_end)?;
        let mut inside = container::configure(host, netns, plan, container_index)?;
        uplink.route(&mut host.socket, plan, &host_end)?;
        let ifb = match &plan.bandwidth {
            Some(limits) => {
                Limiter::own(&plan.attachment, &host_end).set(&mut host.socket, limits)?
            }
            None => None,
        };
        let finished = claim(host, plan, &uplink, nft)
            .and_then(|()| container::settle(host, netns, plan, container_index, &mut inside))
            .and_then(|()| veth::finish(&mut host.socket, plan, &uplink, &host_end))
            .inspect_err(|_| forget_elements(plan))?;
        if uplink.announces() {
            container::announce(&mut inside, plan, container_index);
        }
        Ok(Attached {
            uplink,
            host_end: finished,
            ifb,
        })
    }
}

fn peer_of(host_end: &Link) -> Result<u32> {
    host_end.peer.ok_or_else(|| {
        Error::new(
            Code::Internal,
            format!("the kernel gave {} no peer", host_end.name),
        )
    })
}

/// Removes the nftables elements of an ADD that failed.
fn forget_elements(plan: &Plan) {
    if plan.elements.is_empty() {
        return;
    }
    let owner = Mapper::Own.owner(&plan.attachment);
    let known = elements_of(&plan.elements);
    let removed = nft_elements::open()
        .and_then(|mut nft| nft_elements::remove_elements_by_key(&mut nft, &owner, &known));
    if removed.is_ok() {
        element_record::remove(&plan.attachment, Mapper::Own);
    }
}

/// Adds the attachment's nftables elements, and the settings that published ports need besides.
fn claim(host: &mut Host, plan: &Plan, uplink: &Uplink<'_>, nft: Option<Nft>) -> Result<()> {
    let addresses = plan.container.networks();
    let addresses = addresses.iter().map(|address| address.ip()).collect();
    let (attachment, places) = (&plan.attachment, &plan.earlier_holders);
    let had_elements = match plan.elements.is_empty() {
        true => element_record::remove(attachment, Mapper::Own),
        false => element_record::create(attachment, Mapper::Own, Some(plan.elements.len())),
    };
    if had_elements {
        // It ended without DEL, and may have had another address.
        earlier_holder::forget(attachment)?;
    }
    let mut deaths = Deaths::new(&mut host.socket);
    let nft = earlier_holder::clear(nft, attachment, &addresses, places, &mut deaths)?;
    claim_elements(nft, &plan.elements, Extent::Whole, deaths)?;
    match &plan.ports {
        Some(ports) => ports::enable_mappings(
            ports,
            &plan.container.networks(),
            uplink.towards_container(plan),
        ),
        None => Ok(()),
    }
}
