//! What somebody's `nft flush ruleset` took of pods' elements, mapped ports above all, is put back.
//! The plugin adds them at ADD, and nobody calls it again.
//!
//! What the runtime remembers of an ADD (libcni's files) tells what there should be, the kernel
//! whether the pod is still the one that it remembers. That stays the same for as long as the pod
//! lives, so it is asked once. Who is not remembered gets nothing back: `pausectl doctor` tells.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::gc::attachment_of;
use super::options::Options;
use pausenet::apply::{Present, put_back, rules};
use pausenet::cni::NetworkName;
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::{RouteSocket, address, link};
use pausenet::plan::rules::Wish;
use pausenet_host::runtime::cache;
use pausenet_host::runtime::duty::{self, Duty};
use pausenet_host::{During, Error, Result};

/// The elements of this node's pods.
#[derive(Debug)]
pub struct Ports {
    network: NetworkName,
    path: [PathBuf; 1],
    due: HashMap<Attachment, Due>,
    /// Of a ruleset with nothing missing. While it is this one, nothing can have gone.
    generation: Option<u32>,
}

/// What nftables should hold for an attachment that lives.
#[derive(Debug)]
struct Due {
    /// The index of its host end: while that is there, it is the same attachment.
    host_end: u32,
    wishes: Vec<Wish>,
}

impl Ports {
    /// Nothing is known yet.
    pub fn new(options: &Options) -> Self {
        Self {
            network: options.network.clone(),
            path: [options.bin_dir.clone()],
            due: HashMap::new(),
            generation: None,
        }
    }

    /// Puts back what is missing; of how many pods that was.
    ///
    /// # Errors
    /// That of the first that cannot have it back; the others have.
    pub fn ensure(&mut self, socket: &mut RouteSocket, nft: &mut Nft) -> Result<usize> {
        let attempt = "look for pods' elements in nftables";
        let generation = nft.generation().during(attempt)?;
        if self.generation == Some(generation) {
            return Ok(0);
        }
        self.generation = None;
        let mut is_whole = self.learn(socket)?;
        let wishes = self.due.values().flat_map(|due| due.wishes.iter().cloned());
        let wishes: Vec<_> = wishes.collect();
        let mut count = 0;
        let mut outcome = Ok(());
        if !wishes.is_empty() {
            let present = Present::read(nft).during(attempt)?;
            // An element alone does nothing.
            let are_chains_lost = !present.incomplete(&wishes).is_empty();
            if are_chains_lost {
                is_whole = false;
                rules::restore_shared(&wishes)?;
            }
            for (attachment, due) in &self.due {
                let lost = present.lost(&due.wishes);
                if lost.is_empty() {
                    count += usize::from(are_chains_lost && !due.wishes.is_empty());
                    continue;
                }
                is_whole = false;
                match put_back(attachment, due.host_end, &lost) {
                    Ok(is_back) => count += usize::from(is_back),
                    Err(err) => outcome = outcome.and(Err(Error::from(err).context(attachment))),
                }
            }
        }
        if is_whole {
            self.generation = Some(generation);
        }
        outcome.map(|()| count)
    }

    /// Has [`Self::due`] tell of the attachments that live now. False when something of one is not
    /// known (yet): the runtime writes it down when the ADD is over.
    fn learn(&mut self, socket: &mut RouteSocket) -> Result<bool> {
        let links = link::list(socket).during("list the host's links")?;
        let mut before = std::mem::take(&mut self.due);
        let mut all_are_known = true;
        for link in links.iter().filter(|link| link.kind == "veth") {
            let Some(attachment) = attachment_of(link.alias.as_deref(), &self.network) else {
                continue;
            };
            let known = before.remove(&attachment);
            let known = known.filter(|due| due.host_end == link.index);
            match known.or_else(|| self.recall(socket, &attachment, link)) {
                Some(due) => {
                    self.due.insert(attachment, due);
                }
                None => all_are_known = false,
            }
        }
        Ok(all_are_known)
    }

    fn recall(
        &self,
        socket: &mut RouteSocket,
        attachment: &Attachment,
        host_end: &Link,
    ) -> Option<Due> {
        let entry = cache::of(attachment).filter(|entry| entry.result.is_some())?;
        // In our network's configuration there is none but the first.
        let plugins = duty::Plugins {
            path: &self.path,
            portmap_is_ours: false,
        };
        let duties = duty::remembered(&entry, &[], plugins);
        let wishes: Vec<_> = duties.iter().flat_map(Duty::wishes).collect();
        let is_of_this_one = !duties.is_empty()
            && (wishes.is_empty()
                || duties
                    .iter()
                    .all(|duty| has_its_own(socket, host_end, duty)));
        is_of_this_one.then_some(Due {
            host_end: host_end.index,
            wishes,
        })
    }
}

/// Whether the interface has the addresses that are remembered: they may be those of an attachment
/// of the same name that came before, whose runtime was killed amid its DEL.
fn has_its_own(socket: &mut RouteSocket, host_end: &Link, duty: &Duty) -> bool {
    let (Some(promised), Some(namespace), Some(peer)) = (
        &duty.request.network.prev_result,
        host_end.peer_netns.filter(|id| *id >= 0),
        host_end.peer,
    ) else {
        return false;
    };
    let Ok(addresses) = address::of_namespace_by_link(socket, namespace) else {
        return false;
    };
    let own = addresses.iter().filter(|(index, _)| *index == peer);
    let own: HashSet<_> = own.map(|(_, net)| net.ip()).collect();
    let mut promised = promised.ips.iter().map(|ip| ip.address.ip());
    promised.all(|ip| own.contains(&ip))
}
