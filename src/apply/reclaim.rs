//! Addresses that nobody can be using any more, found when a range has run out.
//!
//! An address is in use if some interface has it, and every interface of a network that we
//! wire is the other end of a link on the host. So the namespaces behind the host's links are
//! asked for their addresses, without entering them. What none of them has, and nobody is
//! making an attachment for, was left by a crash, a reboot, or a runtime that forgot its DEL.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{Host, is_at_work};
use crate::cni::request::Attachment;
use crate::cni::{NetworkName, Result};
use crate::ipam::Ipam;
use crate::kernel::{Refusal, RouteSocket, address, link};

/// An address file that is younger may be an ADD in the making by a plugin that has no lock
/// of ours. No ADD takes that long.
pub const YOUNGEST: Duration = Duration::from_secs(600);

/// Frees what can be freed of a network's addresses, and tells how many those were.
///
/// # Errors
/// Codes 5 and 101; when in doubt, nothing is freed.
pub fn reclaim(network: &NetworkName, ipam: &Ipam, now: SystemTime) -> Result<usize> {
    let Ipam::HostLocal(ipam) = ipam else {
        return Ok(0);
    };
    let mut socket = Host::open_socket()?;
    let in_use = in_use(&mut socket)
        .map_err(|refusal| refusal.during("list the addresses behind the host's links"))?;
    let Some(in_use) = in_use else {
        return Ok(0);
    };
    let is_old = |changed: SystemTime| now.duration_since(changed).is_ok_and(|age| age > YOUNGEST);
    ipam.reclaim(|ip, container, ifname, changed| {
        !in_use.contains(&ip) && is_old(changed) && nobody_is_at_work(network, container, ifname)
    })
}

/// Every address behind a link of the host's. None when one of the namespaces cannot be seen.
fn in_use(socket: &mut RouteSocket) -> Result<Option<HashSet<IpAddr>>, Refusal> {
    let mut namespaces = HashSet::new();
    for link in link::list(socket)? {
        match link.peer_netns {
            Some(id) if id < 0 => return Ok(None),
            Some(id) => {
                namespaces.insert(id);
            }
            None => {}
        }
    }
    let mut in_use = HashSet::new();
    for id in namespaces {
        in_use.extend(
            address::of_namespace(socket, id)?
                .iter()
                .map(|net| net.ip()),
        );
    }
    Ok(Some(in_use))
}

fn nobody_is_at_work(network: &NetworkName, container: &str, ifname: &str) -> bool {
    Attachment::of_network(network, container, ifname)
        .is_some_and(|attachment| !is_at_work(&attachment))
}
