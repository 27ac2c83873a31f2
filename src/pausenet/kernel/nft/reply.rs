//! Parses the kernel's nftables replies; [`super::request`] builds the requests.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Cmp, DataAttribute, ExpressionAttribute, Expressions, GenAttribute, Hook,
    HookNumber, Immediate, InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute,
    SetAttribute, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::conditions::{Reader, text, value};
use super::request::COMMENT;
use super::ruleset::{ChainHead, HookPoint, Policy, Rule, TableFamily, TerminalVerdict};

fn inner(message: NetfilterMessage) -> Option<NfTablesMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(inner) => Some(inner),
        _ => None,
    }
}

/// The generation in a reply.
pub(super) fn read_generation(message: NetfilterMessage) -> Option<u32> {
    let Some(NfTablesMessage::NewGen(message)) = inner(message) else {
        return None;
    };
    message
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            GenAttribute::Id(id) => Some(id),
            _ => None,
        })
}

/// The name of the set in a reply.
pub(super) fn read_set_name(message: NetfilterMessage) -> Option<String> {
    let Some(NfTablesMessage::NewSet(message)) = inner(message) else {
        return None;
    };
    message
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            SetAttribute::Name(name) => Some(name),
            _ => None,
        })
}

/// The chain in a reply; None if its family does not forward IP packets.
pub(super) fn read_chain(message: NetfilterMessage) -> Option<ChainHead> {
    let family = match message.header.family {
        NetfilterProtoFamily::Inet => TableFamily::Inet,
        NetfilterProtoFamily::IPv4 => TableFamily::Ipv4,
        NetfilterProtoFamily::IPv6 => TableFamily::Ipv6,
        _ => return None,
    };
    let Some(NfTablesMessage::NewChain(message)) = inner(message) else {
        return None;
    };
    let mut chain = ChainHead {
        family,
        table: String::new(),
        name: String::new(),
        hook: None,
        is_nat: false,
    };
    let (mut hook, mut policy) = (None, Policy::Accept);
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(name) => chain.table = name,
            ChainAttribute::Name(name) => chain.name = name,
            ChainAttribute::Hook(attributes) => {
                hook = attributes.iter().find_map(|attribute| match attribute {
                    Hook::Number(HookNumber::Inet(number)) => hook_point(*number),
                    _ => None,
                });
            }
            ChainAttribute::Type(kind) => chain.is_nat = kind == "nat",
            ChainAttribute::Policy(DROP) => policy = Policy::Drop,
            _ => {}
        }
    }
    chain.hook = hook.map(|hook| (hook, policy));
    Some(chain)
}

/// By how many rules the chain in a reply is used: its own, and those that jump to it.
pub(super) fn read_uses(message: NetfilterMessage) -> Option<u32> {
    let Some(NfTablesMessage::NewChain(message)) = inner(message) else {
        return None;
    };
    let mut attributes = message.attributes.into_iter();
    attributes.find_map(|attribute| match attribute {
        ChainAttribute::Use(uses) => Some(uses),
        _ => None,
    })
}

fn hook_point(number: InetHookNumber) -> Option<HookPoint> {
    Some(match number {
        InetHookNumber::PreRouting => HookPoint::PreRouting,
        InetHookNumber::LocalIn => HookPoint::Input,
        InetHookNumber::Forward => HookPoint::Forward,
        InetHookNumber::LocalOut => HookPoint::Output,
        InetHookNumber::PostRouting => HookPoint::PostRouting,
        _ => return None,
    })
}

/// NF_DROP.
const DROP: u32 = 0;

/// The rule in a reply.
pub(super) fn read_rule(message: NetfilterMessage) -> Option<Rule> {
    let Some(NfTablesMessage::NewRule(message)) = inner(message) else {
        return None;
    };
    let mut rule = Rule::default();
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Expressions(expressions) => read_expressions(expressions, &mut rule),
            RuleAttribute::Chain(name) => rule.chain = name,
            RuleAttribute::Handle(handle) => rule.handle = handle,
            RuleAttribute::UserData(bytes) => rule.comment = read_comment(&bytes),
            _ => {}
        }
    }
    Some(rule)
}

/// What an expression does to a packet that reaches it.
#[derive(Debug, PartialEq)]
enum Effect {
    /// Nothing: a counter or a comment.
    None,
    /// Ends the packet's way through this chain.
    Ends(TerminalVerdict),
    /// A condition, or something after which the packet continues.
    Other,
}

fn read_expressions(expressions: Vec<ListAttribute<ExpressionAttribute>>, rule: &mut Rule) {
    let mut reader = Reader::default();
    for expression in &expressions {
        let ListAttribute::Element(attributes) = expression else {
            continue;
        };
        let (mut name, mut found) = ("", None);
        for attribute in attributes {
            match attribute {
                ExpressionAttribute::Name(text) => name = text,
                ExpressionAttribute::Data(data) => found = Some(data),
                _ => {}
            }
        }
        reader.read(name, found);
    }
    rule.conditions = reader.conditions;
    rule.verdict = reader.verdict;
    let effects: Vec<_> = expressions
        .into_iter()
        .map(|expression| read_expression(expression, rule))
        .filter(|effect| *effect != Effect::None)
        .collect();
    rule.unconditional = match effects[..] {
        [Effect::Ends(end)] => Some(end),
        _ => None,
    };
}

fn read_expression(expression: ListAttribute<ExpressionAttribute>, rule: &mut Rule) -> Effect {
    let ListAttribute::Element(attributes) = expression else {
        return Effect::Other;
    };
    let mut effect = Effect::Other;
    for attribute in attributes {
        match attribute {
            ExpressionAttribute::Name(name) if name == "counter" => effect = Effect::None,
            ExpressionAttribute::Name(name) if name == "reject" => {
                effect = Effect::Ends(TerminalVerdict::Drop)
            }
            ExpressionAttribute::Data(Expressions::Immediate(attributes)) => {
                for attribute in attributes {
                    if let Immediate::Data(data) = attribute {
                        effect = read_data(data, rule);
                    }
                }
            }
            ExpressionAttribute::Data(Expressions::Cmp(attributes)) => {
                for attribute in attributes {
                    if let Cmp::Data(data) = attribute {
                        read_data(data, rule);
                    }
                }
            }
            ExpressionAttribute::Data(Expressions::Other {
                expression_type,
                attributes,
            }) => match expression_type.as_str() {
                "match" if x_tables_name(&attributes) == "comment" => {
                    rule.comment = text(&value(&attributes, 3));
                    effect = Effect::None;
                }
                "match"
                    if ["tcp", "udp", "sctp"].contains(&x_tables_name(&attributes).as_str()) =>
                {
                    rule.destination_port = read_destination_port(&value(&attributes, 3));
                }
                "target" if x_tables_name(&attributes) == "REJECT" => {
                    effect = Effect::Ends(TerminalVerdict::Drop);
                }
                _ => {}
            },
            _ => {}
        }
    }
    effect
}

/// The name of an x_tables match or target (NFTA_MATCH_NAME, NFTA_TARGET_NAME).
fn x_tables_name(attributes: &[DefaultNla]) -> String {
    text(&value(attributes, 1))
}

/// The port that a match for TCP, UDP or SCTP names: its information (struct xt_tcp, xt_udp,
/// xt_sctp) begins with the ranges of source and of destination ports.
fn read_destination_port(information: &[u8]) -> Option<u16> {
    let number = |at: usize| {
        let bytes = information.get(at..at + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    let (first, last) = (number(4)?, number(6)?);
    (first == last).then_some(first)
}

fn read_data(data: DataAttribute, rule: &mut Rule) -> Effect {
    match data {
        DataAttribute::Value(bytes) => {
            rule.values.push(bytes);
            Effect::Other
        }
        DataAttribute::Verdict(attributes) => {
            let mut effect = Effect::Other;
            for attribute in attributes {
                match attribute {
                    VerdictAttribute::Chain(name) => rule.jumps.push(name),
                    VerdictAttribute::Code(Verdict::Return) => {
                        effect = Effect::Ends(TerminalVerdict::Return)
                    }
                    VerdictAttribute::Code(Verdict::Other(DROP)) => {
                        effect = Effect::Ends(TerminalVerdict::Drop)
                    }
                    _ => {}
                }
            }
            effect
        }
        _ => Effect::Other,
    }
}

/// The comment in user data: fields of type, length, value.
pub(super) fn read_comment(mut data: &[u8]) -> String {
    while let [kind, len, rest @ ..] = data {
        let (Some(value), after) = (rest.get(..*len as usize), rest.get(*len as usize..)) else {
            break;
        };
        if *kind == COMMENT {
            return text(value);
        }
        data = after.unwrap_or_default();
    }
    String::new()
}
