//! What nftables answers, in our words.

use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, ExpressionAttribute, Expressions, GenAttribute, Immediate, ListAttribute,
    NfTablesMessage, RuleAttribute, SetAttribute, SetElementAttribute, SetElementList,
    VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::message::COMMENT;
use super::{Element, Rule};

fn inner(message: NetfilterMessage) -> Option<NfTablesMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(inner) => Some(inner),
        _ => None,
    }
}

/// The generation in an answer.
pub fn read_generation(message: NetfilterMessage) -> Option<u32> {
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

/// The elements in an answer.
pub fn read_elements(message: NetfilterMessage) -> Vec<Element> {
    let Some(NfTablesMessage::NewSetElement(message)) = inner(message) else {
        return Vec::new();
    };
    let lists = message
        .attributes
        .into_iter()
        .filter_map(|attribute| match attribute {
            SetElementList::Elements(list) => Some(list),
            _ => None,
        });
    lists
        .flatten()
        .filter_map(|entry| match entry {
            ListAttribute::Element(attributes) => Some(read_element(attributes)),
            _ => None,
        })
        .collect()
}

fn read_element(attributes: Vec<SetElementAttribute>) -> Element {
    let mut element = Element {
        key: Vec::new(),
        data: Vec::new(),
        owner: String::new(),
    };
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => element.key = bytes,
            SetElementAttribute::Data(DataAttribute::Value(bytes)) => element.data = bytes,
            SetElementAttribute::UserData(bytes) => element.owner = read_comment(&bytes),
            _ => {}
        }
    }
    element
}

/// The name of the set in an answer.
pub fn read_set_name(message: NetfilterMessage) -> Option<String> {
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

/// The rule in an answer.
pub fn read_rule(message: NetfilterMessage) -> Option<Rule> {
    let Some(NfTablesMessage::NewRule(message)) = inner(message) else {
        return None;
    };
    let mut rule = Rule {
        chain: String::new(),
        handle: 0,
        comment: String::new(),
        jumps: Vec::new(),
        values: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Expressions(expressions) => {
                for data in expressions.into_iter().flat_map(data_of) {
                    read_data(data, &mut rule);
                }
            }
            RuleAttribute::Chain(name) => rule.chain = name,
            RuleAttribute::Handle(handle) => rule.handle = handle,
            RuleAttribute::UserData(bytes) => rule.comment = read_comment(&bytes),
            _ => {}
        }
    }
    Some(rule)
}

/// The data that an expression loads or compares with.
fn data_of(expression: ListAttribute<ExpressionAttribute>) -> Vec<DataAttribute> {
    let ListAttribute::Element(attributes) = expression else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for attribute in attributes {
        match attribute {
            ExpressionAttribute::Data(Expressions::Immediate(attributes)) => {
                found.extend(
                    attributes
                        .into_iter()
                        .filter_map(|attribute| match attribute {
                            Immediate::Data(data) => Some(data),
                            _ => None,
                        }),
                );
            }
            ExpressionAttribute::Data(Expressions::Cmp(attributes)) => {
                found.extend(
                    attributes
                        .into_iter()
                        .filter_map(|attribute| match attribute {
                            Cmp::Data(data) => Some(data),
                            _ => None,
                        }),
                );
            }
            _ => {}
        }
    }
    found
}

fn read_data(data: DataAttribute, rule: &mut Rule) {
    match data {
        DataAttribute::Value(bytes) => rule.values.push(bytes),
        DataAttribute::Verdict(attributes) => {
            rule.jumps.extend(
                attributes
                    .into_iter()
                    .filter_map(|attribute| match attribute {
                        VerdictAttribute::Chain(name) => Some(name),
                        _ => None,
                    }),
            );
        }
        _ => {}
    }
}

/// The comment in user data: fields of type, length, value.
pub(super) fn read_comment(mut data: &[u8]) -> String {
    while let [kind, len, rest @ ..] = data {
        let (Some(value), after) = (rest.get(..*len as usize), rest.get(*len as usize..)) else {
            break;
        };
        if *kind == COMMENT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return String::from_utf8_lossy(text).into_owned();
        }
        data = after.unwrap_or_default();
    }
    String::new()
}
