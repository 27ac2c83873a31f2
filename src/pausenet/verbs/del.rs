//! DEL: undoes an ADD. It needs neither the namespace nor prevResult, and succeeds when nothing is
//! left to undo.

use std::panic::resume_unwind;

use ipnetwork::IpNetwork;

use crate::apply::{Host, element_record, nft_elements, reference, remove_early};
use crate::cni::Result;
use crate::cni::request::Request;
use crate::ipam::Ipam;
use crate::kernel::nft::Nft;
use crate::plan::{self, Mapper};

/// Serves DEL: removes links and nftables elements, and frees the addresses last, when nothing uses
/// them any more; those of a delegated IPAM first, which may need the interface for it.
///
/// # Errors
/// Codes 5 and 101 when something could not be removed.
pub(crate) fn run(request: &Request) -> Result<()> {
    let (ipam, missing) = match Ipam::to_release(&request.network) {
        Ok(ipam) => (ipam, Ok(())),
        Err(err) => (None, Err(err)),
    };
    let mut host = Host::open(&plan::host_end_name(&request.attachment))?;
    undo(&mut host, ipam.as_ref(), request).and(missing)
}

/// Removes everything of the attachment that exists.
///
/// # Errors
/// Codes 5 and 101 when something could not be removed.
pub(super) fn undo(host: &mut Host, ipam: Option<&Ipam>, request: &Request) -> Result<()> {
    let release = |ipam: Option<&Ipam>| match ipam {
        Some(ipam) => ipam.release(&request.attachment),
        None => Ok(()),
    };
    // A delegated IPAM while the interface and its addresses are there: `dhcp` gives its lease back
    // from them. Whatever it does, the links go.
    let released = release(ipam.filter(|ipam| ipam.is_delegated()));
    let network = &request.network;
    let may_have_elements = plan::elements::are_used(network)
        || plan::elements::may_be_unmentioned(network)
        || element_record::exists(&request.attachment, Mapper::Own);
    let _closed_last = match may_have_elements.then(|| addresses(request, ipam)) {
        Some(Ok(addresses)) => Some(remove_links_and_elements(host, ipam, request, &addresses)?),
        // Remove the link nevertheless.
        Some(Err(err)) => return remove_links(host, ipam, request, None).and(Err(err)),
        None => {
            remove_links(host, ipam, request, None)?;
            None
        }
    };
    if may_have_elements {
        element_record::remove(&request.attachment, Mapper::Own);
    }
    released.and_then(|()| release(ipam.filter(|ipam| !ipam.is_delegated())))
}

/// Removes links and elements in parallel: for each, the kernel waits until no packet can be using
/// it, which is most of a DEL's time. Returns the nftables socket, to close after all other
/// waiting: see [`nft_elements::open`].
fn remove_links_and_elements(
    host: &mut Host,
    ipam: Option<&Ipam>,
    request: &Request,
    addresses: &[IpNetwork],
) -> Result<Nft> {
    // Elements are in sets that have their subnet's name.
    let by_address = match ipam {
        Some(ipam) if request.network.prev_result.is_none() => ipam.knows_prefixes(),
        _ => true,
    };
    let elements = || remove_nft_elements(request, addresses, by_address);
    let mut links = || remove_links(host, ipam, request, Some(addresses));
    if plan::elements::stay_until_the_link_is_gone(&request.network) {
        return links().and_then(|()| elements());
    }
    let (links, elements) = side_by_side(links, elements);
    links.and(elements)
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
    if remove_early(&mut host.socket, &request.attachment)? {
        return Ok(());
    }
    let may_have_elements = plan::elements::are_used(&request.network);
    match known {
        Some(known) => remove_other_plugins_link(host, request, known, may_have_elements),
        None => {
            remove_other_plugins_link(host, request, &addresses(request, ipam)?, may_have_elements)
        }
    }
}

/// Removes the attachment's nftables elements (masquerade, mapped ports, the guard against forged MACs),
/// including those that the request does not mention.
fn remove_nft_elements(
    request: &Request,
    addresses: &[IpNetwork],
    by_address: bool,
) -> Result<Nft> {
    let mut nft = nft_elements::open()?;
    if !by_address
        || !plan::elements::are_used(&request.network)
            && element_record::exists(&request.attachment, Mapper::Own)
    {
        // What the config says of the addresses cannot be read, or it has changed since ADD.
        nft_elements::remove_all_elements_of(&mut nft, &request.attachment)?;
    } else if plan::elements::are_used(&request.network) {
        let promised = request.network.prev_result.as_ref();
        let mac = promised.and_then(|promised| promised.mac_of(&request.attachment.ifname));
        nft_elements::remove_elements(&mut nft, request, addresses, mac)?;
    }
    if plan::elements::may_be_unmentioned(&request.network) {
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
    may_have_elements: bool,
) -> Result<()> {
    reference::remove_link(host, request, addresses)?;
    if may_have_elements {
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
