//! CHECK: whether an attachment still is what its ADD said.

use super::add::{open_netns, refuse_own_netns};
use crate::apply::{Host, Maker, rules, verify};
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::{Code, Error, Result};
use crate::ipam::Ipam;
use crate::plan::host_end_name;
use crate::plan::rules::wishes;

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first difference, 7 without prevResult, or what made CHECK impossible.
pub fn run(request: &Request) -> Result<()> {
    let netns = open_netns(request)?;
    let promised = promised(request)?;
    let ipam = Ipam::new(&request.network)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    refuse_own_netns(request, &netns, &host.netns)?;
    if verify(&mut host, &netns, request, promised)? == Maker::Us {
        let addresses: Vec<_> = promised.ips.iter().map(|ip| ip.address).collect();
        let mac = promised.mac_of(&request.attachment.ifname);
        rules::verify_wishes(&wishes(request, &addresses, mac))?;
    }
    match ipam {
        Some(ipam) => ipam.check(&request.attachment, promised),
        None => Ok(()),
    }
}

/// The result that CHECK compares with.
pub(super) fn promised(request: &Request) -> Result<&AddResult> {
    request.network.prev_result.as_ref().ok_or_else(|| {
        Error::new(Code::InvalidConfig, "CHECK without prevResult")
            .hint("the runtime puts the result of ADD into the config as \"prevResult\"")
    })
}
