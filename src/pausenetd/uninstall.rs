//! All that the daemon has made on its node, taken away: the network's configuration first, so that
//! no pod begins what could not end.

use super::options::Options;
use super::{conflist, http, masquerade, routes};
use pausenet::apply::{Host, rules};
use pausenet::cni::{Code, During, Error, Result};
use pausenet::kernel::{link, owned_route};
use pausenet::plan::{LINK_GROUP, Owner};
use pausenet_host::install::place::{Place, Take};

/// Removes it.
///
/// # Errors
/// Codes 5 and 101, and 11 while pods are left that need the plugin; what was removed until then stays removed.
pub fn uninstall(options: &Options) -> Result<()> {
    // A daemon that runs would put all of it in place again.
    let _port = http::open(options.listen)
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
    if masquerade::remove(&mut rules::open()?)? {
        tracing::info!("removed the masquerade");
    }
    let links = link::list(&mut socket).during("list the host's links")?;
    let attached = links.iter().filter(|link| {
        let owner = Owner::of(link.alias.as_deref());
        link.kind == "veth" && link.group == LINK_GROUP && matches!(owner, Owner::Attachment(_))
    });
    match attached.count() {
        0 => remove_plugins(options),
        left => Err(Error::new(
            Code::TryAgainLater,
            format!(
                "{left} pods of pausenet's are left, and need the plugin for their end: it stays in {}",
                options.bin_dir.display()
            ),
        )
        .hint("remove them and run this again; all else is done")),
    }
}

fn remove_plugins(options: &Options) -> Result<()> {
    let place = Place::new(options.bin_dir.clone());
    let Some(held) = place.hold_existing()? else {
        return Ok(());
    };
    let record = place.record()?;
    for name in place.names(&record)? {
        let take = place.take(&name, &record, &held)?;
        tracing::info!("{}: {}", place.path(&name).display(), words(&take));
    }
    place.forget(held)
}

fn words(take: &Take) -> &'static str {
    match take {
        Take::Restore => "the one from before is back",
        Take::Remove => "removed",
        Take::Nothing => "gone already",
        Take::Untouched => "it had not been replaced yet",
        Take::Leave { .. } => "left: it is not what pausenetd put there",
    }
}
