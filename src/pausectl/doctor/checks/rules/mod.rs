//! nftables against attachments: flushed elements, and elements of attachments that are
//! gone.
//!
//! The expected elements are computed as ADD computes them, from the runtime's result cache and
//! the interface itself; see [`add_calls`].

mod clashes;

use std::collections::{HashMap, HashSet};

use crate::doctor::check::Check;
use crate::doctor::finding::Finding;
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{PeerAddresses, Snapshot, exists, link_exists};
use pausenet::apply::{
    ElementKey, Host, ObservedElements, host_end, is_locked, nft_elements, other_mappings,
    restore_elements, try_lock,
};
use pausenet::cni::request::Attachment;
use pausenet::cni::result::{AddResult, Interface};
use pausenet::kernel::KernelError;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::{Element, Nft, Set};
use pausenet::plan::elements::{DesiredElement, target};
use pausenet::plan::{Mapper, abbreviated_owner, element_owner, host_end_name};
use pausenet_host::Result;
use pausenet_host::runtime::add_calls;

pub(super) const CHECK: Check = Check {
    name: "rules",
    about: "nftables against attachments: masquerade, published ports, MAC guards",
    all_is_well: "nftables holds what the attachments need, and nothing stale of ours",
    run,
};

#[derive(Debug)]
enum RuleRepair {
    /// Put back elements of an attachment.
    PutBack {
        attachment: Attachment,
        /// The index of its host end: while that exists, it is the same attachment.
        host_end: u32,
        desired_elements: Vec<DesiredElement>,
    },
    /// Put back tables, sets, chains and rules that attachments share.
    PutBackShared(Vec<DesiredElement>),
    /// Remove elements whose attachment is gone.
    Remove {
        attachment: Attachment,
        owner: String,
        known: Vec<(Set, Element)>,
    },
}

impl Repair for RuleRepair {
    fn done(&self) -> String {
        match self {
            Self::PutBack {
                desired_elements, ..
            } => format!("put back {}", shown(desired_elements)),
            Self::PutBackShared(_) => "put back".to_owned(),
            Self::Remove { known, .. } => format!("removed {}", elements(known.len())),
        }
    }

    fn carry_out(&self) -> Result<bool> {
        match self {
            Self::PutBack {
                attachment,
                host_end: index,
                desired_elements,
            } => Ok(restore_elements(attachment, *index, desired_elements)?),
            Self::PutBackShared(desired_elements) => {
                nft_elements::restore_shared(desired_elements)?;
                Ok(true)
            }
            Self::Remove {
                attachment,
                owner,
                known,
            } => {
                let Some(_lock) = try_lock(&host_end_name(attachment))? else {
                    return Ok(false);
                };
                if host_end(&mut Host::open_socket()?, attachment)?.is_some() {
                    return Ok(false);
                }
                let mut nft = nft_elements::open()?;
                let removed = nft_elements::remove_elements_by_key(&mut nft, owner, known)?;
                Ok(removed > 0)
            }
        }
    }
}

/// What nftables should hold for an attachment.
struct Expected {
    attachment: Attachment,
    /// The index of its host end.
    host_end: u32,
    /// It is in the runtime's result cache.
    is_cached: bool,
    desired_elements: Vec<DesiredElement>,
}

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let present = match read() {
        Ok(present) => present,
        Err(refusal) => {
            let err = refusal.during("list the elements of nftables");
            return vec![Finding::not_checked("nftables", err)];
        }
    };
    let expected = expected(snapshot);
    let mut findings = Vec::new();
    if let Err(err) = &snapshot.cache {
        findings.push(Finding::not_checked(
            "the runtimes' result caches",
            err.clone(),
        ));
    }
    findings.extend(unknown(snapshot));
    findings.extend(missing(&present, &expected));
    findings.extend(stale(&present, snapshot));
    match Nft::open().and_then(|mut nft| other_mappings(&mut nft)) {
        Ok(others) => findings.extend(clashes::clashes(&present, &others)),
        Err(refusal) => {
            let err = refusal.during("list the ports that other programs map");
            findings.push(Finding::not_checked("ports of kube-proxy and Docker", err));
        }
    }
    findings
}

fn read() -> Result<ObservedElements, KernelError> {
    ObservedElements::read(&mut Nft::open()?)
}

/// Attachments whose configuration is neither cached nor on disk.
fn unknown(snapshot: &Snapshot) -> Option<Finding> {
    let unknown = snapshot
        .attachments
        .iter()
        .filter(|live| live.add_calls.is_empty());
    let names: Vec<_> = unknown.map(|live| live.attachment.to_string()).collect();
    let first = names.first()?;
    let others = match names.len() - 1 {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    Some(
        Finding::note(
            format!("{first}{others}"),
            "not checked: it is in no runtime's cache, and its network is not configured here",
        )
        .means("what nftables should hold for it is unknown")
        .how("name the folder of its configuration with --conf-dir or --runtime-conf-dir"),
    )
}

/// The expected elements of every attachment that is known to exist.
fn expected(snapshot: &Snapshot) -> Vec<Expected> {
    let ours = snapshot.attachments.iter().map(|live| Expected {
        attachment: live.attachment.clone(),
        host_end: live.host_end.index,
        is_cached: live.is_cached,
        desired_elements: live
            .add_calls
            .iter()
            .flat_map(add_calls::AddCall::desired_elements)
            .collect(),
    });
    let mut expected: Vec<_> = ours.collect();
    // Ports of ours on containers that another plugin wired: they exist while their host end, known
    // by name and MAC, exists.
    let links = snapshot.links.as_deref().unwrap_or_default();
    for entry in snapshot.cache.iter().flatten() {
        let attachment = &entry.parameters.attachment;
        if snapshot
            .attachments
            .iter()
            .any(|live| live.attachment == *attachment)
        {
            continue;
        }
        for add_call in add_calls::chained(entry, snapshot.programs.known()) {
            let result = add_call.request.network.prev_result.as_ref();
            if let Some(host_end) = result.and_then(|result| host_end_of(result, links)) {
                expected.push(Expected {
                    attachment: attachment.clone(),
                    host_end: host_end.index,
                    is_cached: true,
                    desired_elements: add_call.desired_elements(),
                });
            }
        }
    }
    expected
}

/// The link that is the host end which a result names.
fn host_end_of<'a>(result: &AddResult, links: &'a [Link]) -> Option<&'a Link> {
    let on_host = |interface: &&Interface| interface.sandbox.is_empty();
    let mut interfaces = result.interfaces.iter().filter(on_host);
    interfaces.find_map(|interface| {
        links.iter().find(|link| {
            let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
            link.kind == "veth"
                && link.name == interface.name
                && mac.eq_ignore_ascii_case(&interface.mac)
        })
    })
}

fn missing(present: &ObservedElements, expected: &[Expected]) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Elements need the shared objects, so those are put back first.
    let all = expected.iter().flat_map(|one| one.desired_elements.clone());
    let all: Vec<_> = all.collect();
    let chains = present.incomplete_chains(&all);
    if !chains.is_empty() {
        findings.push(
            Finding::problem(
                "shared chains",
                format!("rules of {} are gone from nftables", chains.join(", ")),
            )
            .means("no pod has what they do: masquerade, published ports, MAC guards")
            .how("DEL and ADD again (nft monitor shows what flushes the ruleset)")
            .repair(RuleRepair::PutBackShared(all)),
        );
    }
    for expected in expected {
        let gone = present.missing(&expected.desired_elements);
        // An ADD or DEL that is at work changes them.
        if gone.is_empty() || is_locked(&expected.attachment) || !link_exists(expected.host_end) {
            continue;
        }
        let what = format!("gone from nftables: {}", shown(&gone));
        let mut means =
            "its traffic is not as its network requires, or its ports do not answer".to_owned();
        if !expected.is_cached {
            means.push_str(
                "; it is in no runtime's cache, so its published ports cannot be put back",
            );
        }
        findings.push(
            Finding::problem(&expected.attachment, what)
                .means(means)
                .how("DEL and ADD again")
                .repair(RuleRepair::PutBack {
                    attachment: expected.attachment.clone(),
                    host_end: expected.host_end,
                    desired_elements: gone,
                }),
        );
    }
    findings
}

/// Elements by what they do.
fn shown(desired_elements: &[DesiredElement]) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for desired in desired_elements {
        let set = desired.set.name.as_str();
        let kind = match set {
            _ if set.starts_with("ports") => port(&desired.element),
            _ if set.starts_with("masquerade_all") || set.starts_with("hairpin_") => {
                "masquerade for its ports".to_owned()
            }
            _ if set.starts_with("masquerade_") => "masquerade".to_owned(),
            "guarded" | "allowed" => "its MAC guard".to_owned(),
            _ => continue, // belongs to one that is listed
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        return elements(desired_elements.len());
    }
    kinds.join(", ")
}

fn port(element: &Element) -> String {
    format!("port {}", nft_elements::port_of(element))
}

fn elements(count: usize) -> String {
    match count {
        1 => "1 element".to_owned(),
        _ => format!("{count} elements"),
    }
}

/// Elements of attachments that are gone.
fn stale(present: &ObservedElements, snapshot: &Snapshot) -> Vec<Finding> {
    let mut owners: HashMap<&str, Vec<(&ElementKey, &Element)>> = HashMap::new();
    for (place, element) in &present.elements {
        owners
            .entry(element.owner.as_str())
            .or_default()
            .push((place, element));
    }
    let live: HashSet<_> = snapshot
        .attachments
        .iter()
        .map(|live| &live.attachment)
        .collect();
    let mut findings = Vec::new();
    let Ok(peers) = &snapshot.peers else {
        return findings;
    };
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(owner, _)| *owner);
    for (owner, found) in owners {
        let Some((mapper, attachment)) = element_owner(owner) else {
            if abbreviated_owner(owner).is_some() {
                // The container's name is not in it; GC knows whether it is valid.
                continue;
            }
            findings.push(
                Finding::note(
                    format!("{:?}", owner),
                    format!(
                        "{} in pausenet's nftables tables that pausenet did not make",
                        elements(found.len())
                    ),
                )
                .means("kept: their owner is unknown")
                .how("nft list ruleset"),
            );
            continue;
        };
        if live.contains(&attachment) || is_locked(&attachment) {
            continue;
        }
        let known: Vec<_> = found
            .iter()
            .map(|(place, element)| at_its_place(place, element))
            .collect();
        let what = format!(
            "{} in nftables, but the attachment is gone",
            elements(found.len())
        );
        let means = "the next container with its address gets its published ports and masquerade";
        if mapper == Mapper::Own {
            // Its DEL may have ended since they were listed.
            if exists(&attachment) || !any_exists(owner, &known) {
                continue;
            }
            findings.push(Finding::problem(&attachment, what).means(means).repair(
                RuleRepair::Remove {
                    attachment,
                    owner: owner.to_owned(),
                    known,
                },
            ));
        } else if !is_target_in_use(&found, peers) {
            findings.push(
                Finding::note(&attachment,
                    format!("{} of its published ports in nftables, but no interface has the address that they lead to", elements(found.len())),
                )
                .means("an ADD that gets the address or wants the port removes them")
                .how("have the runtime DEL it or GC its network"),
            );
        }
    }
    findings
}

fn at_its_place((table, set, _): &ElementKey, element: &Element) -> (Set, Element) {
    let set = Set {
        table: *table,
        name: set.clone(),
        key: Vec::new(),
        data: Vec::new(),
    };
    (set, element.clone())
}

/// Whether the owner still has one of these elements.
fn any_exists(owner: &str, known: &[(Set, Element)]) -> bool {
    let wanted: Vec<_> = known
        .iter()
        .map(|(set, element)| (set, element.key.clone()))
        .collect();
    let found = Nft::open().and_then(|mut nft| nft.look_up(&wanted));
    let mut found = found.into_iter().flatten().flatten();
    found.any(|element| element.owner == owner)
}

/// True also if some addresses cannot be seen.
fn is_target_in_use(found: &[(&ElementKey, &Element)], peers: &PeerAddresses) -> bool {
    let interfaces = peers.interfaces_by_address();
    let mut targets = found.iter().filter_map(|(_, element)| target(element));
    !peers.are_complete() || targets.any(|ip| interfaces.contains_key(&ip))
}
