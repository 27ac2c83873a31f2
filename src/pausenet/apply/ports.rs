//! Published ports, and what they need besides nftables: routing from 127.0.0.1 to the container,
//! and removal of old conntrack flows.

use std::collections::HashSet;

use ipnetwork::IpNetwork;

use super::claim::{Extent, claim};
use super::dead_containers::Deaths;
use super::element_record;
use super::host::Host;
use super::nft_elements;
use crate::cni::ports::{PortsConf, Protocol};
use crate::cni::request::Attachment;
use crate::cni::{During, Family, IfName, Result};
use crate::kernel::conntrack::UdpFlows;
use crate::kernel::link::Which;
use crate::kernel::nft::{Element, Set};
use crate::kernel::sysctl::Sysctl;
use crate::kernel::{conntrack, link, route};
use crate::plan::Mapper;
use crate::plan::elements::{desired_port_elements, port_elements};

/// Maps ports to a container that is already attached: all or none.
///
/// # Errors
/// Code 103 when a port is taken; 5 and 101 when the kernel refuses.
pub fn publish(
    host: &mut Host,
    attachment: &Attachment,
    mapper: Mapper,
    ports: &PortsConf,
    extent: Extent,
    addresses: &[IpNetwork],
) -> Result<()> {
    let owner = mapper.owner(attachment);
    let desired = desired_port_elements(ports, addresses, &owner);
    let number = (extent == Extent::Whole).then_some(desired.len());
    let was_recorded = element_record::create(attachment, mapper, number);
    if was_recorded && extent == Extent::Whole {
        // It ended without DEL, and may have had another address.
        nft_elements::remove_elements_where(&mut nft_elements::open()?, |found| {
            found.owner == owner
        })?;
    }
    claim(None, &desired, extent, Deaths::new(&mut host.socket))?;
    let opened = match towards(host, addresses)? {
        Some(link) => enable_mappings(ports, addresses, &link),
        None => Ok(()),
    };
    opened.inspect_err(|_| {
        let known = port_elements(ports, addresses);
        let _ = nft_elements::open()
            .and_then(|mut nft| nft_elements::remove_elements_by_key(&mut nft, &owner, &known));
    })
}

/// Removes some of a container's published ports. Established connections through them continue.
pub fn unpublish(
    attachment: &Attachment,
    mapper: Mapper,
    ports: &PortsConf,
    kept: Option<&PortsConf>,
    addresses: &[IpNetwork],
) -> Result<()> {
    let kept = kept.map_or_else(Vec::new, |kept| port_elements(kept, addresses));
    let place = |(set, element): &(Set, Element)| (set.name.clone(), element.key.clone());
    let kept: HashSet<_> = kept.iter().map(place).collect();
    let mut known = port_elements(ports, addresses);
    // The mark that the container has ports is still needed for the others.
    known.retain(|known| !kept.contains(&place(known)));
    nft_elements::remove_elements_by_key(
        &mut nft_elements::open()?,
        &mapper.owner(attachment),
        &known,
    )
    .map(drop)
}

/// The host's link towards the container.
fn towards(host: &mut Host, addresses: &[IpNetwork]) -> Result<Option<IfName>> {
    let Some(ipv4) = addresses.iter().find(|address| address.is_ipv4()) else {
        return Ok(None);
    };
    let attempt = || format!("find the way to {}", ipv4.ip());
    let index = route::link_towards(&mut host.socket, ipv4.ip()).during_with(attempt)?;
    let Some(index) = index else {
        return Ok(None);
    };
    let link = link::get(&mut host.socket, Which::Index(index)).during_with(attempt)?;
    Ok(link.and_then(|link| IfName::parse(&link.name).ok()))
}

/// Lets the host deliver mapped packets to these addresses. `towards` is the host's link towards
/// the container.
pub(super) fn enable_mappings(
    ports: &PortsConf,
    addresses: &[IpNetwork],
    towards: &IfName,
) -> Result<()> {
    if ports.snat && addresses.iter().any(IpNetwork::is_ipv4) {
        let enabled = Sysctl::RouteLocalnet(towards).ensure("1");
        // Only 127.0.0.1 needs it; the reference sets it whatever the hostIP.
        if ports.are_for_localhost() {
            enabled?;
        }
    }
    forget_flows(ports, addresses)
}

/// Forgets what clients sent to these ports before: a flow lasts as long as packets arrive and would
/// keep its old destination.
fn forget_flows(ports: &PortsConf, addresses: &[IpNetwork]) -> Result<()> {
    for family in Family::ALL {
        if !addresses
            .iter()
            .any(|address| Family::from(*address) == family)
        {
            continue;
        }
        let udp: Vec<_> = ports
            .mappings
            .iter()
            .filter(|mapping| mapping.protocol == Protocol::Udp && mapping.is_for(family))
            .map(|mapping| UdpFlows {
                to: mapping.host_ip,
                to_port: Some(mapping.host_port),
                answered_by: None,
            })
            .collect();
        if !udp.is_empty() {
            let attempt = "forget the flows that mapped UDP ports had before";
            conntrack::forget_udp(family, &udp).map_err(|err| {
                // A subsystem of netfilter that is missing is an invalid message.
                let hint = match err.is(rustix::io::Errno::INVAL) {
                    true => "the kernel needs nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)",
                    false => "",
                };
                err.during(attempt).hint(hint)
            })?;
        }
    }
    Ok(())
}
