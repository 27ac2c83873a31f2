//! Compares our nftables tables with the desired state and restores what is missing, for example
//! after `nft flush ruleset`.

use std::collections::HashMap;

use super::claim::{Extent, claim};
use super::dead_containers::Deaths;
use super::element_record;
use super::host::{Host, try_lock};
use crate::cni::During;
use crate::cni::Result;
use crate::cni::request::Attachment;
use crate::kernel::KernelError;
use crate::kernel::link::{self, Which};
use crate::kernel::nft::{Element, Nft, Table};
use crate::plan::elements::{BRIDGE_TABLE, DesiredElement, TABLE, shared_chains};
use crate::plan::{element_owner, host_end_name};

/// The location of an element: table, set and key.
pub type ElementKey = (Table, String, Vec<u8>);

/// A snapshot of our tables.
#[derive(Debug, Default)]
pub struct ObservedElements {
    pub elements: HashMap<ElementKey, Element>,
    /// The number of rules in each chain.
    rules: HashMap<(Table, String), usize>,
}

impl ObservedElements {
    /// Reads our tables.
    pub fn read(nft: &mut Nft) -> Result<Self, KernelError> {
        let mut present = Self::default();
        for table in [TABLE, BRIDGE_TABLE] {
            for set in nft.sets(table)? {
                for element in nft.elements(table, &set)? {
                    let place = (table, set.clone(), element.key.clone());
                    present.elements.insert(place, element);
                }
            }
            for rule in nft.rules(table, None)? {
                *present.rules.entry((table, rule.chain)).or_default() += 1;
            }
        }
        Ok(present)
    }

    /// The desired elements that are missing or have another owner.
    pub fn missing(&self, desired: &[DesiredElement]) -> Vec<DesiredElement> {
        let missing = desired.iter().filter(|wanted| !self.has(wanted));
        missing.cloned().collect()
    }

    fn has(&self, wanted: &DesiredElement) -> bool {
        let DesiredElement { set, element, .. } = wanted;
        let place = (set.table, set.name.clone(), element.key.clone());
        let found = self.elements.get(&place);
        found.is_some_and(|found| wanted.is_met_by(found))
    }

    /// The shared chains of the desired elements that lack rules.
    pub fn incomplete_chains(&self, desired: &[DesiredElement]) -> Vec<String> {
        let lost = shared_chains(desired).filter(|chain| {
            let place = (chain.table, chain.name.clone());
            self.rules.get(&place).copied().unwrap_or_default() < chain.rules.len()
        });
        lost.map(|chain| chain.name).collect()
    }
}

/// Restores the elements of a live attachment, identified by the index of its host end. False when
/// it is gone, or when an ADD or DEL is under way, which handles the elements itself.
///
/// # Errors
/// Code 103 when a host port has been taken in between; 101 when the kernel refuses.
pub fn restore_elements(
    attachment: &Attachment,
    index: u32,
    desired: &[DesiredElement],
) -> Result<bool> {
    let Some(_lock) = try_lock(&host_end_name(attachment))? else {
        return Ok(false);
    };
    let mut socket = Host::open_socket()?;
    let found = link::get(&mut socket, Which::Index(index)).during("look up a host end")?;
    if found.is_none() {
        return Ok(false);
    }
    if let Some((mapper, _)) = desired
        .first()
        .and_then(|wanted| element_owner(&wanted.element.owner))
    {
        element_record::create(attachment, mapper, None);
    }
    let deaths = Deaths::new(&mut socket);
    claim(None, desired, Extent::Part, deaths).map(|()| true)
}
