//! Held addresses against interfaces: what was lost. The other direction, what interfaces have and
//! the store does not know, is in [`crate::doctor::checks::store::interfaces`].
//!
//! An address belongs to whoever has it on an interface. Only of networks that pausenet wires can
//! it be told who has none: there, every interface is the other end of a link on this host. What
//! another's plugins hold is theirs to judge.

mod interfaces;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::doctor::checks::networks::wired_by_us;
use crate::doctor::finding::{Check, Finding, OUTSIDE};
use crate::doctor::repair;
use crate::doctor::snapshot::{Scene, is_there, shown};
use pausenet::apply::{self, GRACE_PERIOD, ProcessSnapshot, ReclaimEvidence, reclaim};
use pausenet::cni::request::{Attachment, Network, Request};
use pausenet::cni::{NetworkName, config};
use pausenet::ipam::host_local::INDEXES;
use pausenet::ipam::store::Store;
use pausenet::ipam::{HostLocal, Ipam};
use pausenet::kernel::lock::{self, Lock};
use pausenet_host::anchor;
use pausenet_host::{OnPath, Result};

/// How many are named before they are only counted.
const SHOWN: usize = 8;

/// A repair of the store.
#[derive(Debug, Clone)]
pub enum Repair {
    /// Free what no interface has, as ADD does when a range has run out.
    Reclaim(Box<Network>),
    /// Write down who has an address.
    Restore(Box<Request>, IpAddr),
    /// Remove the file of a lock that nobody holds.
    Unlock(PathBuf, String),
}

impl Repair {
    pub fn done(&self) -> String {
        match self {
            Self::Reclaim(_) => "the addresses are free again".to_owned(),
            Self::Restore(request, ip) => {
                format!("the store gives {ip} to {} now", request.attachment)
            }
            Self::Unlock(_, name) => format!("the file of lock {name} is removed"),
        }
    }

    pub fn carry_out(&self) -> Result<bool> {
        match self {
            Self::Reclaim(network) => match Ipam::new(network)? {
                Some(ipam) => Ok(reclaim(&network.name, &ipam, SystemTime::now())? > 0),
                None => Ok(false),
            },
            Self::Restore(request, ip) => interfaces::restore(request, *ip),
            // Letting go of a lock removes its file.
            Self::Unlock(dir, name) => Ok(Lock::try_take(dir, name)?.is_some()),
        }
    }
}

pub fn host_local(network: &Network) -> Option<HostLocal> {
    let ipam = network.ipam.as_ref().filter(|ipam| ipam.is_host_local())?;
    HostLocal::new(network, &config::parse_part("ipam", &ipam.object).ok()?).ok()
}

/// An address file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub ip: IpAddr,
    /// Container and interface. None: the file tells nobody.
    pub holder: Option<(String, String)>,
    /// Whether somebody who cannot be seen may be making an interface for it.
    evidence: ReclaimEvidence,
}

/// The store of one network.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    network: String,
    pub files: Vec<File>,
}

impl Shelf {
    fn read(dir: PathBuf, processes: &ProcessSnapshot) -> Result<Option<Self>> {
        let Some(store) = Store::open_existing(&dir)? else {
            return Ok(None);
        };
        let store = store.with_index(Path::new(INDEXES));
        let holders = store.stale(|_, _| false)?;
        let mut holders: HashMap<_, _> = holders
            .into_iter()
            .map(|held| (held.ip, (held.container, held.ifname)))
            .collect();
        let taken = store.taken()?;
        let origins = store.origins(&taken);
        let file = |ip: IpAddr| {
            let origin = origins.of(ip)?; // gone meanwhile
            let holder = holders.remove(&ip);
            let container = holder.as_ref().map_or("", |(container, _)| container);
            Some(File {
                ip,
                evidence: processes.evidence(container, origin),
                holder,
            })
        };
        let mut files: Vec<_> = taken.iter().copied().filter_map(file).collect();
        files.sort_by_key(|file| file.ip);
        let network = dir.file_name().unwrap_or_default().to_string_lossy();
        Ok(Some(Self {
            network: network.into_owned(),
            files,
            dir,
        }))
    }
}

pub fn check(scene: &Scene) -> Vec<Finding> {
    let networks = wired_by_us(scene);
    let mut findings = Vec::new();
    let mut shelves = BTreeMap::new();
    let dirs = match dirs(&scene.places.data_dir, &networks) {
        Ok(dirs) => dirs,
        Err(err) => {
            return vec![Finding::unseen(
                Check::Store,
                shown(&scene.places.data_dir),
                err,
            )];
        }
    };
    let processes = ProcessSnapshot::take(scene.now);
    for dir in dirs {
        match Shelf::read(dir.clone(), &processes) {
            Ok(shelf) => shelves.extend(shelf.map(|shelf| (dir, shelf))),
            Err(err) => findings.push(Finding::unseen(Check::Store, shown(&dir), err)),
        }
    }
    match &scene.behind {
        Err(err) => findings.push(Finding::unseen(
            Check::Store,
            "who has which address",
            err.clone(),
        )),
        Ok(behind) => {
            let in_use: HashSet<IpAddr> = behind.holders().into_keys().collect();
            if !behind.unseen.is_empty() {
                findings.push(unseen(&behind.unseen));
            }
            for shelf in shelves.values() {
                let network = networks.get(shelf.network.as_str());
                let can_tell = network.filter(|_| behind.unseen.is_empty());
                findings.extend(judge(shelf, can_tell, &in_use));
            }
            findings.extend(interfaces::duplicates(scene));
        }
    }
    findings.extend(interfaces::missing(&scene.attached, &shelves));
    for dir in [apply::LOCKS, anchor::LOCKS] {
        findings.extend(locks(Path::new(dir)));
    }
    findings
}

fn unseen(links: &[String]) -> Finding {
    Finding::note(
        Check::Store,
        some(links),
        "not looked at: what is behind these links cannot be seen from here",
    )
    .means("which addresses are lost cannot be told, so none is said to be")
    .how(OUTSIDE)
}

/// The folders of all stores: those under the usual place, and those that networks name.
fn dirs(data_dir: &Path, networks: &HashMap<String, Network>) -> Result<Vec<PathBuf>> {
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

/// What there is to say of one network's files. `network` is there if it can be told who has no
/// interface.
fn judge(shelf: &Shelf, network: Option<&Network>, in_use: &HashSet<IpAddr>) -> Vec<Finding> {
    let name = &shelf.network;
    let subject = format!("network {name}");
    let (mut lost, mut young, mut nobody) = (Vec::new(), Vec::new(), Vec::new());
    let (mut old_form, mut called) = (Vec::new(), Vec::new());
    let mut before_boot = 0;
    for file in shelf.files.iter().filter(|file| !in_use.contains(&file.ip)) {
        let ip = file.ip;
        let Some((container, ifname)) = &file.holder else {
            nobody.push(ip.to_string());
            continue;
        };
        match attachment(name, container, ifname) {
            None => old_form.push(format!("{ip} ({container})")),
            // An ADD or DEL is at work.
            Some(attachment) if apply::is_locked(&attachment) => {}
            Some(_) if file.evidence.allows_reclaim() => {
                before_boot += usize::from(file.evidence.predates_boot());
                lost.push(format!("{ip} ({container} {ifname})"));
            }
            // Made since the links were listed.
            Some(attachment) if is_there(&attachment) => {}
            Some(_) if file.evidence.plugin_is_running() => {
                called.push(format!("{ip} ({container} {ifname})"));
            }
            Some(_) => young.push(format!("{ip} ({container} {ifname})")),
        }
    }
    let mut findings = Vec::new();
    if !nobody.is_empty() {
        findings.push(
            Finding::problem(
                Check::Store,
                &subject,
                format!("no container is named in the files of {}", some(&nobody)),
            )
            .means("nobody gives these addresses back: half written, or damaged")
            .how(format!(
                "if no interface has them: rm {}",
                files(&shelf.dir, &nobody)
            )),
        );
    }
    if !lost.is_empty() {
        let what = format!("no interface has {}", some(&lost));
        let mut means = "held for containers that are gone; ADD takes them back only when the range has run out".to_owned();
        if before_boot > 0 {
            means.push_str(&format!(
                "; {before_boot} of them from before this host's last start"
            ));
        }
        findings.push(match network {
            Some(network) => Finding::problem(Check::Store, &subject, what)
                .means(means)
                .how(remove(&shelf.dir))
                .repair(repair::Repair::Store(Repair::Reclaim(Box::new(network.clone())))),
            None => Finding::note(Check::Store, &subject, what)
                .means("another's plugin may have given them to an interface that has no link on this host, so they are kept")
                .how(remove(&shelf.dir)),
        });
    }
    if !old_form.is_empty() {
        findings.push(
            Finding::note(
                Check::Store,
                &subject,
                format!("no interface has {}", some(&old_form)),
            )
            .means("no interface's name is in the file, so it cannot be told if an ADD is at work; kept")
            .how(remove(&shelf.dir)),
        );
    }
    if !called.is_empty() && network.is_some() {
        findings.push(
            Finding::note(Check::Store, &subject, format!("no interface has {}", some(&called)))
                .means("a process that names their containers in its environment (CNI_CONTAINERID) runs: an ADD or a DEL is at work, and they are kept")
                .how("look again later"),
        );
    }
    if !young.is_empty() && network.is_some() {
        let minutes = GRACE_PERIOD.as_secs() / 60;
        findings.push(
            Finding::note(Check::Store, &subject, format!("no interface has {}", some(&young)))
                .means(format!("taken within the last {minutes} minutes, as far as can be told: by an ADD that is at work, or that was killed"))
                .how("look again later"),
        );
    }
    findings
}

/// Whose a file is. An old one names no interface.
fn attachment(network: &str, container: &str, ifname: &str) -> Option<Attachment> {
    Attachment::of_network(&NetworkName::parse(network).ok()?, container, ifname)
}

fn remove(dir: &Path) -> String {
    format!(
        "once their containers are gone, remove their files in {}",
        shown(dir)
    )
}

/// The first few, and how many more there are.
fn some(all: &[String]) -> String {
    let mut text = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN {
        text.push_str(&format!(" and {} more", all.len() - SHOWN));
    }
    text
}

fn files(dir: &Path, addresses: &[String]) -> String {
    let files = addresses.iter().map(|ip| shown(&dir.join(ip)));
    files.collect::<Vec<_>>().join(" ")
}

fn locks(dir: &Path) -> Vec<Finding> {
    let names = match lock::abandoned(dir) {
        Ok(names) => names,
        Err(err) => return vec![Finding::unseen(Check::Store, shown(dir), err)],
    };
    let finding = |name: String| {
        Finding::note(
            Check::Store,
            shown(&dir.join(&name)),
            "a lock that nobody holds: whoever held it was killed",
        )
        .means("nothing waits for it; what was being done may be half done")
        .repair(repair::Repair::Store(Repair::Unlock(dir.to_owned(), name)))
    };
    names.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::doctor::finding::Severity;

    fn file(ip: &str, holder: Option<&str>, age: u64) -> File {
        File {
            ip: ip.parse().unwrap(),
            // A name that can be nobody's, so that no lock is asked for.
            holder: holder.map(|name| (name.to_owned(), String::new())),
            evidence: ReclaimEvidence {
                plugin_running: Some(false),
                age: Some(Duration::from_secs(age)),
                known_for: None,
                made_since_boot: true,
            },
        }
    }

    fn severities(files: Vec<File>, in_use: &[&str]) -> Vec<Severity> {
        let shelf = Shelf {
            dir: "/x/podnet".into(),
            network: "podnet".into(),
            files,
        };
        let in_use = in_use.iter().map(|ip| ip.parse().unwrap()).collect();
        let found = judge(&shelf, None, &in_use);
        found.iter().map(|found| found.severity).collect()
    }

    #[test]
    fn what_an_interface_has_is_never_lost() {
        let old = || file("10.1.0.5", Some("c"), 10_000);
        assert!(severities(vec![old()], &["10.1.0.5"]).is_empty());
        assert_eq!(
            severities(vec![old()], &[]),
            [Severity::Note],
            "of a network not ours"
        );
    }

    #[test]
    fn a_file_that_names_nobody_is_told_of() {
        assert_eq!(
            severities(vec![file("10.1.0.5", None, 0)], &[]),
            [Severity::Problem]
        );
    }

    #[test]
    fn a_thousand_lost_addresses_are_one_finding() {
        let files = (0..1000_u32).map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a01_0000 + n);
            file(&ip.to_string(), Some("c"), 10_000)
        });
        assert_eq!(severities(files.collect(), &[]).len(), 1);
        assert!(some(&vec!["x".to_owned(); 1000]).ends_with("and 992 more"));
    }
}
