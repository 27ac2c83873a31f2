//! What a ruleset is made of, and the changes that can be made to it.

use ipnetwork::IpNetwork;
use netlink_packet_netfilter::NetfilterMessageInner;

use super::expr::Expression;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 alone (`ip`); other programs' tables.
    Ipv4,
    /// IPv6 alone (`ip6`); other programs' tables.
    Ipv6,
    /// Frames on bridges.
    Bridge,
}

/// A table by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table {
    pub family: TableFamily,
    pub name: &'static str,
}

/// What a set's keys and a map's data are made of: nft's data types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ipv4,
    Ipv6,
    Ether,
    Protocol,
    Port,
    IfName,
}

/// A set or a map and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub table: Table,
    pub name: String,
    pub key: Vec<Kind>,
    /// What keys map to; empty for a set.
    pub data: Vec<Kind>,
}

/// Where, and in which order, a base chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    pub point: HookPoint,
    pub priority: i32,
}

/// The kernel's NF_INET_… numbers; those of bridges are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    PreRouting,
    Input,
    Output,
    PostRouting,
}

/// A chain with all its rules. Putting it in place replaces the rules that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub table: Table,
    pub name: String,
    /// None: other chains jump to it.
    pub hook: Option<Hook>,
    pub rules: Vec<Vec<Expression>>,
}

/// An element of a set or map. Fields of keys and data are padded to 4 bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Vec<u8>,
    /// Its comment: whose it is.
    pub owner: String,
    /// It has a timeout, and is gone within a tick of the kernel's clock: its owner has removed it
    /// by [`Change::Expire`].
    pub expires: bool,
}

/// A rule of any program's; what its owner can be recognised by.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    pub handle: u64,
    pub comment: String,
    /// The chains that it jumps or goes to.
    pub jumps: Vec<String>,
    /// The values that it loads or compares with, addresses among them.
    pub values: Vec<Vec<u8>>,
    /// The verdict on every packet that reaches the rule; None if it has conditions, or lets
    /// packets go on.
    pub unconditional: Option<TerminalVerdict>,
}

/// A verdict after which a packet goes no further in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalVerdict {
    Return,
    /// Or reject, which tells the sender.
    Drop,
}

/// A rule for another program's chain.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRule {
    pub table: Table,
    pub chain: String,
    /// In front of the rule with this handle; None: at the chain's end.
    pub before: Option<u64>,
    pub comment: String,
    pub expressions: Vec<Expression>,
}

/// A chain of any program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    pub family: TableFamily,
    pub table: String,
    pub name: String,
    /// The policy, for a base chain of the hook `forward`.
    pub forward: Option<Policy>,
}

/// The verdict on packets that none of a base chain's rules decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

/// What is in a table.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    pub(super) objects: Vec<NetfilterMessageInner>,
    pub(super) elements: Vec<Element>,
}

/// One step of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// Makes a table if it is not there.
    Table(Table),
    /// Makes a set or map if it is not there.
    Set(Set),
    /// Makes a chain if it is not there, and gives it its rules.
    Chain(Chain),
    /// Adds an element; refused with EEXIST when its key is there.
    Add(Set, Element),
    /// Removes an element; refused with ENOENT when its key is not there.
    Remove(Set, Vec<u8>),
    /// Gives an element a timeout of one tick, if its data are still these; refused otherwise.
    ///
    /// A process that removes an element waits, in closing the socket, until no packet can be using
    /// it, and meanwhile holds nftables' lock, which the removal of any link needs
    /// (nft_rcv_nl_event and nf_tables_netdev_event in net/netfilter). An element that expires is
    /// freed by the kernel later.
    ///
    /// Kernels before 6.12 ignore the change without an error: see [`Element::expires`]. Refused
    /// with EINVAL in sets that were made without timeouts.
    Expire(Set, Element),
    /// Adds a rule to a chain that is there.
    Rule(NewRule),
    /// Removes a rule by its handle.
    RemoveRule(Table, Rule),
    /// Empties and removes a chain that nobody jumps to any more.
    RemoveChain(Table, String),
    /// Makes a set of addresses and fills it with subnets, of which no two overlap.
    Subnets(Set, Vec<IpNetwork>),
    /// Removes a table and all that is in it; refused with ENOENT when it is not there.
    RemoveTable(Table),
}
