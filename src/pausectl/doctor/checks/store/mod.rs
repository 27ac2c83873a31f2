//! Reservations against interfaces: addresses that nothing uses. The other direction, interfaces
//! whose address is not reserved, is in [`interfaces`].
//!
//! A reservation is in use while an interface has its address. Unused ones
//! can be recognized only for networks whose pods pausenet attaches: there, every interface is the
//! other end of a link on this host.
//! What other plugins reserve is left to them.

mod interfaces;
mod irregular;
mod reservations;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::reservations::NetworkStore;
use crate::doctor::check::Check;
use crate::doctor::configured::{host_local, networks_of_ours};
use crate::doctor::finding::{Finding, OUTSIDE};
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{Snapshot, exists, shown};
use pausenet::apply::{self, GRACE_PERIOD, ProcessSnapshot, reclaim, reclaim_damaged};
use pausenet::cni::NetworkName;
use pausenet::cni::request::{Attachment, Network};
use pausenet::ipam::Ipam;
use pausenet::kernel::lock::{self, Lock};
use pausenet_host::anchor;
use pausenet_host::{Error, OnPath, Result};

pub(super) const CHECK: Check = Check {
    name: "store",
    about: "address reservations against interfaces: unused, missing, duplicate; locks",
    all_is_well: "every reserved address has an interface, and every interface a reservation",
    run,
};

/// How many addresses a finding lists before it only counts them.
const LISTED: usize = 8;

/// Free the addresses that no interface has, as ADD does when a range is full.
#[derive(Debug)]
struct FreeUnused(Box<Network>);

impl Repair for FreeUnused {
    fn carry_out(&self) -> Result<bool> {
        match Ipam::new(&self.0)? {
            Some(ipam) => Ok(reclaim(&self.0.name, &ipam, SystemTime::now())? > 0),
            None => Ok(false),
        }
    }

    fn done(&self) -> String {
        "freed the addresses".to_owned()
    }
}

/// Free the addresses that no interface has and whose files name no container.
#[derive(Debug)]
struct FreeDamaged(Box<Network>);

impl Repair for FreeDamaged {
    fn carry_out(&self) -> Result<bool> {
        match Ipam::new(&self.0)? {
            Some(ipam) => Ok(reclaim_damaged(&ipam, SystemTime::now())? > 0),
            None => Ok(false),
        }
    }

    fn done(&self) -> String {
        "freed the addresses".to_owned()
    }
}

/// Remove the file of a lock that no process holds.
#[derive(Debug)]
struct RemoveLock {
    dir: PathBuf,
    name: String,
}

impl Repair for RemoveLock {
    fn carry_out(&self) -> Result<bool> {
        // Releasing a lock removes its file.
        Ok(Lock::try_take(&self.dir, &self.name)?.is_some())
    }

    fn done(&self) -> String {
        format!("removed the file of lock {}", self.name)
    }
}

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let networks = networks_of_ours(snapshot);
    let data_dir = &snapshot.paths.data_dir;
    let dirs = match store_dirs(data_dir, &networks) {
        Ok(dirs) => dirs,
        Err(err) => return vec![Finding::not_checked(shown(data_dir), err)],
    };
    let mut findings = Vec::new();
    let mut stores = BTreeMap::new();
    let processes = ProcessSnapshot::take(snapshot.now);
    findings.extend(irregular::stores(&networks));
    findings.extend(unwritable(&networks));
    for dir in dirs {
        if dir.exists() && !dir.is_dir() {
            continue; // a finding already
        }
        findings.extend(irregular::files_of_store(&dir));
        if irregular::has_no_lock(&dir) {
            continue;
        }
        match NetworkStore::read(dir.clone(), &processes) {
            Ok(store) => stores.extend(store.map(|store| (dir, store))),
            Err(err) => findings.push(Finding::not_checked(shown(&dir), err)),
        }
    }
    match &snapshot.peers {
        Err(err) => findings.push(Finding::not_checked(
            "the addresses of interfaces",
            err.clone(),
        )),
        Ok(peers) => {
            let in_use: HashSet<IpAddr> = peers.interfaces_by_address().into_keys().collect();
            if !peers.unreadable.is_empty() {
                findings.push(unreadable(&peers.unreadable));
            }
            // What became of their addresses is a matter of the check of links.
            let live = snapshot.attachments.iter().map(|live| &live.attachment);
            let live: HashSet<_> = live.collect();
            for store in stores.values() {
                let network = networks.get(store.network.as_str());
                let all_seen = network.filter(|_| peers.unreadable.is_empty());
                findings.extend(judge(store, all_seen, &in_use, &live));
            }
            findings.extend(interfaces::duplicates(snapshot));
        }
    }
    findings.extend(interfaces::unreserved(&snapshot.attachments, &stores));
    for dir in [apply::LOCKS, anchor::LOCKS] {
        findings.extend(irregular::locks(Path::new(dir)));
        findings.extend(locks(Path::new(dir)));
    }
    findings
}

/// Stores on a filesystem that is full or read-only: what STATUS says of them.
fn unwritable(networks: &HashMap<String, Network>) -> Vec<Finding> {
    let by_dir: BTreeMap<_, _> = (networks.values().filter_map(host_local))
        .filter(|ipam| ipam.dir().is_dir() && !irregular::has_no_lock(ipam.dir()))
        .map(|ipam| (ipam.dir().to_owned(), ipam))
        .collect();
    let refused = by_dir.into_iter().filter_map(|(dir, ipam)| {
        let err = Error::from(ipam.check_writable().err()?);
        let dir = shown(&dir);
        Some(
            Finding::problem(&dir, err.message)
                .means("no address can be reserved: every ADD fails")
                .how(format!(
                    "make room there, or make it writable; see: df {dir}; findmnt --target {dir}"
                )),
        )
    });
    refused.collect()
}

fn unreadable(links: &[String]) -> Finding {
    Finding::note(
        listed(links),
        "not checked: the other ends of these links cannot be seen from here",
    )
    .means("any address may be in use there, so none is reported as unused")
    .how(OUTSIDE)
}

/// The folders of all stores: those in the usual place, and those that networks name.
fn store_dirs(data_dir: &Path, networks: &HashMap<String, Network>) -> Result<Vec<PathBuf>> {
    let own = networks.values().filter_map(host_local);
    let mut dirs: Vec<_> = own.map(|ipam| ipam.dir().to_owned()).collect();
    let entries = match fs::read_dir(data_dir) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
        entries => Some(entries.on_path("cannot list", data_dir)?),
    };
    let found = entries.into_iter().flatten().flatten();
    dirs.extend(found.map(|entry| entry.path()).filter(|path| path.is_dir()));
    dirs.sort();
    dirs.dedup();
    Ok(dirs)
}

/// The reservations of one network that no interface uses. `network` is given only if all its
/// interfaces were seen.
fn judge(
    store: &NetworkStore,
    network: Option<&Network>,
    in_use: &HashSet<IpAddr>,
    live: &HashSet<&Attachment>,
) -> Vec<Finding> {
    let name = &store.network;
    let (mut unused, mut young, mut without_holder) = (Vec::new(), Vec::new(), Vec::new());
    let (mut old_form, mut adding) = (Vec::new(), Vec::new());
    let mut damaged_may_go = false;
    let mut before_boot = 0;
    let mut reservations = store.reservations.iter();
    for reservation in reservations
        .by_ref()
        .filter(|one| !in_use.contains(&one.ip))
    {
        let ip = reservation.ip;
        let Some((container, ifname)) = &reservation.holder else {
            without_holder.push(ip.to_string());
            damaged_may_go |= reservation.evidence.allows_reclaim();
            continue;
        };
        let evidence = &reservation.evidence;
        match attachment(name, container, ifname) {
            None => old_form.push(format!("{ip} ({container})")),
            // An ADD or DEL is at work.
            Some(attachment) if apply::is_locked(&attachment) => {}
            Some(attachment) if live.contains(&attachment) => {}
            Some(_) if evidence.allows_reclaim() => {
                before_boot += usize::from(evidence.predates_boot());
                unused.push(format!("{ip} ({container} {ifname})"));
            }
            // Made since the links were listed.
            Some(attachment) if exists(&attachment) => {}
            Some(_) if evidence.plugin_is_running() => {
                adding.push(format!("{ip} ({container} {ifname})"))
            }
            Some(_) => young.push(format!("{ip} ({container} {ifname})")),
        }
    }
    let subject = format!("network {name}");
    let no_interface = |all: &[String]| format!("no interface has {}", listed(all));
    let mut findings = Vec::new();
    if !without_holder.is_empty() {
        let files = without_holder.iter().map(|ip| shown(&store.dir.join(ip)));
        let files = files.collect::<Vec<_>>().join(" ");
        let finding = Finding::problem(
            &subject,
            format!(
                "no container is named in the files of {}",
                listed(&without_holder)
            ),
        )
        .means(
            "no DEL frees these addresses: the files are half written or damaged; ADD does when the \
             range is full, and GC, ten minutes after they were written",
        )
        .how(format!("if no interface has them: rm {files}"));
        findings.push(match network {
            Some(network) if damaged_may_go => {
                finding.repair(FreeDamaged(Box::new(network.clone())))
            }
            _ => finding,
        });
    }
    let remove = format!(
        "once their containers are gone, remove their files in {}",
        shown(&store.dir)
    );
    if !unused.is_empty() {
        let mut means =
            "reserved for containers that are gone; ADD frees them only when the range is full"
                .to_owned();
        if before_boot > 0 {
            means.push_str(&format!(
                "; {before_boot} of them from before this host's last start"
            ));
        }
        findings.push(match network {
            Some(network) => Finding::problem(&subject, no_interface(&unused))
                .means(means)
                .how(remove.as_str())
                .repair(FreeUnused(Box::new(network.clone()))),
            None => Finding::note(&subject, no_interface(&unused))
                .means("kept: another plugin may have given them to an interface that has no link on this host")
                .how(remove.as_str()),
        });
    }
    if !old_form.is_empty() {
        findings.push(
            Finding::note(&subject, no_interface(&old_form))
                .means("kept: no interface's name is in the file, so an ADD may be at work")
                .how(remove.as_str()),
        );
    }
    if !adding.is_empty() && network.is_some() {
        findings.push(
            Finding::note(&subject, no_interface(&adding))
                .means("kept: an ADD or DEL is at work, a process with their container in its environment (CNI_CONTAINERID)")
                .how("run doctor again later"),
        );
    }
    if !young.is_empty() && network.is_some() {
        let minutes = GRACE_PERIOD.as_secs() / 60;
        findings.push(
            Finding::note(&subject, no_interface(&young))
                .means(format!("reserved within the last {minutes} minutes, by an ADD that is at work or was killed"))
                .how("run doctor again later"),
        );
    }
    findings
}

/// The attachment that a reservation is for. An old file names no interface.
fn attachment(network: &str, container: &str, ifname: &str) -> Option<Attachment> {
    Attachment::of_network(&NetworkName::parse(network).ok()?, container, ifname)
}

/// The first few, and how many more there are.
fn listed(all: &[String]) -> String {
    let first = all.get(..LISTED).unwrap_or(all).join(", ");
    match all.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn locks(dir: &Path) -> Vec<Finding> {
    let names = match lock::abandoned(dir) {
        Ok(names) => names,
        Err(err) => return vec![Finding::not_checked(shown(dir), err)],
    };
    let finding = |name: String| {
        Finding::note(
            shown(&dir.join(&name)),
            "the file of a lock that no process holds: its holder was killed",
        )
        .means("nothing waits for it, but what its holder was doing may be half done")
        .repair(RemoveLock {
            dir: dir.to_owned(),
            name,
        })
    };
    names.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use super::reservations::Reservation;
    use crate::doctor::finding::Severity;
    use pausenet::apply::ReclaimEvidence;

    fn reservation(ip: &str, holder: Option<&str>, age: u64) -> Reservation {
        Reservation {
            ip: ip.parse().unwrap(),
            // No interface can have an empty name, so no lock is asked for.
            holder: holder.map(|name| (name.to_owned(), String::new())),
            evidence: ReclaimEvidence {
                plugin_running: Some(false),
                age: Some(Duration::from_secs(age)),
                known_for: None,
                made_since_boot: true,
            },
        }
    }

    fn severities(reservations: Vec<Reservation>, in_use: &[&str]) -> Vec<Severity> {
        let store = NetworkStore {
            dir: "/x/podnet".into(),
            network: "podnet".into(),
            reservations,
        };
        let in_use = in_use.iter().map(|ip| ip.parse().unwrap()).collect();
        let found = judge(&store, None, &in_use, &HashSet::new());
        found.iter().map(|found| found.severity).collect()
    }

    #[test]
    fn an_address_that_an_interface_has_is_in_use() {
        let old = || reservation("10.1.0.5", Some("c"), 10_000);
        assert!(severities(vec![old()], &["10.1.0.5"]).is_empty());
        assert_eq!(
            severities(vec![old()], &[]),
            [Severity::Note],
            "of a network not ours"
        );
    }

    #[test]
    fn a_reservation_without_a_holder_is_a_problem() {
        assert_eq!(
            severities(vec![reservation("10.1.0.5", None, 0)], &[]),
            [Severity::Problem]
        );
    }

    #[test]
    fn a_thousand_unused_addresses_are_one_finding() {
        let reservations = (0..1000_u32).map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a01_0000 + n);
            reservation(&ip.to_string(), Some("c"), 10_000)
        });
        assert_eq!(severities(reservations.collect(), &[]).len(), 1);
        assert!(listed(&vec!["x".to_owned(); 1000]).ends_with("and 992 more"));
    }
}
