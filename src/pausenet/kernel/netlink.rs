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
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::error::{BatchError, KernelError, extended_ack};
use super::request::{ExpectedReply, Part, Request};
use super::wait::wait_for_reply;

/// The most that the kernel puts into one part of a dump; no reply of our families is larger. (With
/// twice as much, the heap would grow and shrink with each request.)
pub(super) const RECEIVE_BUFFER: usize = 32 * 1024;

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

/// How long to wait for a reply. The kernel has queued it, or the next part of a list, before the
/// system call before it returned: if there is none by then, none comes.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// The kernel's reply: messages (often none), or its error.
pub(super) type Reply<T> = Result<Vec<T>, KernelError>;

/// A socket of one netlink family, in the namespace where it was opened.
pub(super) struct Socket {
    pub(super) socket: netlink_sys::Socket,
    sequence: u32,
    /// The last received data; reused for all replies.
    buffer: Vec<u8>,
    /// Whether a larger receive buffer was asked for.
    is_enlarged: bool,
    /// Whether the kernel checks the permission once for all requests of a send, and refuses them
    /// with one reply, to the first.
    is_refused_at_once: bool,
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
            is_refused_at_once: protocol == NETLINK_NETFILTER,
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
    pub(super) fn all<Q, A>(&mut self, requests: Vec<Request<Q>>) -> Result<(), BatchError>
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
        let mut requests = requests.into_iter().map(Request::without_reply).peekable();
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
            part.push(request.without_reply());
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

    /// The bytes of one request, which another process sends.
    pub(super) fn prepare<Q: NetlinkSerializable>(&mut self, request: Request<Q>) -> Part {
        self.part(&mut std::iter::once(request).peekable())
    }

    /// The reply to a request that another process sent.
    pub(super) fn receive<A: NetlinkDeserializable>(&mut self, request: &Part) -> Reply<A> {
        let reply = self.collect(request)?.replies.pop();
        reply.unwrap_or_else(|| Ok(Vec::new()))
    }

    pub(super) fn one<Q, A>(&mut self, request: Request<Q>) -> Reply<A>
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
        let Self {
            socket,
            buffer,
            is_refused_at_once,
            ..
        } = self;
        let mut dropped = false;
        while open > 0 {
            buffer.clear();
            buffer.reserve(RECEIVE_BUFFER);
            let received = rustix::io::retry_on_intr(|| {
                socket
                    .recv(buffer, libc::MSG_DONTWAIT)
                    .map_err(|err| Errno::from_io_error(&err).unwrap_or(Errno::IO))
            });
            match received {
                Ok(_) => {}
                // The kernel dropped replies; it had processed all requests before. What fitted is
                // there and must be read: until then, the kernel drops all replies.
                Err(Errno::NOBUFS) => {
                    dropped = true;
                    continue;
                }
                Err(Errno::AGAIN) if dropped => break,
                Err(Errno::AGAIN) => {
                    wait_for_reply(&*socket, REPLY_LIMIT)?;
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            }
            let mut rest = &buffer[..];
            while let Some((length, sequence)) = head(rest) {
                let (bytes, others) = rest.split_at(length.min(rest.len()));
                rest = others;
                // Not for this exchange, and perhaps of another type: left over from one that failed
                // half-way.
                let at = sequence.wrapping_sub(part.first) as usize;
                let (Some(reply), Some(sent)) =
                    (collected.replies.get_mut(at), part.requests.get(at))
                else {
                    continue;
                };
                let message = NetlinkMessage::<T>::deserialize(bytes).map_err(io::Error::other)?;
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
                        let is_refused = reply.as_ref().is_err_and(|it| it.is(Errno::PERM));
                        if *is_refused_at_once && at == 0 && is_refused {
                            let refused = || Err(io::Error::from(Errno::PERM).into());
                            collected.replies.fill_with(refused);
                            return Ok(collected);
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

/// The length of the first message with its padding, and its sequence number.
fn head(messages: &[u8]) -> Option<(usize, u32)> {
    let number = |at: usize| Some(u32::from_ne_bytes(*messages.get(at..)?.first_chunk()?));
    let length = (number(0)? as usize).next_multiple_of(4);
    Some((length.max(NLMSG_HEADER), number(8)?))
}

/// The size of struct nlmsghdr.
const NLMSG_HEADER: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::reply::Message;
    use super::*;
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_sys::protocols::NETLINK_ROUTE;

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
}
