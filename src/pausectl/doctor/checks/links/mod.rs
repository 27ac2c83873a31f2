//! Attachments from end to end: host ends ([`host_side`]) and what is left over of them, the bridges
//! and gateways behind them, and the interfaces in the pods ([`pod_side`]).

mod host_side;
mod namespaces;
mod pod_side;

use std::collections::{HashMap, HashSet};

use self::namespaces::{Namespaces, without_process};
use crate::doctor::check::Check;
use crate::doctor::configured::plugin_of_ours;
use crate::doctor::finding::Finding;
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{LiveAttachment, Snapshot, exists};
use pausenet::apply::{self, Host, host_end, is_locked, try_lock};
use pausenet::cni::request::Attachment;
use pausenet::cni::{IfName, Plugin};
use pausenet::kernel::link::{self, Link, Which};
use pausenet::kernel::netns::Netns;
use pausenet::plan::{Ownership, host_end_name, is_half_made};
use pausenet::verbs::ExpectedState;
use pausenet_host::{During, Result};

pub(super) const CHECK: Check = Check {
    name: "links",
    about: "links, addresses and routes of pods, from their bridge or gateway to the interface inside",
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
    findings.extend(attachments(&snapshot.attachments, links));
    findings.extend(gone(snapshot));
    findings
}

/// Attachments that a runtime has, whose namespace is there and whose interface is not: somebody has
/// deleted it, and with it the host end.
fn gone(snapshot: &Snapshot) -> Vec<Finding> {
    let live: HashSet<_> = (snapshot.attachments.iter())
        .map(|live| &live.attachment)
        .collect();
    let own = Netns::own().ok().and_then(|own| own.id().ok());
    let mut findings = Vec::new();
    for entry in snapshot.cache.iter().flatten() {
        let attachment = &entry.parameters.attachment;
        let plugin = &entry.list.plugins[entry.list.wiring()];
        let is_ours =
            plugin_of_ours(&plugin.r#type, &snapshot.programs).is_some_and(Plugin::is_wiring);
        if !is_ours || live.contains(attachment) || entry.result.is_none() {
            continue;
        }
        // The number of a process may be another's by now.
        let path = entry.parameters.netns.as_deref();
        let Some(path) = path.filter(|path| !path.starts_with("/proc")) else {
            continue;
        };
        let id = Netns::open(path).ok().and_then(|netns| netns.id().ok());
        if id.is_none() || id == own || is_locked(attachment) || exists(attachment) {
            continue;
        }
        findings.push(
            Finding::problem(
                attachment,
                format!(
                    "its interface is gone, though its namespace {} is there",
                    path.display()
                ),
            )
            .means("the pod is cut off, and its address stays reserved")
            .how("have its runtime recreate the pod"),
        );
    }
    findings
}

/// What an attachment should have, by its ADD.
struct Expected<'a> {
    live: &'a LiveAttachment,
    state: ExpectedState,
    /// No other plugin of its list is for routes.
    routes_are_ours: bool,
}

impl<'a> Expected<'a> {
    fn of(live: &'a LiveAttachment) -> Option<Self> {
        let mut wiring = live.add_calls.iter();
        let add_call = wiring.find(|add_call| add_call.request.network.link.is_some())?;
        Some(Self {
            live,
            state: add_call.expected_state().ok()?,
            routes_are_ours: live.routes_are_ours,
        })
    }
}

fn attachments(attachments: &[LiveAttachment], links: &[Link]) -> Vec<Finding> {
    let expected: Vec<_> = attachments.iter().filter_map(Expected::of).collect();
    let by_index: HashMap<_, _> = expected
        .iter()
        .map(|one| (one.live.host_end.index, one))
        .collect();
    let mut findings = Vec::new();
    for live in attachments {
        let expected = by_index.get(&live.host_end.index).copied();
        findings.extend(host_side::host_end(live, expected, links));
    }
    findings.extend(host_side::bridges(attachments, links));
    findings.extend(
        host_side::gateways(&expected, links)
            .unwrap_or_else(|err| vec![Finding::not_checked("the gateways of pods", err)]),
    );
    match Namespaces::of(attachments) {
        Ok(namespaces) => {
            findings.extend(
                pod_side::findings(&expected, &namespaces)
                    .unwrap_or_else(|err| vec![Finding::not_checked("the insides of pods", err)]),
            );
            findings.extend(without_process(attachments, &namespaces));
        }
        Err(err) => findings.push(Finding::not_checked(
            "the processes behind the host ends",
            err,
        )),
    }
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
