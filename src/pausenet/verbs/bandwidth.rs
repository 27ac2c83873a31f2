//! The plugin `bandwidth`: limits the traffic of a container that another plugin attached.

use super::add::{open_netns, refuse_own_netns};
use super::{chained_result, on_host};
use crate::apply::bandwidth::{Limiter, remove_chained};
use crate::apply::{Host, host_end_in};
use crate::cni::bandwidth::Shaped;
use crate::cni::request::Request;
use crate::cni::{Chained, Result};
use crate::plan::host_end_name;

/// Serves ADD: returns prevResult, with the link that limits what the container sends.
///
/// # Errors
/// Code 7 when it is not chained, or the container's interface is no end of a pair; 101 when the kernel refuses.
pub(super) fn add(request: &Request) -> Result<String> {
    let mut result = chained_result(request)?.clone();
    let Some(bandwidth) = &request.network.bandwidth else {
        return Ok(result.to_json(request.network.version));
    };
    let netns = open_netns(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    refuse_own_netns(request, &netns, &host.netns)?;
    let host_end = host_end_in(&mut host, &netns, &request.attachment.ifname)?;
    let limiter = Limiter::chained(&request.attachment, &host_end, shaped(request));
    // Of an ADD that was killed.
    limiter.clear(&mut host.socket);
    let ifb = limiter
        .set(&mut host.socket, bandwidth)
        .inspect_err(|_| limiter.clear(&mut host.socket))?;
    result.interfaces.extend(ifb.map(on_host));
    Ok(result.to_json(request.network.version))
}

/// Serves DEL.
pub(super) fn del(request: &Request) -> Result<()> {
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    remove_chained(&mut host.socket, &request.attachment)
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 when a limit is missing or another.
pub(super) fn check(request: &Request) -> Result<()> {
    super::check::promised(request)?;
    let Some(bandwidth) = &request.network.bandwidth else {
        return Ok(());
    };
    let netns = open_netns(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    let host_end = host_end_in(&mut host, &netns, &request.attachment.ifname)?;
    Limiter::chained(&request.attachment, &host_end, shaped(request))
        .verify(&mut host.socket, bandwidth)
}

fn shaped(request: &Request) -> &Shaped {
    match &request.network.chained {
        Chained::Bandwidth(shaped) => shaped,
        _ => &Shaped::All,
    }
}
