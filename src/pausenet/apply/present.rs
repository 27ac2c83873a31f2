//! What is in our tables of nftables, against what should be there: somebody's
//! `nft flush ruleset` takes ours with it, and what it took can be put back.

use std::collections::HashMap;

use super::veth::is_gone;
use super::{Host, rules, try_lock};
use crate::cni::During;
use crate::cni::Result;
use crate::cni::request::Attachment;
use crate::kernel::KernelError;
use crate::kernel::link::{self, Which};
use crate::kernel::nft::{Change, Element, Nft, Table};
use crate::plan::host_end_name;
use crate::plan::rules::{BRIDGE_TABLE, TABLE, Wish, blocks};

/// Where an element is: table, set and key.
pub type Place = (Table, String, Vec<u8>);

/// What is in our tables at one moment.
#[derive(Debug, Default)]
pub struct Present {
    pub elements: HashMap<Place, Element>,
    /// How many rules each chain has.
    rules: HashMap<(Table, String), usize>,
}

impl Present {
    /// Reads all of it.
    ///
    /// # Errors
    /// The kernel's refusal.
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

    /// Those of the wishes whose element is not there, or is another's.
    pub fn lost(&self, wishes: &[Wish]) -> Vec<Wish> {
        let lost = wishes.iter().filter(|wish| !self.has(wish));
        lost.cloned().collect()
    }

    fn has(&self, wish: &Wish) -> bool {
        let Wish { set, element, .. } = wish;
        let place = (set.table, set.name.clone(), element.key.clone());
        let found = self.elements.get(&place);
        found.is_some_and(|found| wish.is_met_by(found))
    }

    /// The shared chains of these wishes that have lost rules.
    pub fn incomplete(&self, wishes: &[Wish]) -> Vec<String> {
        let chains = blocks(wishes)
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

/// Puts back elements of an attachment that lives: while its host end has this index, it is the
/// same attachment. False when it is gone, or an ADD or DEL is at work, which has its own mind
/// about it.
///
/// # Errors
/// Code 103 when somebody else has taken a port of the host meanwhile; 101 when the kernel refuses.
pub fn put_back(attachment: &Attachment, index: u32, wishes: &[Wish]) -> Result<bool> {
    let Some(_lock) = try_lock(&host_end_name(attachment))? else {
        return Ok(false);
    };
    let mut socket = Host::open_socket()?;
    let found = link::get(&mut socket, Which::Index(index)).during("look up a host end")?;
    if found.is_none() {
        return Ok(false);
    }
    rules::claim(None, wishes, |other| is_gone(&mut socket, other)).map(|()| true)
}
