//! Interfaces against reservations: addresses that the store does not know, and addresses that
//! two interfaces have.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::reservations::{NetworkStore, Reservation};
use crate::doctor::configured::host_local;
use crate::doctor::finding::Finding;
use crate::doctor::repair::Repair;
use crate::doctor::snapshot::{LiveAttachment, Snapshot, shown};
use pausenet::apply::{self, try_lock};
use pausenet::cni::request::{Attachment, Request};
use pausenet::kernel::address;
use pausenet::kernel::link::{self, Which};
use pausenet::plan::{attachment_of_host_end, host_end_name};
use pausenet_host::{During, Result};

/// Write the missing reservation of an address that an interface has.
#[derive(Debug)]
struct WriteReservation {
    request: Box<Request>,
    ip: IpAddr,
}

impl Repair for WriteReservation {
    fn carry_out(&self) -> Result<bool> {
        let attachment = &self.request.attachment;
        // Its DEL would come in between: first the link goes, then the address.
        let Some(_lock) = try_lock(&host_end_name(attachment))? else {
            return Ok(false);
        };
        match (has(attachment, self.ip)?, host_local(&self.request.network)) {
            (true, Some(ipam)) => Ok(ipam.restore(attachment, self.ip)?),
            _ => Ok(false),
        }
    }

    fn done(&self) -> String {
        format!("reserved {} for {}", self.ip, self.request.attachment)
    }
}

/// Whether an attachment exists, now, and its interface has this address.
fn has(attachment: &Attachment, ip: IpAddr) -> Result<bool> {
    let mut socket = apply::Host::open_socket()?;
    let name = host_end_name(attachment);
    let host_end = link::get(&mut socket, Which::Name(&name))
        .during_with(|| format!("look up {name}"))?
        .filter(|link| attachment_of_host_end(link).as_ref() == Some(attachment));
    let Some((Some(namespace), peer)) = host_end.map(|link| (link.peer_netns, link.peer)) else {
        return Ok(false);
    };
    let addresses = address::of_namespace_by_link(&mut socket, namespace)
        .during_with(|| format!("list the addresses behind {name}"))?;
    let mut own = addresses.iter().filter(|(index, _)| Some(*index) == peer);
    Ok(own.any(|(_, net)| net.ip() == ip))
}

/// Interfaces of ours with an address that the store does not reserve for them.
pub(super) fn unreserved(
    attachments: &[LiveAttachment],
    stores: &BTreeMap<PathBuf, NetworkStore>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let by_ip: HashMap<&Path, HashMap<IpAddr, &Reservation>> = stores
        .iter()
        .map(|(dir, store)| {
            let all = store.reservations.iter();
            (dir.as_path(), all.map(|one| (one.ip, one)).collect())
        })
        .collect();
    for live in attachments {
        let network = live
            .add_calls
            .iter()
            .find(|add_call| add_call.request.network.link.is_some());
        let Some(request) = network.map(|add_call| &add_call.request) else {
            continue;
        };
        let Some(ipam) = host_local(&request.network) else {
            continue;
        };
        if !stores.contains_key(ipam.dir()) && ipam.dir().exists() {
            continue; // it cannot be read, which is a finding
        }
        let reservations = by_ip.get(ipam.dir());
        for ip in live.addresses.iter().flatten().map(|net| net.ip()) {
            let of_range = ipam.ranges().any(|range| range.contains(ip));
            let found = reservations.and_then(|all| all.get(&ip).copied());
            let holder = found.and_then(|reservation| reservation.holder.as_ref());
            let own = |(container, ifname): &(String, String)| {
                container == live.attachment.container.as_str()
                    && (ifname.is_empty() || ifname == live.attachment.ifname.as_str())
            };
            if !of_range || holder.is_some_and(own) {
                continue;
            }
            // It may have been detached since it was listed.
            if apply::is_locked(&live.attachment) || !has(&live.attachment, ip).unwrap_or(false) {
                continue;
            }
            findings.push(unreserved_address(request, ip, found, ipam.dir()));
        }
    }
    findings
}

fn unreserved_address(
    request: &Request,
    ip: IpAddr,
    found: Option<&Reservation>,
    dir: &Path,
) -> Finding {
    let subject = format!("{ip} of {}", request.attachment);
    match found {
        None => Finding::problem(
            subject,
            "the interface has it, but the store does not reserve it",
        )
        .means("the next pod may be given the same address")
        .how(format!(
            "printf '{}\\r\\n{}' > {}",
            request.attachment.container,
            request.attachment.ifname,
            shown(&dir.join(ip.to_string()))
        ))
        .repair(WriteReservation {
            request: Box::new(request.clone()),
            ip,
        }),
        Some(reservation) => {
            let holder = reservation.holder.as_ref().map_or_else(
                || "no container".to_owned(),
                |(container, ifname)| format!("{container} {ifname}"),
            );
            Finding::problem(
                subject,
                format!("the interface has it, but the store reserves it for {holder}"),
            )
            .means("two pods may have this address, and the first to go frees it for a third")
            .how("DEL one of the two, and ADD it again")
        }
    }
}

/// Addresses in more than one namespace, where at least one of the interfaces is ours.
pub(super) fn duplicates(snapshot: &Snapshot) -> Vec<Finding> {
    let (Ok(peers), Ok(links)) = (&snapshot.peers, &snapshot.links) else {
        return Vec::new();
    };
    let interfaces = peers.interfaces_by_address();
    let mut reported = HashSet::new();
    let mut findings = Vec::new();
    for live in &snapshot.attachments {
        for ip in live.addresses.iter().flatten().map(|net| net.ip()) {
            let Some(all) = interfaces.get(&ip) else {
                continue;
            };
            let namespaces: HashSet<_> = all.iter().map(|(namespace, _)| namespace).collect();
            if namespaces.len() < 2 || !reported.insert(ip) {
                continue;
            }
            let name = |(namespace, index): &(i32, u32)| {
                let end = links.iter().find(|link| {
                    link.peer_netns == Some(*namespace) && link.peer == Some(*index)
                })?;
                Some(match snapshot.attachment_at(&end.name) {
                    Some(live) => format!("{} ({})", end.name, live.attachment),
                    None => format!("{} (not ours)", end.name),
                })
            };
            let names: Vec<_> = all.iter().filter_map(name).collect();
            findings.push(
                Finding::problem(
                    ip,
                    format!(
                        "several interfaces have it: those behind {}",
                        names.join(", ")
                    ),
                )
                .means("packets to it reach now one, now the other")
                .how("DEL one of them, and ADD it again"),
            );
        }
    }
    findings
}
