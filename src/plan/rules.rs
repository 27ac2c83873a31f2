//! What nftables should hold: masquerade, port mappings and the guard against forged MACs.
//!
//! State is shared and flat. An attachment is elements of sets and maps, never rules of its
//! own, so neither a packet nor an ADD gets slower with the number of pods. Rules exist once
//! for a subnet or once for the host. Elements are keyed by what packets carry, so each tells
//! in its comment whose it is ([`super::alias`]).
//!
//! ```text
//! table inet pausenet
//!   set  masquerade_SUBNET    pods whose traffic to outside SUBNET is masqueraded
//!   set  hairpin_SUBNET       pods with ports that neighbours and 127.0.0.1 may use too
//!   chain postrouting_SUBNET
//!   map  ports4, ports6       protocol . host port : pod . port
//!   map  ports4_at, ports6_at host address . protocol . host port : pod . port
//!   set  masquerade_all4, _6  pods whose ports are reached by masquerade from everywhere
//!   chain prerouting, output → ports; postrouting; guard
//! table bridge pausenet
//!   set  guarded              host ends whose frames are looked at
//!   set  allowed              host end . the MAC that it may send from
//!   chain prerouting
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::{alias, host_end_name};
use crate::cni::link::LinkConf;
use crate::cni::ports::{PortMapping, PortsConf};
use crate::cni::request::{Network, Request};
use crate::cni::{IfName, MacAddr};
use crate::kernel::nft::expr::{
    self, DST_NAT, Expression, Field, LOCAL, Meta, Op, R0, Verdict, address_bytes,
};
use crate::kernel::nft::{Chain, Change, Element, Family, Hook, HookPoint, Kind, Set, Table};

/// Our table of addresses and ports.
pub const TABLE: Table = Table {
    family: Family::Inet,
    name: "pausenet",
};

/// Our table of frames.
pub const BRIDGE_TABLE: Table = Table {
    family: Family::Bridge,
    name: "pausenet",
};

/// The kernel's standard priorities (NF_IP_PRI_…).
const DNAT: i32 = -100;
const SNAT: i32 = 100;
const RAW: i32 = -300;

/// NFPROTO_IPV4 and _IPV6.
const PROTO: [[u8; 1]; 2] = [[10], [2]];

/// An element that should be there, and the objects that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub set: Set,
    pub element: Element,
    /// Whether the key is the attachment's own (its address, its link): whoever else holds it
    /// is dead. A host port is not.
    pub own_key: bool,
    block: Block,
}

/// The objects that come and go together.
#[derive(Debug, Clone, PartialEq)]
enum Block {
    Subnet(IpNetwork),
    Ports,
    Spoof,
}

/// Everything that nftables should hold for an attachment with these addresses and this MAC.
pub fn wishes(request: &Request, addresses: &[IpNetwork], mac: Option<MacAddr>) -> Vec<Wish> {
    let owner = alias(&request.attachment);
    let mut wishes = Vec::new();
    if request.network.masquerade {
        wishes.extend(addresses.iter().map(|address| masquerade(*address, &owner)));
    }
    if let Some(ports) = &request.network.ports {
        wishes.extend(port_wishes(ports, addresses, &owner));
    }
    if let Some(mac) = mac.filter(|_| checks_macs(&request.network)) {
        wishes.extend(spoof(&host_end_name(&request.attachment), mac, &owner));
    }
    wishes
}

fn checks_macs(network: &Network) -> bool {
    matches!(&network.link, Some(LinkConf::Bridge(conf)) if conf.mac_spoof_check)
}

/// Whether attachments of a network may have elements at all. One of which the config does not
/// tell the link may.
pub fn are_used(network: &Network) -> bool {
    network.masquerade || network.ports.is_some() || checks_macs(network) || network.link.is_none()
}

/// The mappings of a container that somebody else may have wired: its first address of each
/// family gets them.
pub fn port_wishes(ports: &PortsConf, addresses: &[IpNetwork], owner: &str) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for v4 in [true, false] {
        let Some(address) = addresses.iter().find(|address| address.is_ipv4() == v4) else {
            continue;
        };
        let before = wishes.len();
        wishes.extend(
            ports
                .mappings
                .iter()
                .filter(|mapping| mapping.is_for(v4))
                .map(|mapping| port(mapping, address.ip(), owner)),
        );
        if wishes.len() == before {
            continue;
        }
        if ports.masquerade_all {
            let set = set(
                format!("masquerade_all{}", digit(v4)),
                vec![ip_kind(v4)],
                vec![],
            );
            wishes.push(own(Block::Ports, set, address_bytes(address.ip()), owner));
        } else if ports.snat {
            let set = hairpin_set(*address);
            wishes.push(own(
                Block::Subnet(*address),
                set,
                address_bytes(address.ip()),
                owner,
            ));
        }
    }
    wishes
}

fn own(block: Block, set: Set, key: Vec<u8>, owner: &str) -> Wish {
    let element = Element {
        key,
        data: Vec::new(),
        owner: owner.to_owned(),
    };
    Wish {
        set,
        element,
        own_key: true,
        block,
    }
}

fn masquerade(address: IpNetwork, owner: &str) -> Wish {
    let key = address_bytes(address.ip());
    own(Block::Subnet(address), masquerade_set(address), key, owner)
}

fn port(mapping: &PortMapping, pod: IpAddr, owner: &str) -> Wish {
    let v4 = pod.is_ipv4();
    let mut key = Vec::new();
    if let Some(host_ip) = mapping.host_ip {
        key.extend(address_bytes(host_ip));
    }
    key.extend([mapping.protocol.number(), 0, 0, 0]);
    key.extend(padded_port(mapping.host_port));
    let mut data = address_bytes(pod);
    data.extend(padded_port(mapping.container_port));
    Wish {
        set: ports_map(v4, mapping.host_ip.is_some()),
        element: Element {
            key,
            data,
            owner: owner.to_owned(),
        },
        own_key: false,
        block: Block::Ports,
    }
}

fn spoof(host_end: &IfName, mac: MacAddr, owner: &str) -> [Wish; 2] {
    let name = padded_name(host_end);
    let mut pair = name.clone();
    pair.extend(mac.0);
    pair.resize(24, 0);
    [
        own(Block::Spoof, guarded_set(), name, owner),
        own(Block::Spoof, allowed_set(), pair, owner),
    ]
}

fn padded_name(link: &IfName) -> Vec<u8> {
    let mut name = link.as_str().as_bytes().to_vec();
    name.resize(16, 0);
    name
}

/// Under which keys an attachment's elements are. None when only a look at all of them can
/// tell: its addresses, its MAC, or what the config had asked for are not known any more.
pub fn keys(
    request: &Request,
    addresses: &[IpNetwork],
    mac: Option<MacAddr>,
) -> Option<Vec<(Set, Vec<u8>)>> {
    let by_address = request.network.masquerade || request.network.ports.is_some();
    if by_address && addresses.is_empty()
        || checks_macs(&request.network) && mac.is_none()
        || request.network.link.is_none()
    {
        return None;
    }
    let wishes = wishes(request, addresses, mac).into_iter();
    Some(wishes.map(|wish| (wish.set, wish.element.key)).collect())
}

/// The same of port mappings alone.
pub fn port_keys(ports: &PortsConf, addresses: &[IpNetwork]) -> Vec<(Set, Vec<u8>)> {
    port_wishes(ports, addresses, "")
        .into_iter()
        .map(|wish| (wish.set, wish.element.key))
        .collect()
}

/// The pod's address that a port map's element leads to.
pub fn target(element: &Element) -> Option<IpAddr> {
    match element.data.len() {
        8 => <[u8; 4]>::try_from(&element.data[..4])
            .ok()
            .map(IpAddr::from),
        20 => <[u8; 16]>::try_from(&element.data[..16])
            .ok()
            .map(IpAddr::from),
        _ => None,
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

fn digit(v4: bool) -> char {
    if v4 { '4' } else { '6' }
}

fn ip_kind(v4: bool) -> Kind {
    if v4 { Kind::Ipv4 } else { Kind::Ipv6 }
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// A subnet as part of a name that nft can read back: it knows no colons there.
fn named(subnet: IpNetwork) -> String {
    let network = match subnet.network() {
        IpAddr::V4(net) => net.to_string(),
        IpAddr::V6(net) => net.segments().map(|part| format!("{part:x}")).join("."),
    };
    format!("{network}/{}", subnet.prefix())
}

fn masquerade_set(address: IpNetwork) -> Set {
    set(
        format!("masquerade_{}", named(address)),
        vec![ip_kind(address.is_ipv4())],
        vec![],
    )
}

fn hairpin_set(address: IpNetwork) -> Set {
    set(
        format!("hairpin_{}", named(address)),
        vec![ip_kind(address.is_ipv4())],
        vec![],
    )
}

fn ports_map(v4: bool, at_address: bool) -> Set {
    let mut key = vec![Kind::Protocol, Kind::Port];
    let mut name = format!("ports{}", digit(v4));
    if at_address {
        key.insert(0, ip_kind(v4));
        name.push_str("_at");
    }
    set(name, key, vec![ip_kind(v4), Kind::Port])
}

fn allowed_set() -> Set {
    Set {
        table: BRIDGE_TABLE,
        name: "allowed".into(),
        key: vec![Kind::IfName, Kind::Ether],
        data: vec![],
    }
}

fn guarded_set() -> Set {
    Set {
        table: BRIDGE_TABLE,
        name: "guarded".into(),
        key: vec![Kind::IfName],
        data: vec![],
    }
}

/// Everything that the wishes need, each block once.
pub fn blocks(wishes: &[Wish]) -> Vec<Change> {
    let mut done: Vec<&Block> = Vec::new();
    let mut changes = Vec::new();
    for wish in wishes {
        if !done.contains(&&wish.block) {
            changes.extend(match &wish.block {
                Block::Subnet(address) => subnet_block(*address),
                Block::Ports => ports_block(),
                Block::Spoof => spoof_block(),
            });
            done.push(&wish.block);
        }
    }
    changes
}

/// Starts a rule for one IP family; the table is for both.
fn family(v4: bool) -> Vec<Expression> {
    vec![
        expr::meta(Meta::NfProto, R0),
        expr::cmp(R0, Op::Eq, &PROTO[usize::from(v4)]),
    ]
}

fn address_in(field: Field, set: &Set) -> [Expression; 2] {
    [expr::payload(field, R0), expr::in_set(&set.name, R0, false)]
}

fn address_cmp(field: Field, op: Op, net: IpNetwork) -> Vec<Expression> {
    let mut rule = vec![expr::payload(field, R0)];
    rule.extend(expr::subnet(R0, op, net));
    rule
}

/// Connections whose destination a port mapping has changed.
fn mapped() -> [Expression; 3] {
    let bit = DST_NAT.to_ne_bytes();
    [
        expr::ct_status(R0),
        expr::mask(R0, &bit),
        expr::cmp(R0, Op::Ne, &[0; 4]),
    ]
}

fn subnet_block(address: IpNetwork) -> Vec<Change> {
    let v4 = address.is_ipv4();
    let (from, to) = (Field::source(v4), Field::destination(v4));
    let (masquerade, hairpin) = (masquerade_set(address), hairpin_set(address));
    let multicast: IpNetwork = if v4 { "224.0.0.0/4" } else { "ff00::/8" }
        .parse()
        .expect("a subnet");

    // What a pod sends to outside its subnet, but never multicast.
    let mut outgoing = family(v4);
    outgoing.extend(address_in(from, &masquerade));
    outgoing.extend(address_cmp(to, Op::Ne, address));
    outgoing.extend(address_cmp(to, Op::Ne, multicast));
    outgoing.push(expr::masquerade());

    // What comes back to the subnet by way of a mapped port: the answer has to take the same
    // way, or its receiver will not know it.
    let mut neighbours = family(v4);
    neighbours.extend(mapped());
    neighbours.extend(address_in(to, &hairpin));
    neighbours.extend(address_cmp(from, Op::Eq, address));
    neighbours.push(expr::masquerade());
    let mut rules = vec![outgoing, neighbours];

    if v4 {
        let mut localhost = family(v4);
        localhost.extend(mapped());
        localhost.extend(address_in(to, &hairpin));
        localhost.extend(address_cmp(from, Op::Eq, loopback()));
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

fn loopback() -> IpNetwork {
    IpNetwork::new(Ipv4Addr::LOCALHOST.into(), 8).expect("8 is a prefix length")
}

fn ports_block() -> Vec<Change> {
    let mut changes = vec![Change::Table(TABLE)];
    let mut lookups = Vec::new();
    let mut all_rules = Vec::new();
    for v4 in [true, false] {
        let words = if v4 { 1 } else { 4 };
        for at_address in [true, false] {
            let map = ports_map(v4, at_address);
            let mut rule = family(v4);
            let mut next = R0;
            if at_address {
                rule.push(expr::payload(Field::destination(v4), next));
                next = next.plus(words);
            }
            rule.push(expr::meta(Meta::L4Proto, next));
            rule.push(expr::payload(Field::PORT_DESTINATION, next.plus(1)));
            rule.push(expr::in_map(&map.name, R0, R0));
            rule.push(expr::dnat(v4, R0, R0.plus(words)));
            lookups.push(rule);
            changes.push(Change::Set(map));
        }
        let all = set(
            format!("masquerade_all{}", digit(v4)),
            vec![ip_kind(v4)],
            vec![],
        );
        let mut rule = family(v4);
        rule.extend(mapped());
        rule.extend(address_in(Field::destination(v4), &all));
        rule.push(expr::masquerade());
        all_rules.push(rule);
        changes.push(Change::Set(all));
    }
    let chain = |name: &str, hook: Option<(HookPoint, i32)>, rules| {
        let kind = if name == "guard" { "filter" } else { "nat" };
        Change::Chain(Chain {
            table: TABLE,
            name: name.into(),
            hook: hook.map(|(point, priority)| Hook {
                kind,
                point,
                priority,
            }),
            rules,
        })
    };
    // Only what is meant for the host itself (CVE-2025-67499).
    let to_host = || {
        vec![vec![
            expr::fib_destination_type(R0),
            expr::cmp(R0, Op::Eq, &LOCAL.to_ne_bytes()),
            expr::verdict(Verdict::Jump("ports")),
        ]]
    };
    changes.push(chain("ports", None, lookups));
    changes.push(chain(
        "prerouting",
        Some((HookPoint::PreRouting, DNAT)),
        to_host(),
    ));
    changes.push(chain("output", Some((HookPoint::Output, DNAT)), to_host()));
    changes.push(chain(
        "postrouting",
        Some((HookPoint::PostRouting, SNAT)),
        all_rules,
    ));
    changes.push(chain(
        "guard",
        Some((HookPoint::PreRouting, RAW)),
        guard_rules(),
    ));
    changes
}

/// route_localnet, which lets 127.0.0.1 reach mapped ports, would also let pods reach what the
/// host serves on 127.0.0.1 only. Nothing from outside the host has business with these
/// addresses.
fn guard_rules() -> Vec<Vec<Expression>> {
    let mut lo = b"lo".to_vec();
    lo.resize(16, 0);
    [Field::IPV4_DESTINATION, Field::IPV4_SOURCE]
        .into_iter()
        .map(|field| {
            let mut rule = family(true);
            rule.push(expr::meta(Meta::IifName, R0));
            rule.push(expr::cmp(R0, Op::Ne, &lo));
            rule.extend(address_cmp(field, Op::Eq, loopback()));
            rule.push(expr::verdict(Verdict::Drop));
            rule
        })
        .collect()
}

fn spoof_block() -> Vec<Change> {
    let (guarded, allowed) = (guarded_set(), allowed_set());
    let rule = vec![
        expr::meta(Meta::IifName, R0),
        expr::in_set(&guarded.name, R0, false),
        expr::payload(Field::ETHER_SOURCE, R0.plus(4)),
        expr::in_set(&allowed.name, R0, true),
        expr::verdict(Verdict::Drop),
    ];
    let chain = Chain {
        table: BRIDGE_TABLE,
        name: "prerouting".into(),
        hook: Some(Hook {
            kind: "filter",
            point: HookPoint::PreRouting,
            priority: RAW,
        }),
        rules: vec![rule],
    };
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
    fn names_are_such_that_nft_reads_them_back() {
        assert_eq!(named("10.1.2.3/24".parse().unwrap()), "10.1.2.0/24");
        assert_eq!(
            named("fd00::5/64".parse().unwrap()),
            "fd00.0.0.0.0.0.0.0/64"
        );
    }

    #[test]
    fn a_port_s_element_leads_back_to_its_pod() {
        let conf = PortsConf::for_test(r#"[{"hostPort": 8080, "containerPort": 80}]"#);
        for pod in ["10.1.0.5/24", "fd00::5/64"] {
            let pod: IpNetwork = pod.parse().unwrap();
            let wishes = port_wishes(&conf, &[pod], "x");
            assert_eq!(target(&wishes[0].element), Some(pod.ip()));
            assert!(!wishes[0].own_key && wishes[1].own_key);
        }
    }

    #[test]
    fn a_mapping_at_an_address_of_one_family_is_none_of_the_other() {
        let conf =
            PortsConf::for_test(r#"[{"hostPort": 1, "containerPort": 2, "hostIP": "192.0.2.1"}]"#);
        let pods: Vec<IpNetwork> = ["10.1.0.5/24", "fd00::5/64"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let names: Vec<_> = port_wishes(&conf, &pods, "x")
            .into_iter()
            .map(|wish| wish.set.name)
            .collect();
        assert_eq!(names, ["ports4_at", "hairpin_10.1.0.0/24"]);
    }

    #[test]
    fn each_block_is_made_once() {
        let conf = PortsConf::for_test(
            r#"[{"hostPort": 1, "containerPort": 2}, {"hostPort": 3, "containerPort": 4}]"#,
        );
        let wishes = port_wishes(&conf, &["10.1.0.5/24".parse().unwrap()], "x");
        let tables = blocks(&wishes)
            .into_iter()
            .filter(|change| matches!(change, Change::Table(_)));
        assert_eq!(tables.count(), 2, "one for the ports, one for the subnet");
    }
}
