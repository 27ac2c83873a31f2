//! The plugin `portmap`: publishes ports of a container that the plugin before it attached.

use ipnetwork::IpNetwork;

use super::chained_result;
use super::check::promised;
use crate::apply::{
    Deaths, Extent, Host, earlier_holder, element_record, nft_elements, publish, reference,
};
use crate::cni::Result;
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::plan::elements::{DesiredElement, desired_port_elements, port_elements, port_marks};
use crate::plan::{self, Mapper, host_end_name};

/// Serves ADD: returns prevResult unchanged.
///
/// # Errors
/// Code 7 when it is not chained; 103 when a port is taken; 101 when the kernel refuses.
pub(super) fn add(request: &Request) -> Result<String> {
    let before = chained_result(request)?;
    let addresses = before.addresses_of(&request.attachment.ifname);
    match &request.network.ports {
        Some(ports) => {
            ports.check_families(&addresses)?;
            let mut host = Host::open(&host_end_name(&request.attachment))?;
            publish(
                &mut host,
                &request.attachment,
                Mapper::Chained,
                ports,
                Extent::Whole,
                &addresses,
            )?;
        }
        None => {
            if element_record::remove(&request.attachment, Mapper::Chained) {
                // It ended without DEL, and may have had another address.
                remove_all(&owner(request))?;
            }
            clear_earlier_holder(request, before, &addresses)?;
        }
    }
    Ok(before.to_json(request.network.version))
}

/// Removes the mapped ports of a dead container that had one of the addresses. Our own plugins do
/// it when they wire a container; others do not.
fn clear_earlier_holder(
    request: &Request,
    before: &AddResult,
    addresses: &[IpNetwork],
) -> Result<()> {
    let host_end = host_end_name(&request.attachment);
    let mut interfaces = before.interfaces.iter();
    if interfaces.any(|interface| interface.name == host_end.as_str()) {
        return Ok(());
    }
    let ips = addresses.iter().map(|address| address.ip()).collect();
    let marks = port_marks(addresses);
    let mut host = Host::open(&host_end)?;
    let mut deaths = Deaths::new(&mut host.socket);
    earlier_holder::clear(None, &request.attachment, &ips, &marks, &mut deaths).map(drop)
}

/// Serves DEL. The runtime may no longer know which ports were mapped; the elements name their
/// owner.
pub(super) fn del(request: &Request) -> Result<()> {
    let owner = owner(request);
    let _host = Host::open(&host_end_name(&request.attachment))?;
    let was_ours = match (&request.network.ports, &request.network.prev_result) {
        (Some(ports), Some(before)) => {
            let known = port_elements(ports, &before.addresses_of(&request.attachment.ifname));
            let mut nft = nft_elements::open()?;
            let removed = nft_elements::remove_elements_by_key(&mut nft, &owner, &known)?;
            // ADD may have had other ports or addresses.
            let has_others =
                element_record::has_others(&request.attachment, Mapper::Chained, removed);
            has_others && remove_all(&owner)? || removed > 0
        }
        _ => remove_all(&owner)?,
    };
    element_record::remove(&request.attachment, Mapper::Chained);
    if !was_ours {
        // On a node that switched to pausenet, also remove the mappings of the previous plugin.
        let before = request.network.prev_result.as_ref();
        let addresses = before.map(|before| before.addresses_of(&request.attachment.ifname));
        let locations = plan::reference::port_rule_locations(
            &request.attachment,
            &addresses.unwrap_or_default(),
        );
        reference::remove_rules(&locations)?;
        reference::warn_of_legacy_iptables(&locations);
    }
    Ok(())
}

/// Serves CHECK.
///
/// # Errors
/// Code 102 for the first missing mapping.
pub(super) fn check(request: &Request) -> Result<()> {
    let before = promised(request)?;
    match &request.network.ports {
        Some(_) => {
            let addresses = before.addresses_of(&request.attachment.ifname);
            nft_elements::verify_elements(&desired_elements(request, before)).or_else(|err| {
                let locations =
                    plan::reference::port_rule_locations(&request.attachment, &addresses);
                // Mapped by the previous plugin: its rules count as well.
                if reference::has_rules(&locations)? {
                    Ok(())
                } else {
                    Err(err)
                }
            })
        }
        None => Ok(()),
    }
}

/// The desired nftables elements of a container with this result.
pub(super) fn desired_elements(request: &Request, result: &AddResult) -> Vec<DesiredElement> {
    let addresses = result.addresses_of(&request.attachment.ifname);
    match &request.network.ports {
        Some(ports) => desired_port_elements(ports, &addresses, &owner(request)),
        None => Vec::new(),
    }
}

/// Removes every element of an owner. True when there was one.
fn remove_all(owner: &str) -> Result<bool> {
    let mut nft = nft_elements::open()?;
    nft_elements::remove_elements_where(&mut nft, |found| found.owner == owner)
}

fn owner(request: &Request) -> String {
    Mapper::Chained.owner(&request.attachment)
}
