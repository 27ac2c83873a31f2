//! ADD's changes to the kernel, in order: first what is shared, then the veth pair, and last the
//! alias, which marks the attachment as complete.

use super::dead_containers::Deaths;
use super::earlier_holder;
use super::host::Host;
use super::nft_elements::Extent;
use super::settings::{forward, refuse_router_advertisements};
use super::uplink::Uplink;
use super::{bandwidth, container, firewall, nft_elements, ports, veth};
use crate::cni::{Code, Error, Result};
use crate::kernel::link::Link;
use crate::kernel::netns::Netns;
use crate::kernel::nft::Nft;
use crate::plan::Plan;
use crate::plan::elements::elements_of;

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
    let uplink = Uplink::prepare(&mut host.socket, plan)?;
    forward(&mut host.socket, plan.forward)?;
    let nft = firewall::ensure(&plan.allowed_traffic)?;
    uplink.clear_steady_group(&mut host.socket)?;
    let host_end = veth::create(host, netns, plan, uplink.controller())?;
    let pair = NewPair {
        netns,
        plan,
        uplink,
        host_end,
    };
    pair.complete(host, nft).inspect_err(|_| {
        // An error here would not help the reader: what is left has no alias, so the next ADD or
        // DEL removes it as debris.
        let _ = veth::remove(&mut host.socket, &plan.attachment);
    })
}

/// A veth pair without an alias: half made until [`complete`](Self::complete).
struct NewPair<'a, 'plan> {
    netns: &'a Netns,
    plan: &'plan Plan,
    uplink: Uplink<'plan>,
    host_end: Link,
}

impl<'plan> NewPair<'_, 'plan> {
    /// Configures both ends and sets the alias last.
    fn complete(self, host: &mut Host, nft: Option<Nft>) -> Result<Attached<'plan>> {
        let Self {
            netns,
            plan,
            uplink,
            host_end,
        } = self;
        let container_index = host_end.peer.ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("the kernel gave {} no peer", host_end.name),
            )
        })?;
        refuse_router_advertisements(&host_end, &plan.host_end.name);
        uplink.set_up(plan, &host_end)?;
        let mut inside = container::configure(host, netns, plan, container_index)?;
        uplink.connect(&mut host.socket, plan, &host_end)?;
        let ifb = match &plan.bandwidth {
            Some(limits) => {
                bandwidth::limit(&mut host.socket, &plan.attachment, limits, &host_end)?
            }
            None => None,
        };
        let finished = claim(host, plan, &uplink, nft)
            .and_then(|()| container::settle(host, netns, plan, container_index, &mut inside))
            .and_then(|()| veth::finish(&mut host.socket, plan, &uplink, &host_end))
            .inspect_err(|_| {
                let owner = crate::plan::alias(&plan.attachment);
                let known = elements_of(&plan.elements);
                let _ = nft_elements::open().and_then(|mut nft| {
                    nft_elements::remove_elements_by_key(&mut nft, &owner, &known)
                });
            })?;
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

/// Adds the attachment's nftables elements, and the settings that published ports need besides.
fn claim(host: &mut Host, plan: &Plan, uplink: &Uplink<'_>, nft: Option<Nft>) -> Result<()> {
    let addresses = plan.container.networks();
    let addresses = addresses.iter().map(|address| address.ip()).collect();
    let (attachment, places) = (&plan.attachment, &plan.earlier_holders);
    let nft = earlier_holder::clear(nft, attachment, &addresses, places)?;
    let deaths = Deaths::new(&mut host.socket);
    nft_elements::claim(nft, &plan.elements, Extent::Whole, deaths)?;
    match &plan.ports {
        Some(ports) => ports::enable_mappings(
            ports,
            &plan.container.networks(),
            uplink.towards_container(plan),
        ),
        None => Ok(()),
    }
}
