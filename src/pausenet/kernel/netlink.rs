//! A netlink socket that sends several requests at once and matches the replies to them.
//!
//! The kernel processes the requests of one send in a row, but an error does not stop those after
//! it: a batch may contain only requests that do not depend on one another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::error::{BatchError, KernelError};
use super::reply::Message;

/// The most that the kernel puts into one part of a dump; no reply of our families is larger. (With
/// twice as much, the heap would grow and shrink with each request.)
const RECEIVE_BUFFER: usize = 32 * 1024;

/// How often an interrupted dump is tried before giving up.
const DUMP_TRIES: usize = 16;

/// The reply expected to a successful request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedReply {
    /// Messages, if any, then an ACK or the end of a dump.
    Ack,
    /// One message. (An ACK after it would be one more to wait for.)
    Message,
    /// No reply; an error concerns this request alone.
    Nothing,
    /// No reply; an error means that the whole batch failed, and is then the only reply. This is
    /// the case for the messages around an nftables transaction.
    NothingForBatch,
}

impl ExpectedReply {
    /// Whether the kernel sends a reply on success.
    fn is_sent(self) -> bool {
        matches!(self, Self::Ack | Self::Message)
    }
}

/// A message to the kernel, and its expected reply.
#[derive(Debug, Clone)]
pub struct Request<T> {
    message: T,
    /// NLM_F_… flags beyond REQUEST and ACK.
    flags: u16,
    expected: ExpectedReply,
}

impl<T> Request<T> {
    /// A request that the kernel acknowledges, with flags beyond REQUEST and ACK.
    pub(super) fn new(message: T, flags: u16) -> Self {
        Self {
            message,
            flags,
            expected: ExpectedReply::Ack,
        }
    }

    /// A request with this reply and no flags.
    pub(super) fn expecting(message: T, expected: ExpectedReply) -> Self {
        Self {
            message,
            flags: 0,
            expected,
        }
    }
}

/// The kernel's reply: messages (often none), or its error.
pub(super) type Reply<T> = Result<Vec<T>, KernelError>;

/// A socket of one netlink family, in the namespace where it was opened.
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    /// The last received data; reused for all replies.
    buffer: Vec<u8>,
}

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

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open(protocol: isize) -> Result<Self, KernelError> {
        let socket = netlink_sys::Socket::new(protocol)?;
        // Error texts from the kernel, and short ACKs; both since Linux 4.12.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Sends requests together and returns one reply for each, in their order.
    ///
    /// # Errors
    /// An error of the socket itself; those of single requests are in the replies.
    pub(super) fn exchange<Q, A>(
        &mut self,
        requests: Vec<Request<Q>>,
    ) -> Result<Vec<Reply<A>>, KernelError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        if requests.is_empty() {
            // The kernel refuses an empty send (ENODATA).
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let expected: Vec<_> = requests.iter().map(|request| request.expected).collect();
        let mut bytes = Vec::with_capacity(1024);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | request.flags;
            if request.expected == ExpectedReply::Ack {
                header.flags |= NLM_F_ACK;
            }
            header.sequence_number = self.sequence;
            let payload = NetlinkPayload::InnerMessage(request.message);
            let mut message = NetlinkMessage::new(header, payload);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.socket.send(&bytes, 0)?;
        self.collect(first, &expected)
    }

    /// Sends requests together. Only the last asks for an ACK: it arrives after all have been
    /// processed, and after all errors.
    ///
    /// # Errors
    /// The first error with the index of its request, or an error of the socket itself.
    fn all<Q, A>(&mut self, mut requests: Vec<Request<Q>>) -> Result<(), BatchError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let last = requests.len().saturating_sub(1);
        for (at, request) in requests.iter_mut().enumerate() {
            request.expected = if at == last {
                ExpectedReply::Ack
            } else {
                ExpectedReply::Nothing
            };
        }
        let replies: Vec<Reply<A>> = self.exchange(requests)?;
        for (request, reply) in replies.into_iter().enumerate() {
            reply.map_err(|error| BatchError { request, error })?;
        }
        Ok(())
    }

    /// Sends one request.
    pub(super) fn request<Q, A>(&mut self, message: Q, flags: u16) -> Reply<A>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        self.one(Request::new(message, flags))
    }

    fn one<Q, A>(&mut self, request: Request<Q>) -> Reply<A>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let reply = self.exchange(vec![request])?.pop();
        reply.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Lists objects. A list that changed while it was read is read again.
    pub(super) fn dump<Q, A>(&mut self, message: Q) -> Reply<A>
    where
        Q: NetlinkSerializable + Clone,
        A: NetlinkDeserializable,
    {
        for _ in 1..DUMP_TRIES {
            match self.request(message.clone(), NLM_F_DUMP) {
                Err(error) if error.is(Errno::INTR) => {}
                reply => return reply,
            }
        }
        self.request(message, NLM_F_DUMP)
    }

    fn collect<T: NetlinkDeserializable>(
        &mut self,
        first: u32,
        expected: &[ExpectedReply],
    ) -> Result<Vec<Reply<T>>, KernelError> {
        let mut replies: Vec<Reply<T>> = expected.iter().map(|_| Ok(Vec::new())).collect();
        let mut open = expected.iter().filter(|reply| reply.is_sent()).count();
        let Self { socket, buffer, .. } = self;
        while open > 0 {
            buffer.clear();
            buffer.reserve(RECEIVE_BUFFER);
            rustix::io::retry_on_intr(|| {
                socket
                    .recv(buffer, 0)
                    .map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
            })?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // Not for this exchange: left over from one that failed half-way.
                let at = message.header.sequence_number.wrapping_sub(first) as usize;
                let Some(reply) = replies.get_mut(at) else {
                    continue;
                };
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    *reply = Err(io::Error::from(Errno::INTR).into());
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        if let Ok(messages) = reply {
                            messages.push(inner);
                        }
                        if expected[at] == ExpectedReply::Message {
                            open -= 1;
                        }
                    }
                    NetlinkPayload::Done(done) => {
                        if done.code != 0 && reply.is_ok() {
                            *reply = Err(io::Error::from_raw_os_error(done.code.abs()).into());
                        }
                        open -= 1;
                    }
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() {
                            let note = extended_ack(&error.header);
                            *reply = Err(KernelError {
                                error: error.to_io(),
                                note,
                            });
                        }
                        match expected[at] {
                            ExpectedReply::NothingForBatch => return Ok(replies),
                            ExpectedReply::Nothing => {}
                            ExpectedReply::Ack | ExpectedReply::Message => open -= 1,
                        }
                    }
                    NetlinkPayload::Overrun(_) => return Err(Errno::NOBUFS.into()),
                    _ => {}
                }
            }
        }
        Ok(replies)
    }
}

/// The kernel's text for an error: attribute NLMSGERR_ATTR_MSG after the echoed header.
fn extended_ack(echoed: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const ATTR_MSG: u16 = 1;
    let mut rest = echoed.get(HEADER..)?;
    while let [len_lo, len_hi, kind_lo, kind_hi, ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*len_lo, *len_hi]));
        let kind = u16::from_ne_bytes([*kind_lo, *kind_hi]) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
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
        use rustix::event::{PollFd, PollFlags, poll};
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = left.try_into().map_err(io::Error::other)?;
        let mut polled = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut polled, Some(&timeout)))? == 0 {
            return Ok(false);
        }
        match self
            .0
            .socket
            .recv(&mut Vec::with_capacity(RECEIVE_BUFFER), 0)
        {
            // So many that the kernel dropped some: still an event.
            Err(err) if Errno::from_io_error(&err) == Some(Errno::NOBUFS) => Ok(true),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_found_among_other_attributes() {
        let mut echoed = vec![0; 16];
        echoed.extend([8, 0, 2, 0, 9, 9, 9, 9]); // NLMSGERR_ATTR_OFFS
        echoed.extend([11, 0, 1, 0]);
        echoed.extend(b"no way\0\0");
        assert_eq!(extended_ack(&echoed).as_deref(), Some("no way"));
    }

    #[test]
    fn a_cut_off_extended_ack_is_no_extended_ack() {
        for length in 0..20 {
            assert_eq!(extended_ack(&vec![0xff; length]), None);
        }
        assert_eq!(extended_ack(&[0; 40]), None);
    }
}
