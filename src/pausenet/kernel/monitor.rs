//! Netlink notifications, as `ip monitor` and `nft monitor` show them: changes of links, addresses
//! and routes, and of nftables. An event is a reason to read the state again, never the state
//! itself: the kernel drops notifications that are not read in time ([`Event::Overrun`]).

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;

/// Groups of NETLINK_ROUTE (RTNLGRP_… in linux/rtnetlink.h): links, and the addresses and routes of
/// both families.
const ROUTE_GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// NFNLGRP_NFTABLES.
const NFT_GROUP: u32 = 7;

/// A socket that only receives notifications.
pub struct Monitor(Socket);

/// A change of the kernel's state.
#[derive(Debug)]
pub enum Event {
    Route(Vec<RouteNetlinkMessage>),
    /// The nftables ruleset changed.
    Nft,
    /// The socket's buffer overflowed: the kernel dropped notifications.
    Overrun,
}

impl Monitor {
    /// Subscribes to links, addresses and routes in the calling thread's namespace.
    pub fn for_routes() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE, &ROUTE_GROUPS)
    }

    /// Subscribes to nftables in the calling thread's namespace.
    pub fn for_nft() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER, &[NFT_GROUP])
    }

    fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        // A socket without a netlink port ID receives no notifications.
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self(socket))
    }

    /// Waits for the next notification.
    pub fn next_event(&self) -> io::Result<Event> {
        let read = rustix::io::retry_on_intr(|| {
            self.0
                .recv_from_full()
                .map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
        });
        let (bytes, from) = match read {
            Err(Errno::NOBUFS) => return Ok(Event::Overrun),
            other => other?,
        };
        if from.port_number() != 0 {
            // Not from the kernel: any process can send to a netlink socket.
            return Ok(Event::Route(Vec::new()));
        }
        // The upper byte of a netfilter message's type is the subsystem.
        const NFNL_SUBSYS_NFTABLES: u8 = 10;
        if bytes.get(5) == Some(&NFNL_SUBSYS_NFTABLES) {
            return Ok(Event::Nft);
        }
        Ok(messages(&bytes).map_or(Event::Overrun, Event::Route))
    }
}

/// None if a message cannot be read.
fn messages(mut bytes: &[u8]) -> Option<Vec<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            messages.push(inner);
        }
    }
    Some(messages)
}
