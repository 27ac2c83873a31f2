//! Addresses on links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::AddressMessageBuilder;

use super::netlink::Request;
use super::{Refusal, RouteSocket};

/// A request that adds an address, for a batch. IPv6 addresses come without duplicate address
/// detection: IPAM has seen to it that there is no duplicate, and they work at once.
pub fn add_request(index: u32, address: IpNetwork) -> Request<RouteNetlinkMessage> {
    let mut message = message(index, address);
    if address.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Removes an address. One that is gone already is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(socket: &mut RouteSocket, index: u32, address: IpNetwork) -> Result<(), Refusal> {
    let message = RouteNetlinkMessage::DelAddress(message(index, address));
    match socket.request(message, 0) {
        Err(refusal) if !refusal.is(rustix::io::Errno::ADDRNOTAVAIL) => Err(refusal),
        _ => Ok(()),
    }
}

/// The addresses of one link.
///
/// # Errors
/// The kernel's refusal.
pub fn of_link(socket: &mut RouteSocket, index: u32) -> Result<Vec<IpNetwork>, Refusal> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let messages = socket.dump(RouteNetlinkMessage::GetAddress(request))?;
    let read = |message| match message {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => read(message),
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

/// The local address: IFA_LOCAL, or IFA_ADDRESS where there is none (IPv6).
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
