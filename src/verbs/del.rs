//! DEL: undoes an ADD. Needs neither the namespace nor prevResult, and succeeds when there is
//! nothing left to undo.

use ipnetwork::IpNetwork;

use crate::apply::{Host, reference, remove, rules};
use crate::cni::Result;
use crate::cni::request::Request;
use crate::ipam::Ipam;
use crate::plan;

/// Serves DEL: the links first, then nftables, and the address last, so that it is free only
/// when nothing of it is left.
///
/// # Errors
/// Codes 5 and 101, when something is left that could not be removed.
pub fn run(request: &Request) -> Result<()> {
    let ipam = Ipam::new(&request.network)?;
    let mut host = Host::open(&plan::host_end_name(&request.attachment))?;
    undo(&mut host, ipam.as_ref(), request)
}

/// Removes whatever there is of the attachment.
///
/// # Errors
/// Codes 5 and 101, when something is left that could not be removed.
pub(super) fn undo(host: &mut Host, ipam: Option<&Ipam>, request: &Request) -> Result<()> {
    let was_ours = remove(&mut host.socket, &request.attachment)?;
    let has_rules = plan::rules::are_used(&request.network);
    let forgotten = plan::rules::may_be_forgotten(&request.network);
    if has_rules || forgotten || !was_ours {
        let addresses = addresses(request, ipam)?;
        if !was_ours {
            remove_another_s(host, request, &addresses, has_rules)?;
        }
        if has_rules {
            let promised = request.network.prev_result.as_ref();
            let mac = promised.and_then(|promised| promised.mac_of(&request.attachment.ifname));
            rules::release(request, &addresses, mac)?;
        }
        if forgotten {
            rules::release_forgotten(&request.attachment, &addresses)?;
        }
    }
    match ipam {
        Some(ipam) => ipam.release(&request.attachment),
        None => Ok(()),
    }
}

/// What a plugin before us may have made: on a node that has changed to ours, its pods are ours
/// to look after.
fn remove_another_s(
    host: &mut Host,
    request: &Request,
    addresses: &[IpNetwork],
    has_rules: bool,
) -> Result<()> {
    reference::remove_link(host, request, addresses)?;
    if has_rules {
        let places = plan::reference::link_places(&request.attachment);
        reference::remove_rules(&places)?;
        reference::warn_of_old_iptables(&places);
    }
    Ok(())
}

/// The attachment's addresses: as its result tells them, or else as the IPAM knows them.
fn addresses(request: &Request, ipam: Option<&Ipam>) -> Result<Vec<IpNetwork>> {
    match (&request.network.prev_result, ipam) {
        (Some(promised), _) if !promised.ips.is_empty() => {
            Ok(promised.ips.iter().map(|ip| ip.address).collect())
        }
        (_, Some(ipam)) => ipam.held(request),
        (_, None) => Ok(Vec::new()),
    }
}
