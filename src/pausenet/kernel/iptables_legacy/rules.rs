//! The rules of a table of iptables-legacy, as far as they tell what becomes of a packet, in the words of
//! nftables' rules.

use std::collections::HashMap;

use super::{CHAIN_NAME_AT, CHAIN_NAME_LENGTH, INFO_LENGTH, TARGET_NAME_AT, VERDICT_AT};
use super::{number, short, target_offset_at, text};
use crate::cni::Family;
use crate::kernel::nft::{
    Condition, ConnectionState, HookPoint, PacketField, Policy, Rule, RuleVerdict,
    xt_conntrack_state,
};

/// A table: its base chains, each with its policy, and the rules of all chains.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct LegacyTable {
    pub(crate) chains: Vec<(&'static str, HookPoint, Policy)>,
    pub(crate) rules: Vec<Rule>,
}

/// The hooks in the order of the kernel's numbers, with the names of their chains.
const HOOKS: [(&str, HookPoint); 5] = [
    ("PREROUTING", HookPoint::PreRouting),
    ("INPUT", HookPoint::Input),
    ("FORWARD", HookPoint::Forward),
    ("OUTPUT", HookPoint::Output),
    ("POSTROUTING", HookPoint::PostRouting),
];

/// In struct ipt_getinfo: which hooks the table has, and for each the offsets of its first rule and of its
/// policy.
const VALID_HOOKS_AT: usize = 32;
const ENTRIES_AT: usize = 36;
const POLICIES_AT: usize = 56;

/// struct ipt_ip and ip6t_ip6: where a rule has what it compares. Addresses and masks come first, then the
/// names of links and their masks, then numbers.
struct Layout {
    address: usize,
    links: usize,
    protocol: usize,
    flags: usize,
    inverted: usize,
    matches: usize,
}

fn layout(family: Family) -> Layout {
    match family {
        Family::Ipv4 => Layout {
            address: 4,
            links: 16,
            protocol: 80,
            flags: 82,
            inverted: 83,
            matches: 112,
        },
        Family::Ipv6 => Layout {
            address: 16,
            links: 64,
            protocol: 128,
            flags: 131,
            inverted: 132,
            matches: 168,
        },
    }
}

const LINK_LENGTH: usize = 16;

/// IPT_INV_… and IP6T_INV_…, which have the same numbers.
const INVERTED_IN: u8 = 1;
const INVERTED_OUT: u8 = 2;
const INVERTED_SOURCE: u8 = 8;
const INVERTED_DESTINATION: u8 = 16;

impl LegacyTable {
    pub(super) fn read(family: Family, info: &[u8; INFO_LENGTH], bytes: &[u8]) -> Self {
        let mut table = Self::default();
        let has_hook = number(info, VALID_HOOKS_AT).unwrap_or_default();
        // By the offset of the first rule.
        let mut starts = HashMap::new();
        let mut policies = HashMap::new();
        for (at, (name, hook)) in HOOKS.into_iter().enumerate() {
            let offset = |start: usize| number(info, start + at * 4);
            if has_hook & (1 << at) == 0 {
                continue;
            }
            if let (Some(first), Some(policy)) = (offset(ENTRIES_AT), offset(POLICIES_AT)) {
                starts.insert(first, name.to_owned());
                policies.insert(policy, (name, hook));
            }
        }
        let target_at = target_offset_at(family);
        let entries = entries(bytes, target_at);
        for (offset, entry) in &entries {
            if let Some((target, next)) = sizes(entry, target_at)
                && target_name(entry, target) == Some("ERROR")
                && let Some(name) = text(entry, target + CHAIN_NAME_AT, CHAIN_NAME_LENGTH)
            {
                starts.insert(offset + next, name.to_owned());
            }
        }
        let mut chain = String::new();
        for (offset, entry) in entries {
            if let Some(name) = starts.get(&offset) {
                chain.clone_from(name);
            }
            let Some((target, _)) = sizes(entry, target_at) else {
                continue;
            };
            let verdict = verdict(entry, target, layout(family).flags, &starts);
            if let Some((name, hook)) = policies.get(&offset) {
                let policy = match verdict {
                    Some(RuleVerdict::Drop) => Policy::Drop,
                    _ => Policy::Accept,
                };
                table.chains.push((*name, *hook, policy));
            } else if target_name(entry, target) != Some("ERROR") {
                table.rules.push(Rule {
                    chain: chain.clone(),
                    conditions: conditions(family, entry, target),
                    verdict,
                    ..Rule::default()
                });
            }
        }
        table
    }
}

/// The entries of a table, each with its offset.
fn entries(bytes: &[u8], target_at: usize) -> Vec<(usize, &[u8])> {
    let mut entries = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..)
        && let Some((_, next)) = sizes(rest, target_at)
        && let Some(entry) = rest.get(..next)
    {
        entries.push((offset, entry));
        offset += next;
    }
    entries
}

/// The offsets of an entry's target and of the next entry.
fn sizes(entry: &[u8], target_at: usize) -> Option<(usize, usize)> {
    let (target, next) = (short(entry, target_at)?, short(entry, target_at + 2)?);
    (next > target && target > 0).then_some((target, next))
}

fn target_name(entry: &[u8], target: usize) -> Option<&str> {
    text(
        entry,
        target + TARGET_NAME_AT,
        CHAIN_NAME_AT - TARGET_NAME_AT,
    )
}

fn verdict(
    entry: &[u8],
    target: usize,
    flags_at: usize,
    starts: &HashMap<usize, String>,
) -> Option<RuleVerdict> {
    const GOTO: u8 = 2;
    match target_name(entry, target) {
        Some("") => {}
        Some("REJECT") => return Some(RuleVerdict::Drop),
        // They change the packet or its connection, or tell of it.
        Some(
            "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "TRACE" | "CT" | "DSCP" | "TOS"
            | "CHECKSUM",
        ) => return None,
        _ => return Some(RuleVerdict::Unknown),
    }
    let bytes = entry.get(target + VERDICT_AT..target + VERDICT_AT + 4);
    let number = bytes.and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    // A negative one is minus the verdict's number, minus one; RETURN is another.
    Some(match number {
        Some(-1) => RuleVerdict::Drop,
        Some(-2) => RuleVerdict::Accept,
        Some(-5) => RuleVerdict::Return,
        Some(offset) => {
            let chain = usize::try_from(offset)
                .ok()
                .and_then(|offset| starts.get(&offset));
            let is_goto = entry.get(flags_at).is_some_and(|flags| flags & GOTO != 0);
            match chain {
                // A rule without a target jumps to the next one.
                None if offset > 0 => return None,
                None => RuleVerdict::Unknown,
                Some(chain) if is_goto => RuleVerdict::Goto(chain.clone()),
                Some(chain) => RuleVerdict::Jump(chain.clone()),
            }
        }
        None => RuleVerdict::Unknown,
    })
}

fn conditions(family: Family, entry: &[u8], target: usize) -> Vec<Condition> {
    let Layout {
        address,
        links,
        protocol,
        inverted,
        matches,
        ..
    } = layout(family);
    let part = |at: usize, length: usize| entry.get(at..at + length).unwrap_or_default().to_vec();
    let is_inverted = |bit: u8| entry.get(inverted).is_some_and(|bits| bits & bit != 0);
    let mut conditions = Vec::new();
    for (nth, field, bit) in [
        (0, PacketField::Source(family), INVERTED_SOURCE),
        (1, PacketField::Destination(family), INVERTED_DESTINATION),
    ] {
        let (value, mask) = (
            part(nth * address, address),
            part((nth + 2) * address, address),
        );
        if mask.iter().any(|byte| *byte != 0) || is_inverted(bit) {
            conditions.push(Condition::Is {
                field,
                mask: Some(mask),
                value,
                equal: !is_inverted(bit),
            });
        }
    }
    for (nth, field, bit) in [
        (0, PacketField::InLink, INVERTED_IN),
        (1, PacketField::OutLink, INVERTED_OUT),
    ] {
        let name = part(links + nth * LINK_LENGTH, LINK_LENGTH);
        let mask = part(links + (nth + 2) * LINK_LENGTH, LINK_LENGTH);
        let length = mask.iter().take_while(|byte| **byte != 0).count();
        if length > 0 || is_inverted(bit) {
            conditions.push(Condition::Is {
                field,
                mask: None,
                value: name[..length.min(name.len())].to_vec(),
                equal: !is_inverted(bit),
            });
        }
    }
    if short(entry, protocol) != Some(0) {
        conditions.push(Condition::Unknown);
    }
    let mut at = matches;
    while at < target {
        let size = short(entry, at).filter(|size| *size > 0);
        let name = text(entry, at + TARGET_NAME_AT, CHAIN_NAME_AT - TARGET_NAME_AT);
        let Some((size, name)) = size.zip(name) else {
            conditions.push(Condition::Unknown);
            break;
        };
        let information = entry.get(at + CHAIN_NAME_AT..at + size).unwrap_or_default();
        let state = match name {
            "conntrack" => xt_conntrack_state(information),
            "state" => number(information, 0).map(|states| ConnectionState {
                any_of: states as u32,
                negated: false,
            }),
            _ => None,
        };
        if name != "comment" {
            conditions.push(state.map_or(Condition::Unknown, Condition::State));
        }
        at += size;
    }
    conditions
}
