//! Netlink messages, encoded by hand: the overhead of a library must not count as the kernel's cost.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

const REQUEST: u16 = 1;
const CREATE_EXCLUSIVELY: u16 = 0x400 | 0x200;

/// IFLA_… and RT_SCOPE_… numbers.
pub(crate) const IFNAME: u16 = 3;
pub(crate) const MASTER: u16 = 10;
pub(crate) const ALIAS: u16 = 20;
pub(crate) const GROUP: u16 = 27;
pub(crate) const EXT_MASK: u16 = 29;
/// RTEXT_FILTER_SKIP_STATS.
pub(crate) const SKIP_STATS: u32 = 8;
pub(crate) const UNIVERSE: u8 = 0;
pub(crate) const LINK: u8 = 253;
pub(crate) const HOST: u8 = 254;
const LINK_INFO: u16 = 18;
const NET_NS_FD: u16 = 28;
const NESTED: u16 = 0x8000;

/// The message types: RTM_… numbers, and those of nftables with the subsystem in the upper byte.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    NewVeth,
    GetLink,
    SetLink,
    DelLink,
    NewAddress,
    NewRoute,
    NewElement,
    DelElement,
    BatchBegin,
    BatchEnd,
}

impl Kind {
    fn number_and_flags(self) -> (u16, u16) {
        match self {
            Self::NewVeth => (16, CREATE_EXCLUSIVELY),
            Self::DelLink => (17, 0),
            Self::GetLink => (18, 0),
            Self::SetLink => (19, 0),
            Self::NewAddress => (20, CREATE_EXCLUSIVELY),
            Self::NewRoute => (24, CREATE_EXCLUSIVELY),
            Self::NewElement => (10 << 8 | 12, CREATE_EXCLUSIVELY),
            Self::DelElement => (10 << 8 | 14, 0),
            Self::BatchBegin => (16, 0),
            Self::BatchEnd => (17, 0),
        }
    }
}

/// AF_INET or AF_INET6, by an address's length.
fn family(address: &[u8]) -> u8 {
    match address.len() {
        4 => 2,
        _ => 10,
    }
}

/// Messages for one send, and a socket in the namespace they are for.
pub(crate) struct Batch {
    socket: Socket,
    bytes: Vec<u8>,
    /// Where the last message starts.
    at: usize,
    /// How many messages get a reply.
    expected_replies: usize,
}

impl Batch {
    pub(crate) fn new(protocol: isize) -> io::Result<Self> {
        let mut batch = Self {
            socket: Socket::new(protocol)?,
            bytes: Vec::with_capacity(1024),
            at: 0,
            expected_replies: 0,
        };
        if protocol == NETLINK_NETFILTER {
            batch.start(Kind::BatchBegin).push(&[0, 0, 0, 10]);
        }
        Ok(batch)
    }

    /// Starts a message; what is added later belongs to it.
    pub(crate) fn start(&mut self, kind: Kind) -> &mut Self {
        self.finish();
        self.at = self.bytes.len();
        self.expected_replies += usize::from(matches!(kind, Kind::GetLink));
        let (number, flags) = kind.number_and_flags();
        self.push_unpadded(&[0; 4]);
        self.push_unpadded(&number.to_ne_bytes());
        self.push_unpadded(&(REQUEST | flags).to_ne_bytes());
        self.push_unpadded(&[0; 8]);
        self
    }

    fn finish(&mut self) {
        if self.bytes.len() > self.at {
            self.set_length(self.at, 4);
        }
    }

    fn set_length(&mut self, at: usize, width: usize) {
        let length = (self.bytes.len() - at) as u32;
        self.bytes[at..at + width].copy_from_slice(&length.to_ne_bytes()[..width]);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn push_unpadded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.push_unpadded(&(value.len() as u16 + 4).to_ne_bytes());
        self.push_unpadded(&kind.to_ne_bytes());
        self.push(value);
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.push_unpadded(&[0; 2]);
        self.push_unpadded(&kind.to_ne_bytes());
        inside(self);
        self.set_length(at, 2);
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value);
    }

    pub(crate) fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_ne_bytes());
    }

    /// struct ifinfomsg.
    pub(crate) fn link(&mut self, index: u32, up: bool) {
        let up = u32::from(up).to_ne_bytes();
        self.push(&[0; 4]);
        self.push(&index.to_ne_bytes());
        self.push(&up);
        self.push(&up);
    }

    pub(crate) fn veth_peer(&mut self, index: u32, name: &str, netns: i32) {
        self.nest(LINK_INFO | NESTED, |info| {
            info.text(1, "veth");
            info.nest(2 | NESTED, |data| {
                data.nest(1 | NESTED, |peer| {
                    peer.link(index, false);
                    peer.text(IFNAME, name);
                    peer.attribute(NET_NS_FD, &netns.to_ne_bytes());
                });
            });
        });
    }

    /// struct ifaddrmsg with its address, which is not probed for duplicates.
    pub(crate) fn address(&mut self, index: u32, address: &[u8], prefix: u8) {
        const NO_DAD: u8 = 2;
        let flags = if address.len() == 4 { 0 } else { NO_DAD };
        self.push(&[family(address), prefix, flags, 0]);
        self.push(&index.to_ne_bytes());
        self.attribute(2, address);
    }

    /// struct rtmsg with destination, link and gateway.
    pub(crate) fn route(&mut self, dst: (&[u8], u8), link: u32, via: Option<&[u8]>, scope: u8) {
        const MAIN_TABLE: u8 = 254;
        const PROTOCOL_BOOT: u8 = 3;
        const UNICAST: u8 = 1;
        let family = family(dst.0);
        self.push(&[
            family,
            dst.1,
            0,
            0,
            MAIN_TABLE,
            PROTOCOL_BOOT,
            scope,
            UNICAST,
        ]);
        self.push(&[0; 4]);
        if dst.1 != 0 {
            self.attribute(1, dst.0);
        }
        self.number(4, link);
        if let Some(via) = via {
            self.attribute(5, via);
        }
    }

    /// An element of a set in the table `inet pausenet`, whose key is an address.
    pub(crate) fn element(&mut self, kind: Kind, set: &str, address: [u8; 4]) {
        const INET: u8 = 1;
        self.start(kind).push(&[INET, 0, 0, 0]);
        self.text(1, "pausenet");
        self.text(2, set);
        self.nest(3 | NESTED, |list| {
            list.nest(1 | NESTED, |element| {
                element.nest(1 | NESTED, |key| key.attribute(1, &address));
            });
        });
        self.start(Kind::BatchEnd).push(&[0, 0, 0, 10]);
    }

    /// Sends all messages. The kernel handles them within the send, and replies only to requests and with
    /// errors, so all replies can be read right after it.
    pub(crate) fn send(mut self) -> io::Result<()> {
        const DONT_WAIT: i32 = 0x40;
        const ERROR: u16 = 2;
        self.finish();
        self.socket.send(&self.bytes, 0)?;
        let mut replies = 0;
        loop {
            let mut reply = Vec::with_capacity(4096);
            match self.socket.recv(&mut reply, DONT_WAIT) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) => return Err(err),
                Ok(_) if reply.get(4..6) == Some(&ERROR.to_ne_bytes()) => {
                    let code = reply.get(16..20).and_then(|code| code.try_into().ok());
                    let code = code.map_or(0, i32::from_ne_bytes);
                    return Err(io::Error::from_raw_os_error(-code));
                }
                Ok(_) => replies += 1,
            }
        }
        match replies == self.expected_replies {
            true => Ok(()),
            false => Err(io::Error::other("an unexpected number of replies")),
        }
    }
}
