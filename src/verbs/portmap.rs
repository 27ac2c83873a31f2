//! The plugin `portmap`: leads ports of the host to a container that a plugin before it wired.

use ipnetwork::IpNetwork;

use super::check::promised;
use crate::apply::{Host, open_ways, reference, rules};
use crate::cni::ports::PortsConf;
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::{Code, Error, IfName, Result};
use crate::kernel::link::Which;
use crate::kernel::{link, route};
use crate::plan::rules::{port_keys, port_wishes};
use crate::plan::{self, host_end_name};

/// Serves ADD: passes on the result that came in.
///
/// # Errors
/// Code 7 when it is not chained; 103 when a port is taken; 101 when the kernel refuses.
pub fn add(request: &Request) -> Result<String> {
    let before = request.network.prev_result.as_ref().ok_or_else(|| {
        Error::new(Code::InvalidConfig, "portmap without prevResult")
            .hint("portmap goes into a conflist behind the plugin that wires the container")
    })?;
    if let Some(ports) = &request.network.ports {
        let mut host = Host::open(&host_end_name(&request.attachment))?;
        open(
            &mut host,
            request,
            ports,
            &container_addresses(request, before),
        )?;
    }
    Ok(before.to_json(request.network.version).to_string())
}

fn open(
    host: &mut Host,
    request: &Request,
    ports: &PortsConf,
    addresses: &[IpNetwork],
) -> Result<()> {
    let owner = owner(request);
    // Whether another's container still lives, only the plugin could say that wired it.
    rules::claim(&port_wishes(ports, addresses, &owner), |_| false)?;
    let opened = match towards(host, addresses)? {
        Some(link) => open_ways(ports, addresses, &link),
        None => Ok(()),
    };
    opened.inspect_err(|_| {
        let _ = rules::release_keys(&owner, &port_keys(ports, addresses));
    })
}

/// The host's link that leads to the container.
fn towards(host: &mut Host, addresses: &[IpNetwork]) -> Result<Option<IfName>> {
    let Some(ipv4) = addresses.iter().find(|address| address.is_ipv4()) else {
        return Ok(None);
    };
    let attempt = || format!("find the way to {}", ipv4.ip());
    let index = route::link_towards(&mut host.socket, ipv4.ip())
        .map_err(|refusal| refusal.during(attempt()))?;
    let Some(index) = index else {
        return Ok(None);
    };
    let link = link::get(&mut host.socket, Which::Index(index))
        .map_err(|refusal| refusal.during(attempt()))?;
    Ok(link.and_then(|link| IfName::parse(&link.name).ok()))
}

/// Serves DEL. Which ports there were, the runtime may have forgotten; whose they were is
/// written on them.
///
/// # Errors
/// Code 101 when the kernel refuses.
pub fn del(request: &Request) -> Result<()> {
    let owner = owner(request);
    let _host = Host::open(&host_end_name(&request.attachment))?;
    let was_ours = match (&request.network.ports, &request.network.prev_result) {
        (Some(ports), Some(before)) => rules::release_keys(
            &owner,
            &port_keys(ports, &container_addresses(request, before)),
        )?,
        _ => rules::release_where(|found| found.owner == owner)?,
    };
    if !was_ours {
        // On a node that has changed to ours, what a plugin before us mapped is ours to remove.
        let before = request.network.prev_result.as_ref();
        let addresses = before.map(|before| container_addresses(request, before));
        let places =
            plan::reference::port_places(&request.attachment, &addresses.unwrap_or_default());
        reference::remove_rules(&places)?;
        reference::warn_of_old_iptables(&places);
    }
    Ok(())
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first mapping that is not there.
pub fn check(request: &Request) -> Result<()> {
    let before = promised(request)?;
    match &request.network.ports {
        Some(ports) => {
            let addresses = container_addresses(request, before);
            rules::verify_wishes(&port_wishes(ports, &addresses, &owner(request))).or_else(|err| {
                let places = plan::reference::port_places(&request.attachment, &addresses);
                // Mapped by a plugin before us: its rules count as well.
                if reference::has_rules(&places)? {
                    Ok(())
                } else {
                    Err(err)
                }
            })
        }
        None => Ok(()),
    }
}

/// Chained behind our own plugin, the ports must not be taken for the link's own elements.
fn owner(request: &Request) -> String {
    plan::chained_alias(&request.attachment)
}

/// The addresses that the container's interface got. Results of old versions name none; then
/// they are all the container's.
fn container_addresses(request: &Request, result: &AddResult) -> Vec<IpNetwork> {
    let inside = |index: usize| {
        result.interfaces.get(index).is_none_or(|interface| {
            interface.name == request.attachment.ifname.as_str() && !interface.sandbox.is_empty()
        })
    };
    let ours = result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(inside));
    ours.map(|ip| ip.address).collect()
}
