//! Other firewalls on the host that drop what pods forward. Which they are, and what helps, is in
//! [`pausenet::plan::firewall`].

use std::collections::BTreeSet;

use crate::doctor::check::Check;
use crate::doctor::configured::{host_local, networks_of_ours};
use crate::doctor::finding::{Finding, Severity};
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::Snapshot;
use pausenet::apply::firewall::{ensure, obstacles};
use pausenet::cni::NetworkName;
use pausenet::plan::firewall::{
    AllowedTraffic, FirewallManager, Obstacle, Remedy, allowed_traffic,
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
    for (traffic, severity) in [(running, Severity::Problem), (configured, Severity::Note)] {
        match obstacles(&traffic) {
            Ok(found) => {
                let found = found.into_iter();
                findings.extend(found.filter_map(|found| judge(found, &traffic, severity)));
            }
            Err(err) => {
                findings.push(Finding::not_checked("other firewalls", err));
                break; // the second would fail alike
            }
        }
    }
    findings
}

/// What running attachments need.
fn running(snapshot: &Snapshot) -> Vec<AllowedTraffic> {
    let mut found: Vec<AllowedTraffic> = Vec::new();
    for live in &snapshot.attachments {
        let addresses = live.addresses.as_deref().unwrap_or_default();
        for add_call in &live.add_calls {
            let wanted = allowed_traffic(&add_call.request.network, addresses).into_iter();
            let new: Vec<_> = wanted.filter(|allowed| !found.contains(allowed)).collect();
            found.extend(new);
        }
    }
    found
}

/// What networks without an attachment would need.
fn configured(snapshot: &Snapshot, running: &[AllowedTraffic]) -> Vec<AllowedTraffic> {
    let busy = networks(running);
    let mut networks: Vec<_> = networks_of_ours(snapshot).into_values().collect();
    networks.retain(|network| !busy.contains(&network.name));
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    let wanted = networks.iter().flat_map(|network| {
        let subnets: Vec<_> = host_local(network)
            .iter()
            .flat_map(|ipam| ipam.ranges())
            .map(|range| range.subnet)
            .collect();
        allowed_traffic(network, &subnets)
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
