//! A NETLINK_ROUTE socket, for requests and for notifications.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::error::{BatchError, KernelError};
use super::netlink::{RECEIVE_BUFFER, Reply, Socket};
use super::reply::Message;
use super::request::{ExpectedReply, Request};
use super::wait::wait_readable;

/// A NETLINK_ROUTE socket: links, addresses and routes.
pub struct RouteSocket(Socket);

/// The multicast groups to subscribe to (RTNLGRP_… in linux/rtnetlink.h).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Group {
    Links = 1,
    Ipv4Addresses = 5,
    Ipv6Addresses = 9,
    Ipv6Routes = 11,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, KernelError> {
        let socket = Socket::open(NETLINK_ROUTE)?;
        // Let the kernel filter dumps (since Linux 4.20; older kernels send everything, so every
        // caller of `dump` filters too).
        let _ = socket.socket.set_netlink_get_strict_chk(true);
        Ok(Self(socket))
    }

    /// Subscribes the socket to a group's notifications. It can no longer be used for requests.
    pub fn subscribe(&mut self, group: Group) -> Result<(), KernelError> {
        // A socket without a port ID has the kernel's, 0, and receives none of its notifications:
        // netlink does not send a message back to its sender.
        self.0.socket.bind_auto()?;
        Ok(self.0.socket.add_membership(group as u32)?)
    }

    /// Subscribes to several groups, in all namespaces that have an ID in the socket's namespace
    /// (those of the other ends of its veths).
    pub fn subscribe_everywhere(&mut self, groups: &[Group]) -> Result<(), KernelError> {
        self.0.socket.bind_auto()?;
        self.0.socket.set_listen_all_namespaces(true)?;
        for group in groups {
            self.0.socket.add_membership(*group as u32)?;
        }
        Ok(())
    }

    /// Waits for a notification and discards it. False when the deadline has passed.
    pub fn wait_event(&self, deadline: std::time::Instant) -> Result<bool, KernelError> {
        if !wait_readable(self, deadline)? {
            return Ok(false);
        }
        match self
            .0
            .socket
            .recv(&mut Vec::with_capacity(RECEIVE_BUFFER), libc::MSG_DONTWAIT)
        {
            // So many that the kernel dropped some: still an event.
            Err(err) if Errno::from_io_error(&err) == Some(Errno::NOBUFS) => Ok(true),
            // Announced, and then not there: no reason to wait beyond the deadline.
            Err(err) if Errno::from_io_error(&err) == Some(Errno::AGAIN) => Ok(true),
            news => Ok(news.map(|_| true)?),
        }
    }

    /// See [`Socket::exchange`].
    pub(crate) fn exchange(
        &mut self,
        requests: Vec<Request<RouteNetlinkMessage>>,
    ) -> Result<Vec<Reply<Message>>, KernelError> {
        self.0.exchange(requests)
    }

    /// See [`Socket::request`].
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Reply<Message> {
        self.0.request(message, flags)
    }

    /// Sends one request that was made for a batch.
    pub(crate) fn one(&mut self, request: Request<RouteNetlinkMessage>) -> Reply<Message> {
        self.0.one(request)
    }

    /// See [`Socket::all`].
    ///
    /// # Errors
    /// The first error, after all requests have been processed.
    pub fn all(&mut self, requests: Vec<Request<RouteNetlinkMessage>>) -> Result<(), BatchError> {
        self.0.all::<_, Message>(requests)
    }

    /// Reads one object with a message for which the crate has no type.
    pub(super) fn get<Q, A>(&mut self, message: Q) -> Reply<A>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        self.0
            .one(Request::expecting(message, ExpectedReply::Message))
    }

    /// See [`Socket::dump`].
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> Reply<Message> {
        self.0.dump(message)
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}
