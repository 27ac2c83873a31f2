//! `--uninstall`: removes all that the daemon made on its node. The conflist goes first, so that no new
//! pod starts that could not be removed properly.

use super::options::Options;
use super::{conflist, http, masquerade, routes};
use pausenet::apply::{Host, nft_elements};
use pausenet::kernel::{link, owned_route};
use pausenet::plan::{LINK_GROUP, attachment_of_host_end};
use pausenet_host::install::managed_folder::{ManagedFolder, RemoveAction};
use pausenet_host::{During, Error, Result};

/// Removes conflist, routes and masquerade, and the plugins last.
///
/// # Errors
/// The first failure, or pods are left that need the plugin for their DEL. What was removed until then
/// stays removed; it can be run again.
pub(crate) fn uninstall(options: &Options) -> Result<()> {
    // A running daemon would restore all of it.
    let _port = http::bind(options.listen)
        .map_err(|err| err.hint("stop the pausenetd that runs here first"))?;
    if conflist::remove(&options.conf_dir, &options.conf_name)? {
        let file = options.conf_dir.join(&options.conf_name);
        tracing::info!("removed {}", file.display());
    }
    let mut socket = Host::open_socket()?;
    for route in routes::list(&mut socket)? {
        owned_route::remove(&mut socket, &route)
            .during_with(|| format!("remove the route {route}"))?;
        tracing::info!("removed the route {route}");
    }
    if masquerade::remove(&mut nft_elements::open()?)? {
        tracing::info!("removed the masquerade");
    }
    let links = link::list(&mut socket).during("list the host's links")?;
    let attached = links
        .iter()
        .filter(|link| link.group == LINK_GROUP && attachment_of_host_end(link).is_some());
    match attached.count() {
        0 => remove_plugins(options),
        left => Err(Error::new(format!(
                "{left} pods on pausenet networks are left and need the plugin for their DEL: it stays in {}",
                options.bin_dir.display()
            ),
        )
        .hint("remove these pods and run this again; everything else is removed")),
    }
}

fn remove_plugins(options: &Options) -> Result<()> {
    let place = ManagedFolder::new(options.bin_dir.clone());
    let Some(held) = place.hold_existing()? else {
        return Ok(());
    };
    let record = place.record()?;
    for name in place.names(&record)? {
        let take = place.take(&name, &record, &held)?;
        tracing::info!("{}: {}", place.path(&name).display(), describe(&take));
    }
    place.forget(held)
}

fn describe(take: &RemoveAction) -> &'static str {
    match take {
        RemoveAction::Restore => "restored the file from before",
        RemoveAction::Remove => "removed",
        RemoveAction::Nothing => "already gone",
        RemoveAction::Untouched => "not replaced, so unchanged",
        RemoveAction::Leave { .. } => "left in place: it is not the file that pausenetd installed",
    }
}
