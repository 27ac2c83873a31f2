//! The networks that configuration files describe, as the plugin would read them.

use std::collections::HashMap;

use serde_json::Map;

use super::programs::Programs;
use super::snapshot::Snapshot;
use pausenet::cni::args::Args;
use pausenet::cni::request::{Network, Request};
use pausenet::cni::{ContainerId, IfName, Plugin};
use pausenet::ipam::HostLocal;
use pausenet_host::Result;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::runtime::execution_config;

/// What an ADD without capabilities would ask of the plugin at index `at` of the list.
///
/// # Errors
/// What the plugin would answer to its configuration.
pub(super) fn request(
    list: &NetworkList,
    at: usize,
    plugin: Plugin,
    programs: &Programs,
) -> Result<Request> {
    #[expect(clippy::expect_used, reason = "a literal")]
    let eth0 = IfName::parse("eth0").expect("a valid name");
    let config = execution_config(list, &list.plugins[at], &Map::new(), None);
    let request = Request::of_add(
        plugin,
        (ContainerId::parse("doctor")?, eth0),
        &Args::default(),
        programs.path(),
        config.to_string().into_bytes(),
    )?;
    Ok(request)
}

/// The plugin of this name, if it is pausenet. `pausenet` has no other maker.
pub(super) fn plugin_of_ours(name: &str, programs: &Programs) -> Option<Plugin> {
    let plugin = Plugin::named(name)?;
    (plugin == Plugin::Pausenet || programs.is_ours(plugin.name())).then_some(plugin)
}

/// The networks whose interfaces pausenet makes, by name.
pub(super) fn networks_of_ours(snapshot: &Snapshot) -> HashMap<String, Network> {
    let mut networks = HashMap::new();
    for list in snapshot.lists() {
        let at = list.wiring();
        let Some(plugin) = plugin_of_ours(&list.plugins[at].r#type, &snapshot.programs) else {
            continue;
        };
        if !plugin.is_wiring() {
            continue;
        }
        if let Ok(request) = request(list, at, plugin, &snapshot.programs) {
            networks.insert(list.name.to_string(), request.network);
        }
    }
    networks
}

/// The bridge that a network connects pods to.
pub(super) fn bridge_of(list: &NetworkList, programs: &Programs) -> Option<IfName> {
    let at = list.wiring();
    let plugin = Plugin::named(&list.plugins[at].r#type)?;
    if !plugin.is_wiring() {
        return None;
    }
    let link = request(list, at, plugin, programs).ok()?.network.link?;
    link.bridge().map(|bridge| bridge.name.clone())
}

/// Whether a network, if a plugin of one of our names makes its interfaces, connects pods to this bridge.
pub(crate) fn names_bridge(list: &NetworkList, bridge: &str) -> bool {
    let found = bridge_of(list, &Programs::default());
    found.is_some_and(|found| found.as_str() == bridge)
}

/// The address store of a network, if it uses host-local.
pub(super) fn host_local(network: &Network) -> Option<HostLocal> {
    let ipam = network.ipam.as_ref().filter(|ipam| ipam.is_host_local())?;
    HostLocal::new(network, &ipam.object.read().ok()?).ok()
}
