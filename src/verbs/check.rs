//! CHECK: whether an attachment still is what its ADD said.

use std::net::IpAddr;

use super::add::{open_netns, own_netns};
use crate::apply::{Host, verify};
use crate::cni::request::Request;
use crate::cni::{Code, Error, Result};
use crate::plan::host_end_name;

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first difference, 7 without prevResult, or what made CHECK impossible.
pub fn run(request: &Request) -> Result<()> {
    let netns = open_netns(request)?;
    let promised = request.prev_result.as_ref().ok_or_else(|| {
        Error::new(Code::InvalidConfig, "CHECK without prevResult")
            .hint("the runtime puts the result of ADD into the config as \"prevResult\"")
    })?;
    let ipam = super::ipam_of(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    if !request.netns_override && netns.is_same(&host.netns).unwrap_or(false) {
        return Err(own_netns(&netns));
    }
    verify(&mut host, &netns, request, promised)?;
    if let Some(ipam) = ipam {
        let addresses: Vec<IpAddr> = promised.ips.iter().map(|ip| ip.address.ip()).collect();
        if let Some(lost) = ipam.first_not_held(&addresses)? {
            return Err(Error::new(
                Code::AttachmentDiffers,
                format!("the address store does not give {lost} to this container"),
            ));
        }
    }
    Ok(())
}
