//! Netlink requests: the message, the reply that is expected, and the parts that a long batch is
//! sent in.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

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
    pub(super) fn is_sent(self) -> bool {
        matches!(self, Self::Ack | Self::Message)
    }
}

/// A message to the kernel, and its expected reply.
#[derive(Debug, Clone)]
pub struct Request<T> {
    message: T,
    /// NLM_F_… flags beyond REQUEST and ACK.
    flags: u16,
    pub(super) expected: ExpectedReply,
    /// May be sent again when its reply was lost: it changes nothing.
    pub(super) is_query: bool,
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

    /// The request, answered only if it fails.
    pub(super) fn without_reply(self) -> Self {
        Self {
            expected: ExpectedReply::Nothing,
            ..self
        }
    }
}

/// Requests as bytes, for one send.
#[derive(Default)]
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    /// Where each request begins, what it expects, and whether it may be sent again.
    pub(super) requests: Vec<Sent>,
    /// The sequence number of the first.
    pub(super) first: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Sent {
    start: usize,
    pub(super) expected: ExpectedReply,
    pub(super) is_query: bool,
}

impl Part {
    pub(super) fn with_sequence(first: u32) -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            first,
            ..Self::default()
        }
    }

    pub(super) fn push<Q: NetlinkSerializable>(&mut self, request: Request<Q>) {
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
    pub(super) fn acknowledge_last(&mut self) {
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
    pub(super) fn next(&self) -> u32 {
        self.first.wrapping_add(self.requests.len() as u32)
    }

    /// How many requests have a reply of their own.
    pub(super) fn replies(&self) -> usize {
        let requests = self.requests.iter();
        requests.filter(|sent| sent.expected.is_sent()).count()
    }

    /// One of the requests alone, unchanged.
    pub(super) fn only(&self, at: usize) -> Self {
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
