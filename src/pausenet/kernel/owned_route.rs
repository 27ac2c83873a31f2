//! Routes that carry a protocol number of our own, so that whoever looks at them knows whose they
//! are (`ip route` prints it as `proto 112`), and we know which are ours to change.
//!
//! They have a metric of their own too. The kernel tells routes to one destination apart by it, so
//! replacing one of ours can never hit somebody else's, and a route that a person made with a
//! usual metric goes before ours.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use rustix::io::Errno;

use super::answer::Message;
use super::netlink::Request;
use super::route::{self, MAIN_TABLE};
use super::{KernelError, RouteSocket};

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
    /// Nowhere: who sends there is told so at once.
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
pub enum Way {
    /// The address is on a link of ours, by index.
    OnLink(u32),
    /// It has to go through somebody else.
    Through { gateway: IpAddr, link: u32 },
    /// It is this host's own.
    Own,
    /// There is none.
    None,
}

/// The routes of ours in the main table.
///
/// # Errors
/// The kernel's refusal.
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
/// The kernel's refusal; EEXIST when somebody else's has it.
pub fn add(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
}

/// Puts a route in the place of the one of ours to the same destination: there is no moment without
/// one.
///
/// # Errors
/// The kernel's refusal.
pub fn replace(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::NewRoute(message(route)?);
    socket
        .request(message, NLM_F_CREATE | NLM_F_REPLACE)
        .map(drop)
}

/// Removes a route of ours. One that is gone already is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(socket: &mut RouteSocket, route: &OwnedRoute) -> Result<(), KernelError> {
    let message = RouteNetlinkMessage::DelRoute(message(route)?);
    match socket.request(message, 0) {
        Err(refusal) if !refusal.is(Errno::SRCH) && !refusal.is(Errno::NOENT) => Err(refusal),
        _ => Ok(()),
    }
}

/// Asks for the ways to some addresses, many in one send.
///
/// # Errors
/// The kernel's refusal.
pub fn ways(socket: &mut RouteSocket, addresses: &[IpAddr]) -> Result<Vec<Way>, KernelError> {
    /// The kernel answers before we read: so many answers have room in a socket's buffer.
    const AT_ONCE: usize = 32;
    let mut ways = Vec::with_capacity(addresses.len());
    for addresses in addresses.chunks(AT_ONCE) {
        let requests = addresses
            .iter()
            .map(|address| way_request(*address))
            .collect::<Result<_, _>>()?;
        for answer in socket.exchange(requests)? {
            ways.push(match answer {
                Ok(messages) => messages
                    .into_iter()
                    .find_map(|message| match message {
                        Message::Other(RouteNetlinkMessage::NewRoute(message)) => read_way(message),
                        _ => None,
                    })
                    .unwrap_or(Way::None),
                Err(refusal) if has_no_way(&refusal) => Way::None,
                Err(refusal) => return Err(refusal),
            });
        }
    }
    Ok(ways)
}

/// What the kernel answers where there is no route, or one that says so.
fn has_no_way(refusal: &KernelError) -> bool {
    let answers = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::ACCESS,
        Errno::INVAL,
    ];
    answers.into_iter().any(|errno| refusal.is(errno))
}

fn way_request(address: IpAddr) -> Result<Request<RouteNetlinkMessage>, KernelError> {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, if address.is_ipv4() { 32 } else { 128 })
        .map_err(std::io::Error::other)?
        .build();
    // A question may not carry what only a new route has.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    Ok((RouteNetlinkMessage::GetRoute(message), 0))
}

fn read_way(message: RouteMessage) -> Option<Way> {
    let kind = message.header.kind;
    let present = route::read(message)?;
    Some(match (kind, present.via, present.link) {
        (RouteType::Local, ..) => Way::Own,
        (RouteType::Unicast, Some(gateway), Some(link)) => Way::Through { gateway, link },
        (RouteType::Unicast, None, Some(link)) => Way::OnLink(link),
        _ => Way::None,
    })
}
