//! Whether the host forwards packets, read by netlink.
//!
//! The same setting is under /proc/sys/net, but to find a file there the kernel searches the cached
//! entries of all network namespaces, because each has one of that name. With a thousand
//! namespaces, this takes 0.7 ms for one number. (`proc_sys_compare` in fs/proc/proc_sysctl.c.)

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator,
};
use netlink_packet_route::AddressFamily;

use super::error::KernelError;
use super::route_socket::RouteSocket;
use crate::cni::Family;

/// Whether the host forwards packets of a family, whatever the settings of single interfaces:
/// `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`.
///
/// # Errors
/// EOPNOTSUPP for IPv6 on a kernel without it.
pub fn is_on(socket: &mut RouteSocket, family: Family) -> Result<bool, KernelError> {
    let replies: Vec<Netconf> = socket.get(GetNetconf(family))?;
    Ok(replies
        .iter()
        .any(|settings| settings.forwarding == Some(true)))
}

// In linux/rtnetlink.h and linux/netconf.h.
const NEW_NETCONF: u16 = 80;
const GET_NETCONF: u16 = 82;
const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;

/// Not one interface, but the setting for all (NETCONFA_IFINDEX_ALL).
const ALL: i32 = -1;

/// RTM_GETNETCONF: struct netconfmsg (the family, padded to 4 bytes) and the interface.
struct GetNetconf(Family);

impl NetlinkSerializable for GetNetconf {
    fn message_type(&self) -> u16 {
        GET_NETCONF
    }

    fn buffer_len(&self) -> usize {
        12
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let family = match self.0 {
            Family::Ipv4 => AddressFamily::Inet,
            Family::Ipv6 => AddressFamily::Inet6,
        };
        buffer[..4].copy_from_slice(&[family.into(), 0, 0, 0]);
        DefaultNla::new(IFINDEX, ALL.to_ne_bytes().to_vec()).emit(&mut buffer[4..]);
    }
}

/// RTM_NEWNETCONF: only the fields used here.
#[derive(Debug, PartialEq, Eq)]
struct Netconf {
    forwarding: Option<bool>,
}

impl NetlinkDeserializable for Netconf {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut forwarding = None;
        if header.message_type == NEW_NETCONF {
            for attribute in NlasIterator::new(payload.get(4..).unwrap_or_default()) {
                let attribute = attribute?;
                if attribute.kind() == FORWARDING {
                    forwarding = Some(attribute.value().iter().any(|byte| *byte != 0));
                }
            }
        }
        Ok(Self { forwarding })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: u16, payload: &[u8]) -> Netconf {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        Netconf::deserialize(&header, payload).unwrap()
    }

    fn payload(on: u32) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        GetNetconf(Family::Ipv4).serialize(&mut bytes);
        DefaultNla::new(FORWARDING, on.to_ne_bytes().to_vec()).emit(&mut bytes[12..]);
        bytes
    }

    #[test]
    fn the_setting_is_found_among_others() {
        for (on, expected) in [(0, false), (1, true), (2, true)] {
            assert_eq!(
                read(NEW_NETCONF, &payload(on)).forwarding,
                Some(expected),
                "{on}"
            );
        }
    }

    /// As after an error between a request and its reply.
    #[test]
    fn a_reply_that_was_left_over_does_not_disturb_requests_of_other_types() {
        use super::super::netlink::{Reply, Socket};
        use super::super::reply::Message;
        use super::super::request::{ExpectedReply, Request};
        use netlink_packet_route::RouteNetlinkMessage;
        use netlink_packet_route::link::LinkMessage;
        let mut socket = Socket::open(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let unread = Request::expecting(GetNetconf(Family::Ipv4), ExpectedReply::Nothing);
        let _: Reply<Netconf> = socket.one(unread);
        let mut loopback = LinkMessage::default();
        loopback.header.index = 1;
        let question = RouteNetlinkMessage::GetLink(loopback);
        let question = Request::expecting(question, ExpectedReply::Message);
        let reply: Reply<Message> = socket.one(question);
        assert_eq!(reply.unwrap().len(), 1);
    }

    #[test]
    fn truncated_messages_and_other_kinds_are_ignored() {
        assert_eq!(read(NEW_NETCONF, &[]).forwarding, None);
        assert_eq!(read(NEW_NETCONF, &payload(1)[..12]).forwarding, None);
        assert_eq!(read(16, &payload(1)).forwarding, None);
    }
}
