//! DEL: undoes an ADD. Needs neither the namespace nor prevResult, and succeeds when there is
//! nothing left to undo.

use ipnetwork::IpNetwork;

use crate::apply::{Host, remove, rules};
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
    remove(&mut host.socket, &request.attachment)?;
    if plan::rules::are_used(&request.network) {
        let promised = request.network.prev_result.as_ref();
        let mac = promised.and_then(|promised| promised.mac_of(&request.attachment.ifname));
        rules::release(request, &addresses(request, ipam)?, mac)?;
    }
    match ipam {
        Some(ipam) => ipam.release(&request.attachment),
        None => Ok(()),
    }
}

/// The attachment's addresses, from whoever still knows them.
fn addresses(request: &Request, ipam: Option<&Ipam>) -> Result<Vec<IpNetwork>> {
    let mut addresses = match ipam {
        Some(ipam) => ipam.held(request)?,
        None => Vec::new(),
    };
    if let Some(promised) = &request.network.prev_result {
        addresses.extend(promised.ips.iter().map(|ip| ip.address));
    }
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}
