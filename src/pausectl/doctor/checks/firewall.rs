//! Other firewalls on the host that drop what pods forward. Which they are, and what helps, is in
//! [`pausenet::plan::firewall`].

use std::collections::{BTreeSet, HashSet};

use crate::doctor::check::Check;
use crate::doctor::configured::{host_local, networks_of_ours};
use crate::doctor::finding::{Finding, Severity};
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::Snapshot;
use ipnetwork::IpNetwork;
use pausenet::apply::Host;
use pausenet::apply::firewall::{drops, ensure, obstacles};
use pausenet::cni::NetworkName;
use pausenet::cni::request::Network;
use pausenet::kernel::link::{self, Which};
use pausenet::kernel::route::{self, MAIN_TABLE};
use pausenet::plan::firewall::{
    AllowedTraffic, FirewallManager, Forwarded, HostLink, Obstacle, Remedy, Unreachable,
    allowed_traffic,
};
use pausenet_host::Result;

pub(super) const CHECK: Check = Check {
    name: "firewall",
    about: "other firewalls that drop what pods forward: Docker, ufw, firewalld",
    all_is_well: "no firewall on the host drops what pods forward",
    run,
};

/// Let the networks through Docker's firewall, as every ADD does.
#[derive(Debug)]
struct FirewallRepair(Vec<AllowedTraffic>);

impl Repair for FirewallRepair {
    fn done(&self) -> String {
        format!("let {} through in DOCKER-USER", names(&networks(&self.0)))
    }

    fn carry_out(&self) -> Result<bool> {
        ensure(&self.0)?;
        Ok(true)
    }
}

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let running = running(snapshot);
    let configured = configured(snapshot, &running);
    let mut findings = Vec::new();
    let uplink = uplink();
    for (traffic, severity) in [(running, Severity::Problem), (configured, Severity::Note)] {
        let (traffic, forwarded) = (allowed(&traffic), traffic);
        let found = obstacles(&traffic)
            .and_then(|found| Ok((found, drops(&forwarded, uplink.as_deref())?)));
        match found {
            Ok((found, drops)) => {
                let new = drops.obstacles.into_iter().filter(|drop| {
                    let is_same = |other: &Obstacle| other.place == drop.place;
                    !found.iter().any(is_same)
                });
                let new: Vec<_> = new.collect();
                let found = found
                    .into_iter()
                    .filter_map(|found| shut_out(found, &drops.accepted));
                let found = found.chain(new);
                findings.extend(found.filter_map(|found| judge(found, &traffic, severity)));
                findings.extend(drops.unreachable.iter().map(unreachable));
                if drops.open_beside_docker {
                    findings.push(open_beside_docker(&traffic));
                }
            }
            Err(err) => {
                findings.push(Finding::not_checked("other firewalls", err));
                break; // the second would fail alike
            }
        }
    }
    findings
}

/// The obstacle, for the networks that a rule of the chain does not accept; None if it accepts all. What is
/// lost from Docker's chain is restored even so.
fn shut_out(mut found: Obstacle, accepted: &HashSet<(String, NetworkName)>) -> Option<Obstacle> {
    if found.remedy != Remedy::Ours {
        let place = &found.place;
        let is_shut_out = |name: &NetworkName| !accepted.contains(&(place.clone(), name.clone()));
        found.networks.retain(is_shut_out);
    }
    (!found.networks.is_empty()).then_some(found)
}

/// What running attachments need.
fn running(snapshot: &Snapshot) -> Vec<Forwarded> {
    let mut found: Vec<Forwarded> = Vec::new();
    for live in &snapshot.attachments {
        let addresses = live.addresses.as_deref().unwrap_or_default();
        for add_call in &live.add_calls {
            for new in forwarded(&add_call.request.network, addresses) {
                match found.iter_mut().find(|known| known.allowed == new.allowed) {
                    Some(known) => {
                        let subnets = new.subnets.into_iter();
                        let more: Vec<_> =
                            subnets.filter(|net| !known.subnets.contains(net)).collect();
                        known.subnets.extend(more);
                    }
                    None => found.push(new),
                }
            }
        }
    }
    found
}

/// The traffic of a network that has these addresses, and the subnets of those.
fn forwarded(network: &Network, addresses: &[IpNetwork]) -> Vec<Forwarded> {
    let subnet = |net: &IpNetwork| IpNetwork::new(net.network(), net.prefix()).ok();
    let mut subnets: Vec<_> = addresses.iter().filter_map(subnet).collect();
    subnets.sort();
    subnets.dedup();
    let of = |allowed: AllowedTraffic| Forwarded {
        subnets: match allowed.link {
            HostLink::Bridge(..) => subnets.clone(),
            HostLink::HostEnds(subnet) => vec![subnet],
        },
        allowed,
    };
    allowed_traffic(network, addresses)
        .into_iter()
        .map(of)
        .collect()
}

fn allowed(traffic: &[Forwarded]) -> Vec<AllowedTraffic> {
    traffic.iter().map(|one| one.allowed.clone()).collect()
}

/// The link of the default route.
fn uplink() -> Option<String> {
    let mut socket = Host::open_socket().ok()?;
    let routes = route::list(&mut socket).ok()?;
    let mut defaults = routes.iter().filter(|route| {
        route.dst.prefix() == 0 && route.table == MAIN_TABLE && route.via.is_some()
    });
    let index = defaults.find_map(|route| route.link)?;
    Some(link::get(&mut socket, Which::Index(index)).ok()??.name)
}

/// What networks without an attachment would need.
fn configured(snapshot: &Snapshot, running: &[Forwarded]) -> Vec<Forwarded> {
    let busy = networks(&allowed(running));
    let mut networks: Vec<_> = networks_of_ours(snapshot).into_values().collect();
    networks.retain(|network| !busy.contains(&network.name));
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    let wanted = networks.iter().flat_map(|network| {
        let subnets: Vec<_> = host_local(network)
            .iter()
            .flat_map(|ipam| ipam.ranges())
            .map(|range| range.subnet)
            .collect();
        forwarded(network, &subnets)
    });
    wanted.collect()
}

fn networks(traffic: &[AllowedTraffic]) -> BTreeSet<NetworkName> {
    traffic
        .iter()
        .map(|allowed| allowed.network.clone())
        .collect()
}

fn names<'a>(networks: impl IntoIterator<Item = &'a NetworkName>) -> String {
    let names = networks.into_iter().map(NetworkName::to_string);
    names.collect::<Vec<_>>().join(", ")
}

fn judge(found: Obstacle, traffic: &[AllowedTraffic], severity: Severity) -> Option<Finding> {
    let whose = match found.manager {
        FirewallManager::Docker => "Docker's firewall",
        FirewallManager::Firewalld => "firewalld",
        FirewallManager::Ufw => "ufw",
        FirewallManager::Unknown => "a firewall on this host",
    };
    let shut_out = names(&found.networks);
    let finding = Finding::new(
        severity,
        &found.place,
        format!(
            "{whose} drops what pods of {shut_out} forward: {}",
            found.why
        ),
    )
    .means("they reach neither other networks nor the outside, and their ports do not answer");
    match found.remedy {
        // The next ADD repairs it.
        Remedy::Ours if severity < Severity::Problem => None,
        Remedy::Ours => {
            let of_these = |allowed: &&AllowedTraffic| found.networks.contains(&allowed.network);
            let traffic = traffic.iter().filter(of_these).cloned().collect();
            Some(finding.repair(FirewallRepair(traffic)))
        }
        Remedy::Commands(commands) => Some(finding.how(commands.join("; "))),
    }
}

/// How many addresses a finding lists before it only counts them.
const LISTED: usize = 4;

/// Docker 28 and newer: in the raw table, or in the tables of its backend for nftables.
fn unreachable(found: &Unreachable) -> Finding {
    let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    let first = addresses.get(..LISTED).unwrap_or(&addresses).join(", ");
    let more = match addresses.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let bridges = found.networks.iter().filter_map(|one| match &one.link {
        HostLink::Bridge(name, _) => Some(name.to_string()),
        HostLink::HostEnds(_) => None,
    });
    let bridges: BTreeSet<_> = bridges.collect();
    let option = bridges.into_iter().collect::<Vec<_>>().join(":");
    let how = "use a port that Docker publishes".to_owned();
    Finding::note(
        &found.place,
        format!(
            "drops what pods of {} send to {first}{more}: only packets by another link may go there",
            names(&networks(&found.networks))
        ),
    )
    .means("pods do not reach these addresses (containers of Docker 28 and newer), only their published ports")
    .how(match option.as_str() {
        "" => how,
        bridges => format!(
            "{how}, or make Docker's network with -o com.docker.network.bridge.trusted_host_interfaces={bridges}"
        ),
    })
}

/// Docker's backend for iptables sets the policy of FORWARD to DROP; that for nftables does not.
fn open_beside_docker(traffic: &[AllowedTraffic]) -> Finding {
    Finding::note(
        "Docker's nftables backend",
        format!(
            "no chain on this host keeps others from the own addresses of pods of {}",
            names(&networks(traffic))
        ),
    )
    .means("who can route packets to this host reaches every port of a pod, published or not; with iptables, Docker's policy drops them")
    .how("if that is not wanted, drop them in a chain of your own at the hook forward; see docker-host.md")
}
