//! Chains that the plugins bridge, ptp and portmap made for their pods with iptables-legacy: once
//! pausenet has taken the pods over, nobody removes them, for they can only be changed by
//! iptables-legacy itself.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::doctor::finding::{Check, Finding};
use crate::doctor::snapshot::Scene;
use pausenet::cni::Family;
use pausenet::ipam::store::Store;
use pausenet::kernel::iptables_legacy;
use pausenet::plan::reference::{iptables_chains, is_iptables_chain};
use pausenet_host::{Error, Result};

/// Whose pod a chain may be for: network and container.
type Holders = HashMap<String, (String, String)>;

pub fn check(scene: &Scene) -> Vec<Finding> {
    let holders = match holders(&scene.places.data_dir) {
        Ok(holders) => holders,
        Err(err) => return vec![Finding::unseen(Check::Legacy, "whose chains they are", err)],
    };
    let mut findings = Vec::new();
    for family in Family::ALL {
        match iptables_legacy::chains(family, "nat") {
            Ok(mut chains) => {
                chains.retain(|chain| is_iptables_chain(chain));
                findings.extend(judge(family, &chains, &holders));
            }
            Err(err) => {
                let table = format!("the table nat of {}", iptables_legacy::program(family));
                let err = Error::new(err.to_string());
                findings.push(Finding::unseen(Check::Legacy, table, err));
            }
        }
    }
    findings
}

/// A chain does its work while an address is held for whoever it was made for.
fn judge(family: Family, chains: &[String], holders: &Holders) -> Vec<Finding> {
    let left: Vec<_> = chains
        .iter()
        .filter(|chain| !holders.contains_key(*chain))
        .map(String::as_str)
        .collect();
    let finding = |chain: &String| {
        let subject = format!("chain {chain} of {}", iptables_legacy::program(family));
        match holders.get(chain) {
            Some((network, container)) => Finding::ok(
                Check::Legacy,
                subject,
                format!("it serves container {container} of network {network}"),
            )
            .means("it stays behind when the container goes"),
            None => Finding::problem(
                Check::Legacy,
                subject,
                "a plugin before us made it, and nobody holds an address that it could be for",
            )
            .means("it leads packets to whoever has the address next")
            .how(removal(family, &left)),
        }
    };
    chains.iter().map(finding).collect()
}

/// The command that takes chains out of a table, and the jumps to them, in one step. It keeps
/// the counters of all others.
fn removal(family: Family, chains: &[&str]) -> String {
    let program = iptables_legacy::program(family);
    let patterns: Vec<_> = chains.iter().map(|chain| format!("-e {chain}")).collect();
    format!(
        "{program}-save -c -t nat | grep -v {} | {program}-restore -c",
        patterns.join(" ")
    )
}

/// Which network and container the chains of all who hold an address would be named for.
fn holders(data_dir: &Path) -> Result<Holders> {
    let attempt = |err| Error::io("cannot list the address stores in", data_dir, err);
    let mut holders = HashMap::new();
    let entries = match fs::read_dir(data_dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(holders),
        entries => entries.map_err(attempt)?,
    };
    for entry in entries {
        let entry = entry.map_err(attempt)?;
        let (dir, network) = (entry.path(), entry.file_name());
        let Some(network) = network.to_str().filter(|_| dir.is_dir()) else {
            continue;
        };
        let Some(store) = Store::open_existing(&dir)? else {
            continue;
        };
        for held in store.stale(|_, _| false)? {
            for chain in iptables_chains(network, &held.container) {
                let holder = (network.to_owned(), held.container.clone());
                holders.insert(chain, holder);
            }
        }
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn one_command_removes_all_that_are_left_and_no_chain_that_serves() {
        let [served, left, too] = ["CNI-a", "CNI-DN-b", "CNI-SN-c"].map(str::to_owned);
        let holder = ("podnet".to_owned(), "web".to_owned());
        let holders = HashMap::from([(served.clone(), holder)]);
        let findings = judge(Family::Ipv4, &[served, left, too], &holders);
        let severities = [Severity::Ok, Severity::Problem, Severity::Problem];
        assert_eq!(
            findings
                .iter()
                .map(|found| found.severity)
                .collect::<Vec<_>>(),
            severities
        );
        assert_eq!(findings[0].how, "");
        for found in &findings[1..] {
            assert_eq!(
                found.how,
                "iptables-legacy-save -c -t nat | grep -v -e CNI-DN-b -e CNI-SN-c | iptables-legacy-restore -c"
            );
            assert!(found.repair.is_none());
        }
    }
}
