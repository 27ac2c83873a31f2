//! What attachments shared and left on the host, and no network needs any more.

use std::collections::BTreeSet;

use crate::doctor::configured::bridge_of;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::{Snapshot, shown};
use crate::leftovers::unused_stores;
use pausenet::apply;

/// A note for each bridge, rule and table of ours that neither a configuration nor an attachment needs.
pub(super) fn find(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lists: Vec<_> = snapshot.lists().collect();
    let bridges: BTreeSet<_> = lists
        .iter()
        .filter_map(|list| bridge_of(list, &snapshot.programs))
        .map(|bridge| bridge.to_string())
        .collect();
    let links = snapshot.links.as_deref().unwrap_or_default();
    for bridge in apply::unused_bridges(links) {
        if !bridges.contains(&bridge.name) {
            let what = "it has no ports, and no network configuration names it";
            findings.push(
                Finding::note(&bridge.name, what)
                    .means("it is left of a network, and keeps its subnet's route")
                    .how(format!("ip link delete {}", bridge.name)),
            );
        }
    }
    let live = snapshot.attachments.iter();
    let live: BTreeSet<_> = live
        .map(|live| live.attachment.network.to_string())
        .collect();
    let is_known =
        |name: &str| live.contains(name) || lists.iter().any(|list| list.name.as_str() == name);
    for (network, dir) in unused_stores(&snapshot.paths.data_dir, is_known) {
        let what = "it has no addresses, and no network configuration has its name";
        findings
            .push(Finding::note(shown(&dir), what).how(format!("pausectl network rm {network}")));
    }
    // Asked first, with one request: without permission, the kernel does not answer several. What cannot be
    // read is a finding of the checks `firewall` and `rules`.
    let Ok(empty_tables) = apply::empty_tables() else {
        return findings;
    };
    for network in apply::networks_in_firewalls().unwrap_or_default() {
        if !is_known(network.as_str()) {
            let what = "firewalls have rules of this network, which has no configuration and no attachment";
            findings.push(
                Finding::note(format!("network {network}"), what)
                    .means("its packets would be accepted if its bridge came back")
                    .how(format!("pausectl network rm {network}")),
            );
        }
    }
    if snapshot.confs.is_empty() && live.is_empty() {
        for table in empty_tables {
            let name = format!("table {} {}", table.family, table.name);
            findings.push(
                Finding::note(&name, "it is empty, and no network is configured")
                    .how(format!("nft delete {name}")),
            );
        }
    }
    findings
}
