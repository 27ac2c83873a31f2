//! The parts of a ruleset, and the changes that can be made to it.

use ipnetwork::IpNetwork;
use netlink_packet_netfilter::NetfilterMessageInner;

use super::expr::Expression;
use crate::cni::Family;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 alone (`ip`); other programs' tables.
    Ipv4,
    /// IPv6 alone (`ip6`); other programs' tables.
    Ipv6,
    /// Bridged frames.
    Bridge,
}

impl std::fmt::Display for TableFamily {
    /// In nft's words.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Bridge => "bridge",
        })
    }
}

/// A table by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table {
    pub family: TableFamily,
    pub name: &'static str,
}

/// nft's data types, for a set's keys and a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ipv4,
    Ipv6,
    Ether,
    Protocol,
    Port,
    IfName,
}

/// A set or map, and the types of its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub table: Table,
    pub name: String,
    pub key: Vec<Kind>,
    /// The types of a map's data; empty for a set.
    pub data: Vec<Kind>,
}

/// Where and in which order a base chain processes packets.
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
    Forward,
    Output,
    PostRouting,
}

/// A chain with all its rules. Applying it replaces the rules the chain had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub table: Table,
    pub name: String,
    /// None: not a base chain; other chains jump to it.
    pub hook: Option<Hook>,
    pub rules: Vec<Vec<Expression>>,
}

/// An element of a set or map. Fields of keys and data are padded to 4 bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Vec<u8>,
    /// Its comment: the owner's name.
    pub owner: String,
    /// Its owner has removed it by [`Change::Expire`]: it has a timeout, and is gone within a tick
    /// of the kernel's clock.
    pub expires: bool,
}

/// A rule of any program: the parts that identify its owner.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(crate) chain: String,
    pub(crate) handle: u64,
    pub(crate) comment: String,
    /// The chains that it jumps or goes to.
    pub(crate) jumps: Vec<String>,
    /// The values it loads or compares with, such as addresses.
    pub(crate) values: Vec<Vec<u8>>,
    /// The destination port that an x_tables match (`tcp`, `udp`, `sctp`) compares with.
    pub(crate) destination_port: Option<u16>,
    /// The verdict on every packet that reaches the rule; None if it has conditions, or lets
    /// packets go on.
    pub(crate) unconditional: Option<TerminalVerdict>,
    /// What a packet has to be for the verdict.
    pub(crate) conditions: Vec<Condition>,
    /// None: packets go on.
    pub(crate) verdict: Option<RuleVerdict>,
}

/// The verdict of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleVerdict {
    Accept,
    /// Drop or reject.
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// The one that a map has for the packet (`vmap`); packets that it does not have go on.
    Map(LookUp),
    /// One that cannot be followed.
    Unknown,
}

/// A look-up of a field of the packet in a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    pub(crate) field: PacketField,
    pub(crate) set: String,
}

/// An element of any program's set, or map of verdicts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Member {
    pub(crate) key: Vec<u8>,
    /// It ends an interval, which it is not part of.
    pub(crate) is_end: bool,
    /// It stands for all that the others do not have.
    pub(crate) is_catch_all: bool,
    /// It has an end of its own, as concatenated intervals do.
    pub(crate) has_end: bool,
    /// Of a map; None: packets go on.
    pub(crate) verdict: Option<RuleVerdict>,
}

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// A field of the packet, masked, is a value, or is not. A shorter value is a prefix.
    Is {
        field: PacketField,
        mask: Option<Vec<u8>>,
        value: Vec<u8>,
        equal: bool,
    },
    State(ConnectionState),
    /// A set has a field of the packet, or has it not.
    In {
        look_up: LookUp,
        negated: bool,
    },
    /// One that cannot be read.
    Unknown,
}

/// What a rule may compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketField {
    /// The name of the link that it came in by.
    InLink,
    OutLink,
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    Family,
    Source(Family),
    Destination(Family),
}

/// States of a connection, as NF_CT_STATE_BIT numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    pub(crate) any_of: u32,
    pub(crate) negated: bool,
}

/// A verdict after which a packet goes no further in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalVerdict {
    Return,
    /// Drop or reject; reject notifies the sender.
    Drop,
}

/// A rule for another program's chain.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRule {
    pub(crate) table: Table,
    pub(crate) chain: String,
    /// In front of the rule with this handle; None: at the chain's end.
    pub(crate) before: Option<u64>,
    pub(crate) comment: String,
    pub(crate) expressions: Vec<Expression>,
}

/// A chain of any program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    pub(crate) family: TableFamily,
    pub(crate) table: String,
    pub(crate) name: String,
    /// Of a base chain: its hook and its policy.
    pub(crate) hook: Option<(HookPoint, Policy)>,
    /// Its rules translate addresses.
    pub(crate) is_nat: bool,
}

/// A base chain's verdict on packets that no rule decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

/// The contents of a table.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    pub(super) objects: Vec<NetfilterMessageInner>,
    pub(super) elements: Vec<Element>,
}

/// One step of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// Creates a table if it does not exist.
    Table(Table),
    /// Creates a set or map if it does not exist.
    Set(Set),
    /// Creates a chain if it does not exist, and replaces its rules.
    Chain(Chain),
    /// Adds an element; fails with EEXIST when its key exists.
    Add(Set, Element),
    /// Removes an element; fails with ENOENT when its key does not exist.
    Remove(Set, Vec<u8>),
    /// Gives an element a timeout of one tick, if its data are still these; fails otherwise.
    ///
    /// A process that removes an element waits, while closing the socket, until no packet can be
    /// using it, and holds nftables' lock meanwhile, which the removal of any link needs
    /// (nft_rcv_nl_event and nf_tables_netdev_event in net/netfilter). The kernel frees an expired
    /// element later, without that wait.
    ///
    /// Kernels before 6.12 ignore the change without an error: see [`Element::expires`]. Fails with
    /// EINVAL in sets created without timeouts.
    Expire(Set, Element),
    /// Adds a rule to an existing chain.
    Rule(NewRule),
    /// Removes a rule by its handle.
    RemoveRule(Table, Rule),
    /// Empties and removes a chain that no rule jumps to any more.
    RemoveChain(Table, String),
    /// Creates a set of addresses and fills it with subnets, which must not overlap.
    Subnets(Set, Vec<IpNetwork>),
    /// Removes a table and its contents; fails with ENOENT when it does not exist.
    RemoveTable(Table),
}
