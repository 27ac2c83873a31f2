//! Restores pods' nftables elements, published ports (hostPort) above all, after an
//! `nft flush ruleset`. The plugin adds them at ADD, and is not called again.
//!
//! What should be there comes from the runtime's result cache (libcni's files); the kernel confirms
//! that the pod is still the one in the cache. Both stay the same for as long as the pod lives, so an
//! attachment is looked up once. A pod that is not in the cache gets nothing back; `pausectl doctor`
//! reports it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::options::Options;
use pausenet::apply::{ObservedElements, nft_elements, restore_elements};
use pausenet::cni::NetworkName;
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::nft::Nft;
use pausenet::kernel::{RouteSocket, address, link};
use pausenet::plan::attachment_of_host_end;
use pausenet::plan::elements::DesiredElement;
use pausenet_host::runtime::add_calls::{self, AddCall};
use pausenet_host::runtime::cache;
use pausenet_host::{During, Error, Result};

/// The expected elements of this node's pods.
#[derive(Debug)]
pub struct PodElements {
    network: NetworkName,
    path: [PathBuf; 1],
    expected: HashMap<Attachment, ExpectedElements>,
    /// The generation of a ruleset with nothing missing. While it stays the same, nothing is missing.
    generation: Option<u32>,
}

/// The elements that nftables should hold for a live attachment.
#[derive(Debug)]
struct ExpectedElements {
    /// The index of its host end. While that link exists, the attachment is the same one.
    host_end: u32,
    desired_elements: Vec<DesiredElement>,
}

impl PodElements {
    /// Starts without any attachment; the first [`Self::restore`] looks them up.
    pub fn new(options: &Options) -> Self {
        Self {
            network: options.network.clone(),
            path: [options.bin_dir.clone()],
            expected: HashMap::new(),
            generation: None,
        }
    }

    /// Restores missing elements. Returns the number of pods that got some back.
    ///
    /// # Errors
    /// The first failure, for example a host port that another pod has by now; the elements of all
    /// other pods are restored nevertheless.
    pub fn restore(&mut self, socket: &mut RouteSocket, nft: &mut Nft) -> Result<usize> {
        let attempt = "look for pods' elements in nftables";
        let generation = nft.generation().during(attempt)?;
        if self.generation == Some(generation) {
            return Ok(0);
        }
        self.generation = None;
        let mut is_complete = self.refresh(socket)?;
        let desired_elements = self
            .expected
            .values()
            .flat_map(|expected| expected.desired_elements.iter().cloned());
        let desired_elements: Vec<_> = desired_elements.collect();
        let mut count = 0;
        let mut outcome = Ok(());
        if !desired_elements.is_empty() {
            let present = ObservedElements::read(nft).during(attempt)?;
            // An element has no effect without its chain.
            let chains_are_missing = !present.incomplete_chains(&desired_elements).is_empty();
            if chains_are_missing {
                is_complete = false;
                nft_elements::restore_shared(&desired_elements)?;
            }
            for (attachment, expected) in &self.expected {
                let missing = present.missing(&expected.desired_elements);
                if missing.is_empty() {
                    count +=
                        usize::from(chains_are_missing && !expected.desired_elements.is_empty());
                    continue;
                }
                is_complete = false;
                match restore_elements(attachment, expected.host_end, &missing) {
                    Ok(is_back) => count += usize::from(is_back),
                    Err(err) => outcome = outcome.and(Err(Error::from(err).context(attachment))),
                }
            }
        }
        if is_complete {
            self.generation = Some(generation);
        }
        outcome.map(|()| count)
    }

    /// Updates [`Self::expected`] to the live attachments. False if one is not in the result cache: the
    /// runtime writes it there after the ADD.
    fn refresh(&mut self, socket: &mut RouteSocket) -> Result<bool> {
        let links = link::list(socket).during("list the host's links")?;
        let mut before = std::mem::take(&mut self.expected);
        let mut all_known = true;
        for link in &links {
            let Some(attachment) = attachment_of_host_end(link)
                .filter(|attachment| attachment.network == self.network)
            else {
                continue;
            };
            let known = before.remove(&attachment);
            let known = known.filter(|expected| expected.host_end == link.index);
            match known.or_else(|| self.look_up(socket, &attachment, link)) {
                Some(expected) => {
                    self.expected.insert(attachment, expected);
                }
                None => all_known = false,
            }
        }
        Ok(all_known)
    }

    fn look_up(
        &self,
        socket: &mut RouteSocket,
        attachment: &Attachment,
        host_end: &Link,
    ) -> Option<ExpectedElements> {
        let entry = cache::of(attachment).filter(|entry| entry.result.is_some())?;
        // Our conflist has one plugin only.
        let plugins = add_calls::Plugins {
            path: &self.path,
            portmap_is_ours: false,
        };
        let add_calls = add_calls::remembered(&entry, &[], plugins);
        let desired_elements: Vec<_> = add_calls
            .iter()
            .flat_map(AddCall::desired_elements)
            .collect();
        let belongs_to_this_attachment = !add_calls.is_empty()
            && (desired_elements.is_empty()
                || add_calls
                    .iter()
                    .all(|add_call| has_remembered_addresses(socket, host_end, add_call)));
        belongs_to_this_attachment.then_some(ExpectedElements {
            host_end: host_end.index,
            desired_elements,
        })
    }
}

/// Whether the interface has the addresses in the result cache. Otherwise the entry belongs to an
/// earlier attachment of the same name, whose runtime was killed during its DEL.
fn has_remembered_addresses(socket: &mut RouteSocket, host_end: &Link, add_call: &AddCall) -> bool {
    let (Some(remembered), Some(namespace), Some(peer)) = (
        &add_call.request.network.prev_result,
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
    let mut remembered = remembered.ips.iter().map(|ip| ip.address.ip());
    remembered.all(|ip| own.contains(&ip))
}
