//! Subnets that overlap each other, or conflict with the host's routes and addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use crate::doctor::configured::{bridge_of, host_local, request};
use crate::doctor::finding::Finding;
use crate::doctor::programs::Programs;
use crate::doctor::snapshot::{Snapshot, is_link_local, shown};
use pausenet::cni::{Family, IfName, NetworkName, Plugin};
use pausenet::ipam::range::Range;
use pausenet::kernel::link::Link;
use pausenet::kernel::route::{self, MAIN_TABLE, Present};
use pausenet::kernel::{KernelError, RouteSocket, address};
use pausenet::plan::LINK_GROUP;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{During, Result};

/// A range of addresses that a network allocates from.
#[derive(Debug, Clone)]
pub(super) struct NetworkRange {
    file: PathBuf,
    network: NetworkName,
    range: Range,
    reached: Reached,
}

/// How the host reaches the addresses of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reached {
    /// By one route to the whole subnet, over this bridge.
    ByBridge(IfName),
    /// By a route to each address, or not at all.
    OneByOne,
}

/// The ranges in a network's configuration, also those of other plugins.
pub(super) fn ranges(file: &Path, list: &NetworkList, programs: &Programs) -> Vec<NetworkRange> {
    let reached = bridge_of(list, programs).map_or(Reached::OneByOne, Reached::ByBridge);
    // Only the ipam is read, so any plugin's configuration will do.
    let networks = (0..list.plugins.len()).filter_map(|at| {
        let request = request(list, at, Plugin::HostLocal, programs).ok()?;
        host_local(&request.network)
    });
    let ranges = networks.flat_map(|ipam| ipam.ranges().cloned().collect::<Vec<_>>());
    let of_network = |range| NetworkRange {
        file: file.to_owned(),
        network: list.name.clone(),
        range,
        reached: reached.clone(),
    };
    ranges.map(of_network).collect()
}

/// Ranges that conflict with each other or with the host.
pub(super) fn conflicts(ranges: &[NetworkRange], snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = overlaps(ranges);
    match Host::read(snapshot) {
        Ok(host) => {
            let with_host = |range| conflicts_with_host(range, ranges, &host);
            findings.extend(ranges.iter().flat_map(with_host));
        }
        Err(err) => findings.push(Finding::not_checked("the host's routes", err)),
    }
    findings
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    Family::from(a) == Family::from(b) && (a.contains(b.network()) || b.contains(a.network()))
}

fn overlaps(ranges: &[NetworkRange]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, one) in ranges.iter().enumerate() {
        for other in &ranges[..at] {
            let (mine, theirs) = (&one.range, &other.range);
            if one.network == other.network || !overlap(mine.subnet, theirs.subnet) {
                continue;
            }
            let twice = mine.contains(theirs.start) || theirs.contains(mine.start);
            let two_bridges = one.reached != other.reached
                && matches!(
                    (&one.reached, &other.reached),
                    (Reached::ByBridge(_), Reached::ByBridge(_))
                );
            let means = if twice {
                "each has its own store, so two pods get one address"
            } else if two_bridges {
                "the host reaches the subnet by one of the two bridges only"
            } else {
                continue;
            };
            findings.push(
                Finding::problem(
                    format!("{}, {}", shown(&other.file), shown(&one.file)),
                    format!(
                        "networks {} ({}) and {} ({}) overlap",
                        other.network, theirs.subnet, one.network, mine.subnet
                    ),
                )
                .means(means)
                .how(
                    "give one of them another subnet, or both the same bridge and separate ranges",
                ),
            );
        }
    }
    findings
}

/// The host's links, routes and addresses.
struct Host {
    links: HashMap<u32, Link>,
    routes: Vec<Present>,
    addresses: Vec<(u32, IpNetwork)>,
}

impl Host {
    fn read(snapshot: &Snapshot) -> Result<Self> {
        let links = snapshot.links.clone()?;
        let read = || {
            let mut socket = RouteSocket::open()?;
            Ok::<_, KernelError>((route::list(&mut socket)?, address::list(&mut socket)?))
        };
        let (mut routes, addresses) = read().during("list the host's routes")?;
        // One that refuses packets for a pod is a finding of the check `links`.
        let live = snapshot.attachments.iter();
        let pods: Vec<_> = live
            .flat_map(|live| live.addresses.iter().flatten())
            .collect();
        let is_for_pods = |dst: IpNetwork| pods.iter().any(|net| dst.contains(net.ip()));
        routes.retain(|route| !route.refuses || !is_for_pods(route.dst));
        Ok(Self {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            routes,
            addresses,
        })
    }

    fn name(&self, index: Option<u32>) -> &str {
        let link = index.and_then(|index| self.links.get(&index));
        link.map_or("nowhere", |link| link.name.as_str())
    }

    /// Whether a link is an attachment's host end, or the bridge of a configured network.
    fn is_ours(&self, index: Option<u32>, ranges: &[NetworkRange]) -> bool {
        let Some(link) = index.and_then(|index| self.links.get(&index)) else {
            return false;
        };
        let bridge = |range: &NetworkRange| matches!(&range.reached, Reached::ByBridge(name) if name.as_str() == link.name);
        link.group == LINK_GROUP || ranges.iter().any(bridge)
    }
}

fn conflicts_with_host(own: &NetworkRange, ranges: &[NetworkRange], host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let subnet = own.range.subnet;
    let full = Family::from(subnet).bits();
    let mut reported = Vec::new();
    for (index, net) in &host.addresses {
        let within = subnet.contains(net.ip());
        if within && !host.is_ours(Some(*index), ranges) && !is_link_local(net) {
            reported.push(*index);
            let link = host.name(Some(*index));
            findings.push(
                problem(
                    own,
                    format!("the host has {net} on {link}, within its subnet {subnet}"),
                )
                .means(format!(
                    "packets from pods to that address, or from the host to pods, go to {link}"
                )),
            );
        }
    }
    for route in &host.routes {
        let is_default = route.dst.prefix() == 0;
        if route.table != MAIN_TABLE
            || is_default
            || !overlap(route.dst, subnet)
            || is_link_local(&route.dst)
            || host.is_ours(route.link, ranges)
            || route.link.is_some_and(|index| reported.contains(&index))
        {
            continue;
        }
        // The longer prefix wins.
        let (ours, whole) = match own.reached {
            Reached::ByBridge(_) => (subnet.prefix(), true),
            Reached::OneByOne => (full, false),
        };
        let by = by(route, host);
        if route.dst.prefix() >= ours {
            findings.push(
                problem(
                    own,
                    format!(
                        "the host has a route to {} {by}, within its subnet {subnet}",
                        route.dst
                    ),
                )
                .means(
                    "the host does not reach pods with addresses there, nor do their ports answer",
                ),
            );
        } else if whole {
            findings.push(
                Finding::note(
                    shown(&own.file),
                    format!(
                        "its subnet {subnet} is within {}, which the host has a route to {by}",
                        route.dst
                    ),
                )
                .means(format!(
                    "hosts with an address of {subnet} there are not reached from here"
                )),
            );
        }
    }
    findings
}

fn problem(own: &NetworkRange, what: String) -> Finding {
    Finding::problem(shown(&own.file), what).how(format!(
        "choose another subnet for network {}; see: ip route show table all",
        own.network
    ))
}

fn by(route: &Present, host: &Host) -> String {
    let via = route
        .via
        .map_or_else(String::new, |via: IpAddr| format!("via {via} "));
    let docker = |link: &str| {
        if link == "docker0" || link.starts_with("br-") {
            " (a Docker network, it seems)"
        } else {
            ""
        }
    };
    let link = host.name(route.link);
    format!("{via}by {link}{}", docker(link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pausenet::cni::config;

    fn range(network: &str, range: &str, reached: Reached) -> NetworkRange {
        let text = format!("{{{range}}}");
        let range: config::Range = serde_json::from_str(&text).unwrap();
        NetworkRange {
            file: format!("/{network}.conf").into(),
            network: NetworkName::parse(network).unwrap(),
            range: Range::new(&range).unwrap(),
            reached,
        }
    }

    fn bridge(name: &str) -> Reached {
        Reached::ByBridge(IfName::parse(name).unwrap())
    }

    const LOW: &str = r#""subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.99""#;
    const HIGH: &str = r#""subnet": "10.1.0.0/24", "rangeStart": "10.1.0.100""#;
    const ALL: &str = r#""subnet": "10.1.0.0/24""#;

    #[test]
    fn networks_may_share_a_subnet_if_they_share_the_bridge_and_no_address() {
        let one = |addresses, reached| range("one", addresses, reached);
        let two = |addresses, reached| range("two", addresses, reached);
        let count = |ranges: [NetworkRange; 2]| overlaps(&ranges).len();
        assert_eq!(count([one(LOW, bridge("a")), two(HIGH, bridge("a"))]), 0);
        assert_eq!(count([one(LOW, bridge("a")), two(HIGH, bridge("b"))]), 1);
        assert_eq!(count([one(LOW, bridge("a")), two(ALL, bridge("a"))]), 1);
        assert_eq!(
            count([one(LOW, Reached::OneByOne), two(HIGH, Reached::OneByOne)]),
            0
        );
        assert_eq!(
            count([one(LOW, Reached::OneByOne), two(ALL, Reached::OneByOne)]),
            1
        );
        assert_eq!(
            count([one(LOW, bridge("a")), range("one", ALL, bridge("a"))]),
            0
        );
    }

    #[test]
    fn of_two_routes_the_longer_prefix_wins() {
        let host = |dst: &str| Host {
            links: HashMap::new(),
            addresses: Vec::new(),
            routes: vec![Present {
                dst: dst.parse().unwrap(),
                via: Some("192.0.2.1".parse().unwrap()),
                link: None,
                table: MAIN_TABLE,
                refuses: false,
            }],
        };
        use crate::doctor::finding::Severity;
        let worst = |dst, reached| {
            let own = range("x", ALL, reached);
            let found = conflicts_with_host(&own, std::slice::from_ref(&own), &host(dst));
            found.iter().map(|found| found.severity).max()
        };
        assert_eq!(worst("10.1.0.0/24", bridge("a")), Some(Severity::Problem));
        assert_eq!(worst("10.1.0.64/26", bridge("a")), Some(Severity::Problem));
        assert_eq!(worst("10.0.0.0/8", bridge("a")), Some(Severity::Note));
        assert_eq!(worst("10.0.0.0/8", Reached::OneByOne), None);
        assert_eq!(worst("10.1.0.64/26", Reached::OneByOne), None);
        assert_eq!(
            worst("10.1.0.64/32", Reached::OneByOne),
            Some(Severity::Problem)
        );
        assert_eq!(worst("10.2.0.0/24", bridge("a")), None);
        assert_eq!(worst("0.0.0.0/0", bridge("a")), None);
    }
}
