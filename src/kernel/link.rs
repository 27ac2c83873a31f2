//! Links: bridges and veth pairs.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::netlink::{self, Request};
use super::{Refusal, RouteSocket};
use crate::cni::{IfName, MacAddr};

/// A link as the kernel describes it; only what somebody here asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The kernel's name for what it is: `bridge`, `veth`, …; empty for a device.
    pub kind: String,
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    /// Switched on by the administrator (IFF_UP).
    pub up: bool,
    pub promiscuous: bool,
    /// It can carry traffic (IFLA_OPERSTATE is UP).
    pub running: bool,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
    /// The other end of a veth, in that end's namespace.
    pub peer: Option<u32>,
    /// The other end's namespace, by the number that it has in this one; negative when it has
    /// none. None: this very namespace.
    pub peer_netns: Option<i32>,
    pub alias: Option<String>,
    pub group: u32,
    /// Of a bridge port.
    pub hairpin: bool,
    /// Of a bridge port.
    pub isolated: bool,
    /// Of a bridge.
    pub vlan_filtering: bool,
    /// Of a bridge: the VLAN that new ports are in; 0 for none.
    pub default_vlan: u16,
}

impl Link {
    fn read(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            promiscuous: flags.contains(LinkFlags::Promisc),
            running: false,
            controller: None,
            peer: None,
            peer_netns: None,
            alias: None,
            group: 0,
            hairpin: false,
            isolated: false,
            vlan_filtering: false,
            default_vlan: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(id),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::LinkInfo(infos) => link.read_info(infos),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = kind.to_string(),
                LinkInfo::Data(InfoData::Bridge(bridge)) => {
                    self.vlan_filtering = bridge.contains(&InfoBridge::VlanFiltering(true));
                    self.default_vlan = bridge
                        .iter()
                        .find_map(|info| match info {
                            InfoBridge::VlanDefaultPvid(vid) => Some(*vid),
                            _ => None,
                        })
                        .unwrap_or_default();
                }
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                    self.hairpin = port.contains(&InfoBridgePort::HairpinMode(true));
                    self.isolated = port.contains(&InfoBridgePort::Isolated(true));
                }
                _ => {}
            }
        }
    }
}

/// Which link is meant.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    Index(u32),
    Name(&'a IfName),
}

impl Which<'_> {
    fn builder(self) -> LinkMessageBuilder<LinkUnspec> {
        match self {
            Self::Index(index) => LinkUnspec::new_with_index(index),
            Self::Name(name) => LinkUnspec::new_with_name(name.as_str()),
        }
    }
}

/// A request for one link's description, for a batch; [`first`] reads the answer.
pub fn get_request(which: Which) -> Request<RouteNetlinkMessage> {
    let message = which
        .builder()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    (RouteNetlinkMessage::GetLink(message), 0)
}

/// The link in an answer, if there is one.
pub fn first(messages: Vec<RouteNetlinkMessage>) -> Option<Link> {
    links(messages).next()
}

fn links(messages: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    messages.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::read(link)),
        _ => None,
    })
}

/// Looks up one link; None when there is none.
///
/// # Errors
/// The kernel's refusal.
pub fn get(socket: &mut RouteSocket, which: Which) -> Result<Option<Link>, Refusal> {
    let (message, flags) = get_request(which);
    match socket.request(message, flags) {
        Ok(messages) => Ok(first(messages)),
        Err(refusal) if refusal.is(rustix::io::Errno::NODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Every link of the namespace.
///
/// # Errors
/// The kernel's refusal.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<Link>, Refusal> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let messages = socket.dump(RouteNetlinkMessage::GetLink(message))?;
    Ok(links(messages).collect())
}

/// Makes a bridge, switched on. Its MAC is set at birth, so that the kernel does not change it
/// with the ports that come and go.
///
/// # Errors
/// The kernel's refusal; EEXIST when the name is taken.
pub fn create_bridge(
    socket: &mut RouteSocket,
    name: &IfName,
    mac: MacAddr,
    mtu: Option<u32>,
    promiscuous: bool,
    vlan_filtering: bool,
) -> Result<(), Refusal> {
    let mut message = LinkBridge::new(name.as_str()).address(mac.0.to_vec()).up();
    if let Some(mtu) = mtu {
        message = message.mtu(mtu);
    }
    if promiscuous {
        message = message.promiscuous(true);
    }
    if vlan_filtering {
        message = message.vlan_filtering(true);
    }
    socket.request(
        RouteNetlinkMessage::NewLink(message.build()),
        NLM_F_CREATE | NLM_F_EXCL,
    )?;
    Ok(())
}

/// What [`create_veth`] is to make.
pub struct NewVeth<'a> {
    pub host_name: &'a IfName,
    pub container_name: &'a IfName,
    /// The namespace that the container's end is born in.
    pub container_netns: BorrowedFd<'a>,
    pub container_mac: MacAddr,
    pub host_mac: MacAddr,
    pub mtu: Option<u32>,
    /// The bridge that the host end is a port of.
    pub controller: Option<u32>,
    pub group: u32,
}

/// Makes a veth pair in one request: each end in its namespace and with its final name, the
/// host end switched on and a port of its bridge. Gives back the host end; its `peer` is the
/// container end's index.
///
/// # Errors
/// The kernel's refusal; EEXIST when either name is taken (nothing is made then).
pub fn create_veth(socket: &mut RouteSocket, new: &NewVeth) -> Result<Link, Refusal> {
    let mut peer = LinkUnspec::new_with_name(new.container_name.as_str())
        .address(new.container_mac.0.to_vec())
        .setns_by_fd(new.container_netns.as_raw_fd());
    let mut host = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(new.host_name.as_str())
        .address(new.host_mac.0.to_vec())
        .link_group(new.group)
        .up();
    if let Some(mtu) = new.mtu {
        peer = peer.mtu(mtu);
        host = host.mtu(mtu);
    }
    if let Some(controller) = new.controller {
        host = host.controller(controller);
    }
    let host = host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    let messages = socket.request(
        RouteNetlinkMessage::NewLink(host.build()),
        NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO,
    )?;
    // Kernels before 6.2 do not echo what they made.
    match first(messages) {
        Some(link) => Ok(link),
        None => get(socket, Which::Name(new.host_name))?
            .ok_or_else(|| std::io::Error::from(rustix::io::Errno::NODEV).into()),
    }
}

/// A request that switches a link on, for a batch.
pub fn up_request(index: u32) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index).up().build();
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// A request that gives a link its alias, for a batch.
pub fn alias_request(index: u32, alias: &str) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index).alias(alias).build();
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// A request that sets a bridge port's flags, for a batch.
pub fn port_request(index: u32, hairpin: bool, isolated: bool) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(hairpin),
            InfoBridgePort::Isolated(isolated),
        ]))
        .build();
    (RouteNetlinkMessage::NewLink(message), 0)
}

/// Sets a link's MAC.
///
/// # Errors
/// The kernel's refusal.
pub fn set_mac(socket: &mut RouteSocket, index: u32, mac: MacAddr) -> Result<(), Refusal> {
    let message = LinkUnspec::new_with_index(index)
        .address(mac.0.to_vec())
        .build();
    socket.request(RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(())
}

/// Switches a link on, and promiscuous mode too if asked.
///
/// # Errors
/// The kernel's refusal.
pub fn set_up(socket: &mut RouteSocket, index: u32, promiscuous: bool) -> Result<(), Refusal> {
    let mut message = LinkUnspec::new_with_index(index).up();
    if promiscuous {
        message = message.promiscuous(true);
    }
    socket.request(RouteNetlinkMessage::SetLink(message.build()), 0)?;
    Ok(())
}

/// Switches a link off.
///
/// # Errors
/// The kernel's refusal.
pub fn set_down(socket: &mut RouteSocket, index: u32) -> Result<(), Refusal> {
    let message = LinkUnspec::new_with_index(index).down().build();
    socket.request(RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(())
}

/// Removes a link; a veth goes with both its ends. One that is gone already is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn delete(socket: &mut RouteSocket, index: u32) -> Result<(), Refusal> {
    let message = LinkUnspec::new_with_index(index).build();
    match socket.request(RouteNetlinkMessage::DelLink(message), 0) {
        Err(refusal) if !refusal.is(rustix::io::Errno::NODEV) => Err(refusal),
        _ => Ok(()),
    }
}

/// Waits for the kernel's notice that a link carries traffic.
///
/// # Errors
/// ETIMEDOUT after `limit`; ENODEV when the link goes away; the kernel's refusal.
pub fn wait_running(index: u32, limit: std::time::Duration) -> Result<Link, Refusal> {
    let deadline = std::time::Instant::now() + limit;
    // Subscribed first and asked after that, no change can slip through between the two.
    let mut events = RouteSocket::open()?;
    events.subscribe(netlink::Group::Links)?;
    let mut socket = RouteSocket::open()?;
    loop {
        match get(&mut socket, Which::Index(index))? {
            None => return Err(std::io::Error::from(rustix::io::Errno::NODEV).into()),
            Some(link) if link.running => return Ok(link),
            Some(_) => {}
        }
        if !events.wait_event(deadline)? {
            return Err(std::io::Error::from(rustix::io::Errno::TIMEDOUT).into());
        }
    }
}
