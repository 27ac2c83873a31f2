//! The plugin `firewall`: has other firewalls of the host let a container's traffic through, and closes its network
//! against others if its config says so.

use super::add::{open_netns, refuse_own_netns};
use super::chained_result;
use crate::apply::ingress_policy::{self, Links};
use crate::apply::{Host, firewall, forward_chain, host_end_in, reference};
use crate::cni::firewall::{FirewallConf, IngressPolicy};
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::{Chained, Code, Error, Result};
use crate::plan::firewall::{AllowedTraffic, traffic_behind};
use crate::plan::host_end_name;
use crate::plan::reference::forward_rule_locations;

/// Serves ADD: returns prevResult unchanged.
///
/// # Errors
/// Code 7 when it is not chained, or the network is to be closed and its link is not known; 101 when the kernel
/// refuses.
pub(super) fn add(request: &Request) -> Result<String> {
    let before = chained_result(request)?;
    let conf = conf(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    let links = links(request, &mut host, before, conf)?;
    let traffic = traffic(request, before, links.as_ref());
    // Closed before it is let through.
    if let Some(links) = &links {
        ingress_policy::close(links, &request.attachment, conf.ingress)?;
    }
    firewall::ensure(&traffic)?;
    forward_chain::ensure(&traffic, &conf.admin_chain)?;
    Ok(before.to_json(request.network.version))
}

/// Serves DEL. What all containers of the network share stays.
pub(super) fn del(request: &Request) -> Result<()> {
    let _host = Host::open(&host_end_name(&request.attachment))?;
    let before = request.network.prev_result.as_ref();
    let is_open = conf(request).is_ok_and(|conf| conf.ingress == IngressPolicy::Open);
    if !is_open || request.network.is_incomplete {
        ingress_policy::open_again(&request.attachment, before)?;
    }
    // On a node that switched to pausenet, those of the previous plugin name the container's addresses.
    let addresses = before.map(|before| before.addresses_of(&request.attachment.ifname));
    reference::remove_rules(&forward_rule_locations(&addresses.unwrap_or_default()))
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 for what other firewalls do not let through any more, or if the network is not closed.
pub(super) fn check(request: &Request) -> Result<()> {
    let before = super::check::promised(request)?;
    let conf = conf(request)?;
    let mut host = Host::open(&host_end_name(&request.attachment))?;
    let links = links(request, &mut host, before, conf)?;
    let traffic = traffic(request, before, links.as_ref());
    firewall::verify(&traffic)
        .and_then(|()| forward_chain::verify(&traffic, &conf.admin_chain))
        .or_else(|err| {
            // Attached by the previous plugin: its rules count as well.
            let addresses = before.addresses_of(&request.attachment.ifname);
            match reference::has_rules(&forward_rule_locations(&addresses))? {
                true => Ok(()),
                false => Err(err),
            }
        })?;
    match &links {
        Some(links) => ingress_policy::verify(links, &request.attachment, conf.ingress),
        None => Ok(()),
    }
}

fn conf(request: &Request) -> Result<&FirewallConf> {
    match &request.network.chained {
        Chained::Firewall(conf) => Ok(conf),
        _ => Err(Error::new(
            Code::Internal,
            "a call of firewall without its config",
        )),
    }
}

/// The links of the container's traffic; None for an interface that has no end on the host, such as a macvlan's: then
/// nothing of it is forwarded.
fn links(
    request: &Request,
    host: &mut Host,
    before: &AddResult,
    conf: &FirewallConf,
) -> Result<Option<Links>> {
    let netns = open_netns(request)?;
    refuse_own_netns(request, &netns, &host.netns)?;
    match host_end_in(host, &netns, &request.attachment.ifname) {
        Ok(host_end) => Links::find(host, host_end, before).map(Some),
        Err(err) if err.code == Code::InvalidConfig && conf.ingress == IngressPolicy::Open => {
            Ok(None)
        }
        Err(err) => Err(err),
    }
}

fn traffic(request: &Request, before: &AddResult, links: Option<&Links>) -> Vec<AllowedTraffic> {
    let addresses = before.addresses_of(&request.attachment.ifname);
    match links {
        Some(links) => traffic_behind(&request.network.name, links.bridge(), &addresses),
        None => Vec::new(),
    }
}
