//! DEL: undoes an ADD. It needs neither the namespace nor prevResult, and succeeds when nothing is
//! left to undo.

use std::panic::resume_unwind;

use ipnetwork::IpNetwork;

use crate::apply::{Host, nft_elements, reference, remove};
use crate::cni::Result;
use crate::cni::request::Request;
use crate::ipam::Ipam;
use crate::kernel::nft::Nft;
use crate::plan;

/// Serves DEL: removes links and nftables elements, and frees the addresses last, when nothing uses
/// them any more.
///
/// # Errors
/// Codes 5 and 101 when something could not be removed.
pub(crate) fn run(request: &Request) -> Result<()> {
    let ipam = Ipam::new(&request.network)?;
    let mut host = Host::open(&plan::host_end_name(&request.attachment))?;
    undo(&mut host, ipam.as_ref(), request)
}

/// Removes everything of the attachment that exists.
///
/// # Errors
/// Codes 5 and 101 when something could not be removed.
pub(super) fn undo(host: &mut Host, ipam: Option<&Ipam>, request: &Request) -> Result<()> {
    let network = &request.network;
    let has_rules = plan::rules::are_used(network) || plan::rules::may_be_forgotten(network);
    let _closed_last = match has_rules.then(|| addresses(request, ipam)) {
        Some(Ok(addresses)) => Some(remove_links_and_rules(host, ipam, request, &addresses)?),
        // Remove the link nevertheless.
        Some(Err(err)) => return remove_links(host, ipam, request, None).and(Err(err)),
        None => {
            remove_links(host, ipam, request, None)?;
            None
        }
    };
    match ipam {
        Some(ipam) => ipam.release(&request.attachment),
        None => Ok(()),
    }
}

/// Removes links and elements in parallel: for each, the kernel waits until no packet can be using
/// it, which is most of a DEL's time. Returns the nftables socket, to close after all other
/// waiting: see [`nft_elements::open`].
fn remove_links_and_rules(
    host: &mut Host,
    ipam: Option<&Ipam>,
    request: &Request,
    addresses: &[IpNetwork],
) -> Result<Nft> {
    let rules = || remove_nft_elements(request, addresses);
    let mut links = || remove_links(host, ipam, request, Some(addresses));
    if plan::rules::outlast_the_link(&request.network) {
        return links().and_then(|()| rules());
    }
    let (links, rules) = side_by_side(links, rules);
    links.and(rules)
}

/// Runs `there` on a second thread, or after `here` if no thread can be started.
fn side_by_side<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    std::thread::scope(
        |scope| match std::thread::Builder::new().spawn_scoped(scope, &there) {
            Ok(thread) => {
                let here = here();
                let there = thread.join();
                (here, there.unwrap_or_else(|panic| resume_unwind(panic)))
            }
            Err(_) => (here(), there()),
        },
    )
}

/// Removes the attachment's links, ours or another plugin's. Looks up its addresses if necessary.
fn remove_links(
    host: &mut Host,
    ipam: Option<&Ipam>,
    request: &Request,
    known: Option<&[IpNetwork]>,
) -> Result<()> {
    if remove(&mut host.socket, &request.attachment)? {
        return Ok(());
    }
    let has_rules = plan::rules::are_used(&request.network);
    match known {
        Some(known) => remove_other_plugins_link(host, request, known, has_rules),
        None => remove_other_plugins_link(host, request, &addresses(request, ipam)?, has_rules),
    }
}

/// Removes the attachment's elements, including those that the request does not mention.
fn remove_nft_elements(request: &Request, addresses: &[IpNetwork]) -> Result<Nft> {
    let mut nft = nft_elements::open()?;
    if plan::rules::are_used(&request.network) {
        let promised = request.network.prev_result.as_ref();
        let mac = promised.and_then(|promised| promised.mac_of(&request.attachment.ifname));
        nft_elements::remove_elements(&mut nft, request, addresses, mac)?;
    }
    if plan::rules::may_be_forgotten(&request.network) {
        nft_elements::remove_unmentioned_port_elements(&mut nft, &request.attachment, addresses)?;
    }
    Ok(nft)
}

/// Removes what another plugin may have made: on a node that switched to pausenet, its pods are now
/// ours.
fn remove_other_plugins_link(
    host: &mut Host,
    request: &Request,
    addresses: &[IpNetwork],
    has_rules: bool,
) -> Result<()> {
    reference::remove_link(host, request, addresses)?;
    if has_rules {
        let locations = plan::reference::link_rule_locations(&request.attachment);
        reference::remove_rules(&locations)?;
        reference::warn_of_legacy_iptables(&locations);
    }
    Ok(())
}

/// The attachment's addresses, from prevResult or else from the IPAM.
fn addresses(request: &Request, ipam: Option<&Ipam>) -> Result<Vec<IpNetwork>> {
    match (&request.network.prev_result, ipam) {
        (Some(promised), _) if !promised.ips.is_empty() => {
            Ok(promised.ips.iter().map(|ip| ip.address).collect())
        }
        (_, Some(ipam)) => ipam.held(request),
        (_, None) => Ok(Vec::new()),
    }
}
