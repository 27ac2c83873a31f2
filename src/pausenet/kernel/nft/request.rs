//! Changes and queries as netlink messages; [`super::reply`] parses the replies.

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, GenMessage, Hook as WireHook, HookNumber,
    InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::expr::address_bytes;
use super::ruleset::{Chain, Change, Element, HookPoint, Kind, NewRule, Set, Table, TableFamily};
use crate::kernel::request::{ExpectedReply, Request};

/// NFNL_SUBSYS_NFTABLES: the subsystem of the transaction.
const SUBSYSTEM: u16 = 10;

/// Type of the comment in an element's user data (libnftnl's NFTNL_UDATA_SET_ELEM_COMMENT)
/// and in a rule's (NFTNL_UDATA_RULE_COMMENT).
pub(super) const COMMENT: u8 = 0;

fn message(family: TableFamily, inner: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        TableFamily::Inet => NetfilterProtoFamily::Inet,
        TableFamily::Ipv4 => NetfilterProtoFamily::IPv4,
        TableFamily::Ipv6 => NetfilterProtoFamily::IPv6,
        TableFamily::Bridge => NetfilterProtoFamily::Bridge,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

/// The start or end of a transaction. An error for it is the whole transaction's.
fn control(inner: ControlMessage) -> Request<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    let message = NetfilterMessage::new(header, inner);
    Request::expecting(message, ExpectedReply::NothingForBatch)
}

/// The start of a transaction. It fails if the ruleset's generation (NFNL_BATCH_GENID) is no longer
/// this one.
pub(super) fn begin(generation: Option<u32>) -> Request<NetfilterMessage> {
    const BATCH_BEGIN: u8 = 16;
    const BATCH_GENID: u16 = 1;
    match generation {
        None => control(ControlMessage::BatchBegin),
        Some(id) => control(ControlMessage::Other {
            message_type: BATCH_BEGIN,
            attributes: vec![DefaultNla::new(BATCH_GENID, id.to_be_bytes().to_vec())],
        }),
    }
}

/// The end of a transaction.
pub(super) fn end() -> Request<NetfilterMessage> {
    control(ControlMessage::BatchEnd)
}

/// The messages for one change.
pub(super) fn change(change: &Change) -> Vec<Request<NetfilterMessage>> {
    match change {
        Change::Table(table) => vec![Request::new(
            message(
                table.family,
                NfTablesMessage::NewTable(TableMessage {
                    attributes: vec![TableAttribute::Name(table.name.into())],
                }),
            ),
            NLM_F_CREATE,
        )],
        // Concatenated keys need no flag: NFT_SET_CONCAT is for concatenated intervals.
        Change::Set(set) => vec![Request::new(new_set(set, SetFlags::Timeout), NLM_F_CREATE)],
        Change::Chain(chain) => new_chain(chain),
        Change::Add(set, element) => vec![Request::new(
            add_element(set, element),
            NLM_F_CREATE | NLM_F_EXCL,
        )],
        Change::Remove(set, key) => vec![Request::new(
            message(
                set.table.family,
                NfTablesMessage::DeleteSetElement(elements(
                    set,
                    vec![vec![SetElementAttribute::Key(DataAttribute::Value(
                        key.clone(),
                    ))]],
                )),
            ),
            0,
        )],
        Change::Expire(set, element) => vec![Request::new(expire(set, element), NLM_F_CREATE)],
        Change::RemoveChain(table, chain) => remove_chain(*table, chain),
        Change::Rule(rule) => vec![new_rule(rule)],
        Change::Subnets(set, subnets) => subnet_set(set, subnets),
        Change::RemoveTable(table) => vec![Request::new(
            message(
                table.family,
                NfTablesMessage::DeleteTable(TableMessage {
                    attributes: vec![TableAttribute::Name(table.name.into())],
                }),
            ),
            0,
        )],
        Change::RemoveRule(table, rule) => vec![Request::new(
            message(
                table.family,
                NfTablesMessage::DeleteRule(RuleMessage {
                    attributes: vec![
                        RuleAttribute::Table(table.name.into()),
                        RuleAttribute::Chain(rule.chain.clone()),
                        RuleAttribute::Handle(rule.handle),
                    ],
                }),
            ),
            0,
        )],
    }
}

/// User data that marks keys as being in host byte order, for `nft list`: type (libnftnl's
/// NFTNL_UDATA_SET_KEYBYTEORDER), length, number.
const HOST_BYTE_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// nft's number for a data type, and its length in bytes. The kernel uses only the length; `nft
/// list` uses the number.
fn described(kind: Kind) -> (u32, u32) {
    match kind {
        Kind::Ipv4 => (7, 4),
        Kind::Ipv6 => (8, 16),
        Kind::Ether => (9, 6),
        Kind::Protocol => (12, 1),
        Kind::Port => (13, 2),
        Kind::IfName => (41, 16),
    }
}

/// Type and length of concatenated fields, each padded to 4 bytes if there are several.
fn concatenated(kinds: &[Kind]) -> (u32, u32) {
    if let [kind] = kinds {
        return described(*kind);
    }
    kinds.iter().fold((0, 0), |(types, len), kind| {
        let (one, one_len) = described(*kind);
        (types << 6 | one, len + one_len.next_multiple_of(4))
    })
}

const NFTA_SET_GC_INTERVAL: u16 = 12;

/// How often the kernel frees the memory of a set's expired elements, in milliseconds. It walks the
/// whole set each time; lookups ignore expired elements anyway.
const SWEEP_INTERVAL: u32 = 60_000;

fn new_set(set: &Set, mut flags: SetFlags) -> NetfilterMessage {
    let (key_type, key_len) = concatenated(&set.key);
    let mut attributes = vec![
        SetAttribute::Table(set.table.name.into()),
        SetAttribute::Name(set.name.clone()),
        SetAttribute::KeyType(key_type),
        SetAttribute::KeyLen(key_len),
        // Required but unused: rules refer to sets by name.
        SetAttribute::Id(1),
    ];
    if !set.data.is_empty() {
        flags |= SetFlags::Map;
        let (data_type, data_len) = concatenated(&set.data);
        attributes.push(SetAttribute::DataType(data_type));
        attributes.push(SetAttribute::DataLen(data_len));
    }
    attributes.push(SetAttribute::Flags(flags));
    // nft before 1.0.9 writes the interval of a map, and cannot read it: a saved ruleset would not
    // load. Maps are swept each second, which is the kernel's default.
    if flags.contains(SetFlags::Timeout) && set.data.is_empty() {
        let interval = SWEEP_INTERVAL.to_be_bytes().to_vec();
        attributes.push(SetAttribute::Other(DefaultNla::new(
            NFTA_SET_GC_INTERVAL,
            interval,
        )));
    }
    if set.key == [Kind::IfName] {
        attributes.push(SetAttribute::UserData(HOST_BYTE_ORDER.to_vec()));
    }
    message(
        set.table.family,
        NfTablesMessage::NewSet(SetMessage { attributes }),
    )
}

/// Creates the chain, empties it and fills it: the result does not depend on what was there.
fn new_chain(chain: &Chain) -> Vec<Request<NetfilterMessage>> {
    let (family, table) = (chain.table.family, chain.table.name.to_owned());
    let mut attributes = vec![
        ChainAttribute::Table(table.clone()),
        ChainAttribute::Name(chain.name.clone()),
    ];
    if let Some(hook) = chain.hook {
        let point = match hook.point {
            HookPoint::PreRouting => InetHookNumber::PreRouting,
            HookPoint::Input => InetHookNumber::LocalIn,
            HookPoint::Forward => InetHookNumber::Forward,
            HookPoint::Output => InetHookNumber::LocalOut,
            HookPoint::PostRouting => InetHookNumber::PostRouting,
        };
        attributes.push(ChainAttribute::Hook(vec![
            WireHook::Number(HookNumber::Inet(point)),
            WireHook::Priority(hook.priority as u32),
        ]));
        attributes.push(ChainAttribute::Type(hook.kind.into()));
    }
    let in_chain = || {
        vec![
            RuleAttribute::Table(table.clone()),
            RuleAttribute::Chain(chain.name.clone()),
        ]
    };
    let mut requests = vec![
        Request::new(
            message(
                family,
                NfTablesMessage::NewChain(ChainMessage { attributes }),
            ),
            NLM_F_CREATE,
        ),
        Request::new(
            message(
                family,
                NfTablesMessage::DeleteRule(RuleMessage {
                    attributes: in_chain(),
                }),
            ),
            0,
        ),
    ];
    for rule in &chain.rules {
        let mut attributes = in_chain();
        attributes.push(RuleAttribute::Expressions(rule.clone()));
        requests.push(Request::new(
            message(family, NfTablesMessage::NewRule(RuleMessage { attributes })),
            NLM_F_CREATE | NLM_F_APPEND,
        ));
    }
    requests
}

fn new_rule(rule: &NewRule) -> Request<NetfilterMessage> {
    let mut attributes = vec![
        RuleAttribute::Table(rule.table.name.into()),
        RuleAttribute::Chain(rule.chain.clone()),
        RuleAttribute::Expressions(rule.expressions.clone()),
        RuleAttribute::UserData(comment(&rule.comment)),
    ];
    attributes.extend(rule.before.map(RuleAttribute::Position));
    // With a position, NLM_F_APPEND inserts after it.
    let flags = match rule.before {
        Some(_) => NLM_F_CREATE,
        None => NLM_F_CREATE | NLM_F_APPEND,
    };
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    Request::new(self::message(rule.table.family, message), flags)
}

fn remove_chain(table: Table, chain: &str) -> Vec<Request<NetfilterMessage>> {
    let rules = vec![
        RuleAttribute::Table(table.name.into()),
        RuleAttribute::Chain(chain.into()),
    ];
    let chain = vec![
        ChainAttribute::Table(table.name.into()),
        ChainAttribute::Name(chain.into()),
    ];
    vec![
        Request::new(
            message(
                table.family,
                NfTablesMessage::DeleteRule(RuleMessage { attributes: rules }),
            ),
            0,
        ),
        Request::new(
            message(
                table.family,
                NfTablesMessage::DeleteChain(ChainMessage { attributes: chain }),
            ),
            0,
        ),
    ]
}

fn add_element(set: &Set, element: &Element) -> NetfilterMessage {
    let owner = SetElementAttribute::UserData(comment(&element.owner));
    new_element(set, element, owner)
}

/// Sets an existing element's timeout to the minimum; the kernel rounds it up to a tick.
fn expire(set: &Set, element: &Element) -> NetfilterMessage {
    const MILLISECONDS: u64 = 1;
    new_element(set, element, SetElementAttribute::Timeout(MILLISECONDS))
}

fn new_element(set: &Set, element: &Element, last: SetElementAttribute) -> NetfilterMessage {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(
        element.key.clone(),
    ))];
    if !element.data.is_empty() {
        attributes.push(SetElementAttribute::Data(DataAttribute::Value(
            element.data.clone(),
        )));
    }
    attributes.push(last);
    message(
        set.table.family,
        NfTablesMessage::NewSetElement(elements(set, vec![attributes])),
    )
}

/// A set of intervals. Each has two elements: its first address, and the first address after it,
/// marked as an end. An interval up to the last address has no end.
fn subnet_set(set: &Set, subnets: &[IpNetwork]) -> Vec<Request<NetfilterMessage>> {
    /// An attribute's length has 16 bits, and the replies to many messages would overflow the
    /// buffer.
    const AT_ONCE: usize = 500;
    let key = |bytes| SetElementAttribute::Key(DataAttribute::Value(bytes));
    let mut requests = vec![Request::new(new_set(set, SetFlags::Interval), NLM_F_CREATE)];
    for subnets in subnets.chunks(AT_ONCE) {
        let mut list = Vec::new();
        for subnet in subnets {
            list.push(vec![key(address_bytes(subnet.network()))]);
            if let Some(end) = successor(address_bytes(subnet.broadcast())) {
                let flag = SetElementAttribute::Flags(SetElementFlags::IntervalEnd);
                list.push(vec![flag, key(end)]);
            }
        }
        let message = NfTablesMessage::NewSetElement(elements(set, list));
        let message = self::message(set.table.family, message);
        requests.push(Request::new(message, NLM_F_CREATE | NLM_F_EXCL));
    }
    requests
}

/// The next big-endian number; None after the largest.
fn successor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Some(bytes);
        }
    }
    None
}

fn elements(set: &Set, elements: Vec<Vec<SetElementAttribute>>) -> SetElementMessage {
    let list = elements.into_iter().map(ListAttribute::Element).collect();
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(set.table.name.into()),
            SetElementList::Set(set.name.clone()),
            SetElementList::Elements(list),
        ],
    }
}

/// A comment as user data: type, length, text, NUL. An owner is at most as long as a link's alias,
/// so it fits.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![COMMENT, (text.len() + 1) as u8];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// Queries the ruleset's generation.
pub(super) fn get_generation() -> NetfilterMessage {
    message(
        TableFamily::Inet,
        NfTablesMessage::GetGen(GenMessage {
            attributes: Vec::new(),
        }),
    )
}

/// Queries one element.
pub(super) fn get_element(set: &Set, key: &[u8]) -> NetfilterMessage {
    let key = SetElementAttribute::Key(DataAttribute::Value(key.to_vec()));
    message(
        set.table.family,
        NfTablesMessage::GetSetElement(elements(set, vec![vec![key]])),
    )
}

/// Queries every element of a set.
pub(super) fn get_elements(table: Table, set: &str) -> NetfilterMessage {
    get_elements_of(table.family, table.name, set)
}

/// Like [`get_elements`], for a table given by family and name.
pub(super) fn get_elements_of(family: TableFamily, table: &str, set: &str) -> NetfilterMessage {
    message(
        family,
        NfTablesMessage::GetSetElement(SetElementMessage {
            attributes: vec![
                SetElementList::Table(table.into()),
                SetElementList::Set(set.into()),
            ],
        }),
    )
}

/// Queries a table's sets.
pub(super) fn get_sets(table: Table) -> NetfilterMessage {
    message(
        table.family,
        NfTablesMessage::GetSet(SetMessage {
            attributes: vec![SetAttribute::Table(table.name.into())],
        }),
    )
}

/// Queries a table's rules, or one chain's.
pub(super) fn get_rules(family: TableFamily, table: &str, chain: Option<&str>) -> NetfilterMessage {
    let mut attributes = vec![RuleAttribute::Table(table.into())];
    attributes.extend(chain.map(|chain| RuleAttribute::Chain(chain.into())));
    message(family, NfTablesMessage::GetRule(RuleMessage { attributes }))
}

/// Queries one chain.
pub(super) fn get_chain(table: Table, chain: &str) -> NetfilterMessage {
    let attributes = vec![
        ChainAttribute::Table(table.name.into()),
        ChainAttribute::Name(chain.into()),
    ];
    message(
        table.family,
        NfTablesMessage::GetChain(ChainMessage { attributes }),
    )
}

/// Queries the chains of all families.
pub(super) fn get_chains() -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::super::reply::read_comment;
    use super::*;

    #[test]
    fn a_comment_reads_back_as_itself() {
        let longest = "x".repeat(254);
        for text in ["", "pausenet podnet c1 eth0", &longest] {
            assert_eq!(read_comment(&comment(text)), text);
        }
    }

    #[test]
    fn other_user_data_before_the_comment_is_passed_over() {
        let mut data = vec![7, 2, 1, 1];
        data.extend(comment("mine"));
        assert_eq!(read_comment(&data), "mine");
        assert_eq!(read_comment(&[0, 200, b'x']), "");
    }

    #[test]
    fn the_last_address_has_no_successor() {
        assert_eq!(successor(vec![10, 1, 255, 255]), Some(vec![10, 2, 0, 0]));
        assert_eq!(successor(vec![255; 4]), None);
        assert_eq!(successor(vec![0; 16]).unwrap()[15], 1);
    }

    #[test]
    fn fields_of_a_concatenation_are_padded() {
        assert_eq!(concatenated(&[Kind::Port]), (13, 2));
        assert_eq!(
            concatenated(&[Kind::Protocol, Kind::Port]),
            (12 << 6 | 13, 8)
        );
        assert_eq!(concatenated(&[Kind::IfName, Kind::Ether]).1, 24);
    }
}
