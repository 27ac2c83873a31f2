//! Routes with a protocol number of our own. It marks them as pausenet's for administrators (`ip
//! route` prints `proto 112`) and for us: we change no others.
//!
//! They have a metric of their own too. The kernel distinguishes routes to the same destination by
//! it, so replacing one of ours can never replace another program's, and an administrator's route
//! with a usual metric takes precedence over ours.

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
use super::netlink::Reply;
use super::reply::Message;
use super::request::Request;
use super::route::{self, MAIN_TABLE};
use super::route_socket::RouteSocket;

/// The protocol number of our routes: "p" in ASCII, not assigned in linux/rtnetlink.h.
pub const PROTOCOL: u8 = b'p';

/// Their metric: higher than those that the kernel (IPv6: 1024), administrators and routing daemons
/// use.
pub const METRIC: u32 = 11_200;

/// One of our routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnedRoute {
    pub dst: IpNetwork,
    pub target: Target,
}

/// The target of one of our routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// To a neighbour on a link, by index.
    Neighbour { gateway: IpAddr, link: u32 },
    /// None: the sender gets an ICMP error at once.
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
    /// Directly out of a link, by index: the address is on that link.
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

/// Our routes in the main table.
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

/// Our routes only: an older kernel does not filter, and another program may use the same number.
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

/// Whether a route in a message of the kernel is ours.
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

/// Adds one of our routes.
///
/// # Errors
/// The kernel's error; EEXIST when there is a route with our metric to that destination.
pub fn add(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Replaces our route to the same destination without interruption, or adds it.
pub fn replace(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket
        .request(message, NLM_F_CREATE | NLM_F_REPLACE)
        .map(drop)
}

/// Removes one of our routes. Succeeds when it is already gone.
pub fn remove(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::DelRoute(message(route)?);
    match socket.request(message, 0) {
        Err(error) if !error.is(Errno::SRCH) && !error.is(Errno::NOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Looks up the routes to some addresses, many per send.
pub fn next_hops(
    socket: &mut RouteSocket,
    addresses: &[IpAddr],
) -> Result<Vec<NextHop>, KernelError> {
    let requests = addresses
        .iter()
        .map(|address| next_hop_request(*address))
        .collect::<Result<_, _>>()?;
    let read = |reply: Reply<Message>| match reply {
        Ok(messages) => Ok(messages
            .into_iter()
            .find_map(|message| match message {
                Message::Other(RouteNetlinkMessage::NewRoute(message)) => read_next_hop(message),
                _ => None,
            })
            .unwrap_or(NextHop::Unreachable)),
        Err(error) if is_unreachable(&error) => Ok(NextHop::Unreachable),
        Err(error) => Err(error),
    };
    socket.exchange(requests)?.into_iter().map(read).collect()
}

/// The errors of a lookup that finds no route, or an unreachable one.
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
    // The kernel rejects lookups with fields that only new routes have.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    Ok(Request::query(RouteNetlinkMessage::GetRoute(message)))
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
