//! Host ends: debris, cut off from their bridge, or with no process behind them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::check::Check;
use crate::doctor::finding::{Finding, OUTSIDE};
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{LiveAttachment, Snapshot, link_exists};
use pausenet::apply::{self, Host, host_end, is_locked, try_lock};
use pausenet::cni::link::GatewayRole;
use pausenet::cni::request::Attachment;
use pausenet::cni::{IfName, MacAddr};
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link, Which};
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::plan::{Ownership, host_end_name, is_half_made};
use pausenet_host::{During, Error, Result};

pub(super) const CHECK: Check = Check {
    name: "links",
    about: "host ends: half made, cut off from their bridge, without a process behind them",
    all_is_well: "every host end is complete, and has a process behind it",
    run,
};

#[derive(Debug)]
enum LinkRepair {
    /// Remove a link that an ADD made and did not finish.
    Debris(IfName),
    /// Remove the IFB of an attachment whose host end is gone.
    Ifb(Attachment),
}

impl Repair for LinkRepair {
    fn done(&self) -> String {
        match self {
            Self::Debris(name) => format!("removed {name}"),
            Self::Ifb(attachment) => format!("removed the IFB of {attachment}"),
        }
    }

    fn carry_out(&self) -> Result<bool> {
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
            Self::Ifb(attachment) => {
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

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let links = match &snapshot.links {
        Ok(links) => links,
        Err(err) => {
            return vec![Finding::not_checked("the host's links", err.clone())];
        }
    };
    let mut findings = Vec::new();
    for link in links {
        findings.extend(debris(link));
        findings.extend(unused_ifb(link, links));
    }
    findings.extend(
        snapshot
            .attachments
            .iter()
            .filter_map(|live| bridge(live, links)),
    );
    findings.extend(without_process(&snapshot.attachments));
    findings
}

fn debris(link: &Link) -> Option<Finding> {
    if !is_half_made(link) {
        return None;
    }
    let name = IfName::parse(&link.name).ok()?;
    let is_debris = Host::open_socket()
        .and_then(|mut socket| apply::is_debris(&mut socket, link))
        .unwrap_or(false);
    is_debris.then(|| {
        Finding::problem(&link.name, "an ADD made it and was killed half way")
            .means("nothing uses it, and only an ADD of the same attachment replaces it")
            .how(format!("ip link delete {}", link.name))
            .repair(LinkRepair::Debris(name))
    })
}

/// An IFB of an attachment that is gone: it does not end with the container's namespace.
fn unused_ifb(link: &Link, links: &[Link]) -> Option<Finding> {
    let attachment = Ownership::of(link).attachment()?;
    let host_end = host_end_name(&attachment);
    let is_there = links.iter().any(|link| link.name == host_end.as_str());
    if link.kind != "ifb" || is_there || is_locked(&attachment) {
        return None;
    }
    Some(
        Finding::problem(
            &link.name,
            format!("it shaped what {attachment} sent, and that is gone"),
        )
        .means("nothing uses it")
        .how(format!("ip link delete {}", link.name))
        .repair(LinkRepair::Ifb(attachment)),
    )
}

/// A host end that is down, or not a port of its network's bridge.
fn bridge(live: &LiveAttachment, links: &[Link]) -> Option<Finding> {
    let end = &live.host_end;
    let subject = format!("{} ({})", end.name, live.attachment);
    if is_locked(&live.attachment) {
        return None;
    }
    let problem = |what: String| Finding::problem(&subject, what).means("the pod is cut off");
    if !end.up {
        return Some(
            problem("the host end is down".into()).how(format!("ip link set {} up", end.name)),
        );
    }
    let conf = live
        .add_calls
        .iter()
        .find_map(|add_call| add_call.request.network.link.as_ref()?.bridge())?;
    let bridge = links.iter().find(|link| link.name == conf.name.as_str());
    match bridge {
        None => Some(
            problem(format!("its bridge {} is gone", conf.name))
                .how("DEL and ADD it again: ADD makes the bridge"),
        ),
        Some(bridge) if end.controller != Some(bridge.index) => Some(
            problem(format!("it is not a port of its bridge {}", conf.name))
                .how(format!("ip link set {} master {}", end.name, conf.name)),
        ),
        Some(bridge)
            if bridge.mac == Some(MacAddr::ZERO) && conf.gateway >= GatewayRole::Gateway =>
        {
            let no_mac = "has no MAC (00:00:00:00:00:00), and holds the gateway's address";
            let found = Finding::problem(&bridge.name, no_mac)
                .means("the pods on it do not reach their gateway, nor anything behind it");
            Some(match MacAddr::random() {
                Ok(mac) => found.how(format!("ip link set {} address {mac}", bridge.name)),
                Err(_) => found,
            })
        }
        Some(_) => None,
    }
}

/// Attachments whose namespace has neither a process nor a name.
fn without_process(attachments: &[LiveAttachment]) -> Vec<Finding> {
    let mut open: HashSet<i32> = attachments
        .iter()
        .filter_map(|live| live.host_end.peer_netns)
        .filter(|id| *id >= 0)
        .collect();
    if open.is_empty() {
        return Vec::new();
    }
    if let Err(err) = remove_occupied(&mut open) {
        return vec![Finding::not_checked(
            "the processes behind the host ends",
            err,
        )];
    }
    let mut findings = Vec::new();
    for live in attachments {
        let id = live.host_end.peer_netns;
        let is_open = id.is_some_and(|id| open.contains(&id));
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

/// Removes from `open` each namespace that has a process or a name. The slower searches run only
/// while some are left.
fn remove_occupied(open: &mut HashSet<i32>) -> Result<()> {
    let mut socket = Host::open_socket()?;
    let mut seen = HashSet::new();
    let names = mounts(Path::new("/proc/thread-self/mountinfo"));
    for path in names {
        remove_opened(open, &path, &mut seen, &mut socket)?;
    }
    let processes = processes()?;
    for process in &processes {
        if open.is_empty() {
            return Ok(());
        }
        remove_opened(open, &process.join("ns/net"), &mut seen, &mut socket)?;
    }
    let mut mount_namespaces = HashSet::new();
    for process in &processes {
        if open.is_empty() {
            return Ok(());
        }
        let threads = fs::read_dir(process.join("task")).into_iter().flatten();
        for thread in threads.flatten() {
            remove_opened(open, &thread.path().join("ns/net"), &mut seen, &mut socket)?;
        }
        let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
        if mount_namespaces.insert(namespace) {
            let root = process.join("root");
            for name in mounts(&process.join("mountinfo")) {
                let below = name.strip_prefix("/").unwrap_or(&name);
                remove_opened(open, &root.join(below), &mut seen, &mut socket)?;
            }
        }
    }
    Ok(())
}

/// Removes from `open` the namespace that a path leads to. A path that leads to none any more is
/// skipped.
fn remove_opened(
    open: &mut HashSet<i32>,
    path: &Path,
    seen: &mut HashSet<NetnsId>,
    socket: &mut RouteSocket,
) -> Result<()> {
    // Most processes share few namespaces: each is opened once.
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
