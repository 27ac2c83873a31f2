//! STATUS: checks that the next ADD can work.

use std::time::SystemTime;

use crate::apply::{Host, reclaim, reclaim_empty, try_lock};
use crate::cni::request::Network;
use crate::cni::{Code, During, Error, IfName, Result};
use crate::ipam::Ipam;
use crate::kernel::{link, netns::Netns};
use crate::plan;

/// Serves STATUS for the plugins that wire containers.
///
/// # Errors
/// Code 50 with the reason.
pub(crate) fn run(network: &Network) -> Result<()> {
    kernel()?;
    if plan::elements::are_used(network) {
        crate::apply::nft_elements::ready().map_err(unavailable)?;
    }
    // ADD needs a folder for its lock; no link has this name.
    let probe = IfName::parse("status").map_err(|why| Error::new(Code::Internal, why))?;
    try_lock(&probe).map_err(unavailable)?;
    match Ipam::new(network).map_err(unavailable)? {
        Some(ipam) => addresses(network, &ipam),
        None => Ok(()),
    }
}

/// Serves STATUS for `host-local`.
///
/// # Errors
/// Code 50 with the reason. The config can exclude exhaustion.
pub(super) fn host_local(network: &Network) -> Result<()> {
    if network.ipam.is_none() {
        return Ok(());
    }
    let ipam = super::host_local::of_network(network).map_err(unavailable)?;
    addresses(network, &Ipam::HostLocal(ipam))
}

fn addresses(network: &Network, ipam: &Ipam) -> Result<()> {
    let mut outcome = ipam.ready();
    let exhausted = outcome
        .as_ref()
        .is_err_and(|err| err.code == Code::TryAgainLater);
    if exhausted {
        let now = SystemTime::now();
        // Those of containers can be reclaimed only on networks to which this plugin attaches them.
        let freed = match network.link {
            Some(_) => reclaim(&network.name, ipam, now),
            None => reclaim_empty(ipam, now),
        };
        // An ADD may have reclaimed them first: look again even if nothing was left to free.
        freed.map_err(unavailable)?;
        outcome = ipam.ready();
    }
    match outcome {
        Err(err) if err.code == Code::TryAgainLater && network.status_ignores_exhaustion => Ok(()),
        outcome => outcome.map_err(unavailable),
    }
}

/// Checks that links and namespaces may be changed: removing a link that cannot exist fails with
/// another error if the process lacks the permission.
pub(super) fn kernel() -> Result<()> {
    const NO_LINK: u32 = i32::MAX as u32;
    let mut socket = Host::open_socket().map_err(unavailable)?;
    link::delete(&mut socket, NO_LINK)
        .during("change links")
        .map_err(unavailable)?;
    let own = Netns::own().map_err(unavailable)?;
    own.enter(&own, || Ok(())).map_err(unavailable)
}

fn unavailable(err: Error) -> Error {
    Error {
        code: Code::NotAvailable,
        ..err
    }
}
