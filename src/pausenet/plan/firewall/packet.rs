//! A packet, as far as it is known, and what becomes of it in the chains of other programs: each
//! chain is followed as the kernel follows it, through jumps. A condition that cannot be decided may
//! be true or false, so what comes behind it counts only if it drops the packet either way.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::Family;
use crate::kernel::nft::{Condition, ConnectionState, PacketField, Rule, RuleVerdict};

/// The rules of a table, by chain.
pub(crate) struct TableRules<'a>(HashMap<&'a str, Vec<&'a Rule>>);

impl<'a> TableRules<'a> {
    pub(crate) fn new(rules: &'a [Rule]) -> Self {
        let mut by_chain: HashMap<_, Vec<_>> = HashMap::new();
        for rule in rules {
            by_chain.entry(rule.chain.as_str()).or_default().push(rule);
        }
        Self(by_chain)
    }

    /// The rules of a chain, in their order.
    pub(super) fn of(&self, chain: &str) -> impl Iterator<Item = &'a Rule> {
        self.0.get(chain).into_iter().flatten().copied()
    }
}

/// The direction of a packet, from the pod's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The first packet of a connection of a pod.
    Out,
    /// An answer to it.
    Answer,
    /// The first packet of a connection from outside to a pod's own address.
    In,
}

/// The name of a link, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkName<'a> {
    Is(&'a str),
    StartsWith(&'a str),
    /// A link towards the outside, so not one with this name or beginning.
    IsNot(&'a str),
    Unknown,
}

/// A packet, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) direction: Direction,
    pub(super) family: Family,
    pub(super) in_link: LinkName<'a>,
    pub(super) out_link: LinkName<'a>,
    pub(super) source: Option<IpNetwork>,
    pub(super) destination: Option<IpNetwork>,
    /// None: not known yet, in chains before connection tracking.
    pub(super) state: Option<u32>,
    /// The comment of our own rule that accepts it.
    pub(super) accepted_by: Option<&'a str>,
}

/// What becomes of a packet in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    /// By a rule of this chain.
    Dropped(String),
    /// No rule decides.
    GoesOn,
    /// It depends on conditions that cannot be read.
    Unknown,
}

/// NF_CT_STATE_BIT of the states.
pub(super) const ESTABLISHED: u32 = 1 << 1;
pub(super) const NEW: u32 = 1 << 3;

/// No chain of any use is nested deeper (the kernel's limit is 16).
const DEEPEST: usize = 16;

/// How many rules are followed at most for one packet.
const MOST_RULES: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    Maybe,
}

impl Truth {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }

    fn equals(self, wanted: bool) -> Self {
        match (self, wanted) {
            (Self::Yes, false) => Self::No,
            (Self::No, false) => Self::Yes,
            (truth, _) => truth,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }
}

impl Packet<'_> {
    pub(super) fn follow(&self, rules: &TableRules, chain: &str) -> Fate {
        let mut left = MOST_RULES;
        self.walk(rules, chain, 0, &mut left)
    }

    fn walk(&self, rules: &TableRules, chain: &str, depth: usize, left: &mut usize) -> Fate {
        if depth > DEEPEST {
            return Fate::Unknown;
        }
        // Whether a rule so far may have accepted it.
        let mut unsure = false;
        for rule in rules.of(chain) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Fate::Unknown;
            }
            if self.accepted_by == Some(rule.comment.as_str()) {
                return Fate::Accepted;
            }
            let Some(verdict) = &rule.verdict else {
                continue;
            };
            let matches = self.matches(rule);
            if matches == Truth::No {
                continue;
            }
            let (fate, is_last) = match verdict {
                RuleVerdict::Accept => (Fate::Accepted, true),
                RuleVerdict::Drop => (Fate::Dropped(chain.to_owned()), true),
                RuleVerdict::Return => (Fate::GoesOn, true),
                RuleVerdict::Unknown => (Fate::Unknown, true),
                RuleVerdict::Jump(to) => (self.walk(rules, to, depth + 1, left), false),
                RuleVerdict::Goto(to) => (self.walk(rules, to, depth + 1, left), true),
            };
            match (matches, fate) {
                (Truth::Yes, Fate::GoesOn) if !is_last => {}
                (Truth::Yes, Fate::Unknown) if !is_last => unsure = true,
                (Truth::Yes, fate) if unsure => {
                    return match fate {
                        Fate::Accepted => Fate::Accepted,
                        _ => Fate::Unknown,
                    };
                }
                (Truth::Yes, fate) => return fate,
                // Some of the packets are dropped: that is the administrator's decision.
                (_, Fate::Dropped(_)) => {}
                (_, Fate::GoesOn) if !is_last => {}
                (_, Fate::Accepted | Fate::Unknown | Fate::GoesOn) => unsure = true,
            }
        }
        if unsure { Fate::Unknown } else { Fate::GoesOn }
    }

    fn matches(&self, rule: &Rule) -> Truth {
        let conditions = rule
            .conditions
            .iter()
            .map(|condition| self.meets(condition));
        conditions.fold(Truth::Yes, Truth::and)
    }

    fn meets(&self, condition: &Condition) -> Truth {
        match condition {
            Condition::Unknown => Truth::Maybe,
            Condition::State(ConnectionState { any_of, negated }) => match self.state {
                None => Truth::Maybe,
                Some(state) => Truth::from((state & any_of != 0) != *negated),
            },
            Condition::Is {
                field,
                mask,
                value,
                equal,
            } => self.has(*field, mask.as_deref(), value).equals(*equal),
        }
    }

    fn has(&self, field: PacketField, mask: Option<&[u8]>, value: &[u8]) -> Truth {
        let of = |own: Family, family: Family, net: Option<IpNetwork>| match net {
            Some(net) if own == family => contains(net, mask, value),
            _ => Truth::Maybe,
        };
        match (field, mask) {
            (PacketField::InLink, None) => self.in_link.begins(value),
            (PacketField::OutLink, None) => self.out_link.begins(value),
            (PacketField::InLink | PacketField::OutLink, Some(_)) => Truth::Maybe,
            (PacketField::Family, _) => {
                let number = crate::kernel::nft::expr::nfproto(self.family);
                Truth::from(value == [number])
            }
            (PacketField::Source(family), _) => of(self.family, family, self.source),
            (PacketField::Destination(family), _) => of(self.family, family, self.destination),
        }
    }

    /// The single destination that a rule keeps this packet from, if it does, and only because of
    /// where the packet comes in.
    pub(super) fn kept_from(&self, rule: &Rule) -> Option<IpAddr> {
        if rule.verdict != Some(RuleVerdict::Drop) {
            return None;
        }
        let mut destination = None;
        let mut names_link = false;
        for condition in &rule.conditions {
            match condition {
                Condition::Is {
                    field: PacketField::Destination(family),
                    mask: None,
                    value,
                    equal: true,
                } if *family == self.family => destination = single(value),
                Condition::Is {
                    field: PacketField::InLink,
                    equal: false,
                    ..
                } if self.meets(condition) == Truth::Yes => names_link = true,
                _ if self.meets(condition) == Truth::Yes => {}
                _ => return None,
            }
        }
        destination.filter(|_| names_link && self.direction == Direction::Out)
    }
}

impl LinkName<'_> {
    /// Whether the name, padded with zeros, begins with these bytes.
    fn begins(self, value: &[u8]) -> Truth {
        const LENGTH: usize = 16; // IFNAMSIZ
        match self {
            Self::Unknown => Truth::Maybe,
            Self::IsNot(other) => {
                let length = value.iter().rposition(|byte| *byte != 0);
                let value = &value[..length.map_or(0, |last| last + 1)];
                match value == other.as_bytes() {
                    true => Truth::No,
                    false => Truth::Maybe,
                }
            }
            Self::Is(name) => {
                let mut padded = [0; LENGTH];
                let length = name.len().min(LENGTH);
                padded[..length].copy_from_slice(&name.as_bytes()[..length]);
                Truth::from(value.len() <= LENGTH && padded.starts_with(value))
            }
            Self::StartsWith(start) => {
                let common = start.len().min(value.len());
                match start.as_bytes()[..common] == value[..common] {
                    false => Truth::No,
                    true if value.len() <= start.len() => Truth::Yes,
                    true => Truth::Maybe,
                }
            }
        }
    }
}

/// Whether all addresses of a subnet begin with these bytes, after a mask.
fn contains(net: IpNetwork, mask: Option<&[u8]>, value: &[u8]) -> Truth {
    let bits = match mask {
        None => value.len() * 8,
        Some(mask) => {
            let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
            ones as usize
        }
    };
    let own = crate::kernel::nft::expr::address_bytes(net.network());
    let prefix = usize::from(net.prefix());
    let common = bits.min(prefix).min(own.len() * 8);
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map(|byte| byte >> (7 - at % 8) & 1);
    let alike = (0..common).all(|at| bit(&own, at) == bit(value, at));
    match alike {
        false => Truth::No,
        true if bits <= prefix => Truth::Yes,
        true => Truth::Maybe,
    }
}

fn single(value: &[u8]) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = value.try_into().ok();
    let sixteen: Option<[u8; 16]> = value.try_into().ok();
    four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from))
}
