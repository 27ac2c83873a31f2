//! The repairs that are provably safe. Each looks once more, with the lock of what it changes in
//! its hand, whether things are still as they were found.

use super::checks::{firewall, links, rules, store, sysctls};
use pausenet_host::Result;

/// A repair, by the theme that knows how it is done.
#[derive(Debug, Clone)]
pub enum Repair {
    Sysctl(sysctls::Repair),
    Firewall(firewall::Repair),
    Store(store::Repair),
    Rules(rules::Repair),
    Links(links::Repair),
}

impl Repair {
    /// What is so when it has been done.
    pub fn done(&self) -> String {
        match self {
            Self::Sysctl(repair) => repair.done(),
            Self::Firewall(repair) => repair.done(),
            Self::Store(repair) => repair.done(),
            Self::Rules(repair) => repair.done(),
            Self::Links(repair) => repair.done(),
        }
    }

    /// Does it. False when there was nothing to do any more.
    ///
    /// # Errors
    /// What stood in the way.
    pub fn carry_out(&self) -> Result<bool> {
        match self {
            Self::Sysctl(repair) => repair.carry_out(),
            Self::Firewall(repair) => repair.carry_out(),
            Self::Store(repair) => repair.carry_out(),
            Self::Rules(repair) => repair.carry_out(),
            Self::Links(repair) => repair.carry_out(),
        }
    }
}
