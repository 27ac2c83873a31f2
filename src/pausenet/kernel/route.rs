//! Routes.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;

use super::error::KernelError;
use super::reply::Message;
use super::request::Request;
use super::route_socket::Group;
use super::route_socket::RouteSocket;
use crate::cni::Family;
use crate::cni::result::Route;

/// A request that adds a route out of a link, for a batch. `via` is the next hop, `source` the
/// preferred source address.
///
/// # Errors
/// A sentence, when destination and next hop are of different families.
pub(crate) fn add_request(
    index: u32,
    route: &Route,
    via: Option<IpAddr>,
    source: Option<IpAddr>,
) -> Result<Request<RouteNetlinkMessage>, String> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::Boot)
        .output_interface(index)
        // The kernel refuses bits beyond the prefix in IPv4, and clears them in IPv6.
        .destination_prefix(route.dst.network(), route.dst.prefix())
        .map_err(|err| err.to_string())?;
    // 0.0.0.0 and ::, as `dhcp` gives for a destination on the link itself.
    if let Some(via) = via.filter(|via| !via.is_unspecified()) {
        if Family::from(via) != Family::from(route.dst) {
            return Err(format!(
                "next hop {via} is of another family than {}",
                route.dst
            ));
        }
        builder = builder.gateway(via).map_err(|err| err.to_string())?;
    }
    if let Some(source) = source {
        builder = builder.pref_source(source).map_err(|err| err.to_string())?;
    }
    if let Some(priority) = route.priority {
        builder = builder.priority(priority);
    }
    if let Some(table) = route.table {
        builder = builder.table_id(table);
    }
    if let Some(scope) = route.scope {
        builder = builder.scope(scope.into());
    }
    let mut message = builder.build();
    let metrics: Vec<_> = [
        route.mtu.map(RouteMetric::Mtu),
        route.advmss.map(RouteMetric::Advmss),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    Ok(Request::new(
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE,
    ))
}

/// A route in the kernel: the parts that CHECK compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub dst: IpNetwork,
    pub via: Option<IpAddr>,
    pub link: Option<u32>,
    pub table: u32,
    /// It drops or refuses packets: blackhole, unreachable, prohibit.
    pub refuses: bool,
}

/// Every route of the namespace, of both families and all tables.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<Present>, KernelError> {
    let messages = socket.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    let read = |message| match message {
        Message::Other(RouteNetlinkMessage::NewRoute(message)) => read_paths(message),
        _ => Vec::new(),
    };
    Ok(messages.into_iter().flat_map(read).collect())
}

/// The indexes of the links with routes that the kernel has from router advertisements.
pub(crate) fn advertised<C: FromIterator<u32>>(socket: &mut RouteSocket) -> Result<C, KernelError> {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet6;
    let messages = socket.dump(RouteNetlinkMessage::GetRoute(query))?;
    let routes = messages.into_iter().filter_map(|message| match message {
        Message::Other(RouteNetlinkMessage::NewRoute(route)) => Some(route),
        _ => None,
    });
    Ok(routes
        .filter(|route| route.header.protocol == RouteProtocol::Ra)
        .flat_map(|route| route.attributes)
        .filter_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(index),
            _ => None,
        })
        .collect())
}

/// Waits until the namespace answers to its new IPv6 addresses: the kernel accepts an address first
/// and starts to use it a moment later. `open` opens a socket in the namespace for the kernel's
/// notifications; it is called only if waiting is necessary.
///
/// # Errors
/// ETIMEDOUT after `limit`; the kernel's error.
pub fn wait_local(
    socket: &mut RouteSocket,
    addresses: impl IntoIterator<Item = Ipv6Addr>,
    limit: Duration,
    open: impl Fn() -> Result<RouteSocket, KernelError>,
) -> Result<(), KernelError> {
    let mut deadline = None;
    for address in addresses {
        if is_local(socket, address)? {
            continue;
        }
        // Only now that waiting is necessary: the first read of the clock costs two page faults.
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + limit);
        // Subscribe before asking, so that no change in between is missed.
        let mut events = open()?;
        events.subscribe(Group::Ipv6Routes)?;
        while !is_local(socket, address)? {
            if !events.wait_event(deadline)? {
                return Err(rustix::io::Errno::TIMEDOUT.into());
            }
        }
    }
    Ok(())
}

fn is_local(socket: &mut RouteSocket, address: Ipv6Addr) -> Result<bool, KernelError> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet6;
    request.header.destination_prefix_length = 128;
    request.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet6(address))];
    match socket.request(RouteNetlinkMessage::GetRoute(request), 0) {
        Ok(reply) => Ok(reply.iter().any(|message| {
            matches!(message, Message::Other(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Local)
        })),
        Err(error) if error.is(rustix::io::Errno::NETUNREACH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The link by which a packet to this address would leave; None when it is unreachable.
pub fn link_towards(socket: &mut RouteSocket, ip: IpAddr) -> Result<Option<u32>, KernelError> {
    Ok(towards(socket, ip)?.and_then(|route| route.link))
}

/// The route that a packet to this address would take; None when it is unreachable.
///
/// # Errors
/// EINVAL, EHOSTUNREACH or EACCES where a rule, or a route of IPv4, drops or refuses such packets.
pub fn towards(socket: &mut RouteSocket, ip: IpAddr) -> Result<Option<Present>, KernelError> {
    let bits = Family::from(ip).bits();
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(ip, bits)
        .map_err(std::io::Error::other)?
        .build();
    // The kernel rejects lookups with fields that only new routes have.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.kind = RouteType::Unspec;
    match socket.request(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(messages) => Ok(messages.into_iter().find_map(|message| match message {
            Message::Other(RouteNetlinkMessage::NewRoute(message)) => read(message),
            _ => None,
        })),
        Err(error) if error.is(rustix::io::Errno::NETUNREACH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The default table of a route.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Reads a route as one for each of its next hops: the kernel makes one route of IPv6 routes to the
/// same destination with the same metric, also if they leave by different links.
fn read_paths(mut message: RouteMessage) -> Vec<Present> {
    let hops = message
        .attributes
        .iter_mut()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(std::mem::take(hops)),
            _ => None,
        });
    let Some(route) = read(message) else {
        return Vec::new();
    };
    let Some(hops) = hops else {
        return vec![route];
    };
    let by = |hop: RouteNextHop| Present {
        via: hop
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => ip(address),
                _ => None,
            }),
        link: Some(hop.interface_index),
        ..route.clone()
    };
    hops.into_iter().map(by).collect()
}

pub(super) fn read(message: RouteMessage) -> Option<Present> {
    let header = message.header;
    let unspecified: IpAddr = match u8::from(header.address_family) {
        2 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        10 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut dst = unspecified;
    let mut route = Present {
        dst: IpNetwork::new(unspecified, 0).ok()?,
        via: None,
        link: None,
        table: header.table.into(),
        refuses: matches!(
            header.kind,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
        ),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(address)?,
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::Oif(index) => route.link = Some(index),
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    route.dst = IpNetwork::new(dst, header.destination_prefix_length).ok()?;
    Some(route)
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}
