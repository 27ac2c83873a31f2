//! The plugin `host-local`, to which other plugins delegate: it only allocates addresses.

use std::time::SystemTime;

use crate::apply::reclaim_empty;
use crate::cni::request::{IpamConf, Network, Request};
use crate::cni::result::{AddResult, IpConfig};
use crate::cni::{Code, Error, Result};
use crate::ipam::{HostLocal, Ipam, Outcome};

/// Serves ADD.
///
/// # Errors
/// Code 100 when the attachment already has an address; the IPAM's own.
pub(super) fn add(request: &Request) -> Result<String> {
    let ipam = of_network(&request.network)?;
    let requested = &request.requested_ips;
    let mut outcome = ipam.allocate(&request.attachment, requested);
    if matches!(&outcome, Err(err) if err.code == Code::TryAgainLater) {
        // As for the plugins that wire containers, but these may be attached by any plugin.
        let by_name = Ipam::HostLocal(of_network(&request.network)?);
        let _ = reclaim_empty(&by_name, SystemTime::now());
        outcome = ipam.allocate(&request.attachment, requested);
    }
    let allocation = match outcome? {
        Outcome::Allocated(allocation) => allocation,
        Outcome::AlreadyHeld(held) => {
            let held: Vec<_> = held.iter().map(|ip| ip.to_string()).collect();
            return Err(Error::new(
                Code::InterfaceExists,
                format!(
                    "{} was given to this container and interface already",
                    held.join(", ")
                ),
            )
            .hint("DEL frees it; a second address for one interface is not given"));
        }
    };
    let ips = allocation.addresses.iter().map(|given| IpConfig {
        interface: None,
        address: given.address,
        gateway: given.gateway,
    });
    let result = AddResult {
        interfaces: Vec::new(),
        ips: ips.collect(),
        routes: allocation.routes,
        dns: allocation.dns,
    };
    Ok(result.to_json(request.network.version))
}

/// Serves DEL.
///
/// # Errors
/// Code 5 when the store cannot be used.
pub(super) fn del(request: &Request) -> Result<()> {
    to_release(&request.network)?.release(&request.attachment)
}

/// Serves CHECK: as in the reference, any address of the attachment is enough; the delegating
/// plugin compares which.
///
/// # Errors
/// Code 102 when it has none; 5 when a file that cannot be read may name it.
pub(super) fn check(request: &Request) -> Result<()> {
    let ipam = of_network(&request.network)?;
    if ipam.held(&request.attachment)?.is_empty() {
        ipam.require_readable()?;
        return Err(Error::new(
            Code::AttachmentDiffers,
            "the address store gives this container no address",
        ));
    }
    Ok(())
}

/// As in the reference, whatever `type` says: the caller may have found this plugin under another
/// name, or through a script.
pub(super) fn of_network(network: &Network) -> Result<HostLocal> {
    HostLocal::new(network, &section(network)?.object.read()?)
}

/// The same to release addresses.
pub(super) fn to_release(network: &Network) -> Result<HostLocal> {
    Ok(HostLocal::to_release(network, section(network)?))
}

fn section(network: &Network) -> Result<&IpamConf> {
    network.ipam.as_ref().ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            "host-local without \"ipam\" in the config",
        )
    })
}
