//! Folders and files that are of another kind than a store or a lock has to be: a folder where a
//! lock's file belongs, for instance. Nothing can be locked or reserved then.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::doctor::configured::host_local;
use crate::doctor::finding::Finding;
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::shown;
use pausenet::cni::request::Network;
use pausenet_host::anchor;
use pausenet_host::{Error, Result};

/// Remove an empty folder that is where a file belongs.
#[derive(Debug)]
struct RemoveFolder(PathBuf);

impl Repair for RemoveFolder {
    fn carry_out(&self) -> Result<bool> {
        match fs::remove_dir(&self.0) {
            Ok(()) => Ok(true),
            // Somebody else has removed it.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(Error::io("cannot remove", &self.0, err)),
        }
    }

    fn done(&self) -> String {
        "removed the empty folder".to_owned()
    }
}

/// What a path is, if it is there and is no regular file.
fn other_kind(path: &Path) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a folder"),
        _ if kind.is_symlink() => match fs::metadata(path) {
            Ok(target) if target.is_file() => None,
            _ => Some("a link that leads to no file"),
        },
        _ if kind.is_fifo() => Some("a FIFO"),
        _ if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

fn finding(path: &Path, kind: &str, means: &str) -> Finding {
    let found =
        Finding::problem(shown(path), format!("it is {kind}, but has to be a file")).means(means);
    if kind != "a folder" {
        return found.how(format!("rm {}", shown(path)));
    }
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    match is_empty {
        true => found
            .how(format!("rmdir {}", shown(path)))
            .repair(RemoveFolder(path.to_owned())),
        false => found.how(format!("mv {0} {0}.aside", shown(path))),
    }
}

/// The lock of a network's store, and the files with the addresses that were reserved last.
pub(super) fn files_of_store(dir: &Path) -> Vec<Finding> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_of_store = |name: &str| name == "lock" || name.starts_with("last_reserved_ip.");
    let own = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_of_store));
    let wrong = own.filter_map(|entry| {
        let path = entry.path();
        let kind = other_kind(&path)?;
        Some(finding(
            &path,
            kind,
            "ADD fails for every container of the network",
        ))
    });
    wrong.collect()
}

/// Whether something else is where the lock belongs: then the store cannot be read.
pub(super) fn has_no_lock(dir: &Path) -> bool {
    other_kind(&dir.join("lock")).is_some()
}

/// Networks with a file where the folder of their store belongs.
pub(super) fn stores(networks: &HashMap<String, Network>) -> Vec<Finding> {
    let dirs = networks.values().filter_map(host_local);
    let wrong = dirs.filter(|ipam| ipam.dir().exists() && !ipam.dir().is_dir());
    wrong
        .map(|ipam| {
            let dir = shown(ipam.dir());
            Finding::problem(
                &dir,
                "it is a file, but has to be the folder of an address store",
            )
            .means("no address of the network can be reserved: every ADD fails")
            .how(format!("mv {dir} {dir}.aside"))
        })
        .collect()
}

/// The locks of attachments, and their folder.
pub(super) fn locks(dir: &Path) -> Vec<Finding> {
    if dir.exists() && !dir.is_dir() {
        let path = shown(dir);
        return vec![
            Finding::problem(&path, "it is a file, but has to be a folder of locks")
                .means("every ADD and DEL fails")
                .how(format!("rm {path}")),
        ];
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let wrong = entries.filter_map(|entry| {
        let path = entry.path();
        // The folder of the pods' locks is among the attachments' locks.
        if path == Path::new(anchor::LOCKS) {
            return None;
        }
        let kind = other_kind(&path)?;
        Some(finding(
            &path,
            kind,
            "the ADD and DEL of its attachment fail",
        ))
    });
    let mut findings: Vec<_> = wrong.collect();
    findings.sort_by(|one, other| one.subject.cmp(&other.subject));
    findings
}
