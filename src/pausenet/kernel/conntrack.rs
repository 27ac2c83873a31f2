//! Connection tracking: forgets flows whose destination has changed.
//!
//! A flow keeps the destination that its first packet was given. TCP connections end by themselves;
//! UDP flows last as long as packets arrive.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::error::KernelError;
use super::netlink::Socket;
use super::nft::Nft;
use super::nft::expr::{address_bytes, nfproto};
use super::request::{ExpectedReply, Request};
use crate::cni::Family;

/// UDP flows of one family; those that have everything given here.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct UdpFlows {
    /// The address that the client sends to.
    pub to: Option<IpAddr>,
    /// The port that the client sends to.
    pub to_port: Option<u16>,
    /// The address that replies come from: a mapped port's container.
    pub answered_by: Option<IpAddr>,
}

impl UdpFlows {
    /// Whether the kernel finds them. Of IPv6 addresses, its filter finds those that differ
    /// (ctnetlink_filter_match_tuple, up to Linux 6.18 at least).
    fn can_be_filtered(&self) -> bool {
        ![self.to, self.answered_by]
            .iter()
            .flatten()
            .any(IpAddr::is_ipv6)
    }
}

/// Forgets flows, so that the next packet of each is mapped again.
pub fn forget_udp(family: Family, flows: &[UdpFlows]) -> Result<(), KernelError> {
    forget(&mut Socket::open(NETLINK_NETFILTER)?, family, flows)
}

impl Nft {
    /// [`forget_udp`] by an open socket: the two speak the same protocol.
    pub fn forget_udp(&mut self, family: Family, flows: &[UdpFlows]) -> Result<(), KernelError> {
        forget(self.socket()?, family, flows)
    }
}

/// The kernel walks the whole table for each; so for more than these, it is listed once instead.
const WALKS: usize = 4;

fn forget(socket: &mut Socket, family: Family, flows: &[UdpFlows]) -> Result<(), KernelError> {
    if flows.is_empty() || number_of_flows(socket)? == Some(0) {
        return Ok(());
    }
    if flows.len() <= WALKS && flows.iter().all(UdpFlows::can_be_filtered) {
        match delete_filtered(socket, family, flows) {
            Err(error) if lacks_filters(&error) => {}
            outcome => return outcome,
        }
    }
    delete_listed(socket, family, flows)
}

/// How many flows this network namespace has. The kernel keeps count, so it does not walk through the table, which
/// takes milliseconds, whatever is in it: each of its buckets is read. None: it did not say.
fn number_of_flows(socket: &mut Socket) -> Result<Option<u32>, KernelError> {
    // Of no family, like the reply.
    let request = FlowMessage::Request {
        kind: MSG_GET_STATS,
        payload: vec![0; HEADER],
    };
    let request = Request::expecting(request, ExpectedReply::Message);
    let reply = socket.one(request)?;
    Ok(reply.into_iter().find_map(|message| match message {
        FlowMessage::Number(number) => Some(number),
        _ => None,
    }))
}

/// Lets the kernel find the flows (since Linux 6.8).
fn delete_filtered(
    socket: &mut Socket,
    family: Family,
    flows: &[UdpFlows],
) -> Result<(), KernelError> {
    let requests = flows.iter().map(|flows| {
        let attributes = filter(flows);
        Request::query(FlowMessage::request(MSG_DELETE, family, attributes))
    });
    for reply in socket.exchange::<_, FlowMessage>(requests.collect())? {
        reply?;
    }
    Ok(())
}

/// Kernels before 6.8 take the filter for one flow's description, which is incomplete or does not
/// exist.
fn lacks_filters(error: &KernelError) -> bool {
    [Errno::INVAL, Errno::NOENT, Errno::OPNOTSUPP]
        .into_iter()
        .any(|errno| error.is(errno))
}

/// Lists the UDP flows, and deletes those that are meant.
fn delete_listed(
    socket: &mut Socket,
    family: Family,
    flows: &[UdpFlows],
) -> Result<(), KernelError> {
    // Since Linux 5.8; older kernels list everything.
    let all = FlowMessage::request(MSG_GET, family, filter(&UdpFlows::default()));
    let wanted = Wanted::new(flows);
    let deletions = socket
        .dump(all)?
        .into_iter()
        .filter_map(|message| match message {
            FlowMessage::Flow(flow) if wanted.contains(&flow) => Some(flow.key),
            _ => None,
        })
        // Sent again, it finds nothing, which is as good.
        .map(|key| Request::query(FlowMessage::request(MSG_DELETE, family, key)));
    socket
        .all_except::<_, FlowMessage>(deletions.collect(), |error| error.is(Errno::NOENT))
        .map_err(|failed| failed.error)
}

/// The port that a flow was sent to, and the address that answers it.
type SentTo = (Option<u16>, Option<IpAddr>);

/// [`UdpFlows`] to look up flows in.
struct Wanted<'a>(HashMap<SentTo, HashSet<&'a Option<IpAddr>>>);

impl<'a> Wanted<'a> {
    fn new(flows: &'a [UdpFlows]) -> Self {
        let mut wanted = Self(HashMap::new());
        for flows in flows {
            let key = (flows.to_port, flows.answered_by);
            wanted.0.entry(key).or_default().insert(&flows.to);
        }
        wanted
    }

    fn contains(&self, flow: &Flow) -> bool {
        if !flow.is_udp {
            return false;
        }
        let (port, source) = (flow.to_port, flow.answered_by);
        [(port, source), (port, None), (None, source), (None, None)]
            .iter()
            .filter_map(|key| self.0.get(key))
            .any(|to| to.contains(&None) || to.contains(&flow.to))
    }
}

// Numbers of linux/netfilter/nfnetlink_conntrack.h.
const SUBSYSTEM: u16 = 1;
const MSG_NEW: u8 = 0;
const MSG_GET: u8 = 1;
const MSG_DELETE: u8 = 2;
const MSG_GET_STATS: u8 = 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = 1 << 15;

const UDP: u8 = 17;

/// struct nfgenmsg, with which every netfilter message begins.
const HEADER: usize = 4;

/// A request about flows, or what a reply tells: one flow, or how many there are. (The crate's type has no filters, and
/// parses forty attributes of each flow.)
#[derive(Debug, Clone)]
enum FlowMessage {
    Request { kind: u8, payload: Vec<u8> },
    Flow(Flow),
    Number(u32),
    Other,
}

/// The parts of a flow that are compared.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Flow {
    /// The attributes that identify it.
    key: Vec<u8>,
    is_udp: bool,
    to: Option<IpAddr>,
    to_port: Option<u16>,
    answered_by: Option<IpAddr>,
}

impl FlowMessage {
    fn request(kind: u8, family: Family, attributes: Vec<u8>) -> Self {
        // With version 1, the kernel uses the family in a deletion by filter.
        let mut payload = vec![nfproto(family), 1, 0, 0];
        payload.extend(attributes);
        Self::Request { kind, payload }
    }
}

/// The filter as attributes: which parts of the two directions to compare, and with what.
fn filter(flows: &UdpFlows) -> Vec<u8> {
    // CTA_FILTER_F_… in net/netfilter/nf_internals.h.
    const IP_SRC: u32 = 1;
    const IP_DST: u32 = 1 << 1;
    const PROTO_NUM: u32 = 1 << 3;
    const PROTO_DST_PORT: u32 = 1 << 5;
    let (mut original, mut original_flags) = (Vec::new(), PROTO_NUM);
    let (mut reply, mut reply_flags) = (Vec::new(), 0);
    if let Some(ip) = flows.to {
        let kind = match ip {
            IpAddr::V4(_) => CTA_IP_V4_DST,
            IpAddr::V6(_) => CTA_IP_V6_DST,
        };
        let address = attribute(kind, &address_bytes(ip));
        original.extend(attribute(CTA_TUPLE_IP | NESTED, &address));
        original_flags |= IP_DST;
    }
    let mut protocol = attribute(CTA_PROTO_NUM, &[UDP]);
    if let Some(port) = flows.to_port {
        protocol.extend(attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()));
        original_flags |= PROTO_DST_PORT;
    }
    original.extend(attribute(CTA_TUPLE_PROTO | NESTED, &protocol));
    if let Some(ip) = flows.answered_by {
        let kind = match ip {
            IpAddr::V4(_) => CTA_IP_V4_SRC,
            IpAddr::V6(_) => CTA_IP_V6_SRC,
        };
        let address = attribute(kind, &address_bytes(ip));
        reply.extend(attribute(CTA_TUPLE_IP | NESTED, &address));
        reply_flags |= IP_SRC;
    }
    let mut flags = attribute(CTA_FILTER_ORIG_FLAGS, &original_flags.to_ne_bytes());
    flags.extend(attribute(
        CTA_FILTER_REPLY_FLAGS,
        &reply_flags.to_ne_bytes(),
    ));
    let mut attributes = attribute(CTA_TUPLE_ORIG | NESTED, &original);
    if !reply.is_empty() {
        attributes.extend(attribute(CTA_TUPLE_REPLY | NESTED, &reply));
    }
    attributes.extend(attribute(CTA_FILTER | NESTED, &flags));
    attributes
}

/// An attribute with its header and padding. None here is longer than a few hundred bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4;
    let length = HEADER + value.len();
    let mut bytes = (length as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

impl NetlinkSerializable for FlowMessage {
    fn message_type(&self) -> u16 {
        match self {
            Self::Request { kind, .. } => SUBSYSTEM << 8 | u16::from(*kind),
            Self::Flow(_) | Self::Number(_) | Self::Other => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Request { payload, .. } => payload.len(),
            Self::Flow(_) | Self::Number(_) | Self::Other => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Request { payload, .. } = self {
            let length = payload.len();
            buffer[..length].copy_from_slice(payload);
        }
    }
}

impl NetlinkDeserializable for FlowMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let parts = NlasIterator::new(payload.get(HEADER..).unwrap_or_default());
        let [kind, _] = header.message_type.to_le_bytes();
        match kind {
            MSG_NEW => read_flow(parts).map(Self::Flow),
            MSG_GET_STATS => read_number(parts),
            _ => Ok(Self::Other),
        }
    }
}

fn read_number(parts: NlasIterator<&[u8]>) -> Result<FlowMessage, DecodeError> {
    for part in parts {
        let part = part?;
        if part.kind() == CTA_STATS_GLOBAL_ENTRIES
            && let Some(number) = part.value().first_chunk()
        {
            return Ok(FlowMessage::Number(u32::from_be_bytes(*number)));
        }
    }
    Ok(FlowMessage::Other)
}

fn read_flow(parts: NlasIterator<&[u8]>) -> Result<Flow, DecodeError> {
    let mut flow = Flow::default();
    for part in parts {
        let part = part?;
        match part.kind() {
            CTA_TUPLE_ORIG => {
                flow.key
                    .extend(attribute(CTA_TUPLE_ORIG | NESTED, part.value()));
                read_original(&mut flow, part.value())?;
            }
            CTA_TUPLE_REPLY => flow.answered_by = read_source(part.value())?,
            CTA_ZONE => flow.key.extend(attribute(CTA_ZONE, part.value())),
            _ => {}
        }
    }
    Ok(flow)
}

fn read_original(flow: &mut Flow, tuple: &[u8]) -> Result<(), DecodeError> {
    for part in NlasIterator::new(tuple) {
        let part = part?;
        for field in NlasIterator::new(part.value()) {
            let field = field?;
            match (part.kind(), field.kind()) {
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => flow.to = address(field.value()),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => flow.is_udp = field.value() == [UDP],
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => {
                    let port = field.value().first_chunk().copied();
                    flow.to_port = port.map(u16::from_be_bytes);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn read_source(tuple: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    for part in NlasIterator::new(tuple) {
        let part = part?;
        if part.kind() != CTA_TUPLE_IP {
            continue;
        }
        for field in NlasIterator::new(part.value()) {
            let field = field?;
            if matches!(field.kind(), CTA_IP_V4_SRC | CTA_IP_V6_SRC) {
                return Ok(address(field.value()));
            }
        }
    }
    Ok(None)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow(to: &str, port: u16, answered_by: &str) -> Flow {
        Flow {
            key: Vec::new(),
            is_udp: true,
            to: Some(to.parse().unwrap()),
            to_port: Some(port),
            answered_by: Some(answered_by.parse().unwrap()),
        }
    }

    #[test]
    fn what_is_not_given_matches_every_flow() {
        let there = flow("192.0.2.1", 53, "10.1.0.2");
        let flows = |to: Option<&str>, to_port, answered_by: Option<&str>| UdpFlows {
            to: to.map(|ip| ip.parse().unwrap()),
            to_port,
            answered_by: answered_by.map(|ip| ip.parse().unwrap()),
        };
        for (wanted, is_wanted) in [
            (flows(None, Some(53), None), true),
            (flows(None, None, Some("10.1.0.2")), true),
            (flows(None, Some(53), Some("10.1.0.2")), true),
            (flows(Some("192.0.2.1"), Some(53), None), true),
            (flows(Some("192.0.2.2"), Some(53), None), false),
            (flows(None, Some(54), Some("10.1.0.2")), false),
            (flows(None, Some(53), Some("10.1.0.3")), false),
        ] {
            let wanted = [flows(None, Some(1), None), wanted];
            assert_eq!(
                Wanted::new(&wanted).contains(&there),
                is_wanted,
                "{wanted:?}"
            );
            let tcp = Flow {
                is_udp: false,
                ..there.clone()
            };
            assert!(!Wanted::new(&wanted).contains(&tcp));
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_nothing_panics(payload: Vec<u8>) {
            let mut header = NetlinkHeader::default();
            header.message_type = SUBSYSTEM << 8;
            let _ = FlowMessage::deserialize(&header, &payload);
        }
    }
}
