//! A netlink socket that sends several requests at once and matches the replies to them.
//!
//! The kernel processes the requests of one send in a row, but an error does not stop those after
//! it: a batch may contain only requests that do not depend on one another.
//!
//! All replies to one send are in the socket's receive buffer when the send returns, and the kernel
//! drops those that do not fit. So long batches are sent in parts, and the replies to one part are
//! read before the next is sent. What must be one send, a transaction of nftables, asks for a
//! single reply.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::error::{BatchError, KernelError};
use super::reply::Message;

/// The most that the kernel puts into one part of a dump; no reply of our families is larger. (With
/// twice as much, the heap would grow and shrink with each request.)
const RECEIVE_BUFFER: usize = 32 * 1024;

/// How often an interrupted dump is tried before giving up.
const DUMP_TRIES: usize = 16;

/// The most bytes of requests in one send, unless they are a transaction: a sixth of the usual send
/// buffer (net.core.wmem_default).
const SEND_AT_ONCE: usize = 32 * 1024;

/// The most requests with a reply of their own in one send. The longest replies, an nftables element
/// with its comment and the ACK, take 3.5 kB of the receive buffer, which usually has 208 KiB
/// (net.core.rmem_default).
const REPLIES_AT_ONCE: usize = 32;

/// The most requests in one send that are answered only if they fail.
const ERRORS_AT_ONCE: usize = 128;

/// How large the receive buffer is made, if the kernel allows it, for many replies in a row.
const LARGE_RECEIVE_BUFFER: usize = 1024 * 1024;

/// How often requests are sent again whose replies were lost.
const LOST_TRIES: usize = 16;

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
    /// May be sent again when its reply was lost: it changes nothing.
    is_query: bool,
}

impl<T> Request<T> {
    /// A request that the kernel acknowledges, with flags beyond REQUEST and ACK.
    pub(super) fn new(message: T, flags: u16) -> Self {
        Self {
            message,
            flags,
            expected: ExpectedReply::Ack,
            is_query: false,
        }
    }

    /// A request that only asks. When the reply is lost, it is sent again.
    pub(super) fn query(message: T) -> Self {
        Self {
            is_query: true,
            ..Self::new(message, 0)
        }
    }

    /// A request with this reply and no flags. One that expects a message is a query.
    pub(super) fn expecting(message: T, expected: ExpectedReply) -> Self {
        Self {
            message,
            flags: 0,
            expected,
            is_query: expected == ExpectedReply::Message,
        }
    }
}

/// Requests as bytes, for one send.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    /// Where each request begins, what it expects, and whether it may be sent again.
    requests: Vec<Sent>,
    /// The sequence number of the first.
    first: u32,
}

#[derive(Clone, Copy)]
struct Sent {
    start: usize,
    expected: ExpectedReply,
    is_query: bool,
}

impl Part {
    fn with_sequence(first: u32) -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            first,
            ..Self::default()
        }
    }

    fn push<Q: NetlinkSerializable>(&mut self, request: Request<Q>) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | request.flags;
        if request.expected == ExpectedReply::Ack {
            header.flags |= NLM_F_ACK;
        }
        header.sequence_number = self.next();
        let payload = NetlinkPayload::InnerMessage(request.message);
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let start = self.bytes.len();
        let length = message.buffer_len().next_multiple_of(4);
        self.bytes.resize(start + length, 0);
        message.serialize(&mut self.bytes[start..]);
        self.requests.push(Sent {
            start,
            expected: request.expected,
            is_query: request.is_query,
        });
    }

    /// Makes the last request one that the kernel acknowledges.
    fn acknowledge_last(&mut self) {
        /// nlmsg_flags in struct nlmsghdr.
        const FLAGS: usize = 6;
        let Some(last) = self.requests.last_mut() else {
            return;
        };
        last.expected = ExpectedReply::Ack;
        if let Some([low, high]) = self
            .bytes
            .get_mut(last.start + FLAGS..last.start + FLAGS + 2)
        {
            let flags = u16::from_ne_bytes([*low, *high]) | NLM_F_ACK;
            [*low, *high] = flags.to_ne_bytes();
        }
    }

    /// The sequence number after the last.
    fn next(&self) -> u32 {
        self.first.wrapping_add(self.requests.len() as u32)
    }

    /// How many requests have a reply of their own.
    fn replies(&self) -> usize {
        let requests = self.requests.iter();
        requests.filter(|sent| sent.expected.is_sent()).count()
    }

    /// One of the requests alone, unchanged.
    fn only(&self, at: usize) -> Self {
        let sent = self.requests[at];
        let end = self
            .requests
            .get(at + 1)
            .map_or(self.bytes.len(), |next| next.start);
        Self {
            bytes: self.bytes[sent.start..end].to_vec(),
            requests: vec![Sent { start: 0, ..sent }],
            first: self.first.wrapping_add(at as u32),
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
    /// Whether a larger receive buffer was asked for.
    is_enlarged: bool,
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
        // Error texts from the kernel, since Linux 4.12.
        socket.set_ext_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
            is_enlarged: false,
        })
    }

    /// Sends requests and returns one reply for each, in their order. Up to [`REPLIES_AT_ONCE`] are
    /// one send.
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
        let mut replies = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        // The kernel refuses an empty send (ENODATA).
        while requests.peek().is_some() {
            let part = self.part(&mut requests);
            replies.extend(self.send_and_collect(&part)?);
        }
        Ok(replies)
    }

    /// Sends requests in as few sends as possible. Only the last of each send asks for an ACK: it
    /// arrives after all have been processed, and after all errors. No send follows one with an
    /// error.
    ///
    /// # Errors
    /// The first error with the index of its request, or an error of the socket itself.
    fn all<Q, A>(&mut self, requests: Vec<Request<Q>>) -> Result<(), BatchError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        self.all_except::<Q, A>(requests, |_| false)
    }

    /// Like [`Socket::all`], but passes over some errors.
    pub(super) fn all_except<Q, A>(
        &mut self,
        requests: Vec<Request<Q>>,
        is_success: impl Fn(&KernelError) -> bool,
    ) -> Result<(), BatchError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let without_ack = |request: Request<Q>| Request {
            expected: ExpectedReply::Nothing,
            ..request
        };
        let mut requests = requests.into_iter().map(without_ack).peekable();
        let mut done = 0;
        while requests.peek().is_some() {
            let mut part = self.part(&mut requests);
            part.acknowledge_last();
            let replies: Vec<Reply<A>> = self.send_and_collect(&part)?;
            for reply in replies {
                match reply {
                    Err(error) if !is_success(&error) => {
                        return Err(BatchError {
                            request: done,
                            error,
                        });
                    }
                    _ => done += 1,
                }
            }
        }
        Ok(())
    }

    /// Sends requests that the kernel takes as a whole or not at all, between `begin` and `end`.
    /// Only the last asks for an ACK.
    ///
    /// # Errors
    /// The first error with the index of its request, or an error of the whole.
    pub(super) fn transaction<Q, A>(
        &mut self,
        begin: Request<Q>,
        requests: Vec<Request<Q>>,
        end: Request<Q>,
    ) -> Result<(), BatchError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        if requests.is_empty() {
            return Ok(());
        }
        let mut part = Part::with_sequence(self.sequence);
        part.push(begin);
        for request in requests {
            part.push(Request {
                expected: ExpectedReply::Nothing,
                ..request
            });
        }
        part.acknowledge_last();
        part.push(end);
        self.sequence = part.next();
        let replies: Vec<Reply<A>> = self.send_and_collect(&part)?;
        for (at, reply) in replies.into_iter().enumerate() {
            // Of the whole, the first request is as good as any.
            let request = at.saturating_sub(1);
            reply.map_err(|error| BatchError { request, error })?;
        }
        Ok(())
    }

    /// The next requests that may be sent together.
    fn part<Q: NetlinkSerializable>(
        &mut self,
        requests: &mut impl Iterator<Item = Request<Q>>,
    ) -> Part {
        let mut part = Part::with_sequence(self.sequence);
        let mut replies = 0;
        // A request is short: one more does not exceed the buffer.
        while part.bytes.len() < SEND_AT_ONCE
            && replies < REPLIES_AT_ONCE
            && part.requests.len() < ERRORS_AT_ONCE
        {
            let Some(request) = requests.next() else {
                break;
            };
            replies += usize::from(request.expected.is_sent());
            part.push(request);
        }
        self.sequence = part.next();
        part
    }

    /// Sends a part and returns the replies. Queries whose reply was lost are sent again, one by
    /// one.
    fn send_and_collect<A: NetlinkDeserializable>(
        &mut self,
        part: &Part,
    ) -> Result<Vec<Reply<A>>, KernelError> {
        if part.replies() == REPLIES_AT_ONCE && !self.is_enlarged {
            // More than usual. What the kernel allows is enough: see below.
            self.is_enlarged = true;
            let _ = sockopt::set_socket_recv_buffer_size_force(&self.socket, LARGE_RECEIVE_BUFFER)
                .or_else(|_| {
                    sockopt::set_socket_recv_buffer_size(&self.socket, LARGE_RECEIVE_BUFFER)
                });
        }
        self.send(&part.bytes)?;
        let mut collected = self.collect(part)?;
        for _ in 0..LOST_TRIES {
            let lost = (0..part.requests.len())
                .filter(|at| collected.is_lost[*at] && part.requests[*at].is_query);
            let lost: Vec<_> = lost.collect();
            if lost.is_empty() {
                break;
            }
            for at in lost {
                let alone = part.only(at);
                self.send(&alone.bytes)?;
                let mut again = self.collect(&alone)?;
                collected.is_lost[at] = again.is_lost[0];
                collected.replies[at] = again.replies.remove(0);
            }
        }
        Ok(collected.replies)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        let send = || {
            let sent = self.socket.send(bytes, 0).map(drop);
            sent.map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
        };
        match send() {
            // A transaction larger than the send buffer.
            Err(Errno::MSGSIZE) => {
                let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, bytes.len())
                    .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, bytes.len()));
                Ok(send()?)
            }
            sent => Ok(sent?),
        }
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
                Err(error) if error.is(Errno::INTR) || error.is(Errno::NOBUFS) => {}
                reply => return reply,
            }
        }
        self.request(message, NLM_F_DUMP)
    }

    /// Reads the replies to a part that was sent.
    fn collect<T: NetlinkDeserializable>(
        &mut self,
        part: &Part,
    ) -> Result<Collected<T>, KernelError> {
        let mut collected = Collected {
            replies: part.requests.iter().map(|_| Ok(Vec::new())).collect(),
            is_lost: vec![false; part.requests.len()],
        };
        let mut is_open: Vec<_> = part
            .requests
            .iter()
            .map(|sent| sent.expected.is_sent())
            .collect();
        let mut open = part.replies();
        let Self { socket, buffer, .. } = self;
        let mut flags = 0;
        while open > 0 {
            buffer.clear();
            buffer.reserve(RECEIVE_BUFFER);
            let received = rustix::io::retry_on_intr(|| {
                socket
                    .recv(buffer, flags)
                    .map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
            });
            match received {
                Ok(_) => {}
                // The kernel dropped replies; it had processed all requests before. What fitted is
                // there and must be read: until then, the kernel drops all replies.
                Err(Errno::NOBUFS) => {
                    flags = libc::MSG_DONTWAIT;
                    continue;
                }
                Err(Errno::AGAIN) if flags != 0 => break,
                Err(errno) => return Err(errno.into()),
            }
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // Not for this exchange: left over from one that failed half-way.
                let at = message.header.sequence_number.wrapping_sub(part.first) as usize;
                let (Some(reply), Some(sent)) =
                    (collected.replies.get_mut(at), part.requests.get(at))
                else {
                    continue;
                };
                let mut close = || {
                    if std::mem::take(&mut is_open[at]) {
                        open -= 1;
                    }
                };
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    *reply = Err(io::Error::from(Errno::INTR).into());
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        if let Ok(messages) = reply {
                            messages.push(inner);
                        }
                        if sent.expected == ExpectedReply::Message {
                            close();
                        }
                    }
                    NetlinkPayload::Done(done) => {
                        if done.code != 0 && reply.is_ok() {
                            *reply = Err(io::Error::from_raw_os_error(done.code.abs()).into());
                        }
                        close();
                    }
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() {
                            let note = extended_ack(&error.header);
                            *reply = Err(KernelError {
                                error: error.to_io(),
                                note,
                            });
                        }
                        match sent.expected {
                            ExpectedReply::NothingForBatch => return Ok(collected),
                            ExpectedReply::Nothing => {}
                            ExpectedReply::Ack | ExpectedReply::Message => close(),
                        }
                    }
                    _ => {}
                }
            }
        }
        // The kernel keeps the order, so it dropped the last replies: an error that comes first has
        // arrived.
        let lost = is_open
            .into_iter()
            .enumerate()
            .filter(|(_, is_open)| *is_open);
        for (at, _) in lost {
            if collected.replies[at].is_ok() {
                collected.replies[at] = Err(KernelError {
                    error: Errno::NOBUFS.into(),
                    note: Some("the reply was lost: the receive buffer was full".into()),
                });
            }
            collected.is_lost[at] = true;
        }
        Ok(collected)
    }
}

/// The replies to a part.
struct Collected<T> {
    replies: Vec<Reply<T>>,
    /// Those that the kernel dropped; they are errors in `replies`.
    is_lost: Vec<bool>,
}

/// The kernel's text for an error: attribute NLMSGERR_ATTR_MSG after the echoed request.
fn extended_ack(echoed: &[u8]) -> Option<String> {
    const ATTR_MSG: u16 = 1;
    // A request begins with its length.
    let request = u32::from_ne_bytes(*echoed.first_chunk()?) as usize;
    let mut rest = echoed.get(request.checked_next_multiple_of(4)?..)?;
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

    /// A receive buffer for two replies at most (SOCK_MIN_RCVBUF): the kernel drops the others.
    #[test]
    fn replies_that_do_not_fit_are_asked_for_again() {
        use netlink_packet_route::link::LinkMessage;
        let mut loopback = LinkMessage::default();
        loopback.header.index = 1;
        let ask = |expected| {
            let message = RouteNetlinkMessage::GetLink(loopback.clone());
            Request::expecting(message, expected)
        };
        for expected in [ExpectedReply::Message, ExpectedReply::Ack] {
            let mut socket = Socket::open(NETLINK_ROUTE).unwrap();
            sockopt::set_socket_recv_buffer_size(&socket.socket, 1).unwrap();
            socket.is_enlarged = true;
            let requests: Vec<_> = (0..100).map(|_| ask(expected)).collect();
            let is_query = requests[0].is_query;
            let replies: Vec<Reply<Message>> = socket.exchange(requests).unwrap();
            assert_eq!(replies.len(), 100);
            let lost = replies.iter().filter(|reply| match reply {
                Ok(messages) => {
                    assert!(matches!(&messages[..], [Message::Link(link)] if link.name == "lo"));
                    false
                }
                Err(error) => {
                    assert!(error.is(Errno::NOBUFS), "{error}");
                    true
                }
            });
            assert_eq!(lost.count() == 0, is_query);
            // Nothing is left over, and the socket still works.
            let reply: Reply<Message> = socket.one(ask(ExpectedReply::Message));
            assert_eq!(reply.unwrap().len(), 1);
        }
    }

    #[test]
    fn the_kernel_s_words_are_found_among_other_attributes() {
        let mut echoed = vec![0; 20];
        echoed[..4].copy_from_slice(&18_u32.to_ne_bytes());
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
