//! Messages received from rtnetlink.
//!
//! Links are parsed here, only the few attributes in use. The kernel sends about seventy for a
//! link, most of them nested settings and counters; parsing them all takes longer than the kernel
//! takes to write them: a tenth of an ADD. All other messages are small and parsed by the crate.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;

use crate::cni::MacAddr;

/// A link as the kernel describes it; only the attributes in use.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The kernel's name for its kind: `bridge`, `veth`, …; empty for a physical device.
    pub kind: String,
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    /// Switched on by the administrator (IFF_UP).
    pub up: bool,
    pub promiscuous: bool,
    /// It receives every multicast frame (IFF_ALLMULTI).
    pub allmulti: bool,
    /// How many packets wait to be sent.
    pub queue: u32,
    /// It can carry traffic (IFLA_OPERSTATE is UP).
    pub running: bool,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
    /// The other end of a veth, in that end's namespace.
    pub peer: Option<u32>,
    /// The ID of the other end's namespace in this one (netnsid); negative when it has none. None:
    /// this same namespace.
    pub peer_netns: Option<i32>,
    pub alias: Option<String>,
    pub group: u32,
    /// Of a bridge port.
    pub hairpin: bool,
    /// Of a bridge port.
    pub isolated: bool,
    /// Of a bridge port: nothing passes it. So it is without a carrier, too.
    pub blocked: bool,
    /// Of a bridge.
    pub vlan_filtering: bool,
    /// Of a bridge: the default VLAN of new ports; 0 for none.
    pub default_vlan: u16,
    /// None without IPv6.
    pub ipv6: Option<Ipv6Settings>,
}

/// The settings under /proc/sys/net/ipv6/conf that the kernel sends with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// Whether it takes routes from router advertisements.
    pub(crate) accept_ra: u32,
    /// Whether new addresses are probed for duplicates.
    pub(crate) accept_dad: u32,
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) enum Message {
    /// RTM_NEWLINK.
    Link(Box<Link>),
    Other(RouteNetlinkMessage),
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        const NEW_LINK: u16 = 16;
        if header.message_type == NEW_LINK {
            return Ok(Self::Link(Box::new(read_link(payload)?)));
        }
        RouteNetlinkMessage::deserialize(header, payload).map(Self::Other)
    }
}

/// struct ifinfomsg: family, type, index, flags, mask of flags.
const HEADER: usize = 16;

fn read_link(payload: &[u8]) -> Result<Link, DecodeError> {
    const UP: u32 = 1;
    const PROMISCUOUS: u32 = 0x100;
    const ALLMULTI: u32 = 0x200;
    const OPERATION_UP: u8 = 6;
    if payload.len() < HEADER {
        return Err("a link without a header".into());
    }
    let flags = number(&payload[8..]);
    let mut link = Link {
        index: number(&payload[4..]),
        up: flags & UP != 0,
        promiscuous: flags & PROMISCUOUS != 0,
        allmulti: flags & ALLMULTI != 0,
        ..Link::default()
    };
    for attribute in NlasIterator::new(&payload[HEADER..]) {
        let attribute = attribute?;
        let value = attribute.value();
        // IFLA_… in linux/if_link.h.
        match attribute.kind() {
            1 => link.mac = <[u8; 6]>::try_from(value).ok().map(MacAddr),
            3 => link.name = text(value),
            4 => link.mtu = number(value),
            5 => link.peer = Some(number(value)),
            10 => link.controller = Some(number(value)),
            13 => link.queue = number(value),
            16 => link.running = value.first() == Some(&OPERATION_UP),
            18 => read_info(&mut link, value)?,
            20 => link.alias = Some(text(value)),
            26 => link.ipv6 = read_ipv6(value)?,
            27 => link.group = number(value),
            37 => link.peer_netns = Some(number(value) as i32),
            _ => {}
        }
    }
    Ok(link)
}

/// IFLA_LINKINFO: the link's kind, and that of the link it is a port of, each with its settings.
fn read_info(link: &mut Link, value: &[u8]) -> Result<(), DecodeError> {
    let mut port_of = String::new();
    for info in NlasIterator::new(value) {
        let info = info?;
        // IFLA_INFO_…; a kind comes before its data.
        match info.kind() {
            1 => link.kind = text(info.value()),
            2 if link.kind == "bridge" => read_bridge(link, info.value())?,
            4 => port_of = text(info.value()),
            5 if port_of == "bridge" => read_port(link, info.value())?,
            _ => {}
        }
    }
    Ok(())
}

/// IFLA_AF_SPEC: IFLA_INET6_CONF of AF_INET6, an array of settings.
fn read_ipv6(value: &[u8]) -> Result<Option<Ipv6Settings>, DecodeError> {
    const INET6: u16 = 10;
    const CONF: u16 = 2;
    // DEVCONF_… in linux/ipv6.h.
    const ACCEPT_RA: usize = 3;
    const ACCEPT_DAD: usize = 27;
    for family in NlasIterator::new(value) {
        let family = family?;
        if family.kind() != INET6 {
            continue;
        }
        for attribute in NlasIterator::new(family.value()) {
            let attribute = attribute?;
            let (settings, _) = attribute.value().as_chunks::<4>();
            let setting = |at: usize| settings.get(at).copied().map(u32::from_ne_bytes);
            if attribute.kind() == CONF {
                return Ok(setting(ACCEPT_RA).zip(setting(ACCEPT_DAD)).map(
                    |(accept_ra, accept_dad)| Ipv6Settings {
                        accept_ra,
                        accept_dad,
                    },
                ));
            }
        }
    }
    Ok(None)
}

/// IFLA_BR_….
fn read_bridge(link: &mut Link, value: &[u8]) -> Result<(), DecodeError> {
    for setting in NlasIterator::new(value) {
        let setting = setting?;
        match (setting.kind(), setting.value()) {
            (7, [on, ..]) => link.vlan_filtering = *on != 0,
            (39, [low, high, ..]) => link.default_vlan = u16::from_ne_bytes([*low, *high]),
            _ => {}
        }
    }
    Ok(())
}

/// IFLA_BRPORT_….
fn read_port(link: &mut Link, value: &[u8]) -> Result<(), DecodeError> {
    for setting in NlasIterator::new(value) {
        let setting = setting?;
        match (setting.kind(), setting.value()) {
            // Disabled, or blocking. Listening and learning, it is about to forward.
            (1, [state, ..]) => link.blocked = matches!(state, 0 | 4),
            (4, [on, ..]) => link.hairpin = *on != 0,
            (33, [on, ..]) => link.isolated = *on != 0,
            _ => {}
        }
    }
    Ok(())
}

/// The number at the start; 0 if the value is too short.
fn number(value: &[u8]) -> u32 {
    value.first_chunk().copied().map_or(0, u32::from_ne_bytes)
}

/// Text up to its NUL.
fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::link::{
        AfSpecInet6, AfSpecUnspec, BridgePortState, Inet6DevConf, InfoBridge, InfoBridgePort,
        InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage, State,
    };

    fn bytes(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_link_is_read_as_the_crate_writes_it() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up | LinkFlags::Promisc | LinkFlags::Allmulti;
        message.attributes = vec![
            LinkAttribute::IfName("veth1".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
            LinkAttribute::Mtu(1400),
            LinkAttribute::Link(3),
            LinkAttribute::Controller(5),
            LinkAttribute::OperState(State::Up),
            LinkAttribute::TxQueueLen(500),
            LinkAttribute::LinkNetNsId(-1),
            LinkAttribute::IfAlias("whose".into()),
            LinkAttribute::Group(42),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::State(BridgePortState::Blocking),
                    InfoBridgePort::HairpinMode(true),
                    InfoBridgePort::Isolated(true),
                ])),
            ]),
        ];
        let expected = Link {
            index: 7,
            name: "veth1".into(),
            kind: "veth".into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
            mtu: 1400,
            up: true,
            promiscuous: true,
            allmulti: true,
            queue: 500,
            running: true,
            controller: Some(5),
            peer: Some(3),
            peer_netns: Some(-1),
            alias: Some("whose".into()),
            group: 42,
            hairpin: true,
            isolated: true,
            blocked: true,
            vlan_filtering: false,
            default_vlan: 0,
            ipv6: None,
        };
        assert_eq!(read_link(&bytes(&message)).unwrap(), expected);
    }

    #[test]
    fn a_bridge_s_vlans_are_read() {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::VlanFiltering(true),
                InfoBridge::VlanDefaultPvid(12),
            ])),
        ])];
        let link = read_link(&bytes(&message)).unwrap();
        assert!(link.vlan_filtering && link.kind == "bridge");
        assert_eq!(link.default_vlan, 12);
    }

    #[test]
    fn the_settings_of_ipv6_are_read() {
        let mut settings = Inet6DevConf::default();
        (settings.accept_ra, settings.accept_dad) = (2, 1);
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![
            AfSpecUnspec::Inet(Vec::new()),
            AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(settings)]),
        ])];
        let read = Ipv6Settings {
            accept_ra: 2,
            accept_dad: 1,
        };
        assert_eq!(read_link(&bytes(&message)).unwrap().ipv6, Some(read));
    }

    #[test]
    fn truncated_messages_do_not_panic() {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName("veth1".into()), LinkAttribute::Mtu(9)];
        let whole = bytes(&message);
        for length in 0..whole.len() {
            if let Ok(link) = read_link(&whole[..length]) {
                assert_eq!(link.mtu, 0, "{length}");
            }
        }
    }
}
