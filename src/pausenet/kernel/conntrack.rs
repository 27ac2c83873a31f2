//! Connection tracking: removes flows whose destination has changed.

use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::error::KernelError;
use super::netlink::{Reply, Request, Socket};
use crate::cni::Family;

/// Removes UDP flows to these ports of the host, so that the next packet of each is mapped again.
/// TCP flows end by themselves; UDP flows last as long as packets arrive.
pub fn forget_udp(family: Family, ports: &[(Option<IpAddr>, u16)]) -> Result<(), KernelError> {
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    let all = message(family, ConntrackMessage::Get(Vec::new()));
    let stale: Vec<_> = socket
        .dump(all)?
        .into_iter()
        .filter_map(original)
        .filter(|tuple| is_to(tuple, ports))
        .map(|tuple| {
            let delete = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(tuple)]);
            Request::new(message(family, delete), 0)
        })
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    let replies: Vec<Reply<NetfilterMessage>> = socket.exchange(stale)?;
    for reply in replies {
        match reply {
            Err(error) if !error.is(rustix::io::Errno::NOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn message(family: Family, inner: ConntrackMessage) -> NetfilterMessage {
    let family = match family {
        Family::Ipv4 => NetfilterProtoFamily::IPv4,
        Family::Ipv6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// A flow's original direction.
fn original(message: NetfilterMessage) -> Option<Vec<Tuple>> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => Some(tuple),
            _ => None,
        })
}

fn is_to(tuple: &[Tuple], ports: &[(Option<IpAddr>, u16)]) -> bool {
    let (mut udp, mut port, mut address) = (false, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    if let IPTuple::DestinationAddress(ip) = part {
                        address = Some(*ip);
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(protocol) => udp = *protocol == Protocol::Udp,
                        ProtoTuple::DestinationPort(number) => port = Some(*number),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    udp && ports
        .iter()
        .any(|(ip, number)| port == Some(*number) && (ip.is_none() || *ip == address))
}
