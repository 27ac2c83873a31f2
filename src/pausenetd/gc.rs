//! Garbage collection: reclaims what no pod can own any more, after a crash, a killed ADD, a runtime
//! that forgot its DEL. It asks no runtime; the kernel is the source of truth.
//!
//! A pod's link ends with its network namespace, and a namespace ends with the last process in it,
//! unless a runtime holds it open for more to come. So an attachment without a host end has no
//! namespace and no pause process any more, and nothing can own what else is left of it: an IFB,
//! nftables elements, addresses in the store. An ADD of it may be in progress, though: so its lock is
//! taken before anything is removed, and then the host end is looked up once more.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use pausenet::apply::{host_end, nft_elements, reclaim, remove, remove_debris, try_lock};
use pausenet::cni::env::Verb;
use pausenet::cni::request::{Attachment, Network};
use pausenet::cni::{NetworkName, Plugin};
use pausenet::cni::{config, json};
use pausenet::ipam::Ipam;
use pausenet::ipam::range::RangeSet;
use pausenet::ipam::store::Store;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::{RouteSocket, link};
use pausenet::plan::elements::{BRIDGE_TABLE, TABLE};
use pausenet::plan::{
    Mapper, Ownership, attachment_of_host_end, element_owner, host_end_name, is_half_made,
};
use pausenet_host::{During, Result};

/// What is in use of a network, and what was reclaimed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct GcReport {
    /// Attachments with a host end.
    pub attachments: usize,
    /// Attachments whose links and elements were reclaimed; debris counts too.
    pub reclaimed: usize,
    /// Addresses that were reclaimed.
    pub freed: usize,
    /// Attachments that hold an address and have no host end: too young to be reclaimed, or still
    /// being made by an ADD.
    pub stale: usize,
    /// Addresses in use, and addresses in total, by subnet.
    pub usage: BTreeMap<String, (u128, u128)>,
}

/// Reclaims what is stale of the network in this conflist, and counts the rest.
///
/// # Errors
/// The first failure; what was reclaimed until then stays reclaimed.
pub fn collect(
    (socket, nft): (&mut RouteSocket, &mut Nft),
    config: &str,
    pods: &[IpNetwork],
    store: &Path,
    now: SystemTime,
) -> Result<GcReport> {
    let network = network(config)?;
    let links = list_links(socket)?;
    let mut report = GcReport::default();
    for found in links.iter().filter(|found| is_half_made(found)) {
        report.reclaimed += usize::from(remove_debris(socket, found)?);
    }
    let live = live(&links, &network.name);
    report.attachments = live.len();
    let leftovers = leftovers(nft, &links, &network.name)?;
    for attachment in leftovers.iter().filter(|it| !live.contains(*it)) {
        report.reclaimed += usize::from(remove_leftovers(socket, nft, attachment)?);
    }
    if let Some(ipam) = Ipam::new(&network)? {
        report.freed = reclaim(&network.name, &ipam, now)?;
    }
    let store = store.join(network.name.as_given());
    report.usage = usage(pods, &used_addresses(&store)?);
    // Listed again: an ADD may have ended meanwhile.
    let live = self::live(&list_links(socket)?, &network.name);
    report.stale = count_stale(&store, &network.name, &live)?;
    Ok(report)
}

/// The network as the plugin itself parses it.
fn network(config: &str) -> Result<Network> {
    let list: serde_json::Value = json::parse(config.as_bytes())?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = "1.1.0".into();
    let config = plugin.to_string().into();
    let network = Network::new(Plugin::Pausenet, Verb::Status, &[], config)?;
    Ok(network)
}

fn list_links(socket: &mut RouteSocket) -> Result<Vec<Link>> {
    link::list(socket).during("list the host's links")
}

fn live(links: &[Link], network: &NetworkName) -> HashSet<Attachment> {
    links
        .iter()
        .filter_map(attachment_of_host_end)
        .filter(|attachment| attachment.network == *network)
        .collect()
}

/// How many attachments of a network have a host end.
///
/// # Errors
/// The links cannot be listed.
pub(crate) fn count_attachments(socket: &mut RouteSocket, network: &NetworkName) -> Result<usize> {
    Ok(live(&list_links(socket)?, network).len())
}

/// Attachments that have an IFB or nftables elements. Elements of other plugins' containers are
/// ignored.
fn leftovers(nft: &mut Nft, links: &[Link], network: &NetworkName) -> Result<HashSet<Attachment>> {
    let mut found: HashSet<_> = links
        .iter()
        .filter(|link| link.kind == "ifb")
        .filter_map(|link| Ownership::of(link).attachment())
        .filter(|attachment| attachment.network == *network)
        .collect();
    let attempt = "list pods' elements in nftables";
    for table in [TABLE, BRIDGE_TABLE] {
        for set in nft.sets(table).during(attempt)? {
            for element in nft.elements(table, &set).during(attempt)? {
                match element_owner(&element.owner) {
                    Some((Mapper::Own, attachment)) if attachment.network == *network => {
                        found.insert(attachment);
                    }
                    Some((Mapper::Own | Mapper::Chained | Mapper::Firewall, _)) | None => {}
                }
            }
        }
    }
    Ok(found)
}

/// True when they are gone; false while a plugin holds the lock, or if there is a host end now.
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
    nft_elements::remove_all_elements_of(nft, attachment)?;
    Ok(true)
}

fn used_addresses(store: &Path) -> Result<Vec<IpAddr>> {
    match Store::open_existing(store)? {
        Some(store) => Ok(store.taken()?),
        None => Ok(Vec::new()),
    }
}

fn count_stale(store: &Path, network: &NetworkName, live: &HashSet<Attachment>) -> Result<usize> {
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

/// Addresses in use, and addresses in total, by subnet.
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
    fn usage_is_counted_by_subnet() {
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
    fn the_network_is_parsed_from_the_conflist() {
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
