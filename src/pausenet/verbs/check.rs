//! CHECK: compares an attachment with the result of its ADD.

use super::add::{open_netns, refuse_own_netns};
use crate::apply::{Host, WiredBy, firewall, nft_elements, verify};
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::{Code, Error, Result};
use crate::ipam::Ipam;
use crate::kernel::netns::Netns;
use crate::plan::elements::{self, DesiredElement};
use crate::plan::firewall::allowed_traffic;
use crate::plan::host_end_name;

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first difference, 7 without prevResult, or the error that prevented the
/// comparison.
pub(crate) fn run(request: &Request) -> Result<()> {
    let netns = open_netns(request)?;
    let promised = promised(request)?;
    let ipam = Ipam::new(&request.network)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    refuse_own_netns(request, &netns, &host.netns).map_err(|err| not_attached(&netns, err))?;
    if verify(&mut host, &netns, request, promised)? == WiredBy::Pausenet {
        nft_elements::verify_elements(&desired_elements(request, promised))?;
        let addresses: Vec<_> = promised.ips.iter().map(|ip| ip.address).collect();
        firewall::verify(&allowed_traffic(&request.network, &addresses))?;
    }
    match ipam {
        Some(ipam) => ipam.check(&request.attachment, promised),
        None => Ok(()),
    }
}

/// The desired nftables elements of an attachment with this result.
pub(super) fn desired_elements(request: &Request, promised: &AddResult) -> Vec<DesiredElement> {
    let addresses: Vec<_> = promised.ips.iter().map(|ip| ip.address).collect();
    let mac = promised.mac_of(&request.attachment.ifname);
    elements::desired_elements(request, &addresses, mac)
}

/// ADD never attaches the host's own namespace, so the path must lead there only since then.
fn not_attached(netns: &Netns, err: Error) -> Error {
    let path = netns.path().display();
    Error {
        code: Code::AttachmentDiffers,
        msg: format!("{path} leads to the host's own network namespace, not to the one of ADD"),
        ..err
    }
    .hint(
        "a process number in CNI_NETNS (/proc/PID/ns/net) was given to a process of the host since \
         ADD; DEL takes the attachment down and leaves the host alone",
    )
}

/// The result that CHECK compares with.
pub(super) fn promised(request: &Request) -> Result<&AddResult> {
    request.network.prev_result.as_ref().ok_or_else(|| {
        Error::new(Code::InvalidConfig, "CHECK without prevResult")
            .hint("the runtime puts the result of ADD into the config as \"prevResult\"")
    })
}
