//! Other firewalls of the host that drop what pods forward. What is in the way, and what helps, is
//! known in [`pausenet::plan::firewall`].

use std::collections::BTreeSet;

use super::networks::wired_by_us;
use super::store::host_local;
use crate::doctor::finding::{Check, Finding, Severity};
use crate::doctor::repair;
use crate::doctor::snapshot::Scene;
use pausenet::apply::firewall::{ensure, obstacles};
use pausenet::cni::NetworkName;
use pausenet::plan::firewall::{
    AllowedTraffic, FirewallManager, Obstacle, Remedy, allowed_traffic,
};
use pausenet_host::Result;

/// Tell Docker's firewall what to let through, as every ADD does.
#[derive(Debug, Clone)]
pub struct Repair(Vec<AllowedTraffic>);

impl Repair {
    pub fn done(&self) -> String {
        format!("DOCKER-USER lets {} through", names(&networks(&self.0)))
    }

    pub fn carry_out(&self) -> Result<bool> {
        ensure(&self.0)?;
        Ok(true)
    }
}

pub fn check(scene: &Scene) -> Vec<Finding> {
    let running = running(scene);
    let configured = configured(scene, &running);
    let mut findings = Vec::new();
    for (traffic, severity) in [(running, Severity::Problem), (configured, Severity::Note)] {
        match obstacles(&traffic) {
            Ok(found) => {
                let found = found.into_iter();
                findings.extend(found.filter_map(|found| judge(found, &traffic, severity)));
            }
            Err(err) => {
                findings.push(Finding::unseen(Check::Firewall, "other firewalls", err));
                break; // once is enough
            }
        }
    }
    findings
}

/// What attachments that are there now need.
fn running(scene: &Scene) -> Vec<AllowedTraffic> {
    let mut found: Vec<AllowedTraffic> = Vec::new();
    for attached in &scene.attached {
        let addresses = attached.addresses.as_deref().unwrap_or_default();
        for add_call in &attached.add_calls {
            let wanted = allowed_traffic(&add_call.request.network, addresses).into_iter();
            let new: Vec<_> = wanted.filter(|allowed| !found.contains(allowed)).collect();
            found.extend(new);
        }
    }
    found
}

/// What networks would need that have no attachment yet.
fn configured(scene: &Scene, running: &[AllowedTraffic]) -> Vec<AllowedTraffic> {
    let busy = networks(running);
    let mut networks: Vec<_> = wired_by_us(scene).into_values().collect();
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
        Check::Firewall,
        severity,
        &found.place,
        format!("{whose} drops what pods of {shut_out} forward: {}", found.why),
    )
    .means("they do not reach each other across networks, nor the outside, and their ports do not answer");
    match found.remedy {
        // The next ADD sees to it before anybody could notice.
        Remedy::Ours if severity < Severity::Problem => None,
        Remedy::Ours => {
            let of_these = |allowed: &&AllowedTraffic| found.networks.contains(&allowed.network);
            let traffic = traffic.iter().filter(of_these).cloned().collect();
            Some(finding.repair(repair::Repair::Firewall(Repair(traffic))))
        }
        Remedy::Commands(commands) => Some(finding.how(commands.join("; "))),
    }
}
