//! nftables over netlink: transactions of changes, and elements with an owner.
//!
//! What a rule can say is in [`expr`]. An element of a set or map names its owner in its comment,
//! which `nft list ruleset` prints.

mod elements;
pub mod expr;
mod reply;
mod request;
mod ruleset;
mod socket;

pub use ruleset::{
    Chain, ChainHead, Change, Contents, Element, Hook, HookPoint, Kind, NewRule, Policy, Rule, Set,
    Table, TableFamily, TerminalVerdict,
};
pub use socket::{Nft, is_outdated};
