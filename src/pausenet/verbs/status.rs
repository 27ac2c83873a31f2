//! STATUS: whether the next ADD can work.

use std::time::SystemTime;

use crate::apply::{Host, reclaim, try_lock};
use crate::cni::request::Network;
use crate::cni::{Code, During, Error, IfName, Result};
use crate::ipam::Ipam;
use crate::kernel::{link, netns::Netns};
use crate::plan;

/// Serves STATUS for the plugins that wire containers.
///
/// # Errors
/// Code 50 with the reason.
pub fn run(network: &Network) -> Result<()> {
    kernel()?;
    if plan::rules::are_used(network) {
        crate::apply::rules::ready().map_err(unavailable)?;
    }
    // A place for the locks of ADDs; the name is that of no link.
    let probe = IfName::parse("status").expect("a fine name");
    try_lock(&probe).map_err(unavailable)?;
    addresses(network)
}

/// Serves STATUS for `host-local`.
///
/// # Errors
/// Code 50 with the reason; exhaustion is none where the config says so.
pub fn addresses(network: &Network) -> Result<()> {
    let Some(ipam) = Ipam::new(network).map_err(unavailable)? else {
        return Ok(());
    };
    let mut outcome = ipam.ready();
    // Only of networks that we wire can it be told which addresses are dead.
    let exhausted = outcome
        .as_ref()
        .is_err_and(|err| err.code == Code::TryAgainLater);
    if exhausted
        && network.link.is_some()
        && reclaim(&network.name, &ipam, SystemTime::now()).map_err(unavailable)? > 0
    {
        outcome = ipam.ready();
    }
    match outcome {
        Err(err) if err.code == Code::TryAgainLater && network.status_ignores_exhaustion => Ok(()),
        outcome => outcome.map_err(unavailable),
    }
}

/// Whether links and namespaces may be changed: the kernel is asked to remove a link that
/// cannot exist, which it answers differently to whom it would not let remove one.
///
/// # Errors
/// Code 50.
pub fn kernel() -> Result<()> {
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
