//! The rules of DOCKER-USER that let a network's traffic through, and which of them are missing.

use std::collections::HashSet;

use ipnetwork::IpNetwork;

use crate::cni::link::{Firewall, LinkConf};
use crate::cni::request::Network;
use crate::cni::{Family, IfName, NetworkName};
use crate::kernel::link::Link;
use crate::kernel::nft::expr::{self, Expression, Field, MetaKey, Operator, R0, Verdict};
use crate::kernel::nft::{NewRule, Rule, Table, TableFamily, TerminalVerdict};
use crate::plan::families::{Families, subnet_of};
use crate::plan::names::HOST_END_START;

/// The chain that Docker leaves to others.
pub const DOCKER_USER: &str = "DOCKER-USER";

/// The chain that the plugin `firewall` makes where Docker is not, by the reference's name.
pub(crate) const CNI_FORWARD: &str = "CNI-FORWARD";

/// The tables, as iptables names them, that may have it.
pub const TABLES: [Table; 2] = [
    Table {
        family: TableFamily::Ipv4,
        name: "filter",
    },
    Table {
        family: TableFamily::Ipv6,
        name: "filter",
    },
];

/// Traffic of a network that is to be let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedTraffic {
    pub network: NetworkName,
    pub link: HostLink,
}

/// What a network's forwarded packets come in from and go out to, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostLink {
    /// Of pods with addresses of these families.
    Bridge(IfName, Families),
    /// Mode ptp: the host's ends of pairs, with this subnet behind them.
    HostEnds(IpNetwork),
}

/// The traffic of a network that has these addresses, of pods or subnets; none where the
/// network's `firewall` is off.
pub fn allowed_traffic(network: &Network, addresses: &[IpNetwork]) -> Vec<AllowedTraffic> {
    if network.firewall == Firewall::Off {
        return Vec::new();
    }
    match &network.link {
        Some(LinkConf::Bridge(conf)) => by_bridge(&network.name, &conf.name, addresses),
        Some(LinkConf::Ptp) => by_host_ends(&network.name, addresses),
        None => Vec::new(),
    }
}

/// The same of a network that another plugin attaches containers to, by a bridge or without.
pub(crate) fn traffic_behind(
    network: &NetworkName,
    bridge: Option<&Link>,
    addresses: &[IpNetwork],
) -> Vec<AllowedTraffic> {
    match bridge {
        Some(bridge) => match IfName::parse(&bridge.name) {
            Ok(name) => by_bridge(network, &name, addresses),
            Err(_) => Vec::new(),
        },
        None => by_host_ends(network, addresses),
    }
}

fn by_bridge(
    network: &NetworkName,
    bridge: &IfName,
    addresses: &[IpNetwork],
) -> Vec<AllowedTraffic> {
    let mut families = Families::of(addresses.iter().copied());
    if addresses.is_empty() {
        // A switch only: its pods choose. Frames between its ports may be asked about
        // like forwarded packets (br_netfilter).
        (families.ipv4, families.ipv6) = (true, true);
    }
    vec![AllowedTraffic {
        network: network.clone(),
        link: HostLink::Bridge(bridge.clone(), families),
    }]
}

fn by_host_ends(network: &NetworkName, addresses: &[IpNetwork]) -> Vec<AllowedTraffic> {
    let mut seen = HashSet::new();
    let subnets = addresses.iter().map(|address| subnet_of(*address));
    let subnets = subnets.filter(|subnet| seen.insert(*subnet));
    let traffic = subnets.map(|subnet| AllowedTraffic {
        network: network.clone(),
        link: HostLink::HostEnds(subnet),
    });
    traffic.collect()
}

/// The rules for a chain of a table, such as DOCKER-USER, that are not among those it has, to be put where they
/// belong.
pub(crate) fn missing(
    traffic: &[AllowedTraffic],
    table: Table,
    chain: &str,
    present: &[Rule],
) -> Vec<NewRule> {
    let last = present.last();
    let before = last
        .filter(|rule| rule.unconditional == Some(TerminalVerdict::Return))
        .map(|rule| rule.handle);
    let wanted = traffic.iter().filter(|allowed| allowed.is_of(table.family));
    let present: HashSet<_> = present.iter().map(|rule| rule.comment.as_str()).collect();
    wanted
        .flat_map(|allowed| allowed.rules(table, chain, before))
        .filter(|wanted| !present.contains(wanted.comment.as_str()))
        .collect()
}

/// The tables that packets of these traffic are asked about in.
pub(crate) fn tables_of(traffic: &[AllowedTraffic]) -> Vec<Table> {
    let concerns = |table: &Table| traffic.iter().any(|allowed| allowed.is_of(table.family));
    TABLES.into_iter().filter(concerns).collect()
}

/// Whether a rule with this comment was made for a network.
pub(crate) fn is_of_network(comment: &str, network: &NetworkName) -> bool {
    comment.starts_with(&comment_start(network))
}

/// The network that a rule with this comment was made for; None if the rule is not ours.
pub(crate) fn network_of(comment: &str) -> Option<NetworkName> {
    let (network, _) = comment.strip_prefix("pausenet ")?.split_once(": ")?;
    NetworkName::parse(network).ok()
}

fn comment_start(network: &NetworkName) -> String {
    format!("pausenet {network}: ")
}

/// Which packets a rule accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleKind {
    FromPods,
    Replies,
    /// What comes by a mapped port, ours or another's.
    Mapped,
}

impl RuleKind {
    pub(super) const ALL: [Self; 3] = [Self::FromPods, Self::Replies, Self::Mapped];
}

impl AllowedTraffic {
    /// Whether there are packets of it in a table's family.
    pub(super) fn is_of(&self, family: TableFamily) -> bool {
        let families = self.families();
        match family {
            TableFamily::Ipv4 => families.ipv4,
            TableFamily::Ipv6 => families.ipv6,
            TableFamily::Inet => true,
            TableFamily::Bridge => false,
        }
    }

    pub(super) fn families(&self) -> Families {
        match self.link {
            HostLink::Bridge(_, families) => families,
            HostLink::HostEnds(subnet) => Families::of([subnet]),
        }
    }

    pub(super) fn comment(&self, kind: RuleKind) -> String {
        let kind = match kind {
            RuleKind::FromPods => "from",
            RuleKind::Replies => "answers to",
            RuleKind::Mapped => "mapped to",
        };
        format!("{}{kind} {}", comment_start(&self.network), self.link)
    }

    fn rules(&self, table: Table, chain: &str, before: Option<u64>) -> [NewRule; 3] {
        RuleKind::ALL.map(|kind| NewRule {
            table,
            chain: chain.to_owned(),
            before,
            comment: self.comment(kind),
            expressions: self.expressions(kind),
        })
    }

    fn expressions(&self, kind: RuleKind) -> Vec<Expression> {
        let name = match kind {
            RuleKind::FromPods => MetaKey::Iifname,
            RuleKind::Replies | RuleKind::Mapped => MetaKey::Oifname,
        };
        let mut rule = vec![expr::meta(name, R0)];
        match &self.link {
            HostLink::Bridge(bridge, _) => {
                // All of the name: with the zero that ends it.
                let mut bytes = bridge.as_str().as_bytes().to_vec();
                bytes.push(0);
                rule.push(expr::cmp(R0, Operator::Equal, &bytes));
            }
            HostLink::HostEnds(subnet) => {
                rule.push(expr::cmp(R0, Operator::Equal, HOST_END_START.as_bytes()));
                let family = Family::from(*subnet);
                let field = match kind {
                    RuleKind::FromPods => Field::source(family),
                    RuleKind::Replies | RuleKind::Mapped => Field::destination(family),
                };
                rule.push(expr::payload(field, R0));
                rule.extend(expr::subnet(R0, Operator::Equal, *subnet));
            }
        }
        match kind {
            RuleKind::FromPods => {}
            RuleKind::Replies => rule.push(connections(ESTABLISHED | RELATED)),
            RuleKind::Mapped => rule.push(connections(DNAT)),
        }
        rule.extend([expr::counter(), expr::verdict(Verdict::Accept)]);
        rule
    }
}

impl std::fmt::Display for HostLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bridge(name, _) => name.fmt(f),
            Self::HostEnds(subnet) => subnet.fmt(f),
        }
    }
}

/// States of a connection, as iptables numbers them (linux/netfilter/xt_conntrack.h).
const ESTABLISHED: u16 = 1 << 1;
const RELATED: u16 = 1 << 2;
const DNAT: u16 = 1 << 7;

/// `--ctstate`, as struct xt_conntrack_mtinfo3: iptables cannot read nftables' own `ct state`.
fn connections(states: u16) -> Expression {
    const LENGTH: usize = 168; // with padding
    const MATCH_FLAGS_AT: usize = 146;
    const STATE_MASK_AT: usize = 150;
    const STATE: u16 = 1;
    let mut info = vec![0; LENGTH];
    for (at, flags) in [(MATCH_FLAGS_AT, STATE), (STATE_MASK_AT, states)] {
        info[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }
    expr::xt_match("conntrack", 3, info)
}
