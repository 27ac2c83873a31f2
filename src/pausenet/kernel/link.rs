//! Links: bridges and veth pairs.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

pub use super::reply::{Ipv6Settings, Link};

use super::error::KernelError;
use super::netlink::Reply;
use super::reply::Message;
use super::request::{ExpectedReply, Request};
use super::route_socket::Group;
use super::route_socket::RouteSocket;
use crate::cni::tuning::Attributes;
use crate::cni::{IfName, MacAddr};

/// Selects a link.
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

/// A request for one link's description, for a batch; [`first`] reads the reply.
pub(crate) fn get_request(which: Which) -> Request<RouteNetlinkMessage> {
    let message = which
        .builder()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    Request::expecting(
        RouteNetlinkMessage::GetLink(message),
        ExpectedReply::Message,
    )
}

/// The link in a reply, if there is one.
pub(crate) fn first(messages: Vec<Message>) -> Option<Link> {
    links(messages).next()
}

fn links(messages: Vec<Message>) -> impl Iterator<Item = Link> {
    messages.into_iter().filter_map(|message| match message {
        Message::Link(link) => Some(*link),
        Message::Other(_) => None,
    })
}

/// Looks up one link; None when it does not exist.
pub fn get(socket: &mut RouteSocket, which: Which) -> Result<Option<Link>, KernelError> {
    match socket.one(get_request(which)) {
        Ok(messages) => Ok(first(messages)),
        Err(error) if error.is(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link of the namespace.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<Link>, KernelError> {
    let without_counters = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    list_by(socket, without_counters)
}

/// Every link of another namespace, by its ID in this one (netnsid). With a mask, the kernel would first
/// measure every link of this namespace.
pub fn list_of_namespace(socket: &mut RouteSocket, id: i32) -> Result<Vec<Link>, KernelError> {
    list_by(socket, LinkAttribute::IfNetnsId(id))
}

fn list_by(socket: &mut RouteSocket, filter: LinkAttribute) -> Result<Vec<Link>, KernelError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .append_extra_attribute(filter)
        .build();
    let messages = socket.dump(RouteNetlinkMessage::GetLink(message))?;
    Ok(links(messages).collect())
}

/// The bridge that [`create_bridge`] makes.
pub struct NewBridge<'a> {
    pub name: &'a IfName,
    pub mac: MacAddr,
    pub mtu: Option<u32>,
    pub promiscuous: bool,
    pub vlan_filtering: bool,
    pub group: u32,
}

/// Creates a bridge and switches it on. Its MAC is set at creation, so that the kernel does not
/// change it as ports come and go.
///
/// # Errors
/// The kernel's error; EEXIST when the name is taken.
pub fn create_bridge(socket: &mut RouteSocket, new: &NewBridge) -> Result<(), KernelError> {
    let mut message = LinkBridge::new(new.name.as_str())
        .address(new.mac.0.to_vec())
        .link_group(new.group)
        .up();
    if let Some(mtu) = new.mtu {
        message = message.mtu(mtu);
    }
    if new.promiscuous {
        message = message.promiscuous(true);
    }
    if new.vlan_filtering {
        message = message.vlan_filtering(true);
    }
    socket.request(
        RouteNetlinkMessage::NewLink(message.build()),
        NLM_F_CREATE | NLM_F_EXCL,
    )?;
    Ok(())
}

/// The veth pair that [`create_veth`] makes.
pub struct NewVeth<'a> {
    pub host_name: &'a IfName,
    pub container_name: &'a IfName,
    /// The namespace in which the container end is created.
    pub container_netns: BorrowedFd<'a>,
    pub container_mac: MacAddr,
    pub host_mac: MacAddr,
    pub mtu: Option<u32>,
    /// The bridge that the host end is a port of.
    pub controller: Option<u32>,
    pub group: u32,
}

/// Creates a veth pair in one request: each end in its namespace and with its final name, the host
/// end switched on and attached to its bridge. Returns the host end; its `peer` is the container
/// end's index.
///
/// # Errors
/// The kernel's error; EEXIST when either name is taken (then neither end is created).
pub fn create_veth(socket: &mut RouteSocket, new: &NewVeth) -> Result<Link, KernelError> {
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
    // Kernels before 6.2 do not echo the new link.
    match first(messages) {
        Some(link) => Ok(link),
        None => {
            get(socket, Which::Name(new.host_name))?.ok_or_else(|| rustix::io::Errno::NODEV.into())
        }
    }
}

/// A request that makes a link announce its IPv4 addresses whenever its MAC changes (`arp_notify`),
/// and with `up` also switches it on, without announcement; for a batch. Through /proc/sys, the
/// kernel would cache an entry of the same name for each namespace and search all of them at each
/// lookup: a millisecond with a thousand pods.
pub(crate) fn notify_request(index: u32, up: bool) -> Request<RouteNetlinkMessage> {
    let mut message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::Other(arp_notify()));
    if up {
        message = message.up();
    }
    Request::new(RouteNetlinkMessage::SetLink(message.build()), 0)
}

/// IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF with one setting (linux/if_link.h). The crate's type has
/// all settings, and building it takes a tenth of an ADD's computing time.
fn arp_notify() -> DefaultNla {
    const AF_SPEC: u16 = 26;
    const INET: u16 = 2;
    const CONF: u16 = 1;
    const ARP_NOTIFY: u16 = 22; // IPV4_DEVCONF_… in linux/ip.h
    let within = |kind: u16, inner: DefaultNla| {
        let mut value = vec![0; inner.buffer_len()];
        inner.emit(&mut value);
        DefaultNla::new(kind, value)
    };
    let setting = DefaultNla::new(ARP_NOTIFY, 1u32.to_ne_bytes().to_vec());
    within(AF_SPEC, within(INET, within(CONF | NLA_F_NESTED, setting)))
}

/// A request that sets a link's alias, for a batch.
pub fn alias_request(index: u32, alias: &str) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index).alias(alias).build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// A request that sets a bridge port's flags, for a batch.
pub(crate) fn port_request(
    index: u32,
    hairpin: bool,
    isolated: bool,
) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(hairpin),
            InfoBridgePort::Isolated(isolated),
        ]))
        .build();
    Request::new(RouteNetlinkMessage::NewLink(message), 0)
}

/// Sets a link's MAC.
pub(crate) fn set_mac(
    socket: &mut RouteSocket,
    index: u32,
    mac: MacAddr,
) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(index)
        .address(mac.0.to_vec())
        .build();
    socket.request(RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(())
}

/// Requests that give a link each of these attributes, for a batch, and what each attempts. The MAC comes last: a
/// link that is on may announce it, with all that precedes.
pub(crate) fn attribute_requests(
    index: u32,
    wanted: &Attributes,
) -> Vec<(Request<RouteNetlinkMessage>, String)> {
    let link = || LinkUnspec::new_with_index(index);
    let on = |on: bool| if on { "on" } else { "off" };
    let changes = [
        (wanted.promisc).map(|to| (link().promiscuous(to), format!("switch promisc {}", on(to)))),
        (wanted.allmulti).map(|to| {
            (
                link().allmulticast(to),
                format!("switch allmulti {}", on(to)),
            )
        }),
        (wanted.mtu).map(|to| (link().mtu(to), format!("set the MTU to {to}"))),
        (wanted.queue).map(|to| {
            let queue = LinkAttribute::TxQueueLen(to);
            (
                link().append_extra_attribute(queue),
                format!("set txQLen to {to}"),
            )
        }),
        (wanted.mac).map(|to| {
            (
                link().address(to.0.to_vec()),
                format!("set the MAC to {to}"),
            )
        }),
    ];
    let changes = changes.into_iter().flatten();
    let request =
        |link: LinkMessageBuilder<_>| Request::new(RouteNetlinkMessage::SetLink(link.build()), 0);
    changes
        .map(|(link, attempt)| (request(link), attempt))
        .collect()
}

/// Switches a link on, and promiscuous mode too if asked.
pub fn set_up(socket: &mut RouteSocket, index: u32, promiscuous: bool) -> Result<(), KernelError> {
    let mut message = LinkUnspec::new_with_index(index).up();
    if promiscuous {
        message = message.promiscuous(true);
    }
    socket.request(RouteNetlinkMessage::SetLink(message.build()), 0)?;
    Ok(())
}

/// Switches a link off.
pub(crate) fn set_down(socket: &mut RouteSocket, index: u32) -> Result<(), KernelError> {
    let message = LinkUnspec::new_with_index(index).down().build();
    socket.request(RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(())
}

/// Removes a link; of a veth, both ends. Succeeds when it is already gone.
pub fn delete(socket: &mut RouteSocket, index: u32) -> Result<(), KernelError> {
    unless_gone(socket.one(delete_request(index)))
}

/// A request to remove a link.
pub(super) fn delete_request(index: u32) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index).build();
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}

/// The outcome of a removal: what is gone need not be removed.
pub(super) fn unless_gone(reply: Reply<Message>) -> Result<(), KernelError> {
    match reply {
        Err(error) if !error.is(rustix::io::Errno::NODEV) => Err(error),
        _ => Ok(()),
    }
}

/// A request that puts a link into a group, for a batch.
pub(crate) fn group_request(index: u32, group: u32) -> Request<RouteNetlinkMessage> {
    let message = LinkUnspec::new_with_index(index).link_group(group).build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Removes all links of a group. Succeeds when it is empty.
///
/// # Errors
/// The kernel's error; EOPNOTSUPP when one of them is a physical device: then none is removed.
pub(crate) fn delete_group(socket: &mut RouteSocket, group: u32) -> Result<(), KernelError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .link_group(group)
        .build();
    unless_gone(socket.request(RouteNetlinkMessage::DelLink(message), 0))
}

/// Waits for the kernel's notification that a link is up and running.
///
/// # Errors
/// ETIMEDOUT after `limit`; ENODEV when the link goes away; the kernel's error.
pub fn wait_running(index: u32, limit: std::time::Duration) -> Result<Link, KernelError> {
    let deadline = std::time::Instant::now() + limit;
    // Subscribe before asking, so that no change in between is missed.
    let mut events = RouteSocket::open()?;
    events.subscribe(Group::Links)?;
    let mut socket = RouteSocket::open()?;
    loop {
        match get(&mut socket, Which::Index(index))? {
            None => return Err(rustix::io::Errno::NODEV.into()),
            Some(link) if link.running => return Ok(link),
            Some(_) => {}
        }
        if !events.wait_event(deadline)? {
            return Err(rustix::io::Errno::TIMEDOUT.into());
        }
    }
}
