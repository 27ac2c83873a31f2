//! The conditions and the verdict of a rule of any program, as far as they can be read: enough to
//! tell what becomes of the packets of pods.
//!
//! An expression loads a part of the packet into a register, another may mask it there, and a third
//! compares it with a value.

use std::collections::HashMap;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::ruleset::{Condition, ConnectionState, LookUp, PacketField, RuleVerdict};
use crate::cni::Family;

/// What a register holds.
#[derive(Debug, Clone)]
enum Loaded {
    Field(PacketField, Option<Vec<u8>>),
    /// The connection's state, and the bits that are left of it.
    State(Option<Vec<u8>>),
    /// Something else.
    Other,
}

/// Reads the expressions of a rule one after the other.
#[derive(Debug, Default)]
pub(super) struct Reader {
    registers: HashMap<u32, Loaded>,
    pub(super) conditions: Vec<Condition>,
    pub(super) verdict: Option<RuleVerdict>,
}

impl Reader {
    /// Takes the next expression. `name` is its type.
    pub(super) fn read(&mut self, name: &str, data: Option<&Expressions>) {
        match data {
            Some(Expressions::Meta(attributes)) => self.meta(attributes),
            Some(Expressions::Payload(attributes)) => self.payload(attributes),
            Some(Expressions::Bitwise(attributes)) => self.bitwise(attributes),
            Some(Expressions::Cmp(attributes)) => self.compare(attributes),
            Some(Expressions::Immediate(attributes)) => self.immediate(attributes),
            Some(Expressions::Lookup(attributes)) => self.look_up(attributes),
            Some(Expressions::Other { attributes, .. }) => self.other(name, attributes),
            _ => self.other(name, &[]),
        }
    }

    fn load(&mut self, register: Register, loaded: Loaded) {
        self.registers.insert(number(register), loaded);
    }

    fn meta(&mut self, attributes: &[Meta]) {
        let (mut to, mut key) = (None, None);
        for attribute in attributes {
            match attribute {
                Meta::DestinationRegister(register) => to = Some(*register),
                Meta::Key(found) => key = Some(*found),
                _ => {}
            }
        }
        let loaded = match key {
            Some(MetaKey::Iifname) => Loaded::Field(PacketField::InLink, None),
            Some(MetaKey::Oifname) => Loaded::Field(PacketField::OutLink, None),
            Some(MetaKey::Nfproto) => Loaded::Field(PacketField::Family, None),
            _ => Loaded::Other,
        };
        // Without a register to load into, it changes the packet.
        if let Some(to) = to {
            self.load(to, loaded);
        }
    }

    fn payload(&mut self, attributes: &[Payload]) {
        const NETWORK_HEADER: u32 = 1;
        let (mut to, mut base, mut offset) = (None, 0, 0);
        for attribute in attributes {
            match attribute {
                Payload::DestinationRegister(register) => to = Some(*register),
                Payload::Base(number) => base = *number,
                Payload::Offset(number) => offset = *number,
                _ => {}
            }
        }
        // Where the headers have their addresses. What else begins there is in the middle of
        // another's address, and is not asked for.
        let loaded = match (base, offset) {
            (NETWORK_HEADER, 12) => Loaded::Field(PacketField::Source(Family::Ipv4), None),
            (NETWORK_HEADER, 16) => Loaded::Field(PacketField::Destination(Family::Ipv4), None),
            (NETWORK_HEADER, 8) => Loaded::Field(PacketField::Source(Family::Ipv6), None),
            (NETWORK_HEADER, 24) => Loaded::Field(PacketField::Destination(Family::Ipv6), None),
            _ => Loaded::Other,
        };
        if let Some(to) = to {
            self.load(to, loaded);
        }
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) {
        let (mut from, mut to, mut mask, mut is_plain) = (None, None, None, true);
        for attribute in attributes {
            match attribute {
                Bitwise::SourceRegister(register) => from = Some(*register),
                Bitwise::DestinationRegister(register) => to = Some(*register),
                Bitwise::Mask(DataAttribute::Value(bytes)) => mask = Some(bytes.clone()),
                Bitwise::Xor(DataAttribute::Value(bytes)) => {
                    is_plain = bytes.iter().all(|byte| *byte == 0);
                }
                _ => {}
            }
        }
        let Some(to) = to else { return };
        let before = from.and_then(|from| self.registers.get(&number(from)));
        let loaded = match (before, mask) {
            (Some(Loaded::Field(field, None)), Some(mask)) if is_plain => {
                Loaded::Field(*field, Some(mask))
            }
            (Some(Loaded::State(None)), Some(mask)) if is_plain => Loaded::State(Some(mask)),
            _ => Loaded::Other,
        };
        self.load(to, loaded);
    }

    fn compare(&mut self, attributes: &[Cmp]) {
        let (mut from, mut operator, mut value) = (None, None, Vec::new());
        for attribute in attributes {
            match attribute {
                Cmp::SourceRegister(register) => from = Some(*register),
                Cmp::Op(found) => operator = Some(*found),
                Cmp::Data(DataAttribute::Value(bytes)) => value.clone_from(bytes),
                _ => {}
            }
        }
        let loaded = from.and_then(|from| self.registers.get(&number(from)));
        let equal = match operator {
            Some(Operator::Equal) => Some(true),
            Some(Operator::NotEqual) => Some(false),
            _ => None,
        };
        self.conditions.push(match (loaded, equal) {
            (Some(Loaded::Field(field, mask)), Some(equal)) => Condition::Is {
                field: *field,
                mask: mask.clone(),
                value,
                equal,
            },
            (Some(Loaded::State(Some(mask))), Some(equal))
                if value.iter().all(|byte| *byte == 0) =>
            {
                Condition::State(ConnectionState {
                    any_of: bits(mask),
                    negated: equal,
                })
            }
            _ => Condition::Unknown,
        });
    }

    fn immediate(&mut self, attributes: &[Immediate]) {
        for attribute in attributes {
            let Immediate::Data(DataAttribute::Verdict(attributes)) = attribute else {
                continue;
            };
            let (mut code, mut chain) = (None, None);
            for attribute in attributes {
                match attribute {
                    VerdictAttribute::Code(found) => code = Some(*found),
                    VerdictAttribute::Chain(name) => chain = Some(name.clone()),
                    _ => {}
                }
            }
            self.verdict = match (code, chain) {
                (Some(Verdict::Jump), Some(chain)) => Some(RuleVerdict::Jump(chain)),
                (Some(Verdict::Goto), Some(chain)) => Some(RuleVerdict::Goto(chain)),
                (Some(Verdict::Return), _) => Some(RuleVerdict::Return),
                (Some(Verdict::Continue), _) => None,
                (Some(Verdict::Other(DROP)), _) => Some(RuleVerdict::Drop),
                (Some(Verdict::Other(ACCEPT)), _) => Some(RuleVerdict::Accept),
                _ => Some(RuleVerdict::Unknown),
            };
        }
    }

    /// A look-up in a set is a condition, one in a map of verdicts is a verdict.
    fn look_up(&mut self, attributes: &[Lookup]) {
        const INVERTED: u32 = 1;
        let (mut from, mut to, mut set, mut negated) = (None, None, String::new(), false);
        for attribute in attributes {
            match attribute {
                Lookup::Set(name) => set.clone_from(name),
                Lookup::SourceRegister(register) => from = Some(*register),
                Lookup::DestinationRegister(register) => to = Some(*register),
                Lookup::Flags(flags) => negated = flags & INVERTED != 0,
                _ => {}
            }
        }
        let loaded = from.and_then(|from| self.registers.get(&number(from)));
        let look_up = match loaded {
            Some(Loaded::Field(field, None)) => Some(LookUp { field: *field, set }),
            _ => None,
        };
        match to {
            None => self.conditions.push(match look_up {
                Some(look_up) => Condition::In { look_up, negated },
                None => Condition::Unknown,
            }),
            Some(Register::Verdict) => {
                self.verdict = Some(look_up.map_or(RuleVerdict::Unknown, RuleVerdict::Map));
            }
            Some(to) => self.load(to, Loaded::Other),
        }
    }

    fn other(&mut self, name: &str, attributes: &[DefaultNla]) {
        match name {
            "counter" | "log" | "notrack" | "objref" | "flow_offload" | "dup" | "last" => {}
            "reject" => self.verdict = Some(RuleVerdict::Drop),
            "ct" => self.connection(attributes),
            "match" => self.x_tables_match(attributes),
            "target" => match text(&value(attributes, 1)).as_str() {
                "REJECT" => self.verdict = Some(RuleVerdict::Drop),
                "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "TRACE" | "CT" | "DSCP"
                | "TOS" => {}
                _ => self.verdict = Some(RuleVerdict::Unknown),
            },
            // They load registers, or are conditions, or verdicts: limits, sockets, queues.
            _ => {
                self.conditions.push(Condition::Unknown);
                self.registers.clear();
            }
        }
    }

    /// `ct` loads something of the connection (NFTA_CT_DREG, NFTA_CT_KEY), or sets it.
    fn connection(&mut self, attributes: &[DefaultNla]) {
        const STATE: u32 = 0;
        let find = |kind| be_number(&value(attributes, kind));
        let loaded = match find(2) {
            Some(STATE) => Loaded::State(None),
            _ => Loaded::Other,
        };
        if let Some(to) = find(1) {
            self.registers.insert(key(to), loaded);
        }
    }

    fn x_tables_match(&mut self, attributes: &[DefaultNla]) {
        match text(&value(attributes, 1)).as_str() {
            "comment" => {}
            "conntrack" | "state" => {
                let state = xt_conntrack_state(&value(attributes, 3));
                let condition = state.map_or(Condition::Unknown, Condition::State);
                self.conditions.push(condition);
            }
            _ => self.conditions.push(Condition::Unknown),
        }
    }
}

/// NF_DROP and NF_ACCEPT.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// `-m conntrack --ctstate` alone (struct xt_conntrack_mtinfo3).
pub(crate) fn xt_conntrack_state(information: &[u8]) -> Option<ConnectionState> {
    const STATE: u16 = 1;
    // Set where it was written as `-m state --state`.
    const ALIAS: u16 = 1 << 13;
    let short = |at: usize| {
        let bytes = information.get(at..at + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    let (flags, inverted, states) = (short(146)?, short(148)?, short(150)?);
    (flags & !ALIAS == STATE).then_some(ConnectionState {
        any_of: states.into(),
        negated: inverted & STATE != 0,
    })
}

/// A register: the first four are 16 bytes each, and share them with those of 4 bytes.
fn key(register: u32) -> u32 {
    match register {
        1..=4 => 8 + (register - 1) * 4,
        other => other,
    }
}

fn number(register: Register) -> u32 {
    key(register.into())
}

fn bits(bytes: &[u8]) -> u32 {
    let bytes: Option<[u8; 4]> = bytes.try_into().ok();
    bytes.map_or(0, u32::from_ne_bytes)
}

pub(super) fn be_number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The value of an expression's attribute; empty if it is missing.
pub(super) fn value(attributes: &[DefaultNla], kind: u16) -> Vec<u8> {
    let found = attributes.iter().find(|attribute| attribute.kind() == kind);
    found.map_or_else(Vec::new, |attribute| {
        let mut bytes = vec![0; attribute.value_len()];
        attribute.emit_value(&mut bytes);
        bytes
    })
}

/// NUL-terminated text.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
