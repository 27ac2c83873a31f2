//! nftables over netlink: transactions of changes, and elements with an owner.
//!
//! The expressions of rules are in [`expr`]. The comment of an element in a set or map names its
//! owner; `nft list ruleset` prints it.

mod conditions;
mod elements;
pub mod expr;
mod reply;
mod request;
mod ruleset;
mod socket;

pub(crate) use conditions::xt_conntrack_state;
pub use ruleset::{
    Chain, ChainHead, Change, Condition, ConnectionState, Contents, Element, Hook, HookPoint, Kind,
    LookUp, Member, NewRule, PacketField, Policy, Rule, RuleVerdict, Set, Table, TableFamily,
    TerminalVerdict,
};
pub use socket::{Nft, is_outdated};
