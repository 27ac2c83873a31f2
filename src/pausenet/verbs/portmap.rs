//! The plugin `portmap`: leads ports of the host to a container that a plugin before it wired.

use super::check::promised;
use crate::apply::{Host, Mapper, publish, reference, rules};
use crate::cni::request::Request;
use crate::cni::result::AddResult;
use crate::cni::{Code, Error, Result};
use crate::plan::rules::{Wish, port_keys, port_wishes};
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
        let addresses = before.addresses_of(&request.attachment.ifname);
        publish(
            &mut host,
            &request.attachment,
            Mapper::Chained,
            ports,
            &addresses,
        )?;
    }
    Ok(before.to_json(request.network.version))
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
            &mut rules::open()?,
            &owner,
            &port_keys(ports, &before.addresses_of(&request.attachment.ifname)),
        )?,
        _ => rules::release_where(&mut rules::open()?, |found| found.owner == owner)?,
    };
    if !was_ours {
        // On a node that has changed to ours, what a plugin before us mapped is ours to remove.
        let before = request.network.prev_result.as_ref();
        let addresses = before.map(|before| before.addresses_of(&request.attachment.ifname));
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
        Some(_) => {
            let addresses = before.addresses_of(&request.attachment.ifname);
            rules::verify_wishes(&wishes(request, before)).or_else(|err| {
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

/// What nftables should hold for a container with this result.
pub(super) fn wishes(request: &Request, result: &AddResult) -> Vec<Wish> {
    let addresses = result.addresses_of(&request.attachment.ifname);
    match &request.network.ports {
        Some(ports) => port_wishes(ports, &addresses, &owner(request)),
        None => Vec::new(),
    }
}

fn owner(request: &Request) -> String {
    Mapper::Chained.owner(&request.attachment)
}
