//! Routes that carry a protocol number of our own, so that whoever looks at them knows whose they
//! are (`ip route` prints it as `proto 112`), and we know which are ours to change.
//!
//! They have a metric of their own too. The kernel tells routes to one destination apart by it, so
//! replacing one of ours can never hit somebody else's, and a route that a person made with a
//! usual metric goes before ours.

use crate::cni::Family;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use rustix::io::Errno;

use super::error::KernelError;
use super::netlink::Request;
use super::netlink::RouteSocket;
use super::reply::Message;
use super::route::{self, MAIN_TABLE};

/// The protocol number of our routes: "p" in ASCII, and nobody's in linux/rtnetlink.h.
pub const PROTOCOL: u8 = b'p';

/// Their metric: higher than what the kernel, people and routing daemons use (IPv6: 1024).
pub const METRIC: u32 = 11_200;

/// A route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnedRoute {
    pub dst: IpNetwork,
    pub target: Target,
}

/// Where a route of ours leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// To a neighbour on a link, by index.
    Neighbour { gateway: IpAddr, link: u32 },
    /// Nowhere: a sender gets an ICMP error at once.
    Unreachable,
}

impl std::fmt::Display for OwnedRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.target {
            Target::Neighbour { gateway, .. } => write!(f, "{} via {gateway}", self.dst),
            Target::Unreachable => write!(f, "unreachable {}", self.dst),
        }
    }
}

/// How a packet to an address would leave this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// Straight out of a link, by index: the address is a neighbour's.
    OnLink(u32),
    Gateway {
        gateway: IpAddr,
        link: u32,
    },
    /// Not at all: the address is this host's own.
    Local,
    /// Not at all: there is no route, or one that refuses (`unreachable`, `blackhole`, …).
    Unreachable,
}

/// The routes of ours in the main table.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<OwnedRoute>, KernelError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = RouteProtocol::from(PROTOCOL);
        let messages = socket.dump(RouteNetlinkMessage::GetRoute(request))?;
        routes.extend(messages.into_iter().filter_map(|message| match message {
            Message::Other(RouteNetlinkMessage::NewRoute(message)) => read(message),
            _ => None,
        }));
    }
    Ok(routes)
}

/// Ours only: an older kernel does not filter, and somebody else may use the same number.
fn read(message: RouteMessage) -> Option<OwnedRoute> {
    if !is_owned(&message) {
        return None;
    }
    let kind = message.header.kind;
    let present = route::read(message)?;
    let target = match (kind, present.via, present.link) {
        (RouteType::Unreachable, ..) => Target::Unreachable,
        (RouteType::Unicast, Some(gateway), Some(link)) => Target::Neighbour { gateway, link },
        _ => return None,
    };
    Some(OwnedRoute {
        dst: present.dst,
        target,
    })
}

/// Whether a route that the kernel tells of is ours.
pub fn is_owned(message: &RouteMessage) -> bool {
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    u8::from(message.header.protocol) == PROTOCOL
        && u32::from(message.header.table) == MAIN_TABLE
        && metric == Some(METRIC)
}

fn message(route: &OwnedRoute) -> Result<RouteMessage, KernelError> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(RouteScope::Universe)
        .priority(METRIC)
        .destination_prefix(route.dst.network(), route.dst.prefix())
        .map_err(std::io::Error::other)?;
    builder = match route.target {
        Target::Neighbour { gateway, link } => builder
            .output_interface(link)
            .gateway(gateway)
            .map_err(std::io::Error::other)?,
        Target::Unreachable => builder.kind(RouteType::Unreachable),
    };
    Ok(builder.build())
}

/// Adds a route of ours, where there is none of our metric to that destination.
///
/// # Errors
/// The kernel's error; EEXIST when somebody else's has it.
pub fn add(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Puts a route in the place of the one of ours to the same destination: there is no moment without
/// one.
pub fn replace(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket
        .request(message, NLM_F_CREATE | NLM_F_REPLACE)
        .map(drop)
}

/// Removes a route of ours. One that is gone already is no error.
pub fn remove(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::DelRoute(message(route)?);
    match socket.request(message, 0) {
        Err(error) if !error.is(Errno::SRCH) && !error.is(Errno::NOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Looks up the routes to some addresses, many in one send.
pub fn next_hops(
    socket: &mut RouteSocket,
    addresses: &[IpAddr],
) -> Result<Vec<NextHop>, KernelError> {
    /// The kernel replies before we read: this many replies fit a socket's receive buffer.
    const AT_ONCE: usize = 32;
    let mut next_hops = Vec::with_capacity(addresses.len());
    for addresses in addresses.chunks(AT_ONCE) {
        let requests = addresses
            .iter()
            .map(|address| next_hop_request(*address))
            .collect::<Result<_, _>>()?;
        for reply in socket.exchange(requests)? {
            next_hops.push(match reply {
                Ok(messages) => messages
                    .into_iter()
                    .find_map(|message| match message {
                        Message::Other(RouteNetlinkMessage::NewRoute(message)) => {
                            read_next_hop(message)
                        }
                        _ => None,
                    })
                    .unwrap_or(NextHop::Unreachable),
                Err(error) if is_unreachable(&error) => NextHop::Unreachable,
                Err(error) => return Err(error),
            });
        }
    }
    Ok(next_hops)
}

/// The errors of a lookup that finds no route, or one that refuses.
fn is_unreachable(error: &KernelError) -> bool {
    let errors = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::ACCESS,
        Errno::INVAL,
    ];
    errors.into_iter().any(|errno| error.is(errno))
}

fn next_hop_request(address: IpAddr) -> Result<Request<RouteNetlinkMessage>, KernelError> {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, Family::from(address).bits())
        .map_err(std::io::Error::other)?
        .build();
    // A lookup may not carry what only a new route has.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    Ok(Request::new(RouteNetlinkMessage::GetRoute(message), 0))
}

fn read_next_hop(message: RouteMessage) -> Option<NextHop> {
    let kind = message.header.kind;
    let present = route::read(message)?;
    Some(match (kind, present.via, present.link) {
        (RouteType::Local, ..) => NextHop::Local,
        (RouteType::Unicast, Some(gateway), Some(link)) => NextHop::Gateway { gateway, link },
        (RouteType::Unicast, None, Some(link)) => NextHop::OnLink(link),
        _ => NextHop::Unreachable,
    })
}
