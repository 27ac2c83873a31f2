//! The nftables socket: commits transactions and reads the ruleset.

use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::elements::ElementMessage;
use super::ruleset::{ChainHead, Change, Contents, Element, Member, Rule, Set, Table, TableFamily};
use super::{reply, request};
use crate::kernel::error::{BatchError, KernelError};
use crate::kernel::netlink::{Reply, Socket};
use crate::kernel::request::Request;

/// An nftables socket, in the namespace where it was opened. None on a kernel without netfilter's
/// netlink: each request fails with what opening did, as it does where only nf_tables is missing.
pub struct Nft(Option<Socket>);

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, KernelError> {
        match Socket::open(NETLINK_NETFILTER) {
            Err(error) if error.is(Errno::PROTONOSUPPORT) => Ok(Self(None)),
            socket => socket.map(Some).map(Self),
        }
    }

    /// As on a kernel without netfilter's netlink.
    #[cfg(test)]
    pub(crate) fn missing() -> Self {
        Self(None)
    }

    /// The socket, for the other subsystems of netfilter.
    pub(in crate::kernel) fn socket(&mut self) -> Result<&mut Socket, KernelError> {
        self.0.as_mut().ok_or_else(|| Errno::PROTONOSUPPORT.into())
    }

    /// The ruleset's generation: it changes with every transaction of any program.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let messages = self.socket()?.request(request::get_generation(), 0)?;
        let found = messages.into_iter().find_map(reply::read_generation);
        found.ok_or_else(|| std::io::Error::other("no generation in the reply").into())
    }

    /// Makes all changes or none. With a generation, only if it is still the ruleset's; otherwise
    /// the error is ERESTART ([`is_outdated`]).
    ///
    /// # Errors
    /// The index of the first change that failed, and the kernel's error.
    pub fn commit(
        &mut self,
        changes: &[Change],
        generation: Option<u32>,
    ) -> Result<(), BatchError> {
        let (mut requests, mut origin) = (Vec::new(), Vec::new());
        for (at, change) in changes.iter().enumerate() {
            for request in request::change(change) {
                requests.push(request);
                origin.push(at);
            }
        }
        let (begin, end) = (request::begin(generation), request::end());
        self.socket()?
            .transaction::<_, NetfilterMessage>(begin, requests, end)
            .map_err(|failed| BatchError {
                request: origin.get(failed.request).copied().unwrap_or_default(),
                ..failed
            })
    }

    /// Looks up elements by key, many in one send. None where the key, set or table does not exist.
    pub fn look_up(
        &mut self,
        wanted: &[(&Set, Vec<u8>)],
    ) -> Result<Vec<Option<Element>>, KernelError> {
        let requests = wanted
            .iter()
            .map(|(set, key)| {
                let question = request::get_element(set, key);
                Request::query(ElementMessage::<Element>::Request(question))
            })
            .collect();
        let replies = self.socket()?.exchange(requests)?;
        replies
            .into_iter()
            .map(|reply| match reply {
                Ok(messages) => Ok(messages
                    .into_iter()
                    .flat_map(ElementMessage::elements)
                    .next()),
                Err(error) if error.is(Errno::NOENT) => Ok(None),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// Every element of a set or map except those that expire; empty when it does not exist.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>, KernelError> {
        let question = request::get_elements(table, set);
        let messages = self.list(ElementMessage::<Element>::Request(question))?;
        Ok(messages
            .into_iter()
            .flat_map(ElementMessage::elements)
            .filter(|element| !element.expires)
            .collect())
    }

    /// What is in a set or map of any program; empty when it does not exist.
    pub(crate) fn members(
        &mut self,
        family: TableFamily,
        table: &str,
        set: &str,
    ) -> Result<Vec<Member>, KernelError> {
        let question = request::get_elements_of(family, table, set);
        let messages = self.list(ElementMessage::<Member>::Request(question))?;
        Ok(messages
            .into_iter()
            .flat_map(ElementMessage::elements)
            .collect())
    }

    /// The names of a table's sets and maps; empty when it does not exist.
    pub fn sets(&mut self, table: Table) -> Result<Vec<String>, KernelError> {
        let messages = self.list(request::get_sets(table))?;
        Ok(messages
            .into_iter()
            .filter_map(reply::read_set_name)
            .collect())
    }

    /// The rules of a table, or of one chain in it; empty when it does not exist.
    pub(crate) fn rules(
        &mut self,
        table: Table,
        chain: Option<&str>,
    ) -> Result<Vec<Rule>, KernelError> {
        self.rules_of(table.family, table.name, chain)
    }

    /// Like [`Nft::rules`], for a table given by family and name.
    pub(crate) fn rules_of(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: Option<&str>,
    ) -> Result<Vec<Rule>, KernelError> {
        let messages = self.list(request::get_rules(family, table, chain))?;
        Ok(messages.into_iter().filter_map(reply::read_rule).collect())
    }

    /// Which of these chains exist, all queried in one send.
    pub(crate) fn have(&mut self, chains: &[(Table, &str)]) -> Result<Vec<bool>, KernelError> {
        let uses = self.uses(chains)?;
        Ok(uses.iter().map(Option::is_some).collect())
    }

    /// How many rules each of these chains has, plus those that jump to it; all queried in one send. None: there is no
    /// such chain.
    pub(crate) fn uses(
        &mut self,
        chains: &[(Table, &str)],
    ) -> Result<Vec<Option<u32>>, KernelError> {
        let requests = chains
            .iter()
            .map(|(table, chain)| Request::query(request::get_chain(*table, chain)))
            .collect();
        let replies: Vec<Reply<NetfilterMessage>> = self.socket()?.exchange(requests)?;
        replies
            .into_iter()
            .map(|reply| match reply {
                Ok(messages) => Ok(messages.into_iter().find_map(reply::read_uses)),
                Err(error) if error.is(Errno::NOENT) => Ok(None),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// The chains of all tables that process IP packets.
    pub(crate) fn chains(&mut self) -> Result<Vec<ChainHead>, KernelError> {
        let messages = self.list(request::get_chains())?;
        let heads = messages.into_iter().filter_map(reply::read_chain);
        Ok(heads.collect())
    }

    /// A table's contents as the kernel sends them, to compare with an earlier read. Empty when the
    /// table does not exist.
    pub fn contents(&mut self, table: Table) -> Result<Contents, KernelError> {
        let chains = self.list(request::get_chains())?;
        let is_of_table = |message: &NetfilterMessage| {
            let chain = reply::read_chain(message.clone());
            chain.is_some_and(|chain| chain.table == table.name && chain.family == table.family)
        };
        let mut messages: Vec<_> = chains.into_iter().filter(is_of_table).collect();
        messages.extend(self.list(request::get_rules(table.family, table.name, None))?);
        let sets = self.list(request::get_sets(table))?;
        let mut elements = Vec::new();
        for name in sets.iter().cloned().filter_map(reply::read_set_name) {
            elements.extend(self.elements(table, &name)?);
        }
        messages.extend(sets);
        Ok(Contents {
            // Without the headers, which contain the ruleset's generation.
            objects: messages.into_iter().map(|message| message.inner).collect(),
            elements,
        })
    }

    fn list<T>(&mut self, request: T) -> Reply<T>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        match self.socket()?.dump(request) {
            Err(error) if error.is(Errno::NOENT) => Ok(Vec::new()),
            reply => reply,
        }
    }
}

/// True when a commit failed because the ruleset had changed.
pub fn is_outdated(error: &KernelError) -> bool {
    const ERESTART: i32 = 85;
    error.error.raw_os_error() == Some(ERESTART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    const TABLE: Table = Table {
        family: TableFamily::Inet,
        name: "nobody",
    };

    /// The kernel answers the first request alone then; nothing is waited for.
    #[test]
    fn without_permission_every_request_is_refused_at_once() {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap(); // of this thread alone
        let began = std::time::Instant::now();
        let chains = [(TABLE, "one"), (TABLE, "two")];
        let refused = Nft::open().unwrap().have(&chains).unwrap_err();
        assert!(refused.is(Errno::PERM), "{refused}");
        let mut socket = Socket::open(NETLINK_NETFILTER).unwrap();
        let query = || Request::query(request::get_chain(TABLE, "one"));
        let replies: Vec<Reply<NetfilterMessage>> =
            socket.exchange(vec![query(), query(), query()]).unwrap();
        assert_eq!(replies.len(), 3);
        for reply in replies {
            assert!(reply.unwrap_err().is(Errno::PERM));
        }
        assert!(began.elapsed().as_secs() < 5);
    }
}
