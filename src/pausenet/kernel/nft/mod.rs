//! nftables over netlink: transactions of changes, and elements with an owner.
//!
//! What a rule can say is in [`expr`]. Elements of sets and maps carry a comment, which is
//! how they tell whose they are; `nft list ruleset` prints it.

mod answer;
mod elements;
pub mod expr;
mod message;

use std::io;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::error::{BatchError, KernelError};
use super::netlink::{Answer, SILENT, Socket};
use elements::ElementMessage;
use expr::Expression;

/// The families that we have tables in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 alone; others' tables.
    Ipv4,
    /// IPv6 alone; others' tables.
    Ipv6,
    /// Frames on bridges.
    Bridge,
}

/// A table by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table {
    pub family: Family,
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

/// Where and when a base chain is asked.
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
    /// It ends by itself, within a tick of the kernel's clock: who had it has let go of it.
    pub ends: bool,
}

/// A rule of anybody's, as far as it can be told whose it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    pub handle: u64,
    pub comment: String,
    /// The chains that it jumps or goes to.
    pub jumps: Vec<String>,
    /// The values that it loads or compares with, addresses among them.
    pub values: Vec<Vec<u8>>,
    /// The end of all packets that get to it; None when it has conditions, or goes on.
    pub always: Option<End>,
}

/// How a rule without conditions ends a packet's way through its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Return,
    /// Or reject, which tells the sender.
    Drop,
}

/// A rule to be put into a chain of somebody else's.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRule {
    pub table: Table,
    pub chain: String,
    /// In front of the rule with this handle; None: at the chain's end.
    pub before: Option<u64>,
    pub comment: String,
    pub expressions: Vec<Expression>,
}

/// A chain of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    pub family: Family,
    pub table: String,
    pub name: String,
    /// What becomes of forwarded packets that none of its rules decides on; None when it is not
    /// asked about forwarded packets.
    pub forward: Option<Policy>,
}

/// What a base chain does with what none of its rules decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

/// What is in a table.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    objects: Vec<NetfilterMessageInner>,
    elements: Vec<Element>,
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
    /// Has an element end by itself within a tick, if its data are still these; refused otherwise.
    ///
    /// Who removes an element has to wait, in closing the socket, until no packet can be using it;
    /// and holds nftables' lock meanwhile, which everybody needs who removes a link
    /// (nft_rcv_nl_event and nf_tables_netdev_event in net/netfilter). Of an element that ends the
    /// kernel disposes later, by itself.
    ///
    /// Kernels before 6.12 change nothing, and say nothing: [`Element::ends`] tells. Refused with
    /// EINVAL in sets that were made without timeouts.
    LetGo(Set, Element),
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

/// A socket that speaks nftables, in the namespace where it was opened.
pub struct Nft(Socket);

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, KernelError> {
        Socket::open(NETLINK_NETFILTER).map(Self)
    }

    /// The number of the ruleset's present state: every transaction of anybody changes it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let messages = self.0.request(message::get_generation(), 0)?;
        let found = messages.into_iter().find_map(answer::read_generation);
        found.ok_or_else(|| io::Error::other("no generation in the answer").into())
    }

    /// Makes all changes or none. With a generation, only if the ruleset is still in that
    /// state; otherwise the refusal is ERESTART ([`is_outdated`]).
    ///
    /// # Errors
    /// The index of the first change that was refused, and why.
    pub fn commit(
        &mut self,
        changes: &[Change],
        generation: Option<u32>,
    ) -> Result<(), BatchError> {
        let mut requests = vec![(message::begin(generation), SILENT)];
        let mut origin = vec![0];
        for (at, change) in changes.iter().enumerate() {
            for request in message::change(change) {
                requests.push(request);
                origin.push(at);
            }
        }
        requests.push((message::end(), SILENT));
        origin.push(0);
        let answers: Vec<Answer<NetfilterMessage>> = self.0.exchange(requests)?;
        for (request, answer) in origin.into_iter().zip(answers) {
            answer.map_err(|error| BatchError { request, error })?;
        }
        Ok(())
    }

    /// Looks up elements by key, all in one send. None where there is no such key, set or
    /// table.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn look_up(
        &mut self,
        wanted: &[(&Set, Vec<u8>)],
    ) -> Result<Vec<Option<Element>>, KernelError> {
        let requests = wanted
            .iter()
            .map(|(set, key)| {
                let question = message::get_element(set, key);
                (ElementMessage::Question(question), 0)
            })
            .collect();
        let answers = self.0.exchange(requests)?;
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(messages) => Ok(messages
                    .into_iter()
                    .flat_map(ElementMessage::elements)
                    .next()),
                Err(refusal) if refusal.is(rustix::io::Errno::NOENT) => Ok(None),
                Err(refusal) => Err(refusal),
            })
            .collect()
    }

    /// Every element of a set or map, but for those that end; none when it is not there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>, KernelError> {
        let question = message::get_elements(table, set);
        let messages = self.list(ElementMessage::Question(question))?;
        Ok(messages
            .into_iter()
            .flat_map(ElementMessage::elements)
            .filter(|element| !element.ends)
            .collect())
    }

    /// The names of a table's sets and maps; none when it is not there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn sets(&mut self, table: Table) -> Result<Vec<String>, KernelError> {
        let messages = self.list(message::get_sets(table))?;
        Ok(messages
            .into_iter()
            .filter_map(answer::read_set_name)
            .collect())
    }

    /// The rules of a table, those of one chain if it is named; none when it is not there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn rules(&mut self, table: Table, chain: Option<&str>) -> Result<Vec<Rule>, KernelError> {
        self.rules_of(table.family, table.name, chain)
    }

    /// The same of a table that was found by its name.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn rules_of(
        &mut self,
        family: Family,
        table: &str,
        chain: Option<&str>,
    ) -> Result<Vec<Rule>, KernelError> {
        let messages = self.list(message::get_rules(family, table, chain))?;
        Ok(messages.into_iter().filter_map(answer::read_rule).collect())
    }

    /// Which of these chains are there, all asked in one send.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn have(&mut self, chains: &[(Table, &str)]) -> Result<Vec<bool>, KernelError> {
        let requests = chains
            .iter()
            .map(|(table, chain)| (message::get_chain(*table, chain), 0))
            .collect();
        let answers: Vec<Answer<NetfilterMessage>> = self.0.exchange(requests)?;
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(_) => Ok(true),
                Err(refusal) if refusal.is(rustix::io::Errno::NOENT) => Ok(false),
                Err(refusal) => Err(refusal),
            })
            .collect()
    }

    /// The chains of every table of IP packets.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn chains(&mut self) -> Result<Vec<ChainHead>, KernelError> {
        let messages = self.list(message::get_chains())?;
        let heads = messages.into_iter().filter_map(answer::read_chain);
        Ok(heads.collect())
    }

    /// All that is in a table, as the kernel tells it; to be compared with an earlier telling.
    /// Empty when the table is not there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn contents(&mut self, table: Table) -> Result<Contents, KernelError> {
        let chains = self.list(message::get_chains())?;
        let is_of_table = |message: &NetfilterMessage| {
            let chain = answer::read_chain(message.clone());
            chain.is_some_and(|chain| chain.table == table.name && chain.family == table.family)
        };
        let mut messages: Vec<_> = chains.into_iter().filter(is_of_table).collect();
        messages.extend(self.list(message::get_rules(table.family, table.name, None))?);
        let sets = self.list(message::get_sets(table))?;
        let mut elements = Vec::new();
        for name in sets.iter().cloned().filter_map(answer::read_set_name) {
            elements.extend(self.elements(table, &name)?);
        }
        messages.extend(sets);
        Ok(Contents {
            // Without the headers, which tell the ruleset's generation.
            objects: messages.into_iter().map(|message| message.inner).collect(),
            elements,
        })
    }

    fn list<T>(&mut self, request: T) -> Answer<T>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        match self.0.dump(request) {
            Err(refusal) if refusal.is(rustix::io::Errno::NOENT) => Ok(Vec::new()),
            answer => answer,
        }
    }
}

/// True when a commit was refused because the ruleset has changed since.
pub fn is_outdated(refusal: &KernelError) -> bool {
    const ERESTART: i32 = 85;
    refusal.error.raw_os_error() == Some(ERESTART)
}
