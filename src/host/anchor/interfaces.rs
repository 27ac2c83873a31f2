//! The interfaces inside a network namespace, and the links on the host that lead into it.

use std::collections::{HashMap, HashSet};

use ipnetwork::IpNetwork;

use crate::{During, Error, Result};
use pausenet::kernel::link::Link;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::kernel::{KernelError, RouteSocket, address, link};
use pausenet::plan::attachment_of_host_end;

/// A snapshot of the host's links, and a handle to return to its namespace.
pub struct Host {
    pub netns: Netns,
    pub socket: RouteSocket,
    pub links: HashMap<u32, Link>,
    /// The IDs (nsid) of namespaces that our attachments lead to.
    attached: HashSet<i32>,
}

/// An interface inside a namespace, other than lo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub link: Link,
    /// Without those that the kernel assigns by itself.
    pub addresses: Vec<IpNetwork>,
    /// The other end of the veth pair, if it is on the host.
    pub host_end: Option<Link>,
}

impl Host {
    /// Reads the links in the calling thread's namespace, which has to be the host's.
    pub fn open() -> Result<Self> {
        let list = || {
            let mut socket = RouteSocket::open()?;
            let links = link::list(&mut socket)?;
            Ok::<_, KernelError>((socket, links))
        };
        let (socket, links) = list().during("list the host's links")?;
        let ours = links
            .iter()
            .filter(|link| attachment_of_host_end(link).is_some());
        Ok(Self {
            netns: Netns::own()?,
            socket,
            attached: ours.filter_map(|link| link.peer_netns).collect(),
            links: links.into_iter().map(|link| (link.index, link)).collect(),
        })
    }

    /// The host's network namespace.
    pub fn id(&self) -> Result<NetnsId> {
        self.netns
            .id()
            .map_err(|err| Error::new(format!("look at our own network namespace: {err}")))
    }

    /// The host's ID for a namespace (nsid): host ends refer to their peer's namespace by it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn number_of(&mut self, netns: &Netns) -> Result<Option<i32>> {
        netns
            .number(&mut self.socket)
            .during_with(|| format!("ask for the number of {}", netns.path().display()))
    }

    /// Whether one of our attachments leads to the namespace with this nsid.
    pub fn is_attached(&self, number: Option<i32>) -> bool {
        number.is_some_and(|number| self.attached.contains(&number))
    }

    /// The interfaces of a namespace. The calling thread may enter it and come back.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel does not list its links or addresses.
    pub fn look_into(&mut self, netns: &Netns) -> Result<Vec<Interface>> {
        let number = self.number_of(netns)?;
        self.look_into_numbered(netns, number)
    }

    /// The same for one whose number is known.
    ///
    /// # Errors
    /// See [`Host::look_into`].
    pub(super) fn look_into_numbered(
        &mut self,
        netns: &Netns,
        number: Option<i32>,
    ) -> Result<Vec<Interface>> {
        let attempt = || format!("look into {}", netns.path().display());
        let found = match number {
            // A socket here is told of it: five system calls instead of ten.
            Some(number) => read_by_number(&mut self.socket, number),
            None => netns.enter(&self.netns, || Ok(read()))?,
        };
        let found = found.during_with(attempt)?;
        let with_host_end = |(link, addresses): (Link, Vec<IpNetwork>)| Interface {
            host_end: self.host_end(&link, number).cloned(),
            link,
            addresses,
        };
        Ok(found.into_iter().map(with_host_end).collect())
    }

    /// The host end of a link's veth pair. Indices repeat between namespaces, so each end has to
    /// name the other, and the host end has to name the namespace too.
    fn host_end(&self, inside: &Link, number: Option<i32>) -> Option<&Link> {
        let host_end = self.links.get(&inside.peer?)?;
        let is_pair = host_end.kind == "veth"
            && host_end.peer == Some(inside.index)
            && number.is_some()
            && host_end.peer_netns == number;
        is_pair.then_some(host_end)
    }
}

/// Runs `work`, which enters namespaces, on a separate thread: other programs must not take
/// this process for a member of them.
///
/// # Errors
/// `work`'s own.
pub fn on_separate_thread<T: Send, E: Send + From<Error>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
        let what = "the thread in another namespace panicked";
        Err(Error::new(what).into())
    })
}

/// Links, other than lo, and their addresses.
type Found = Vec<(Link, Vec<IpNetwork>)>;

fn read() -> Result<Found, KernelError> {
    let mut socket = RouteSocket::open()?;
    let links = link::list(&mut socket)?;
    with_addresses(links, || address::list(&mut socket))
}

fn read_by_number(socket: &mut RouteSocket, number: i32) -> Result<Found, KernelError> {
    let links = link::list_of_namespace(socket, number)?;
    with_addresses(links, || address::of_namespace_by_link(socket, number))
}

fn with_addresses(
    mut links: Vec<Link>,
    addresses: impl FnOnce() -> Result<Vec<(u32, IpNetwork)>, KernelError>,
) -> Result<Found, KernelError> {
    links.retain(|link| link.name != "lo");
    let mut addresses = match links.as_slice() {
        [] => Vec::new(),
        _ => addresses()?,
    };
    addresses.retain(|(_, address)| !is_link_local(address));
    let of = |index| {
        let own = addresses.iter().filter(move |(link, _)| *link == index);
        own.map(|(_, address)| *address).collect()
    };
    Ok(links
        .into_iter()
        .map(|link| {
            let addresses = of(link.index);
            (link, addresses)
        })
        .collect())
}

fn is_link_local(net: &IpNetwork) -> bool {
    match net {
        IpNetwork::V6(net) => net.ip().is_unicast_link_local(),
        IpNetwork::V4(_) => false,
    }
}
