//! What is in our tables of nftables, compared with what should be there: an `nft flush ruleset`
//! removes ours too, and what it removed can be restored.

use std::collections::HashMap;

use super::host::{Host, try_lock};
use super::rules;
use super::veth::is_gone;
use crate::cni::During;
use crate::cni::Result;
use crate::cni::request::Attachment;
use crate::kernel::KernelError;
use crate::kernel::link::{self, Which};
use crate::kernel::nft::{Change, Element, Nft, Table};
use crate::plan::host_end_name;
use crate::plan::rules::{BRIDGE_TABLE, DesiredElement, TABLE, blocks};

/// Where an element is: table, set and key.
pub type ElementKey = (Table, String, Vec<u8>);

/// What is in our tables at one moment.
#[derive(Debug, Default)]
pub struct ObservedElements {
    pub elements: HashMap<ElementKey, Element>,
    /// How many rules each chain has.
    rules: HashMap<(Table, String), usize>,
}

impl ObservedElements {
    /// Reads all of it.
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

    /// Those of the desired elements that are not there, or are another's.
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

    /// The shared chains of the desired elements that have lost rules.
    pub fn incomplete_chains(&self, desired: &[DesiredElement]) -> Vec<String> {
        let chains = blocks(desired)
            .into_iter()
            .filter_map(|change| match change {
                Change::Chain(chain) => Some(chain),
                _ => None,
            });
        let lost = chains.filter(|chain| {
            let place = (chain.table, chain.name.clone());
            self.rules.get(&place).copied().unwrap_or_default() < chain.rules.len()
        });
        lost.map(|chain| chain.name).collect()
    }
}

/// Restores elements of an attachment that lives: while its host end has this index, it is the
/// same attachment. False when it is gone, or when an ADD or DEL is at work, which sees to its
/// elements itself.
///
/// # Errors
/// Code 103 when a port of the host has been taken meanwhile; 101 when the kernel refuses.
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
    rules::claim(None, desired, |other| is_gone(&mut socket, other)).map(|()| true)
}
