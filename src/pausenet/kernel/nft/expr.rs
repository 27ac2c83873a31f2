//! What rules are made of: nftables' expressions, one function each, in the kernel's words
//! (linux/netfilter/nf_tables.h). Numbers that go over the wire are big-endian.

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{ExpressionAttribute, Expressions, ListAttribute};

/// One step of a rule.
pub type Expression = ListAttribute<ExpressionAttribute>;

/// A 4-byte register. Values longer than that take several in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(u32);

/// The first of the sixteen 4-byte registers (NFT_REG32_00).
pub const R0: Reg = Reg(8);

impl Reg {
    /// The register that many 4-byte places further on.
    pub const fn plus(self, places: u32) -> Self {
        Self(self.0 + places)
    }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn value(kind: u16, bytes: &[u8]) -> DefaultNla {
    const NFTA_DATA_VALUE: u16 = 1;
    nested(kind, &[DefaultNla::new(NFTA_DATA_VALUE, bytes.to_vec())])
}

fn expression(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
    .into()
}

/// What a packet's surroundings tell (`meta`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Meta {
    /// The incoming interface's name, 16 bytes.
    IifName = 6,
    /// The outgoing interface's name, 16 bytes.
    OifName = 7,
    /// 2 for IPv4, 10 for IPv6; one byte.
    NfProto = 15,
    /// The layer 4 protocol's number; one byte.
    L4Proto = 16,
}

/// Loads what `key` tells.
pub fn meta(key: Meta, to: Reg) -> Expression {
    expression("meta", vec![number(1, to.0), number(2, key as u32)])
}

/// Where in a packet a field lies.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    base: u32,
    offset: u32,
    len: u32,
}

impl Field {
    pub const ETHER_SOURCE: Self = Self {
        base: 0,
        offset: 6,
        len: 6,
    };
    pub const IPV4_SOURCE: Self = Self {
        base: 1,
        offset: 12,
        len: 4,
    };
    pub const IPV4_DESTINATION: Self = Self {
        base: 1,
        offset: 16,
        len: 4,
    };
    pub const IPV6_SOURCE: Self = Self {
        base: 1,
        offset: 8,
        len: 16,
    };
    pub const IPV6_DESTINATION: Self = Self {
        base: 1,
        offset: 24,
        len: 16,
    };
    /// Of TCP, UDP and SCTP alike.
    pub const PORT_DESTINATION: Self = Self {
        base: 2,
        offset: 2,
        len: 2,
    };

    /// The source address of the family.
    pub const fn source(v4: bool) -> Self {
        if v4 {
            Self::IPV4_SOURCE
        } else {
            Self::IPV6_SOURCE
        }
    }

    /// The destination address of the family.
    pub const fn destination(v4: bool) -> Self {
        if v4 {
            Self::IPV4_DESTINATION
        } else {
            Self::IPV6_DESTINATION
        }
    }
}

/// Loads a field of the packet.
pub fn payload(field: Field, to: Reg) -> Expression {
    expression(
        "payload",
        vec![
            number(1, to.0),
            number(2, field.base),
            number(3, field.offset),
            number(4, field.len),
        ],
    )
}

/// How [`cmp`] compares.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum Op {
    Eq = 0,
    Ne = 1,
}

/// Goes on with the rule only if the register compares to `bytes` like this.
pub fn cmp(reg: Reg, op: Op, bytes: &[u8]) -> Expression {
    expression(
        "cmp",
        vec![number(1, reg.0), number(2, op as u32), value(3, bytes)],
    )
}

/// Keeps the bits of a register that are set in `mask`.
pub fn mask(reg: Reg, mask: &[u8]) -> Expression {
    expression(
        "bitwise",
        vec![
            number(1, reg.0),
            number(2, reg.0),
            number(3, mask.len() as u32),
            value(4, mask),
            value(5, &vec![0; mask.len()]),
        ],
    )
}

/// Goes on only if the set has the value that starts at `key` (or, inverted, has it not).
pub fn in_set(set: &str, key: Reg, inverted: bool) -> Expression {
    let mut attributes = vec![text(1, set), number(2, key.0)];
    if inverted {
        attributes.push(number(5, 1));
    }
    expression("lookup", attributes)
}

/// Goes on only if the map has the key, with what it maps to in the registers from `to`.
pub fn in_map(map: &str, key: Reg, to: Reg) -> Expression {
    expression(
        "lookup",
        vec![text(1, map), number(2, key.0), number(3, to.0)],
    )
}

/// Loads the type (RTN_…) of the packet's destination address, as routing sees it (`fib daddr
/// type`).
pub fn fib_destination_type(to: Reg) -> Expression {
    const RESULT_ADDRTYPE: u32 = 3;
    const F_DADDR: u32 = 1 << 1;
    expression(
        "fib",
        vec![
            number(1, to.0),
            number(2, RESULT_ADDRTYPE),
            number(3, F_DADDR),
        ],
    )
}

/// RTN_LOCAL: an address of the host's own.
pub const LOCAL: u32 = 2;

/// Loads which part of its connection a packet is, as bits (`ct state`).
pub fn ct_state(to: Reg) -> Expression {
    const KEY_STATE: u32 = 0;
    expression("ct", vec![number(1, to.0), number(2, KEY_STATE)])
}

/// NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED: a packet of a connection that has been let
/// through before, or of one that it has brought about.
pub const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

/// Loads the connection's status bits (`ct status`).
pub fn ct_status(to: Reg) -> Expression {
    const KEY_STATUS: u32 = 2;
    expression("ct", vec![number(1, to.0), number(2, KEY_STATUS)])
}

/// IPS_DST_NAT: the connection's destination has been changed.
pub const DST_NAT: u32 = 1 << 5;

/// Changes the destination to the address and port in these registers. NFPROTO_IPV4 and
/// _IPV6 are 2 and 10.
pub fn dnat(v4: bool, address: Reg, port: Reg) -> Expression {
    const NAT_DNAT: u32 = 1;
    const F_PROTO_SPECIFIED: u32 = 1 << 1;
    expression(
        "nat",
        vec![
            number(1, NAT_DNAT),
            number(2, if v4 { 2 } else { 10 }),
            number(3, address.0),
            number(5, port.0),
            number(7, F_PROTO_SPECIFIED),
        ],
    )
}

/// Changes the source to the address of the interface that the packet leaves by.
pub fn masquerade() -> Expression {
    expression("masq", Vec::new())
}

/// Counts the packets that get here.
pub fn counter() -> Expression {
    expression(
        "counter",
        [1, 2].map(|kind| DefaultNla::new(kind, vec![0; 8])).into(),
    )
}

/// Goes on only if a match of x_tables, in this revision and with this `info`, says yes. What
/// iptables prints and removes can say some things only by those.
pub fn xt_match(name: &str, revision: u32, info: Vec<u8>) -> Expression {
    expression(
        "match",
        vec![text(1, name), number(2, revision), DefaultNla::new(3, info)],
    )
}

/// Ends the rule with a verdict.
pub fn verdict(verdict: Verdict) -> Expression {
    const NFTA_DATA_VERDICT: u16 = 2;
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3i32, Some(chain)),
    };
    let mut inner = vec![number(1, code as u32)];
    inner.extend(chain.map(|chain| text(2, chain)));
    let data = nested(2, &[nested(NFTA_DATA_VERDICT, &inner)]);
    // Register 0 is the verdict's.
    expression("immediate", vec![number(1, 0), data])
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    Drop,
    Accept,
    Jump(&'a str),
}

/// The bytes of an address.
pub fn address_bytes(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Compares an address in the registers from `reg` with a subnet; the registers are changed.
pub fn subnet(reg: Reg, op: Op, net: IpNetwork) -> [Expression; 2] {
    [
        mask(reg, &address_bytes(net.mask())),
        cmp(reg, op, &address_bytes(net.network())),
    ]
}
