//! Subnets of networks that overlap each other, or clash with what the host has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use crate::doctor::checks::networks::{bridge_of, request};
use crate::doctor::finding::{Check, Finding};
use crate::doctor::programs::Programs;
use crate::doctor::snapshot::{Scene, is_link_local, shown};
use pausenet::cni::{IfName, NetworkName, Plugin, config};
use pausenet::ipam::HostLocal;
use pausenet::ipam::range::Range;
use pausenet::kernel::link::Link;
use pausenet::kernel::route::{self, MAIN_TABLE, Present};
use pausenet::kernel::{KernelError, RouteSocket, address};
use pausenet::plan::LINK_GROUP;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{During, Result};

/// A range of addresses that a network gives out.
#[derive(Debug, Clone)]
pub struct Claim {
    file: PathBuf,
    network: NetworkName,
    range: Range,
    medium: Medium,
}

/// How the host reaches the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Medium {
    /// By one route to the whole subnet.
    Bridge(IfName),
    /// By a route to each of them, or not at all.
    Each,
}

/// The ranges that a network's configuration names; those of plugins that are not ours too.
pub fn claims(file: &Path, list: &NetworkList, programs: &Programs) -> Vec<Claim> {
    let medium = bridge_of(list, programs).map_or(Medium::Each, Medium::Bridge);
    let ranges = (0..list.plugins.len()).filter_map(|at| ranges(list, at, programs));
    let claim = |range| Claim {
        file: file.to_owned(),
        network: list.name.clone(),
        range,
        medium: medium.clone(),
    };
    ranges.flatten().map(claim).collect()
}

fn ranges(list: &NetworkList, at: usize, programs: &Programs) -> Option<Vec<Range>> {
    // Whoever's plugin it is: only its ipam is read.
    let network = request(list, at, Plugin::HostLocal, programs).ok()?.network;
    let ipam = network.ipam.as_ref().filter(|ipam| ipam.is_host_local())?;
    let ipam = config::parse_part("ipam", &ipam.object).ok()?;
    Some(
        HostLocal::new(&network, &ipam)
            .ok()?
            .ranges()
            .cloned()
            .collect(),
    )
}

pub fn check(claims: &[Claim], scene: &Scene) -> Vec<Finding> {
    let mut findings = overlaps(claims);
    match Host::read(scene) {
        Ok(host) => findings.extend(
            claims
                .iter()
                .flat_map(|claim| clashes(claim, claims, &host)),
        ),
        Err(err) => findings.push(Finding::unseen(Check::Networks, "the host's routes", err)),
    }
    findings
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

fn overlaps(claims: &[Claim]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, one) in claims.iter().enumerate() {
        for other in &claims[..at] {
            let (mine, theirs) = (&one.range, &other.range);
            if one.network == other.network || !overlap(mine.subnet, theirs.subnet) {
                continue;
            }
            let twice = mine.contains(theirs.start) || theirs.contains(mine.start);
            let two_ways = one.medium != other.medium
                && matches!(
                    (&one.medium, &other.medium),
                    (Medium::Bridge(_), Medium::Bridge(_))
                );
            let means = if twice {
                "each has a store of its own, so two pods get one address"
            } else if two_ways {
                "the host reaches the subnet by one of the two bridges only"
            } else {
                continue;
            };
            findings.push(
                Finding::problem(
                    Check::Networks,
                    format!("{}, {}", shown(&other.file), shown(&one.file)),
                    format!(
                        "networks {} ({}) and {} ({}) overlap",
                        other.network, theirs.subnet, one.network, mine.subnet
                    ),
                )
                .means(means)
                .how("give one of them another subnet, or both the same bridge and ranges apart"),
            );
        }
    }
    findings
}

/// What the host has besides our networks.
struct Host {
    links: HashMap<u32, Link>,
    routes: Vec<Present>,
    addresses: Vec<(u32, IpNetwork)>,
}

impl Host {
    fn read(scene: &Scene) -> Result<Self> {
        let links = scene.links.clone()?;
        let read = || {
            let mut socket = RouteSocket::open()?;
            Ok::<_, KernelError>((route::list(&mut socket)?, address::list(&mut socket)?))
        };
        let (routes, addresses) = read().during("list the host's routes")?;
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

    /// Whether a link is one that networks with configurations here are reached by.
    fn is_ours(&self, index: Option<u32>, claims: &[Claim]) -> bool {
        let Some(link) = index.and_then(|index| self.links.get(&index)) else {
            return false;
        };
        let bridge = |claim: &Claim| matches!(&claim.medium, Medium::Bridge(name) if name.as_str() == link.name);
        link.group == LINK_GROUP || claims.iter().any(bridge)
    }
}

fn clashes(claim: &Claim, claims: &[Claim], host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let subnet = claim.range.subnet;
    let full = if subnet.is_ipv4() { 32 } else { 128 };
    let mut told = Vec::new();
    for (index, net) in &host.addresses {
        let within = subnet.contains(net.ip());
        if within && !host.is_ours(Some(*index), claims) && !is_link_local(net) {
            told.push(*index);
            let link = host.name(Some(*index));
            findings.push(
                problem(
                    claim,
                    format!("the host has {net}, an address of its subnet {subnet}, on {link}"),
                )
                .means(format!(
                    "what pods send there, or the host to pods, goes to {link}"
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
            || host.is_ours(route.link, claims)
            || route.link.is_some_and(|index| told.contains(&index))
        {
            continue;
        }
        // Of two routes the longer wins.
        let (ours, whole) = match claim.medium {
            Medium::Bridge(_) => (subnet.prefix(), true),
            Medium::Each => (full, false),
        };
        let way = way(route, host);
        if route.dst.prefix() >= ours {
            findings.push(
                problem(
                    claim,
                    format!(
                        "the host has a route to {} {way}, within its subnet {subnet}",
                        route.dst
                    ),
                )
                .means(
                    "pods with addresses there are not reached from the host, nor by their ports",
                ),
            );
        } else if whole {
            findings.push(
                Finding::note(
                    Check::Networks,
                    shown(&claim.file),
                    format!(
                        "its subnet {subnet} lies within {}, which the host has a route to {way}",
                        route.dst
                    ),
                )
                .means(format!(
                    "whoever has an address of {subnet} there is not reached from here"
                )),
            );
        }
    }
    findings
}

fn problem(claim: &Claim, what: String) -> Finding {
    Finding::problem(Check::Networks, shown(&claim.file), what).how(format!(
        "choose another subnet for network {}; see: ip route show table all",
        claim.network
    ))
}

fn way(route: &Present, host: &Host) -> String {
    let via = route
        .via
        .map_or_else(String::new, |via: IpAddr| format!("via {via} "));
    let docker = |link: &str| {
        if link == "docker0" || link.starts_with("br-") {
            " (a network of Docker's, it seems)"
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

    fn claim(network: &str, range: &str, medium: Medium) -> Claim {
        let text = format!("{{{range}}}");
        let range: config::Range = serde_json::from_str(&text).unwrap();
        Claim {
            file: format!("/{network}.conf").into(),
            network: NetworkName::parse(network).unwrap(),
            range: Range::new(&range).unwrap(),
            medium,
        }
    }

    fn bridge(name: &str) -> Medium {
        Medium::Bridge(IfName::parse(name).unwrap())
    }

    const LOW: &str = r#""subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.99""#;
    const HIGH: &str = r#""subnet": "10.1.0.0/24", "rangeStart": "10.1.0.100""#;
    const ALL: &str = r#""subnet": "10.1.0.0/24""#;

    #[test]
    fn networks_may_share_a_subnet_if_they_share_the_bridge_and_no_address() {
        let one = |range, medium| claim("one", range, medium);
        let two = |range, medium| claim("two", range, medium);
        let count = |claims: [Claim; 2]| overlaps(&claims).len();
        assert_eq!(count([one(LOW, bridge("a")), two(HIGH, bridge("a"))]), 0);
        assert_eq!(count([one(LOW, bridge("a")), two(HIGH, bridge("b"))]), 1);
        assert_eq!(count([one(LOW, bridge("a")), two(ALL, bridge("a"))]), 1);
        assert_eq!(count([one(LOW, Medium::Each), two(HIGH, Medium::Each)]), 0);
        assert_eq!(count([one(LOW, Medium::Each), two(ALL, Medium::Each)]), 1);
        assert_eq!(
            count([one(LOW, bridge("a")), claim("one", ALL, bridge("a"))]),
            0
        );
    }

    #[test]
    fn of_two_routes_the_longer_decides_who_is_harmed() {
        let host = |dst: &str| Host {
            links: HashMap::new(),
            addresses: Vec::new(),
            routes: vec![Present {
                dst: dst.parse().unwrap(),
                via: Some("192.0.2.1".parse().unwrap()),
                link: None,
                table: MAIN_TABLE,
            }],
        };
        use crate::doctor::finding::Severity;
        let worst = |dst, medium| {
            let claim = claim("x", ALL, medium);
            let found = clashes(&claim, std::slice::from_ref(&claim), &host(dst));
            found.iter().map(|found| found.severity).max()
        };
        assert_eq!(worst("10.1.0.0/24", bridge("a")), Some(Severity::Problem));
        assert_eq!(worst("10.1.0.64/26", bridge("a")), Some(Severity::Problem));
        assert_eq!(worst("10.0.0.0/8", bridge("a")), Some(Severity::Note));
        assert_eq!(worst("10.0.0.0/8", Medium::Each), None);
        assert_eq!(worst("10.1.0.64/26", Medium::Each), None);
        assert_eq!(worst("10.1.0.64/32", Medium::Each), Some(Severity::Problem));
        assert_eq!(worst("10.2.0.0/24", bridge("a")), None);
        assert_eq!(worst("0.0.0.0/0", bridge("a")), None);
    }
}
