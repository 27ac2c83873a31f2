//! The shared objects that elements live in: tables, sets, maps, and chains with their rules. They
//! are created when the first attachment needs them and never removed with one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::cni::Family;
use crate::kernel::nft::expr::{
    self, DST_NAT, ESTABLISHED_OR_RELATED, Expression, Field, LOCAL, MetaKey, Operator, R0, Verdict,
};
use crate::kernel::nft::{Chain, Change, Hook, HookPoint, Kind, Set, Table, TableFamily};

/// Our table of addresses and ports.
pub const TABLE: Table = Table {
    family: TableFamily::Inet,
    name: "pausenet",
};

/// Our table of frames.
pub const BRIDGE_TABLE: Table = Table {
    family: TableFamily::Bridge,
    name: "pausenet",
};

/// The kernel's standard priorities (NF_IP_PRI_…).
const DNAT: i32 = -100;
/// Where mapped ports are looked up: after whoever maps ports at the standard priority, such as
/// kube-proxy, Docker and iptables, and before firewalld (-90). Of two chains at one priority the
/// one that was made last wins, which changes with every restart; the reference's portmap, whose
/// rules stand behind kube-proxy's in the same chain, loses to a NodePort of the same number too.
const MAPPED_PORTS: i32 = DNAT + 5;
const SNAT: i32 = 100;
const RAW: i32 = -300;
const FILTER: i32 = 0;

/// The objects that come and go together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum SharedObjects {
    Subnet(IpNetwork),
    Ports,
    Spoof,
    IngressPolicy,
    Isolation,
}

impl SharedObjects {
    /// The objects, each made if it is not there.
    pub(super) fn objects(&self) -> Vec<Change> {
        match self {
            Self::Subnet(address) => subnet_objects(*address),
            Self::Ports => ports_objects(),
            Self::Spoof => spoof_objects(),
            Self::IngressPolicy => ingress_policy_objects(),
            Self::Isolation => isolation_objects(),
        }
    }
}

fn set(name: String, key: Vec<Kind>, data: Vec<Kind>) -> Set {
    Set {
        table: TABLE,
        name,
        key,
        data,
    }
}

fn digit(family: Family) -> char {
    match family {
        Family::Ipv4 => '4',
        Family::Ipv6 => '6',
    }
}

fn ip_kind(family: Family) -> Kind {
    match family {
        Family::Ipv4 => Kind::Ipv4,
        Family::Ipv6 => Kind::Ipv6,
    }
}

/// A subnet as part of a name that nft can parse: names must not contain colons.
fn named(subnet: IpNetwork) -> String {
    let network = match subnet.network() {
        IpAddr::V4(net) => net.to_string(),
        IpAddr::V6(net) => net.segments().map(|part| format!("{part:x}")).join("."),
    };
    format!("{network}/{}", subnet.prefix())
}

pub(super) fn mapped_set(family: Family) -> Set {
    set(
        format!("mapped{}", digit(family)),
        vec![ip_kind(family)],
        vec![],
    )
}

pub(super) fn masquerade_all_set(family: Family) -> Set {
    set(
        format!("masquerade_all{}", digit(family)),
        vec![ip_kind(family)],
        vec![],
    )
}

pub(super) fn masquerade_set(address: IpNetwork) -> Set {
    set(
        format!("masquerade_{}", named(address)),
        vec![ip_kind(address.into())],
        vec![],
    )
}

pub(super) fn hairpin_set(address: IpNetwork) -> Set {
    set(
        format!("hairpin_{}", named(address)),
        vec![ip_kind(address.into())],
        vec![],
    )
}

pub(super) fn ports_map(family: Family, at_address: bool) -> Set {
    let mut key = vec![Kind::Protocol, Kind::Port];
    let mut name = format!("ports{}", digit(family));
    if at_address {
        key.insert(0, ip_kind(family));
        name.push_str("_at");
    }
    set(name, key, vec![ip_kind(family), Kind::Port])
}

pub(super) fn allowed_set() -> Set {
    Set {
        table: BRIDGE_TABLE,
        name: "allowed".into(),
        key: vec![Kind::IfName, Kind::Ether],
        data: vec![],
    }
}

pub(super) fn guarded_set() -> Set {
    Set {
        table: BRIDGE_TABLE,
        name: "guarded".into(),
        key: vec![Kind::IfName],
        data: vec![],
    }
}

/// The set of links whose containers others do not reach.
pub(crate) const CLOSED: &str = "closed";

pub(super) fn closed_set() -> Set {
    set(CLOSED.into(), vec![Kind::IfName], vec![])
}

pub(super) fn inside_set() -> Set {
    set("inside".into(), vec![Kind::IfName, Kind::IfName], vec![])
}

pub(super) fn isolated_set() -> Set {
    Set {
        table: BRIDGE_TABLE,
        name: "isolated".into(),
        key: vec![Kind::IfName],
        data: vec![],
    }
}

/// Starts a rule for one IP family; the table is for both.
fn of_family(family: Family) -> Vec<Expression> {
    vec![
        expr::meta(MetaKey::Nfproto, R0),
        expr::cmp(R0, Operator::Equal, &[expr::nfproto(family)]),
    ]
}

fn address_in(field: Field, set: &Set) -> [Expression; 2] {
    [expr::payload(field, R0), expr::in_set(&set.name, R0, false)]
}

fn address_cmp(field: Field, operator: Operator, net: IpNetwork) -> Vec<Expression> {
    let mut rule = vec![expr::payload(field, R0)];
    rule.extend(expr::subnet(R0, operator, net));
    rule
}

/// Connections whose destination a port mapping has changed.
fn mapped() -> [Expression; 3] {
    let bit = DST_NAT.to_ne_bytes();
    [
        expr::ct_status(R0),
        expr::mask(R0, &bit),
        expr::cmp(R0, Operator::NotEqual, &[0; 4]),
    ]
}

#[expect(clippy::expect_used, reason = "both texts are subnets")]
fn subnet_objects(address: IpNetwork) -> Vec<Change> {
    let family = Family::from(address);
    let (from, to) = (Field::source(family), Field::destination(family));
    let (masquerade, hairpin) = (masquerade_set(address), hairpin_set(address));
    let multicast: IpNetwork = match family {
        Family::Ipv4 => "224.0.0.0/4",
        Family::Ipv6 => "ff00::/8",
    }
    .parse()
    .expect("a subnet");

    // What a pod sends to outside its subnet, but never multicast.
    let mut outgoing = of_family(family);
    outgoing.extend(address_in(from, &masquerade));
    outgoing.extend(address_cmp(to, Operator::NotEqual, address));
    outgoing.extend(address_cmp(to, Operator::NotEqual, multicast));
    outgoing.push(expr::masquerade());

    // Traffic from the subnet back to it through a mapped port: the replies have to return the same
    // way, or the client will not recognise them.
    let mut neighbours = of_family(family);
    neighbours.extend(mapped());
    neighbours.extend(address_in(to, &hairpin));
    neighbours.extend(address_cmp(from, Operator::Equal, address));
    neighbours.push(expr::masquerade());
    let mut rules = vec![outgoing, neighbours];

    if family == Family::Ipv4 {
        let mut localhost = of_family(family);
        localhost.extend(mapped());
        localhost.extend(address_in(to, &hairpin));
        localhost.extend(address_cmp(from, Operator::Equal, loopback()));
        localhost.push(expr::masquerade());
        rules.push(localhost);
    }
    let chain = Chain {
        table: TABLE,
        name: format!("postrouting_{}", named(address)),
        hook: Some(Hook {
            kind: "nat",
            point: HookPoint::PostRouting,
            priority: SNAT,
        }),
        rules,
    };
    vec![
        Change::Table(TABLE),
        Change::Set(masquerade),
        Change::Set(hairpin),
        Change::Chain(chain),
    ]
}

#[expect(clippy::expect_used, reason = "8 is a prefix length")]
fn loopback() -> IpNetwork {
    IpNetwork::new(Ipv4Addr::LOCALHOST.into(), 8).expect("8 is a prefix length")
}

#[expect(clippy::expect_used, reason = "10 is a prefix length")]
fn link_local() -> IpNetwork {
    let first = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
    IpNetwork::new(first.into(), 10).expect("10 is a prefix length")
}

fn ports_objects() -> Vec<Change> {
    let mut changes = vec![Change::Table(TABLE)];
    let mut lookups = Vec::new();
    let mut all_rules = Vec::new();
    for family in Family::ALL {
        let words = u32::from(family.bits()) / 32;
        for at_address in [true, false] {
            let map = ports_map(family, at_address);
            let mut rule = of_family(family);
            let mut next = R0;
            if at_address {
                rule.push(expr::payload(Field::destination(family), next));
                next = next.plus(words);
            }
            rule.push(expr::meta(MetaKey::L4Proto, next));
            rule.push(expr::payload(Field::PORT_DESTINATION, next.plus(1)));
            rule.push(expr::in_map(&map.name, R0, R0));
            rule.push(expr::dnat(family, R0, R0.plus(words)));
            lookups.push(rule);
            changes.push(Change::Set(map));
        }
        let all = masquerade_all_set(family);
        let mut rule = of_family(family);
        rule.extend(mapped());
        rule.extend(address_in(Field::destination(family), &all));
        rule.push(expr::masquerade());
        all_rules.push(rule);
        changes.push(Change::Set(all));
        changes.push(Change::Set(mapped_set(family)));
    }
    let chain = |name: &str, hook: Option<Hook>, rules| {
        Change::Chain(Chain {
            table: TABLE,
            name: name.into(),
            hook,
            rules,
        })
    };
    let nat = |point, priority| {
        Some(Hook {
            kind: "nat",
            point,
            priority,
        })
    };
    // The kernel delivers a packet to ::1 only on lo, and forwards none between link-local addresses,
    // so a container could not answer. It is the host's own services that are there.
    let not_mapped = |field: Field, subnet: IpNetwork| {
        let mut rule = of_family(Family::Ipv6);
        rule.extend(address_cmp(field, Operator::Equal, subnet));
        rule.push(expr::verdict(Verdict::Accept));
        rule
    };
    let (from, to) = (
        Field::source(Family::Ipv6),
        Field::destination(Family::Ipv6),
    );
    // Only what is meant for the host itself (CVE-2025-67499).
    let to_host = || {
        vec![
            not_mapped(to, link_local()),
            vec![
                expr::fib_destination_type(R0),
                expr::cmp(R0, Operator::Equal, &LOCAL.to_ne_bytes()),
                expr::verdict(Verdict::Jump("ports")),
            ],
        ]
    };
    changes.push(chain("ports", None, lookups));
    let localhost = IpAddr::from(Ipv6Addr::LOCALHOST).into();
    let input = Some(Hook {
        kind: "filter",
        point: HookPoint::Input,
        priority: RAW,
    });
    changes.extend([
        chain(
            "dnat_prerouting",
            nat(HookPoint::PreRouting, MAPPED_PORTS),
            to_host(),
        ),
        chain(
            "dnat_output",
            nat(HookPoint::Output, MAPPED_PORTS),
            [
                vec![not_mapped(to, localhost), not_mapped(from, localhost)],
                to_host(),
            ]
            .concat(),
        ),
        chain("postrouting", nat(HookPoint::PostRouting, SNAT), all_rules),
        chain("guard_input", input, guard_rules(unknown())),
        chain(
            "guard_mapped",
            nat(HookPoint::PreRouting, DNAT - 1),
            guard_rules(Vec::new()),
        ),
    ]);
    changes
}

/// The chains that earlier versions looked mapped ports up in, at another priority. A base chain's
/// priority cannot be changed, so those that replace them have other names.
pub(crate) const REPLACED_CHAINS: [(Table, &str); 2] = [(TABLE, "prerouting"), (TABLE, "output")];

/// route_localnet, which lets 127.0.0.1 reach mapped ports, would also let pods reach what the host
/// serves on 127.0.0.1 only. No packet from outside the host may use these addresses: neither those
/// that the host itself receives, nor, before any port mapping applies, the first packet of a
/// connection. A packet between pods, or from a pod to outside, is asked nothing more: a chain that
/// all packets pass would take a twentieth of the small ones' rate.
fn guard_rules(condition: Vec<Expression>) -> Vec<Vec<Expression>> {
    let mut lo = b"lo".to_vec();
    lo.resize(16, 0);
    [Field::IPV4_DESTINATION, Field::IPV4_SOURCE]
        .into_iter()
        .map(|field| {
            let mut rule = of_family(Family::Ipv4);
            rule.push(expr::meta(MetaKey::Iifname, R0));
            rule.push(expr::cmp(R0, Operator::NotEqual, &lo));
            rule.extend(address_cmp(field, Operator::Equal, loopback()));
            rule.extend(condition.clone());
            rule.push(expr::verdict(Verdict::Drop));
            rule
        })
        .collect()
}

/// Packets of no connection that was let through before. What a pod answers to 127.0.0.1, which came
/// by a mapped port, has that address again when it gets to the host.
fn unknown() -> Vec<Expression> {
    vec![
        expr::ct_state(R0),
        expr::mask(R0, &ESTABLISHED_OR_RELATED.to_ne_bytes()),
        expr::cmp(R0, Operator::Equal, &[0; 4]),
    ]
}

/// A chain of one rule that looks at packets, at a hook with a priority.
fn filter(
    table: Table,
    name: &str,
    (point, priority): (HookPoint, i32),
    rule: Vec<Expression>,
) -> Chain {
    Chain {
        table,
        name: name.into(),
        hook: Some(Hook {
            kind: "filter",
            point,
            priority,
        }),
        rules: vec![rule],
    }
}

/// What comes from one closed link and goes to another, unless the pair is one inside which it passes.
fn ingress_policy_objects() -> Vec<Change> {
    let (closed, inside) = (closed_set(), inside_set());
    let to = R0.plus(4);
    let rule = vec![
        expr::meta(MetaKey::Iifname, R0),
        expr::in_set(&closed.name, R0, false),
        expr::meta(MetaKey::Oifname, to),
        expr::in_set(&closed.name, to, false),
        expr::in_set(&inside.name, R0, true),
        expr::verdict(Verdict::Drop),
    ];
    let chain = filter(TABLE, "ingress_policy", (HookPoint::Forward, FILTER), rule);
    vec![
        Change::Table(TABLE),
        Change::Set(closed),
        Change::Set(inside),
        Change::Chain(chain),
    ]
}

/// A bridge's own isolation of ports is the option `portIsolation` of the plugin that makes them.
fn isolation_objects() -> Vec<Change> {
    let isolated = isolated_set();
    let rule = vec![
        expr::meta(MetaKey::Iifname, R0),
        expr::in_set(&isolated.name, R0, false),
        expr::meta(MetaKey::Oifname, R0),
        expr::in_set(&isolated.name, R0, false),
        expr::verdict(Verdict::Drop),
    ];
    let chain = filter(
        BRIDGE_TABLE,
        "isolation",
        (HookPoint::Forward, FILTER),
        rule,
    );
    vec![
        Change::Table(BRIDGE_TABLE),
        Change::Set(isolated),
        Change::Chain(chain),
    ]
}

fn spoof_objects() -> Vec<Change> {
    let (guarded, allowed) = (guarded_set(), allowed_set());
    let rule = vec![
        expr::meta(MetaKey::Iifname, R0),
        expr::in_set(&guarded.name, R0, false),
        expr::payload(Field::ETHER_SOURCE, R0.plus(4)),
        expr::in_set(&allowed.name, R0, true),
        expr::verdict(Verdict::Drop),
    ];
    let chain = filter(
        BRIDGE_TABLE,
        "prerouting",
        (HookPoint::PreRouting, RAW),
        rule,
    );
    vec![
        Change::Table(BRIDGE_TABLE),
        Change::Set(guarded),
        Change::Set(allowed),
        Change::Chain(chain),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nft_reads_the_names_back() {
        assert_eq!(named("10.1.2.3/24".parse().unwrap()), "10.1.2.0/24");
        assert_eq!(
            named("fd00::5/64".parse().unwrap()),
            "fd00.0.0.0.0.0.0.0/64"
        );
    }
}
