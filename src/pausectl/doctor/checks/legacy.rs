//! Chains that the reference plugins bridge, ptp and portmap made for their pods with
//! iptables-legacy. Once pausenet serves the pods, nothing removes them: only iptables-legacy
//! itself can.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::doctor::check::Check;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::Snapshot;
use pausenet::cni::Family;
use pausenet::ipam::store::Store;
use pausenet::kernel::iptables_legacy;
use pausenet::plan::reference::{iptables_chains, is_iptables_chain};
use pausenet_host::{Error, Result};

pub(super) const CHECK: Check = Check {
    name: "legacy",
    about: "chains that other plugins left in iptables-legacy",
    all_is_well: "other plugins left no chains behind",
    run,
};

/// By the chain's name: the network and container that it may serve.
type Holders = HashMap<String, (String, String)>;

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let holders = match holders(&snapshot.paths.data_dir) {
        Ok(holders) => holders,
        Err(err) => return vec![Finding::not_checked("the containers of the chains", err)],
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
                findings.push(Finding::not_checked(table, err));
            }
        }
    }
    findings
}

/// A chain is in use while its container has a reservation.
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
                subject,
                format!("it serves container {container} of network {network}"),
            )
            .means("it will be left when the container goes"),
            None => Finding::problem(
                subject,
                "another plugin made it, and no container with a reserved address uses it",
            )
            .means("it redirects packets of the next container with that address")
            .how(removal(family, &left)),
        }
    };
    chains.iter().map(finding).collect()
}

/// The command that removes chains and the jumps to them in one step. It keeps the counters of all
/// others.
fn removal(family: Family, chains: &[&str]) -> String {
    let program = iptables_legacy::program(family);
    let patterns: Vec<_> = chains.iter().map(|chain| format!("-e {chain}")).collect();
    format!(
        "{program}-save -c -t nat | grep -v {} | {program}-restore -c",
        patterns.join(" ")
    )
}

/// The chains that reservations may have, each with its holder.
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
    fn one_command_removes_every_unused_chain_and_no_other() {
        let [used, left, too] = ["CNI-a", "CNI-DN-b", "CNI-SN-c"].map(str::to_owned);
        let holder = ("podnet".to_owned(), "web".to_owned());
        let holders = HashMap::from([(used.clone(), holder)]);
        let findings = judge(Family::Ipv4, &[used, left, too], &holders);
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
