//! Interfaces against held addresses: what the store does not know, and what is there twice.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::doctor::checks::store::{File, Repair, Shelf, host_local};
use crate::doctor::finding::{Check, Finding};
use crate::doctor::repair;
use crate::doctor::snapshot::{Attached, Scene, shown};
use pausenet::apply::{self, try_lock};
use pausenet::cni::request::{Attachment, Request};
use pausenet::kernel::address;
use pausenet::kernel::link::{self, Which};
use pausenet::plan::{attachment_of_host_end, host_end_name};
use pausenet_host::{During, Result};

/// Writes down that an attachment has an address. False when it has not any more.
pub fn restore(request: &Request, ip: IpAddr) -> Result<bool> {
    // Its DEL would come in between: first the link goes, then the address.
    let Some(_lock) = try_lock(&host_end_name(&request.attachment))? else {
        return Ok(false);
    };
    match (has(&request.attachment, ip)?, host_local(&request.network)) {
        (true, Some(ipam)) => Ok(ipam.restore(&request.attachment, ip)?),
        _ => Ok(false),
    }
}

/// Whether an attachment is there, now, and its interface has this address.
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

/// Interfaces of ours whose address the store does not give to them.
pub fn missing(attached: &[Attached], shelves: &BTreeMap<PathBuf, Shelf>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for attached in attached {
        let network = attached
            .add_calls
            .iter()
            .find(|add_call| add_call.request.network.link.is_some());
        let Some(request) = network.map(|add_call| &add_call.request) else {
            continue;
        };
        let Some(ipam) = host_local(&request.network) else {
            continue;
        };
        let shelf = shelves.get(ipam.dir());
        for ip in attached.addresses.iter().flatten().map(|net| net.ip()) {
            let of_range = ipam.ranges().any(|range| range.contains(ip));
            let file = shelf.and_then(|shelf| shelf.files.iter().find(|file| file.ip == ip));
            let holder = file.and_then(|file| file.holder.as_ref());
            let own = |(container, ifname): &(String, String)| {
                container == attached.attachment.container.as_str()
                    && (ifname.is_empty() || ifname == attached.attachment.ifname.as_str())
            };
            if !of_range || holder.is_some_and(own) {
                continue;
            }
            // It may have been detached since it was listed.
            if apply::is_locked(&attached.attachment)
                || !has(&attached.attachment, ip).unwrap_or(false)
            {
                continue;
            }
            findings.push(no_file(request, ip, file, ipam.dir()));
        }
    }
    findings
}

fn no_file(request: &Request, ip: IpAddr, file: Option<&File>, dir: &Path) -> Finding {
    let subject = format!("{ip} of {}", request.attachment);
    match file {
        None => Finding::problem(
            Check::Store,
            subject,
            "its interface has it, and the store knows nothing of it",
        )
        .means("the next pod may be given the same address")
        .how(format!(
            "printf '{}\\r\\n{}' > {}",
            request.attachment.container,
            request.attachment.ifname,
            shown(&dir.join(ip.to_string()))
        ))
        .repair(repair::Repair::Store(Repair::Restore(
            Box::new(request.clone()),
            ip,
        ))),
        Some(file) => {
            let holder = file.holder.as_ref().map_or_else(
                || "nobody".to_owned(),
                |(container, ifname)| format!("{container} {ifname}"),
            );
            Finding::problem(
                Check::Store,
                subject,
                format!("its interface has it, and the store gives it to {holder}"),
            )
            .means("two pods may have one address, and the first to go takes it from the other")
            .how("DEL one of the two, and ADD it again")
        }
    }
}

/// Addresses that more than one namespace has, one of them by a link of ours.
pub fn duplicates(scene: &Scene) -> Vec<Finding> {
    let (Ok(behind), Ok(links)) = (&scene.behind, &scene.links) else {
        return Vec::new();
    };
    let holders = behind.holders();
    let mut told = HashSet::new();
    let mut findings = Vec::new();
    for attached in &scene.attached {
        for ip in attached.addresses.iter().flatten().map(|net| net.ip()) {
            let Some(all) = holders.get(&ip) else {
                continue;
            };
            let namespaces: HashSet<_> = all.iter().map(|(namespace, _)| namespace).collect();
            if namespaces.len() < 2 || !told.insert(ip) {
                continue;
            }
            let name = |(namespace, index): &(i32, u32)| {
                let end = links.iter().find(|link| {
                    link.peer_netns == Some(*namespace) && link.peer == Some(*index)
                })?;
                let attached = scene.attached_to(&end.name);
                Some(match attached {
                    Some(attached) => format!("{} ({})", end.name, attached.attachment),
                    None => format!("{} (not ours)", end.name),
                })
            };
            let names: Vec<_> = all.iter().filter_map(name).collect();
            findings.push(
                Finding::problem(
                    Check::Store,
                    ip,
                    format!(
                        "more than one interface has it: those behind {}",
                        names.join(", ")
                    ),
                )
                .means("what is sent there reaches now the one, now the other")
                .how("DEL one of them, and ADD it again"),
            );
        }
    }
    findings
}
