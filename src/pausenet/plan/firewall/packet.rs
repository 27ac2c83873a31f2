//! A packet, as far as it is known, and what becomes of it in the chains of other programs: each
//! chain is followed as the kernel follows it, through jumps. A condition that cannot be decided may
//! be true or false, so what comes behind it counts only if it drops the packet either way.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::Family;
use crate::kernel::nft::{
    Condition, ConnectionState, LookUp, Member, PacketField, Rule, RuleVerdict,
};

/// The rules of a table, by chain, and what is in the sets and maps that they look up.
pub(crate) struct TableRules<'a> {
    chains: HashMap<&'a str, Vec<&'a Rule>>,
    sets: Option<&'a Sets>,
}

/// The sets and maps of a table, by name.
pub(crate) type Sets = HashMap<String, Vec<Member>>;

impl<'a> TableRules<'a> {
    pub(crate) fn new(rules: &'a [Rule]) -> Self {
        let mut chains: HashMap<_, Vec<_>> = HashMap::new();
        for rule in rules {
            chains.entry(rule.chain.as_str()).or_default().push(rule);
        }
        Self { chains, sets: None }
    }

    pub(crate) fn with_sets(self, sets: &'a Sets) -> Self {
        Self {
            sets: Some(sets),
            ..self
        }
    }

    /// The rules of a chain, in their order.
    pub(super) fn of(&self, chain: &str) -> impl Iterator<Item = &'a Rule> {
        self.chains.get(chain).into_iter().flatten().copied()
    }

    /// None for a set that is not known.
    fn set(&self, name: &str) -> Option<&'a [Member]> {
        Some(self.sets?.get(name)?)
    }
}

/// The sets and maps that rules look up.
pub(crate) fn looked_up(rules: &[Rule]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for rule in rules {
        for condition in &rule.conditions {
            if let Condition::In { look_up, .. } = condition {
                names.insert(look_up.set.as_str());
            }
        }
        if let Some(RuleVerdict::Map(look_up)) = &rule.verdict {
            names.insert(look_up.set.as_str());
        }
    }
    names
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
            let matches = self.matches(rule, rules);
            if matches == Truth::No {
                continue;
            }
            let verdict = match verdict {
                RuleVerdict::Map(look_up) => match self.mapped(look_up, rules) {
                    Some(found) => found,
                    None => continue,
                },
                verdict => verdict,
            };
            let (fate, is_last) = match verdict {
                RuleVerdict::Accept => (Fate::Accepted, true),
                RuleVerdict::Drop => (Fate::Dropped(chain.to_owned()), true),
                RuleVerdict::Return => (Fate::GoesOn, true),
                RuleVerdict::Unknown | RuleVerdict::Map(_) => (Fate::Unknown, true),
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

    fn matches(&self, rule: &Rule, rules: &TableRules) -> Truth {
        let conditions = rule
            .conditions
            .iter()
            .map(|condition| self.meets(condition, rules));
        conditions.fold(Truth::Yes, Truth::and)
    }

    fn meets(&self, condition: &Condition, rules: &TableRules) -> Truth {
        match condition {
            Condition::Unknown => Truth::Maybe,
            Condition::In { look_up, negated } => {
                let found = match rules.set(&look_up.set) {
                    Some(members) => self.is_in(look_up.field, members).0,
                    None => Truth::Maybe,
                };
                found.equals(!negated)
            }
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

    /// The verdict that a map has for this packet; None if it goes on.
    fn mapped<'a>(&self, look_up: &LookUp, rules: &TableRules<'a>) -> Option<&'a RuleVerdict> {
        let found = rules
            .set(&look_up.set)
            .map(|set| self.is_in(look_up.field, set));
        match found {
            Some((Truth::Yes, Some(member))) => member.verdict.as_ref(),
            Some((Truth::No, _)) => None,
            _ => Some(&RuleVerdict::Unknown),
        }
    }

    /// Whether a set has a field of this packet, and the element that has it.
    fn is_in<'a>(&self, field: PacketField, set: &'a [Member]) -> (Truth, Option<&'a Member>) {
        if set.iter().any(|member| member.has_end) {
            return (Truth::Maybe, None);
        }
        let is_interval = set.iter().any(|member| member.is_end);
        let found = match field {
            PacketField::Source(family) | PacketField::Destination(family) => {
                let net = match field {
                    PacketField::Source(_) => self.source,
                    _ => self.destination,
                };
                match net.filter(|_| family == self.family) {
                    Some(net) if is_interval => in_intervals(net, set),
                    Some(net) => in_keys(set, |key| contains(net, None, key)),
                    None => (Truth::Maybe, None),
                }
            }
            _ if is_interval => (Truth::Maybe, None),
            PacketField::InLink | PacketField::OutLink | PacketField::Family => {
                in_keys(set, |key| self.has(field, None, key))
            }
        };
        let catch_all = set.iter().find(|member| member.is_catch_all);
        match (found, catch_all) {
            ((Truth::No, _), Some(catch_all)) => (Truth::Yes, Some(catch_all)),
            (found, _) => found,
        }
    }

    /// The single destination that a rule keeps this packet from, if it does, and only because of
    /// where the packet comes in.
    pub(super) fn kept_from(&self, rule: &Rule, rules: &TableRules) -> Option<IpAddr> {
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
                } if self.meets(condition, rules) == Truth::Yes => names_link = true,
                _ if self.meets(condition, rules) == Truth::Yes => {}
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

/// Among single keys. One that may or may not be the packet's leaves it open.
fn in_keys(set: &[Member], is: impl Fn(&[u8]) -> Truth) -> (Truth, Option<&Member>) {
    let mut all = Truth::No;
    for member in set.iter().filter(|member| !member.is_catch_all) {
        match is(&member.key) {
            Truth::Yes => return (Truth::Yes, Some(member)),
            Truth::Maybe => all = Truth::Maybe,
            Truth::No => {}
        }
    }
    (all, None)
}

/// Among intervals of addresses: each begins with a key and ends before the next that is an end, or with the
/// last address.
fn in_intervals(net: IpNetwork, set: &[Member]) -> (Truth, Option<&Member>) {
    let mut bounds: Vec<_> = set.iter().filter(|member| !member.is_catch_all).collect();
    // Where one ends and the next begins, the end comes first.
    bounds.sort_by(|one, other| (&one.key, !one.is_end).cmp(&(&other.key, !other.is_end)));
    let first = crate::kernel::nft::expr::address_bytes(net.network());
    let last = crate::kernel::nft::expr::address_bytes(net.broadcast());
    if bounds.iter().any(|bound| bound.key.len() != first.len()) {
        return (Truth::Maybe, None); // something else is looked up beside the address
    }
    for (at, start) in bounds.iter().enumerate() {
        if start.is_end {
            continue;
        }
        let end = bounds[at + 1..].iter().find(|bound| bound.is_end);
        let begins_before = start.key <= first;
        let ends_behind = end.is_none_or(|end| end.key > last);
        let overlaps = start.key <= last && end.is_none_or(|end| end.key > first);
        match overlaps {
            true if begins_before && ends_behind => return (Truth::Yes, Some(start)),
            true => return (Truth::Maybe, None),
            false => {}
        }
    }
    (Truth::No, None)
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
