//! Removes attachments that the reference's plugins made before the node switched to pausenet. They
//! are found by prevResult and the store.

use std::collections::HashSet;

use ipnetwork::IpNetwork;

use super::container;
use super::host::Host;
use crate::cni::link::LinkConf;
use crate::cni::request::{Attachment, Network, Request};
use crate::cni::result::{AddResult, Interface};
use crate::cni::{During, Family, IfName, NetworkName, Result, warn};
use crate::ipam::store::StaleReservation;
use crate::kernel::link::{Link, Which};
use crate::kernel::netns::Netns;
use crate::kernel::nft::expr::address_bytes;
use crate::kernel::nft::{Change, Nft, Rule};
use crate::kernel::{KernelError, RouteSocket, address, iptables_legacy, link};
use crate::plan::LINK_GROUP;
use crate::plan::reference::{
    Comment, LocationIndex, MASQUERADE, PORT_CHAINS, PORTS, RuleLocation, link_rule_locations,
    port_chains, stale_masquerade,
};

/// The host end in a result: an interface on the host that is not the network's bridge.
pub(super) fn promised_host_end<'a>(
    promised: &'a AddResult,
    network: &Network,
) -> Option<&'a Interface> {
    let bridge = network.link.as_ref().and_then(LinkConf::bridge);
    promised.interfaces.iter().find(|interface| {
        let is_bridge = bridge.is_some_and(|bridge| interface.name == bridge.name.as_str());
        interface.sandbox.is_empty() && !is_bridge && !interface.mac.is_empty()
    })
}

/// Removes the link of an attachment made by another plugin: with prevResult, the host end that it
/// names, if its MAC still matches; without, the interface in the namespace, but only if it has an
/// address that the container holds in the store.
pub(crate) fn remove_link(host: &mut Host, request: &Request, held: &[IpNetwork]) -> Result<()> {
    match &request.network.prev_result {
        Some(promised) => match promised_host_end(promised, &request.network) {
            Some(interface) => remove_named(&mut host.socket, interface),
            None => Ok(()),
        },
        None => remove_inside(host, request, held),
    }
}

fn remove_named(socket: &mut RouteSocket, interface: &Interface) -> Result<()> {
    let Ok(name) = IfName::parse(&interface.name) else {
        return Ok(());
    };
    let attempt = || format!("remove the host end {name} that prevResult names");
    let found = link::get(socket, Which::Name(&name)).during_with(attempt)?;
    let same = |found: &Link| {
        let mac = found.mac.map(|mac| mac.to_string()).unwrap_or_default();
        found.kind == "veth" && interface.mac.eq_ignore_ascii_case(&mac)
    };
    match found.filter(same) {
        Some(found) => link::delete(socket, found.index).during_with(attempt),
        None => Ok(()),
    }
}

fn remove_inside(host: &mut Host, request: &Request, held: &[IpNetwork]) -> Result<()> {
    // A path that leads nowhere, or to the host's namespace, has no interface of the container.
    let Some(Ok(netns)) = request.netns.as_deref().map(Netns::open) else {
        return Ok(());
    };
    if netns.is_same(&host.netns).unwrap_or(true) {
        return Ok(());
    }
    let name = &request.attachment.ifname;
    let attempt = || format!("remove {name} in {}", netns.path().display());
    let mut inside = netns.enter(&host.netns, container::open)?;
    let found = link::get(&mut inside, Which::Name(name)).during_with(attempt)?;
    let Some(found) = found.filter(|found| found.kind == "veth") else {
        return Ok(());
    };
    // The path may now lead to another pod, on a network with the same addresses.
    if belongs_to_another_pod(host, request, &found).during_with(attempt)? {
        return Ok(());
    }
    let addresses = address::of_link(&mut inside, found.index).during_with(attempt)?;
    let held: HashSet<_> = held.iter().map(|given| given.ip()).collect();
    let holds = addresses.iter().any(|has| held.contains(&has.ip()));
    if holds {
        link::delete(&mut inside, found.index).during_with(attempt)?;
    }
    Ok(())
}

/// Whether the host end of a container's interface shows that it belongs to another attachment: it
/// is one of ours, which are found by name, or it is not a port of the network's bridge.
fn belongs_to_another_pod(
    host: &mut Host,
    request: &Request,
    end: &Link,
) -> Result<bool, KernelError> {
    let Some(index) = end.peer.filter(|_| end.peer_netns.is_some()) else {
        return Ok(true);
    };
    let Some(port) = link::get(&mut host.socket, Which::Index(index))? else {
        return Ok(true);
    };
    if port.group == LINK_GROUP {
        return Ok(true);
    }
    let Some(conf) = request.network.link.as_ref().and_then(LinkConf::bridge) else {
        return Ok(false);
    };
    let bridge = link::get(&mut host.socket, Which::Name(&conf.name))?;
    // If the bridge does not exist, the link cannot be its port.
    Ok(bridge.is_some_and(|bridge| port.controller != Some(bridge.index)))
}

/// Lists on stderr those of these chains that remain: nf_tables does not show chains of
/// iptables-legacy.
pub(crate) fn warn_of_legacy_iptables(locations: &[RuleLocation]) {
    for family in Family::ALL {
        let program = iptables_legacy::program(family);
        match iptables_legacy::chains(family, "nat") {
            Ok(mut chains) => {
                chains.retain(|chain| {
                    locations
                        .iter()
                        .any(|location| location.own_chains.contains(chain))
                });
                if !chains.is_empty() {
                    let chains = chains.join(" and ");
                    warn(format_args!(
                        "a plugin before us made {chains} with {program}, where they stay: \
                         `pausectl doctor` says how to remove them"
                    ));
                }
            }
            Err(err) => warn(format_args!(
                "cannot see if a plugin before us left chains with {program}: {err}"
            )),
        }
    }
}

/// Removes the reference's rules in these locations.
pub(crate) fn remove_rules(locations: &[RuleLocation]) -> Result<()> {
    remove(|nft| {
        let mut changes = Vec::new();
        // Read chain by chain: an iptables table may have thousands of other rules.
        for ((table, chain), index) in LocationIndex::of_chains(locations) {
            let rules = nft.rules(table, Some(chain))?.into_iter();
            let rules = rules.filter(|rule| index.has(rule));
            changes.extend(rules.map(|rule| Change::RemoveRule(table, rule)));
        }
        for location in locations {
            for chain in &location.own_chains {
                // A chain of the reference is never empty, so it exists if it has a rule.
                if !nft.rules(location.table, Some(chain))?.is_empty() {
                    changes.push(Change::RemoveChain(location.table, chain.clone()));
                }
            }
        }
        Ok(changes)
    })
}

/// Whether one of these locations has rules of the reference's plugins.
pub(crate) fn has_rules(locations: &[RuleLocation]) -> Result<bool> {
    let attempt = "look for the rules of a plugin before us";
    let mut nft = Nft::open().during(attempt)?;
    for location in locations {
        for chain in location.chains {
            let rules = match nft.rules(location.table, Some(chain)) {
                Err(err) if super::nft_elements::is_unknown(&err) => return Ok(false),
                rules => rules.during(attempt)?,
            };
            if rules.iter().any(|rule| location.has(rule)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Removes the masquerade rules of a network's attachments that are not in `valid`, and all rules
/// of `stale` attachments, whose addresses are still known.
pub(crate) fn collect(
    network: &NetworkName,
    valid: &[Attachment],
    stale: &[StaleReservation],
) -> Result<()> {
    let is_stale = stale_masquerade(network, valid);
    // A container's port rules do not name the network: remove only those that lead to its address
    // in this network.
    let addresses: HashSet<_> = stale
        .iter()
        .map(|stale| (stale.container.as_str(), address_bytes(stale.ip)))
        .collect();
    let leads_nowhere = |rule: &Rule| {
        let mut values = rule.values.iter();
        values.any(|value| addresses.contains(&(rule.comment.as_str(), value.clone())))
    };
    remove(|nft| {
        let (table, chain) = MASQUERADE;
        let mut rules: Vec<_> = nft
            .rules(table, Some(chain))?
            .into_iter()
            .filter(|rule| is_stale(rule))
            .map(|rule| Change::RemoveRule(table, rule))
            .collect();
        for table in PORTS {
            for chain in PORT_CHAINS.iter().filter(|_| !stale.is_empty()) {
                let found = nft.rules(table, Some(chain))?.into_iter();
                let found = found.filter(|rule| leads_nowhere(rule));
                rules.extend(found.map(|rule| Change::RemoveRule(table, rule)));
            }
        }
        Ok(rules)
    })?;
    let attachment =
        |stale: &StaleReservation| Attachment::of_network(network, &stale.container, &stale.ifname);
    // Each location once: an attachment may have two addresses, but a rule cannot be removed twice.
    let mut locations: Vec<RuleLocation> = Vec::new();
    let mut seen = HashSet::new();
    let live: HashSet<_> = valid.iter().map(|valid| &valid.container).collect();
    for attachment in stale.iter().filter_map(attachment) {
        // The names of iptables chains do not depend on the interface.
        let shared = live.contains(&attachment.container);
        let found = link_rule_locations(&attachment).into_iter();
        for location in found.chain(port_chains(&attachment)) {
            let is_shared = shared && location.comment == Comment::ByJump;
            if !is_shared && seen.insert(location.clone()) {
                locations.push(location);
            }
        }
    }
    remove_rules(&locations)
}

fn remove(find: impl Fn(&mut Nft) -> Result<Vec<Change>, KernelError>) -> Result<()> {
    super::nft_elements::amend(
        &mut super::nft_elements::open()?,
        "remove the rules of a plugin before us",
        find,
    )
    .map(drop)
}
