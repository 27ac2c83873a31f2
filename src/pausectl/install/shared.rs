//! What attachments shared and left on the host: it goes with the plugin.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::report::Report;
use crate::doctor::configured::names_bridge;
use crate::leftovers::{remove_empty_folders, remove_store, unused_stores};
use crate::options::{CONF_DIR, RUNTIME_CONF_DIR, shown};
use pausenet::apply::{self, Host, firewall};
use pausenet::ipam::host_local::DATA_DIR;
use pausenet::kernel::link;
use pausenet::plan::LINK_GROUP;
use pausenet_host::runtime::conflist::{self, NetworkList};
use pausenet_host::{During, Error};

/// Removes bridges, rules, tables, stores without addresses, and empty folders. All of it stays while there is
/// an attachment, and what a configuration names that is still there does. The next attachment would make it
/// again.
pub(super) fn remove(conf_dirs: &BTreeSet<PathBuf>, report: &mut Report) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    if links.iter().any(|link| link.group == LINK_GROUP) {
        return Ok(());
    }
    let lists = remaining_lists(conf_dirs);
    for bridge in apply::unused_bridges(&links) {
        let mut users = lists.iter().filter(|list| names_bridge(list, &bridge.name));
        if let Some(list) = users.next() {
            let what = format!("bridge {}: network {} uses it", bridge.name, list.name);
            report.kept.push(what);
        } else if apply::remove_unused_bridge(&mut socket, bridge)? {
            report.shared.push(format!("bridge {}", bridge.name));
        }
    }
    // With one request at a time: without permission, the kernel does not answer several.
    let tables = apply::remove_empty_tables()?;
    let tables = tables
        .iter()
        .map(|table| format!("table {} {}", table.family, table.name));
    report.shared.extend(tables);
    for network in apply::networks_in_firewalls()? {
        if firewall::forget(&network)? {
            let what = format!("the rules of network {network} in firewalls");
            report.shared.push(what);
        }
    }
    let is_known = |name: &str| lists.iter().any(|list| list.name.as_str() == name);
    for (network, dir) in unused_stores(DATA_DIR.as_ref(), is_known) {
        if remove_store(&dir, &network)? {
            report.shared.push(shown(&dir));
        }
    }
    remove_empty_folders();
    Ok(())
}

/// The configurations that are still there.
fn remaining_lists(conf_dirs: &BTreeSet<PathBuf>) -> Vec<NetworkList> {
    let own = std::env::var_os("PAUSENET_CONF_DIR").map_or(CONF_DIR.into(), PathBuf::from);
    let mut dirs = conf_dirs.clone();
    dirs.extend([RUNTIME_CONF_DIR.into(), own]);
    let files = dirs
        .iter()
        .flat_map(|dir| conflist::files(dir).unwrap_or_default());
    files
        .filter_map(|file| NetworkList::read(&file).ok())
        .collect()
}
