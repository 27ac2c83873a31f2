//! `--uninstall`: removes all that the daemon made on its node, once no pod needs it.
//!
//! A runtime calls a pod's DEL with the network's configuration: without one, containerd answers "cni
//! plugin not initialized", and the pod can never end. So everything stays while there are attachments, and
//! they are waited for. The conflist goes first then, so that no pod starts whose network is being removed;
//! if one was faster, the conflist is put back, and the wait goes on.

use std::time::{Duration, Instant};

use super::options::Options;
use super::{conflist, http, masquerade, routes};
use pausenet::apply::{Host, nft_elements, remove_empty_tables};
use pausenet::kernel::{RouteSocket, link, owned_route};
use pausenet::plan::{LINK_GROUP, attachment_of_host_end};
use pausenet_host::install::managed_folder::{ManagedFolder, RemoveAction};
use pausenet_host::{During, Error, Result};

/// How often to look whether pods are left, and how often to say so.
const LOOK: Duration = Duration::from_millis(500);
const SAY: Duration = Duration::from_secs(15);

/// Removes conflist, routes, masquerade and the tables that pods shared, and the plugins last.
///
/// # Errors
/// The first failure; what was removed until then stays removed. Or pods are left that need the network
/// for their DEL, after the time to wait for them: nothing is removed then. It can be run again.
pub(crate) fn uninstall(options: &Options) -> Result<()> {
    // A running daemon would restore all of it.
    let _port = http::bind(options.listen)
        .map_err(|err| err.hint("stop the pausenetd that runs here first"))?;
    let mut socket = Host::open_socket()?;
    let deadline = Instant::now() + options.uninstall_wait();
    loop {
        wait_for_pods(&mut socket, options, deadline)?;
        let Some(removed) = conflist::take(&options.conf_dir, &options.conf_name)? else {
            break;
        };
        if attached(&mut socket)?.is_empty() {
            let file = options.conf_dir.join(&options.conf_name);
            tracing::info!("removed {}", file.display());
            break;
        }
        tracing::info!("a pod was attached meanwhile: the conflist is put back");
        conflist::ensure(&options.conf_dir, &options.conf_name, &removed)?;
    }
    for route in routes::list(&mut socket)? {
        owned_route::remove(&mut socket, &route)
            .during_with(|| format!("remove the route {route}"))?;
        tracing::info!("removed the route {route}");
    }
    if masquerade::remove(&mut nft_elements::open()?)? {
        tracing::info!("removed the masquerade");
    }
    for table in remove_empty_tables()? {
        tracing::info!("removed the table {} {}", table.family, table.name);
    }
    remove_plugins(options)
}

/// Waits until no pod is attached.
fn wait_for_pods(socket: &mut RouteSocket, options: &Options, deadline: Instant) -> Result<()> {
    let mut next_word = Instant::now();
    loop {
        let left = attached(socket)?;
        if left.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let names = some_of(&left);
        if now >= deadline {
            let file = options.conf_dir.join(&options.conf_name);
            return Err(Error::new(format!(
                "{} pods on pausenet networks are left and need the network for their DEL ({names}): \
                 nothing was removed, and {} stays",
                left.len(),
                file.display()
            ))
            .hint("cordon the node, remove these pods (kubectl drain does both), and run this again"));
        }
        if now >= next_word {
            tracing::info!(
                "waiting until no pod is attached, for {} s at most; {} are left: {names}",
                deadline.saturating_duration_since(now).as_secs(),
                left.len()
            );
            next_word = now + SAY;
        }
        std::thread::sleep(LOOK.min(deadline.saturating_duration_since(now)));
    }
}

/// The attachments with a host end, by name.
fn attached(socket: &mut RouteSocket) -> Result<Vec<String>> {
    let links = link::list(socket).during("list the host's links")?;
    let ours = links.iter().filter(|link| link.group == LINK_GROUP);
    Ok(ours
        .filter_map(|link| attachment_of_host_end(link).map(|attachment| attachment.to_string()))
        .collect())
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = names[..names.len().min(SHOWN)].join("; ");
    if names.len() > SHOWN {
        text.push_str(&format!("; and {} more", names.len() - SHOWN));
    }
    text
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
