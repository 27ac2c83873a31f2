//! nftables expressions, of which rules consist: one function each, in the kernel's terms
//! (linux/netfilter/nf_tables.h).
//!
//! `meta`, `payload`, `cmp`, `bitwise`, `lookup` and `immediate` are the crate's types. It has none
//! for `fib`, `ct`, `nat`, `masq`, `counter` and `match`: those are built here from raw attributes.
//! Numbers in messages are big-endian.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, Payload, Register, Verdict as WireVerdict, VerdictAttribute,
};
pub use netlink_packet_netfilter::nftables::{MetaKey, Operator};

use crate::cni::Family;

/// One step of a rule.
pub type Expression = ListAttribute<ExpressionAttribute>;

/// A 4-byte register. Longer values take several in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(u32);

impl From<Reg> for Register {
    fn from(reg: Reg) -> Self {
        reg.0.into()
    }
}

/// The first of the sixteen 4-byte registers (NFT_REG32_00).
pub const R0: Reg = Reg(8);

impl Reg {
    /// The register `places` further on.
    pub(crate) const fn plus(self, places: u32) -> Self {
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

fn expression(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
    .into()
}

/// Loads a packet's metadata. Interface names take 16 bytes, protocols one.
pub fn meta(key: MetaKey, to: Reg) -> Expression {
    Expressions::Meta(vec![Meta::DestinationRegister(to.into()), Meta::Key(key)]).into()
}

/// The location of a field in a packet.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    base: u32,
    offset: u32,
    len: u32,
}

impl Field {
    pub(crate) const ETHER_SOURCE: Self = Self {
        base: 0,
        offset: 6,
        len: 6,
    };
    pub(crate) const IPV4_SOURCE: Self = Self {
        base: 1,
        offset: 12,
        len: 4,
    };
    pub(crate) const IPV4_DESTINATION: Self = Self {
        base: 1,
        offset: 16,
        len: 4,
    };
    const IPV6_SOURCE: Self = Self {
        base: 1,
        offset: 8,
        len: 16,
    };
    const IPV6_DESTINATION: Self = Self {
        base: 1,
        offset: 24,
        len: 16,
    };
    /// The same for TCP, UDP and SCTP.
    pub(crate) const PORT_DESTINATION: Self = Self {
        base: 2,
        offset: 2,
        len: 2,
    };

    /// The source address of the family.
    pub const fn source(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::IPV4_SOURCE,
            Family::Ipv6 => Self::IPV6_SOURCE,
        }
    }

    /// The destination address of the family.
    pub const fn destination(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::IPV4_DESTINATION,
            Family::Ipv6 => Self::IPV6_DESTINATION,
        }
    }
}

/// Loads a field of the packet.
pub fn payload(field: Field, to: Reg) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to.into()),
        Payload::Base(field.base),
        Payload::Offset(field.offset),
        Payload::Len(field.len),
    ])
    .into()
}

/// Continues with the rule only if the comparison of the register with `bytes` is true.
pub fn cmp(reg: Reg, operator: Operator, bytes: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(reg.into()),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(bytes.to_vec())),
    ])
    .into()
}

/// Keeps the bits of a register that are set in `mask`.
pub(crate) fn mask(reg: Reg, mask: &[u8]) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(reg.into()),
        Bitwise::DestinationRegister(reg.into()),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
    .into()
}

/// Continues only if the set contains the value in the registers from `key` (inverted: does not
/// contain it).
pub fn in_set(set: &str, key: Reg, inverted: bool) -> Expression {
    const F_INV: u32 = 1;
    let mut attributes = vec![Lookup::Set(set.into()), Lookup::SourceRegister(key.into())];
    if inverted {
        attributes.push(Lookup::Flags(F_INV));
    }
    Expressions::Lookup(attributes).into()
}

/// Continues only if the map contains the key, and loads its value into the registers from `to`.
pub(crate) fn in_map(map: &str, key: Reg, to: Reg) -> Expression {
    Expressions::Lookup(vec![
        Lookup::Set(map.into()),
        Lookup::SourceRegister(key.into()),
        Lookup::DestinationRegister(to.into()),
    ])
    .into()
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

/// RTN_LOCAL: one of the host's own addresses.
pub(crate) const LOCAL: u32 = 2;

/// Loads the packet's connection state, as bits (`ct state`).
pub(crate) fn ct_state(to: Reg) -> Expression {
    const KEY_STATE: u32 = 0;
    expression("ct", vec![number(1, to.0), number(2, KEY_STATE)])
}

/// NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED: a packet of a connection that was
/// accepted before, or of one related to it.
pub(crate) const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

/// Loads the connection's status bits (`ct status`).
pub fn ct_status(to: Reg) -> Expression {
    const KEY_STATUS: u32 = 2;
    expression("ct", vec![number(1, to.0), number(2, KEY_STATUS)])
}

/// IPS_DST_NAT: the connection's destination has been changed.
pub(crate) const DST_NAT: u32 = 1 << 5;

/// NFPROTO_IPV4 and NFPROTO_IPV6, which [`MetaKey::Nfproto`] loads.
pub const fn nfproto(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

/// Changes the destination to the address and port in these registers.
pub(crate) fn dnat(family: Family, address: Reg, port: Reg) -> Expression {
    const NAT_DNAT: u32 = 1;
    const F_PROTO_SPECIFIED: u32 = 1 << 1;
    expression(
        "nat",
        vec![
            number(1, NAT_DNAT),
            number(2, nfproto(family).into()),
            number(3, address.0),
            number(5, port.0),
            number(7, F_PROTO_SPECIFIED),
        ],
    )
}

/// Changes the source to the address of the interface by which the packet leaves.
pub fn masquerade() -> Expression {
    expression("masq", Vec::new())
}

/// Counts the packets that reach it.
pub(crate) fn counter() -> Expression {
    expression(
        "counter",
        [1, 2].map(|kind| DefaultNla::new(kind, vec![0; 8])).into(),
    )
}

/// Continues only if an x_tables match of this revision and with this `info` is true. Some
/// conditions can be expressed only this way in rules that iptables has to print and remove.
pub(crate) fn xt_match(name: &str, revision: u32, info: Vec<u8>) -> Expression {
    expression(
        "match",
        vec![text(1, name), number(2, revision), DefaultNla::new(3, info)],
    )
}

/// Ends the rule with a verdict.
pub(crate) fn verdict(verdict: Verdict) -> Expression {
    let (code, chain) = match verdict {
        Verdict::Drop => (WireVerdict::Other(0), None),
        Verdict::Accept => (WireVerdict::Other(1), None),
        Verdict::Jump(chain) => (WireVerdict::Jump, Some(chain)),
    };
    let mut attributes = vec![VerdictAttribute::Code(code)];
    attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.into())));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
    .into()
}

/// A verdict on a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Drop,
    Accept,
    Jump(&'a str),
}

/// The bytes of an address.
pub(crate) fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Compares an address in the registers from `reg` with a subnet; the registers are changed.
pub(crate) fn subnet(reg: Reg, operator: Operator, net: IpNetwork) -> [Expression; 2] {
    [
        mask(reg, &address_bytes(net.mask())),
        cmp(reg, operator, &address_bytes(net.network())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, NLA_F_NESTED};

    fn bytes(of: &impl Emitable) -> Vec<u8> {
        let mut bytes = vec![0; of.buffer_len()];
        of.emit(&mut bytes);
        bytes
    }

    fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
        DefaultNla::new(kind | NLA_F_NESTED, bytes(&inner))
    }

    /// NFTA_DATA_VALUE is 1.
    fn value(kind: u16, bytes: &[u8]) -> DefaultNla {
        nested(kind, &[DefaultNla::new(1, bytes.to_vec())])
    }

    fn attributes(expression: &Expression) -> Vec<u8> {
        let ListAttribute::Element(parts) = expression else {
            panic!("{expression:?}");
        };
        let data = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Data(data) => Some(bytes(data)),
            _ => None,
        });
        data.unwrap()
    }

    #[test]
    fn the_crate_s_expressions_have_the_numbers_of_the_kernel_s_header() {
        let r4 = R0.plus(4);
        for (expression, expected) in [
            (meta(MetaKey::Iifname, R0), vec![number(1, 8), number(2, 6)]),
            (
                meta(MetaKey::L4Proto, r4),
                vec![number(1, 12), number(2, 16)],
            ),
            (
                payload(Field::IPV6_SOURCE, R0),
                vec![number(1, 8), number(2, 1), number(3, 8), number(4, 16)],
            ),
            (
                cmp(R0, Operator::NotEqual, &[7; 6]),
                vec![number(1, 8), number(2, 1), value(3, &[7; 6])],
            ),
            (
                mask(R0, &[1, 2]),
                vec![
                    number(1, 8),
                    number(2, 8),
                    number(3, 2),
                    value(4, &[1, 2]),
                    value(5, &[0, 0]),
                ],
            ),
            (
                in_set("pods", R0, true),
                vec![text(1, "pods"), number(2, 8), number(5, 1)],
            ),
            (
                in_map("ports4", R0, r4),
                vec![text(1, "ports4"), number(2, 8), number(3, 12)],
            ),
            (
                verdict(Verdict::Drop),
                vec![number(1, 0), nested(2, &[nested(2, &[number(1, 0)])])],
            ),
            (
                verdict(Verdict::Accept),
                vec![number(1, 0), nested(2, &[nested(2, &[number(1, 1)])])],
            ),
            (
                verdict(Verdict::Jump("ports")),
                vec![
                    number(1, 0),
                    nested(
                        2,
                        &[nested(2, &[number(1, -3i32 as u32), text(2, "ports")])],
                    ),
                ],
            ),
        ] {
            assert_eq!(
                attributes(&expression),
                bytes(&expected.as_slice()),
                "{expression:?}"
            );
        }
    }
}
