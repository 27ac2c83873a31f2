//! Addresses on links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::AddressMessageBuilder;

use super::error::KernelError;
use super::reply::Message;
use super::request::Request;
use super::route_socket::Group;
use super::route_socket::RouteSocket;

/// How an address is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddOptions {
    /// The kernel makes a route to the address's subnet.
    pub(crate) prefix_route: bool,
    /// The kernel checks an IPv6 address for duplicates before it uses it. IPAM already makes
    /// addresses unique, so this is usually off and saves the wait.
    pub(crate) detect_duplicates: bool,
}

impl AddOptions {
    /// With a route to its subnet, and usable at once.
    pub const PLAIN: Self = Self {
        prefix_route: true,
        detect_duplicates: false,
    };
}

/// A request that adds an address, for a batch.
pub fn add_request(
    index: u32,
    address: IpNetwork,
    options: AddOptions,
) -> Request<RouteNetlinkMessage> {
    let mut message = message(index, address);
    let mut flags = AddressFlags::empty();
    if address.is_ipv6() && !options.detect_duplicates {
        flags |= AddressFlags::Nodad;
    }
    if !options.prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    Request::new(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Removes an address. Succeeds when it is already gone.
pub(crate) fn remove(
    socket: &mut RouteSocket,
    index: u32,
    address: IpNetwork,
) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::DelAddress(message(index, address));
    match socket.request(message, 0) {
        Err(error) if !error.is(rustix::io::Errno::ADDRNOTAVAIL) => Err(error),
        _ => Ok(()),
    }
}

/// The addresses of one link.
pub fn of_link(socket: &mut RouteSocket, index: u32) -> Result<Vec<IpNetwork>, KernelError> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let messages = socket.dump(RouteNetlinkMessage::GetAddress(request))?;
    let read = |message| match message {
        Message::Other(RouteNetlinkMessage::NewAddress(message))
            if message.header.index == index =>
        {
            read(message)
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(read).collect())
}

/// The link that has an address, by index; None when no link has it.
pub fn holder(socket: &mut RouteSocket, ip: IpAddr) -> Result<Option<u32>, KernelError> {
    let messages = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(messages.into_iter().find_map(|message| match message {
        Message::Other(RouteNetlinkMessage::NewAddress(message)) => {
            let index = message.header.index;
            (read(message)?.ip() == ip).then_some(index)
        }
        _ => None,
    }))
}

/// The addresses of another namespace, by its ID in this one (netnsid).
pub fn of_namespace(socket: &mut RouteSocket, id: i32) -> Result<Vec<IpNetwork>, KernelError> {
    let addresses = of_namespace_by_link(socket, id)?;
    Ok(addresses.into_iter().map(|(_, net)| net).collect())
}

/// The same, each with the index of its link there.
pub fn of_namespace_by_link(
    socket: &mut RouteSocket,
    id: i32,
) -> Result<Vec<(u32, IpNetwork)>, KernelError> {
    list_by(socket, vec![AddressAttribute::TargetNetNsId(id)])
}

/// Every address of this namespace, with the index of its link.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<(u32, IpNetwork)>, KernelError> {
    list_by(socket, Vec::new())
}

fn list_by(
    socket: &mut RouteSocket,
    filter: Vec<AddressAttribute>,
) -> Result<Vec<(u32, IpNetwork)>, KernelError> {
    let mut request = AddressMessage::default();
    request.attributes = filter;
    let messages = socket.dump(RouteNetlinkMessage::GetAddress(request))?;
    let read = |message| match message {
        Message::Other(RouteNetlinkMessage::NewAddress(message)) => {
            Some((message.header.index, read(message)?))
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(read).collect())
}

fn message(index: u32, address: IpNetwork) -> AddressMessage {
    match address {
        IpNetwork::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.ip(), net.prefix())
            .build(),
        IpNetwork::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(net.ip(), net.prefix())
            .build(),
    }
}

/// The local address: IFA_LOCAL, or IFA_ADDRESS without one (IPv6).
fn read(message: AddressMessage) -> Option<IpNetwork> {
    let prefix = message.header.prefix_len;
    let (mut local, mut address) = (None, None::<IpAddr>);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            _ => {}
        }
    }
    IpNetwork::new(local.or(address)?, prefix).ok()
}

/// The outcome of duplicate address detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detection {
    Unique,
    Duplicate(IpAddr),
}

/// Waits, in the calling thread's namespace, until no IPv6 address of a link is tentative.
///
/// # Errors
/// ETIMEDOUT after `limit`; the kernel's error.
pub(crate) fn wait_settled(index: u32, limit: Duration) -> Result<Detection, KernelError> {
    let deadline = Instant::now() + limit;
    // Subscribe before asking, so that no change in between is missed.
    let mut events = RouteSocket::open()?;
    events.subscribe(Group::Ipv6Addresses)?;
    let mut socket = RouteSocket::open()?;
    loop {
        let mut request = AddressMessage::default();
        request.header.index = index;
        let messages = socket.dump(RouteNetlinkMessage::GetAddress(request))?;
        let mut settled = true;
        for message in messages {
            let Message::Other(RouteNetlinkMessage::NewAddress(message)) = message else {
                continue;
            };
            if message.header.index != index {
                continue;
            }
            if message.header.flags.contains(AddressHeaderFlags::Dadfailed)
                && let Some(address) = read(message.clone())
            {
                return Ok(Detection::Duplicate(address.ip()));
            }
            settled &= !message.header.flags.contains(AddressHeaderFlags::Tentative);
        }
        if settled {
            return Ok(Detection::Unique);
        }
        if !events.wait_event(deadline)? {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
    }
}
