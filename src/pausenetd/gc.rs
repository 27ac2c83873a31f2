//! What no pod can own any more is reclaimed: after a crash, a killed ADD, a runtime that forgot its
//! DEL. No runtime is asked; the kernel tells.
//!
//! A pod's link goes with its network namespace, and a namespace goes with the last process in it,
//! unless a runtime holds it open for more to come. So an attachment without a host end has no
//! namespace and no pause process any more, and nobody can own what else there is of it: an IFB,
//! elements in nftables, addresses in the store. Somebody may be making it right now, though: so its
//! lock is taken before anything is removed, and then the host end looked for once more.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use pausenet::apply::{host_end, reclaim, remove, rules, try_lock};
use pausenet::cni::config;
use pausenet::cni::env::Environment;
use pausenet::cni::link::Mode;
use pausenet::cni::request::{Attachment, Network};
use pausenet::cni::{During, NetworkName, Result};
use pausenet::ipam::Ipam;
use pausenet::ipam::range::RangeSet;
use pausenet::ipam::store::Store;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::{RouteSocket, link};
use pausenet::plan::rules::{BRIDGE_TABLE, TABLE};
use pausenet::plan::{LINK_GROUP, Owner, host_end_name};
use pausenet::verbs::gc::remove_debris;

/// What is there of a network, and what was reclaimed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Census {
    /// Attachments with a host end.
    pub attachments: usize,
    /// Links and elements that were reclaimed, by attachment; half-made links count too.
    pub reclaimed: usize,
    /// Addresses that were reclaimed.
    pub freed: usize,
    /// Attachments that hold an address and have no host end: too young to be reclaimed, or being
    /// made.
    pub stale: usize,
    /// Addresses in use and in all, by subnet.
    pub usage: BTreeMap<String, (u128, u128)>,
}

/// Reclaims what is dead of the network in this plugin configuration, and counts the rest.
///
/// # Errors
/// Codes 5, 7 and 101; what could be reclaimed was.
pub fn collect(
    (socket, nft): (&mut RouteSocket, &mut Nft),
    config: &str,
    pods: &[IpNetwork],
    store: &Path,
    now: SystemTime,
) -> Result<Census> {
    let network = network(config)?;
    let links = list(socket)?;
    let mut census = Census::default();
    for found in links.iter().filter(|found| is_debris(found)) {
        census.reclaimed += usize::from(remove_debris(socket, found)?);
    }
    let live = live(&links, &network.name);
    census.attachments = live.len();
    let leftovers = leftovers(nft, &links, &network.name)?;
    for attachment in leftovers.iter().filter(|it| !live.contains(*it)) {
        census.reclaimed += usize::from(remove_leftovers(socket, nft, attachment)?);
    }
    if let Some(ipam) = Ipam::new(&network)? {
        census.freed = reclaim(&network.name, &ipam, now)?;
    }
    let store = store.join(network.name.as_str());
    census.usage = usage(pods, &taken(&store)?);
    // Looked at anew: an ADD may have ended meanwhile.
    let live = self::live(&list(socket)?, &network.name);
    census.stale = stale(&store, &network.name, &live)?;
    Ok(census)
}

/// The network as the plugin itself reads it.
fn network(config: &str) -> Result<Network> {
    let list: serde_json::Value = config::parse(config.as_bytes())?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = "1.1.0".into();
    let environment = Environment::parse(|name| match name {
        "CNI_COMMAND" => Some("STATUS".into()),
        "CNI_PATH" => Some("/".into()),
        _ => None,
    })?;
    let environment = environment.expect("CNI_COMMAND is set");
    Network::new(&environment, Mode::Configured, plugin.to_string().into())
}

fn list(socket: &mut RouteSocket) -> Result<Vec<Link>> {
    link::list(socket).during("list the host's links")
}

fn is_debris(link: &Link) -> bool {
    link.group == LINK_GROUP && Owner::of(link.alias.as_deref()) == Owner::Nobody
}

/// The attachment of a network that an alias or a comment names.
pub(super) fn attachment_of(alias: Option<&str>, network: &NetworkName) -> Option<Attachment> {
    match Owner::of(alias) {
        Owner::Attachment(attachment) if attachment.network == *network => Some(attachment),
        _ => None,
    }
}

fn live(links: &[Link], network: &NetworkName) -> HashSet<Attachment> {
    links
        .iter()
        .filter(|link| link.kind == "veth")
        .filter_map(|link| attachment_of(link.alias.as_deref(), network))
        .collect()
}

/// Attachments that something is there of beside a host end: an IFB, elements. What the comments of
/// elements say of containers that other plugins wired is not for us to judge.
fn leftovers(nft: &mut Nft, links: &[Link], network: &NetworkName) -> Result<HashSet<Attachment>> {
    let mut found: HashSet<_> = links
        .iter()
        .filter(|link| link.kind == "ifb")
        .filter_map(|link| attachment_of(link.alias.as_deref(), network))
        .collect();
    let attempt = "list the elements of pods in nftables";
    for table in [TABLE, BRIDGE_TABLE] {
        for set in nft.sets(table).during(attempt)? {
            let elements = nft.elements(table, &set).during(attempt)?;
            let owners = elements
                .into_iter()
                .filter_map(|element| attachment_of(Some(&element.owner), network));
            found.extend(owners);
        }
    }
    Ok(found)
}

/// True when they are gone; false when somebody is at work on the attachment.
fn remove_leftovers(
    socket: &mut RouteSocket,
    nft: &mut Nft,
    attachment: &Attachment,
) -> Result<bool> {
    let Some(_lock) = try_lock(&host_end_name(attachment))? else {
        return Ok(false);
    };
    if host_end(socket, attachment)?.is_some() {
        return Ok(false);
    }
    remove(socket, attachment)?;
    rules::release_all(nft, attachment)?;
    Ok(true)
}

fn taken(store: &Path) -> Result<Vec<IpAddr>> {
    match Store::open_existing(store)? {
        Some(store) => store.taken(),
        None => Ok(Vec::new()),
    }
}

fn stale(store: &Path, network: &NetworkName, live: &HashSet<Attachment>) -> Result<usize> {
    let Some(store) = Store::open_existing(store)? else {
        return Ok(0);
    };
    let dead = store.stale(|container, ifname| {
        Attachment::of_network(network, container, ifname)
            .is_some_and(|attachment| live.contains(&attachment))
    })?;
    let holders: HashSet<_> = dead
        .into_iter()
        .map(|it| (it.container, it.ifname))
        .collect();
    Ok(holders.len())
}

/// Addresses in use and in all, by subnet.
fn usage(pods: &[IpNetwork], taken: &[IpAddr]) -> BTreeMap<String, (u128, u128)> {
    let of = |subnet: &IpNetwork| {
        let range = config::Range {
            subnet: *subnet,
            range_start: None,
            range_end: None,
            gateway: None,
        };
        let set = RangeSet::new(&[range]).ok()?;
        Some((subnet.to_string(), (set.count(taken), set.size())))
    };
    pods.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_by_subnet() {
        let pods = [
            "10.1.0.0/24".parse().unwrap(),
            "fd00::/120".parse().unwrap(),
        ];
        let taken = ["10.1.0.1", "10.1.0.2", "10.1.0.9", "192.0.2.1", "fd00::2"]
            .map(|ip| ip.parse().unwrap());
        let usage = usage(&pods, &taken);
        assert_eq!(usage["10.1.0.0/24"], (2, 253));
        assert_eq!(usage["fd00::/120"], (1, 254));
    }

    #[test]
    fn the_network_is_read_from_what_runtimes_read() {
        use clap::Parser;
        let options = super::super::options::Options::try_parse_from(["pausenetd"]).unwrap();
        let pods = ["10.1.0.0/24".parse().unwrap()];
        let text = super::super::conflist::render(&options.settings(), &pods, Some(1400));
        let network = network(&text).unwrap();
        assert_eq!(network.name.as_str(), "pausenet");
        assert_eq!(network.mtu, Some(1400));
        assert!(network.status_ignores_exhaustion && !network.masquerade);
    }
}
