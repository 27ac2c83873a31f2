//! Host ends: half made, cut off from their bridge, or with nobody behind them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::finding::{Check, Finding, OUTSIDE};
use crate::doctor::repair;
use crate::doctor::snapshot::{Attached, Scene, is_link_there};
use pausenet::apply::{self, Host, host_end, is_locked, try_lock};
use pausenet::cni::IfName;
use pausenet::cni::request::Attachment;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link, Which};
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::plan::{Ownership, host_end_name, is_half_made};
use pausenet_host::{During, Error, Result};

/// A repair of links.
#[derive(Debug, Clone)]
pub enum Repair {
    /// Remove a link that was never finished.
    Debris(IfName),
    /// Remove what is left of an attachment whose host end is gone: its IFB.
    Detour(Attachment),
}

impl Repair {
    pub fn done(&self) -> String {
        match self {
            Self::Debris(name) => format!("{name} is removed"),
            Self::Detour(attachment) => format!("the IFB of {attachment} is removed"),
        }
    }

    pub fn carry_out(&self) -> Result<bool> {
        let mut socket = Host::open_socket()?;
        match self {
            Self::Debris(name) => {
                let found = link::get(&mut socket, Which::Name(name))
                    .during_with(|| format!("look up {name}"))?;
                match found.filter(is_half_made) {
                    Some(found) => Ok(apply::remove_debris(&mut socket, &found)?),
                    None => Ok(false),
                }
            }
            Self::Detour(attachment) => {
                let Some(_lock) = try_lock(&host_end_name(attachment))? else {
                    return Ok(false);
                };
                if host_end(&mut socket, attachment)?.is_some() {
                    return Ok(false);
                }
                apply::remove(&mut socket, attachment)?;
                Ok(true)
            }
        }
    }
}

pub fn check(scene: &Scene) -> Vec<Finding> {
    let links = match &scene.links {
        Ok(links) => links,
        Err(err) => {
            return vec![Finding::unseen(
                Check::Links,
                "the host's links",
                err.clone(),
            )];
        }
    };
    let mut findings = Vec::new();
    for link in links {
        findings.extend(half_made(link));
        findings.extend(widowed(link, links));
    }
    findings.extend(
        scene
            .attached
            .iter()
            .filter_map(|attached| bridge(attached, links)),
    );
    findings.extend(deserted(&scene.attached));
    findings
}

fn half_made(link: &Link) -> Option<Finding> {
    if !is_half_made(link) {
        return None;
    }
    let name = IfName::parse(&link.name).ok()?;
    let is_debris = Host::open_socket()
        .and_then(|mut socket| apply::is_debris(&mut socket, link))
        .unwrap_or(false);
    is_debris.then(|| {
        Finding::problem(Check::Links, &link.name, "its ADD was killed half way")
            .means("it belongs to nobody; its name is free for the next ADD of the same attachment only")
            .how(format!("ip link delete {}", link.name))
            .repair(repair::Repair::Links(Repair::Debris(name)))
    })
}

/// An IFB does not go with its container's namespace.
fn widowed(link: &Link, links: &[Link]) -> Option<Finding> {
    let attachment = Ownership::of(link).attachment()?;
    let host_end = host_end_name(&attachment);
    let is_there = links.iter().any(|link| link.name == host_end.as_str());
    if link.kind != "ifb" || is_there || is_locked(&attachment) {
        return None;
    }
    Some(
        Finding::problem(
            Check::Links,
            &link.name,
            format!("it limited what {attachment} sends, which is gone"),
        )
        .means("nothing uses it")
        .how(format!("ip link delete {}", link.name))
        .repair(repair::Repair::Links(Repair::Detour(attachment))),
    )
}

/// Whether the host end is a port of its network's bridge, and switched on.
fn bridge(attached: &Attached, links: &[Link]) -> Option<Finding> {
    let end = &attached.host_end;
    let subject = format!("{} ({})", end.name, attached.attachment);
    if is_locked(&attached.attachment) {
        return None;
    }
    let problem =
        |what: String| Finding::problem(Check::Links, &subject, what).means("the pod is cut off");
    if !end.up {
        return Some(
            problem("the host end is switched off".into())
                .how(format!("ip link set {} up", end.name)),
        );
    }
    let conf = attached
        .add_calls
        .iter()
        .find_map(|add_call| add_call.request.network.link.as_ref()?.bridge())?;
    let bridge = links.iter().find(|link| link.name == conf.name.as_str());
    match bridge {
        None => Some(
            problem(format!("its bridge {} is gone", conf.name))
                .how("DEL and ADD it again: the bridge is made anew"),
        ),
        Some(bridge) if end.controller != Some(bridge.index) => Some(
            problem(format!("it is no port of its bridge {}", conf.name))
                .how(format!("ip link set {} master {}", end.name, conf.name)),
        ),
        Some(_) => None,
    }
}

/// Attachments whose namespace has neither a process nor a name.
fn deserted(attached: &[Attached]) -> Vec<Finding> {
    let mut open: HashSet<i32> = attached
        .iter()
        .filter_map(|attached| attached.host_end.peer_netns)
        .filter(|id| *id >= 0)
        .collect();
    if open.is_empty() {
        return Vec::new();
    }
    if let Err(err) = find_residents(&mut open) {
        return vec![Finding::unseen(
            Check::Links,
            "who lives behind the host ends",
            err,
        )];
    }
    let mut findings = Vec::new();
    for attached in attached {
        let id = attached.host_end.peer_netns;
        let is_open = id.is_some_and(|id| open.contains(&id));
        if !is_open || is_locked(&attached.attachment) || !is_link_there(attached.host_end.index) {
            continue;
        }
        let subject = format!("{} ({})", attached.host_end.name, attached.attachment);
        findings.push(if sees_every_process() {
            Finding::problem(
                Check::Links,
                subject,
                "no process lives in its namespace, and no name holds it",
            )
            .means("the container is gone, and its address, links and rules are held for it still")
            .how("have its runtime DEL it. It is not done here: some process may have the namespace open")
        } else {
            Finding::note(
                Check::Links,
                subject,
                "no process that can be seen from here lives in its namespace",
            )
            .means("the others cannot be seen: this is a container, or /proc hides them")
            .how(OUTSIDE)
        });
    }
    findings
}

/// Takes from `open` each namespace that somebody lives in or that has a name. Only where some
/// are left, it looks where it takes longer.
fn find_residents(open: &mut HashSet<i32>) -> Result<()> {
    let mut socket = Host::open_socket()?;
    let mut seen = HashSet::new();
    let names = mounts(Path::new("/proc/thread-self/mountinfo"));
    for path in names {
        strike(open, &path, &mut seen, &mut socket)?;
    }
    let processes = processes()?;
    for process in &processes {
        if open.is_empty() {
            return Ok(());
        }
        strike(open, &process.join("ns/net"), &mut seen, &mut socket)?;
    }
    let mut mount_namespaces = HashSet::new();
    for process in &processes {
        if open.is_empty() {
            return Ok(());
        }
        let threads = fs::read_dir(process.join("task")).into_iter().flatten();
        for thread in threads.flatten() {
            strike(open, &thread.path().join("ns/net"), &mut seen, &mut socket)?;
        }
        let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
        if mount_namespaces.insert(namespace) {
            let root = process.join("root");
            for name in mounts(&process.join("mountinfo")) {
                let below = name.strip_prefix("/").unwrap_or(&name);
                strike(open, &root.join(below), &mut seen, &mut socket)?;
            }
        }
    }
    Ok(())
}

/// Takes a namespace, by a path that leads to it, from those that nobody was found in. What is
/// no namespace any more is passed over.
fn strike(
    open: &mut HashSet<i32>,
    path: &Path,
    seen: &mut HashSet<NetnsId>,
    socket: &mut RouteSocket,
) -> Result<()> {
    // Most processes live in few namespaces: each is opened once.
    if NetnsId::of_file(path).is_none_or(|id| !seen.insert(id)) {
        return Ok(());
    }
    let Ok(netns) = Netns::open(path) else {
        return Ok(());
    };
    let number = netns
        .number(socket)
        .during_with(|| format!("ask for the number of {}", path.display()))?;
    if let Some(number) = number {
        open.remove(&number);
    }
    Ok(())
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

/// Where namespaces are mounted, by a process's mountinfo.
fn mounts(mountinfo: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(mounted_namespace).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT WHERE OPTIONS … - TYPE SOURCE …`
fn mounted_namespace(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ');
    let is_net = fields.nth(3)?.starts_with("net:");
    let place = fields.next()?;
    (is_net && rest.starts_with("nsfs ")).then(|| place.replace("\\040", " ").into())
}

/// A container has processes of its own only, without kernel threads; and in a user namespace it
/// is not told where others' live.
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
