//! The namespaces behind the host ends: a path into each, and those that nothing holds.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::finding::{Finding, OUTSIDE};
use crate::doctor::snapshot::{LiveAttachment, link_exists};
use pausenet::apply::{Host, is_locked};
use pausenet::kernel::RouteSocket;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet_host::{During, Error, Result};

/// A path into each namespace that has a process or a name, by its number on the host.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashMap<i32, PathBuf>);

impl Namespaces {
    /// Looks for those of the attachments.
    ///
    /// # Errors
    /// /proc cannot be listed, or the kernel does not answer.
    pub(super) fn of(attachments: &[LiveAttachment]) -> Result<Self> {
        let numbers = attachments.iter().filter_map(number);
        let mut search = Search {
            open: numbers.collect(),
            found: HashMap::new(),
            seen: HashSet::new(),
            socket: Host::open_socket()?,
        };
        search.run()?;
        Ok(Self(search.found))
    }

    /// The path into the namespace of an attachment.
    pub(super) fn path_into(&self, live: &LiveAttachment) -> Option<&Path> {
        let path = self.0.get(&number(live)?)?;
        Some(path)
    }
}

/// The number of the namespace behind a host end, if it can be seen from here.
fn number(live: &LiveAttachment) -> Option<i32> {
    live.host_end.peer_netns.filter(|number| *number >= 0)
}

/// Attachments whose namespace has neither a process nor a name.
pub(super) fn without_process(
    attachments: &[LiveAttachment],
    namespaces: &Namespaces,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for live in attachments {
        let is_open = number(live).is_some() && namespaces.path_into(live).is_none();
        if !is_open || is_locked(&live.attachment) || !link_exists(live.host_end.index) {
            continue;
        }
        let subject = format!("{} ({})", live.host_end.name, live.attachment);
        findings.push(if sees_every_process() {
            Finding::problem(subject,
                "no process is in its namespace, and it is bound to no file",
            )
            .means("the container is gone, but its address, links and rules are still there")
            .how("have its runtime DEL it; --fix does not, since a process may have the namespace open")
        } else {
            Finding::note(subject,
                "no process that can be seen from here is in its namespace",
            )
            .means("others cannot be seen: this is a container, or /proc hides them")
            .how(OUTSIDE)
        });
    }
    findings
}

/// A search for namespaces, through the names of namespaces and then the processes.
struct Search {
    /// Not found yet.
    open: HashSet<i32>,
    found: HashMap<i32, PathBuf>,
    /// Most processes share few namespaces: each is opened once.
    seen: HashSet<NetnsId>,
    socket: RouteSocket,
}

impl Search {
    /// The slower searches run only while some are left.
    fn run(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        for path in mounts(Path::new("/proc/thread-self/mountinfo")) {
            self.look_at(&path)?;
        }
        let processes = processes()?;
        for process in &processes {
            if self.open.is_empty() {
                return Ok(());
            }
            self.look_at(&process.join("ns/net"))?;
        }
        let mut mount_namespaces = HashSet::new();
        for process in &processes {
            if self.open.is_empty() {
                return Ok(());
            }
            let threads = fs::read_dir(process.join("task")).into_iter().flatten();
            for thread in threads.flatten() {
                self.look_at(&thread.path().join("ns/net"))?;
            }
            let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
            if mount_namespaces.insert(namespace) {
                let root = process.join("root");
                for name in mounts(&process.join("mountinfo")) {
                    let below = name.strip_prefix("/").unwrap_or(&name);
                    self.look_at(&root.join(below))?;
                }
            }
        }
        Ok(())
    }

    /// A path that leads to no namespace any more is skipped.
    fn look_at(&mut self, path: &Path) -> Result<()> {
        if NetnsId::of_file(path).is_none_or(|id| !self.seen.insert(id)) {
            return Ok(());
        }
        let Ok(netns) = Netns::open(path) else {
            return Ok(());
        };
        let number = netns
            .number(&mut self.socket)
            .during_with(|| format!("ask for the number of {}", path.display()))?;
        if let Some(number) = number.filter(|number| self.open.remove(number)) {
            self.found.insert(number, path.to_owned());
        }
        Ok(())
    }
}

fn processes() -> Result<Vec<PathBuf>> {
    let unreadable = |err: std::io::Error| Error::new(format!("cannot list /proc: {err}"));
    let entries = fs::read_dir("/proc").map_err(unreadable)?;
    let is_process = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_process)
        .collect())
}

/// Where network namespaces are mounted, by a process's mountinfo.
fn mounts(mountinfo: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(mounted_namespace).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT WHERE OPTIONS … - TYPE SOURCE …`
fn mounted_namespace(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ');
    let is_net = fields.nth(3)?.starts_with("net:");
    let target = fields.next()?;
    (is_net && rest.starts_with("nsfs ")).then(|| target.replace("\\040", " ").into())
}

/// A container sees only its own processes and no kernel threads; a user namespace may not read
/// where others are.
fn sees_every_process() -> bool {
    let kernel_threads = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
    kernel_threads && NetnsId::of_file(Path::new("/proc/1/ns/net")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_namespaces_with_a_name_count() {
        let line = |root: &str, kind: &str| {
            format!("612 98 0:4 {root} /run/netns/a\\040b rw shared:337 - {kind} nsfs rw")
        };
        assert_eq!(
            mounted_namespace(&line("net:[4026532]", "nsfs")),
            Some("/run/netns/a b".into())
        );
        assert_eq!(mounted_namespace(&line("mnt:[4026532]", "nsfs")), None);
        assert_eq!(mounted_namespace(&line("/", "tmpfs")), None);
        assert_eq!(mounted_namespace("nonsense"), None);
    }
}
