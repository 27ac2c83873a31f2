//! nftables against attachments: elements that a foreign flush took, and elements of the dead.
//!
//! What should be there is computed as ADD computes it, from what the runtime remembers of the
//! attachment and from the interface itself; see [`add_calls`].

use std::collections::{HashMap, HashSet};

use crate::doctor::finding::{Check, Finding};
use crate::doctor::repair;
use crate::doctor::snapshot::{Behind, Scene, is_link_there, is_there};
use pausenet::apply::{
    ElementKey, Host, ObservedElements, host_end, is_locked, restore_elements, rules, try_lock,
};
use pausenet::cni::request::Attachment;
use pausenet::cni::result::{AddResult, Interface};
use pausenet::kernel::KernelError;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::{Element, Nft, Set};
use pausenet::plan::rules::{DesiredElement, target};
use pausenet::plan::{Mapper, element_owner, host_end_name};
use pausenet_host::Result;
use pausenet_host::runtime::add_calls;

/// A repair of nftables.
#[derive(Debug, Clone)]
pub enum Repair {
    /// Put back elements of an attachment that lives.
    Claim {
        attachment: Attachment,
        /// The index of its host end: while that is there, it is the same attachment.
        host_end: u32,
        wishes: Vec<DesiredElement>,
    },
    /// Put back tables, sets, chains and rules that attachments share.
    Shared(Vec<DesiredElement>),
    /// Remove elements whose attachment is gone.
    Drop {
        attachment: Attachment,
        owner: String,
        keys: Vec<(Set, Vec<u8>)>,
    },
}

impl Repair {
    pub fn done(&self) -> String {
        match self {
            Self::Claim { wishes, .. } => format!("put back: {}", shown(wishes)),
            Self::Shared(_) => "put back".to_owned(),
            Self::Drop { keys, .. } => format!("{} removed", elements(keys.len())),
        }
    }

    pub fn carry_out(&self) -> Result<bool> {
        match self {
            Self::Claim {
                attachment,
                host_end: index,
                wishes,
            } => Ok(restore_elements(attachment, *index, wishes)?),
            Self::Shared(wishes) => {
                rules::restore_shared(wishes)?;
                Ok(true)
            }
            Self::Drop {
                attachment,
                owner,
                keys,
            } => {
                let Some(_lock) = try_lock(&host_end_name(attachment))? else {
                    return Ok(false);
                };
                if host_end(&mut Host::open_socket()?, attachment)?.is_some() {
                    return Ok(false);
                }
                Ok(rules::release_keys(&mut rules::open()?, owner, keys)?)
            }
        }
    }
}

/// An attachment that lives, and what nftables should hold for it.
struct Due {
    attachment: Attachment,
    host_end: u32,
    is_remembered: bool,
    wishes: Vec<DesiredElement>,
}

pub fn check(scene: &Scene) -> Vec<Finding> {
    let present = match read() {
        Ok(present) => present,
        Err(refusal) => {
            let err = refusal.during("list the elements of nftables");
            return vec![Finding::unseen(Check::Rules, "nftables", err)];
        }
    };
    let due = due(scene);
    let mut findings = Vec::new();
    if let Err(err) = &scene.entries {
        findings.push(Finding::unseen(
            Check::Rules,
            "what runtimes remember",
            err.clone(),
        ));
    }
    findings.extend(unknown(scene));
    findings.extend(lost(&present, &due));
    findings.extend(leftovers(&present, scene));
    findings
}

fn read() -> Result<ObservedElements, KernelError> {
    ObservedElements::read(&mut Nft::open()?)
}

/// Attachments of which nobody can say any more what they were asked for.
fn unknown(scene: &Scene) -> Option<Finding> {
    let unknown = scene
        .attached
        .iter()
        .filter(|attached| attached.add_calls.is_empty());
    let names: Vec<_> = unknown
        .map(|attached| attached.attachment.to_string())
        .collect();
    let first = names.first()?;
    let others = match names.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some(
        Finding::note(
            Check::Rules,
            format!("{first}{others}"),
            "not looked at: no runtime remembers it, and its network is configured nowhere here",
        )
        .means("what nftables should hold for it cannot be told")
        .how("--conf-dir and --runtime-conf-dir say where configurations are"),
    )
}

/// Every attachment that is known to live, with its elements.
fn due(scene: &Scene) -> Vec<Due> {
    let ours = scene.attached.iter().map(|attached| Due {
        attachment: attached.attachment.clone(),
        host_end: attached.host_end.index,
        is_remembered: attached.is_remembered,
        wishes: attached
            .add_calls
            .iter()
            .flat_map(add_calls::AddCall::wishes)
            .collect(),
    });
    let mut due: Vec<_> = ours.collect();
    // Ports of ours on containers that another's plugin wired: whether one lives, its host end
    // tells, by name and MAC.
    let links = scene.links.as_deref().unwrap_or_default();
    for entry in scene.entries.iter().flatten() {
        let attachment = &entry.parameters.attachment;
        if scene
            .attached
            .iter()
            .any(|attached| attached.attachment == *attachment)
        {
            continue;
        }
        for add_call in add_calls::chained(entry, scene.programs.known()) {
            let promised = add_call.request.network.prev_result.as_ref();
            if let Some(host_end) = promised.and_then(|promised| host_end_of(promised, links)) {
                due.push(Due {
                    attachment: attachment.clone(),
                    host_end: host_end.index,
                    is_remembered: true,
                    wishes: add_call.wishes(),
                });
            }
        }
    }
    due
}

/// The link that is the host end which a result names.
fn host_end_of<'a>(promised: &AddResult, links: &'a [Link]) -> Option<&'a Link> {
    let on_host = |interface: &&Interface| interface.sandbox.is_empty();
    promised
        .interfaces
        .iter()
        .filter(on_host)
        .find_map(|promised| {
            links.iter().find(|link| {
                let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
                link.kind == "veth"
                    && link.name == promised.name
                    && mac.eq_ignore_ascii_case(&promised.mac)
            })
        })
}

fn lost(present: &ObservedElements, due: &[Due]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Without the shared objects no element can be; they come back with the first.
    let all: Vec<_> = due.iter().flat_map(|due| due.wishes.clone()).collect();
    let chains = present.incomplete_chains(&all);
    if !chains.is_empty() {
        findings.push(
            Finding::problem(
                Check::Rules,
                "shared chains",
                format!("rules of {} are gone from nftables", chains.join(", ")),
            )
            .means("no pod has what they do: masquerade, ports, guards")
            .how("DEL and ADD again (nft monitor shows who flushes the ruleset)")
            .repair(repair::Repair::Rules(Repair::Shared(all))),
        );
    }
    for due in due {
        let gone = present.missing(&due.wishes);
        // An ADD or DEL that is at work has its own mind about it.
        if gone.is_empty() || is_locked(&due.attachment) || !is_link_there(due.host_end) {
            continue;
        }
        let what = format!("gone from nftables: {}", shown(&gone));
        let mut means =
            "its traffic is not what its network promises, or its ports do not answer".to_owned();
        if !due.is_remembered {
            means.push_str("; no runtime remembers it, so ports that it had cannot be put back");
        }
        findings.push(
            Finding::problem(Check::Rules, &due.attachment, what)
                .means(means)
                .how("DEL and ADD again")
                .repair(repair::Repair::Rules(Repair::Claim {
                    attachment: due.attachment.clone(),
                    host_end: due.host_end,
                    wishes: gone,
                })),
        );
    }
    findings
}

/// Wishes in the words of people.
fn shown(wishes: &[DesiredElement]) -> String {
    let mut words: Vec<String> = Vec::new();
    for wish in wishes {
        let set = wish.set.name.as_str();
        let word = match set {
            _ if set.starts_with("ports") => port(&wish.element),
            _ if set.starts_with("masquerade_all") || set.starts_with("hairpin_") => {
                "the way back of its ports".to_owned()
            }
            _ if set.starts_with("masquerade_") => "masquerade".to_owned(),
            "guarded" | "allowed" => "the guard of its MAC".to_owned(),
            _ => continue, // marks of what is named already
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() {
        return elements(wishes.len());
    }
    words.join(", ")
}

fn port(element: &Element) -> String {
    format!("port {}", rules::port_of(element))
}

fn elements(count: usize) -> String {
    match count {
        1 => "1 element".to_owned(),
        _ => format!("{count} elements"),
    }
}

/// Elements of attachments that are no more.
fn leftovers(present: &ObservedElements, scene: &Scene) -> Vec<Finding> {
    let mut owners: HashMap<&str, Vec<(&ElementKey, &Element)>> = HashMap::new();
    for (place, element) in &present.elements {
        owners
            .entry(element.owner.as_str())
            .or_default()
            .push((place, element));
    }
    let live: HashSet<_> = scene
        .attached
        .iter()
        .map(|attached| &attached.attachment)
        .collect();
    let mut findings = Vec::new();
    let Ok(behind) = &scene.behind else {
        return findings;
    };
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(owner, _)| *owner);
    for (owner, found) in owners {
        let Some((mapper, attachment)) = element_owner(owner) else {
            findings.push(
                Finding::note(
                    Check::Rules,
                    format!("{:?}", owner),
                    format!(
                        "{} in our tables of nftables that we did not make",
                        elements(found.len())
                    ),
                )
                .means("kept: whose they are cannot be told")
                .how("nft list ruleset"),
            );
            continue;
        };
        if live.contains(&attachment) || is_locked(&attachment) {
            continue;
        }
        let keys: Vec<_> = found.iter().map(|(place, _)| key(place)).collect();
        let what = format!(
            "{} in nftables, and the attachment is gone",
            elements(found.len())
        );
        let means = "whoever has the address next gets what was meant for it: ports of the host, masquerade";
        if mapper == Mapper::Own {
            // Its DEL may have come to an end since they were listed.
            if is_there(&attachment) || !are_there(owner, &keys) {
                continue;
            }
            findings.push(
                Finding::problem(Check::Rules, &attachment, what)
                    .means(means)
                    .repair(repair::Repair::Rules(Repair::Drop {
                        attachment,
                        owner: owner.to_owned(),
                        keys,
                    })),
            );
        } else if !leads_somewhere(&found, behind) && !is_remembered(&attachment, scene) {
            findings.push(
                Finding::note(
                    Check::Rules,
                    &attachment,
                    format!("{} of its ports in nftables, and no interface that they lead to", elements(found.len())),
                )
                .means("kept: another's plugin wired the container, and only that can say whether it is gone")
                .how("have the runtime DEL it, or a GC of its network"),
            );
        }
    }
    findings
}

fn key((table, set, key): &ElementKey) -> (Set, Vec<u8>) {
    let set = Set {
        table: *table,
        name: set.clone(),
        key: Vec::new(),
        data: Vec::new(),
    };
    (set, key.clone())
}

/// Whether one of these elements is there, now, and the owner's.
fn are_there(owner: &str, keys: &[(Set, Vec<u8>)]) -> bool {
    let wanted: Vec<_> = keys.iter().map(|(set, key)| (set, key.clone())).collect();
    let found = Nft::open().and_then(|mut nft| nft.look_up(&wanted));
    let mut found = found.into_iter().flatten().flatten();
    found.any(|element| element.owner == owner)
}

fn leads_somewhere(found: &[(&ElementKey, &Element)], behind: &Behind) -> bool {
    let holders = behind.holders();
    let mut targets = found.iter().filter_map(|(_, element)| target(element));
    !behind.unseen.is_empty() || targets.any(|ip| holders.contains_key(&ip))
}

fn is_remembered(attachment: &Attachment, scene: &Scene) -> bool {
    let mut entries = scene.entries.iter().flatten();
    entries.any(|entry| entry.parameters.attachment == *attachment)
}
