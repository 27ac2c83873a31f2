//! What other firewalls of the host should let through: the traffic that a network forwards.
//!
//! A packet is forwarded only if every base chain at the hook lets it pass, so a rule in a table
//! of our own is no help where another's chain drops it. Docker's does: it makes the policy of
//! `FORWARD` DROP, and keeps a chain for other people's rules, `DOCKER-USER`, that is asked first.
//! There we say what a network's pods need, in rules that iptables prints and removes like its
//! own:
//!
//! ```text
//! -A DOCKER-USER -i cni0 -m comment --comment "pausenet podnet: from cni0" -j ACCEPT
//! -A DOCKER-USER -o cni0 -m conntrack --ctstate RELATED,ESTABLISHED
//!                -m comment --comment "pausenet podnet: answers to cni0" -j ACCEPT
//! -A DOCKER-USER -o cni0 -m conntrack --ctstate DNAT
//!                -m comment --comment "pausenet podnet: mapped to cni0" -j ACCEPT
//! ```
//!
//! (Two rules for one, for nft shows but half of `RELATED,ESTABLISHED,DNAT`, and would load that.)
//!
//! What pods send is accepted wherever it goes, and towards them the answers, and what comes by a
//! mapped port; new connections from outside to anything else meet the policy, as those to
//! Docker's own containers do. In mode ptp, `cni0` is the host ends (`veth+`) with the subnet.
//!
//! The rules are a network's, not an attachment's. They go behind the user's own, whose DROP has
//! to win, but before the RETURN that ends the chain. No DEL removes them: the next pod needs them
//! again. GC does, once the runtime says that the network has no attachment. What else may be in
//! the way, and what a person can do about it, is in [`mod@obstacles`].

mod obstacles;

use ipnetwork::IpNetwork;
pub use obstacles::{ForwardChain, Keeper, LegacyForward, Obstacle, Remedy, obstacles};

use super::{Families, HOST_END_START};
use crate::cni::link::{Firewall, LinkConf};
use crate::cni::request::Network;
use crate::cni::{IfName, NetworkName};
use crate::kernel::nft::expr::{self, Expression, Field, Meta, Op, R0, Verdict};
use crate::kernel::nft::{NewRule, Rule, Table, TableFamily, TerminalVerdict};

/// The chain that Docker leaves to others.
pub const DOCKER_USER: &str = "DOCKER-USER";

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
pub struct Passage {
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

/// The traffic of a network that has these addresses, of pods or subnets; none where it is not
/// to be told to anybody.
pub fn passages(network: &Network, addresses: &[IpNetwork]) -> Vec<Passage> {
    if network.firewall == Firewall::Off {
        return Vec::new();
    }
    let passage = |link| Passage {
        network: network.name.clone(),
        link,
    };
    match &network.link {
        Some(LinkConf::Bridge(conf)) => {
            let mut families = Families::of(addresses.iter().copied());
            if addresses.is_empty() {
                // A switch only: its pods choose. Frames between its ports may be asked about
                // like forwarded packets (br_netfilter).
                (families.ipv4, families.ipv6) = (true, true);
            }
            vec![passage(HostLink::Bridge(conf.name.clone(), families))]
        }
        Some(LinkConf::Ptp) => {
            let mut passages: Vec<Passage> = Vec::new();
            for address in addresses {
                let subnet = IpNetwork::new(address.network(), address.prefix());
                let subnet = subnet.expect("a subnet's own prefix length");
                let found = passage(HostLink::HostEnds(subnet));
                if !passages.contains(&found) {
                    passages.push(found);
                }
            }
            passages
        }
        None => Vec::new(),
    }
}

/// The rules for DOCKER-USER in a table that are not among those it has, to be put where they
/// belong.
pub fn missing(passages: &[Passage], table: Table, present: &[Rule]) -> Vec<NewRule> {
    let last = present.last();
    let before = last
        .filter(|rule| rule.unconditional == Some(TerminalVerdict::Return))
        .map(|rule| rule.handle);
    let wanted = passages
        .iter()
        .filter(|passage| passage.is_of(table.family));
    wanted
        .flat_map(|passage| passage.rules(table, before))
        .filter(|wanted| !present.iter().any(|rule| rule.comment == wanted.comment))
        .collect()
}

/// The tables that packets of these passages are asked about in.
pub fn tables_of(passages: &[Passage]) -> Vec<Table> {
    let concerns = |table: &Table| passages.iter().any(|passage| passage.is_of(table.family));
    TABLES.into_iter().filter(concerns).collect()
}

/// Whether a rule with this comment was made for a network.
pub fn is_of_network(comment: &str, network: &NetworkName) -> bool {
    comment.starts_with(&comment_start(network))
}

fn comment_start(network: &NetworkName) -> String {
    format!("pausenet {network}: ")
}

/// Which packets a rule accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    FromPods,
    Answers,
    /// What comes by a mapped port, ours or another's.
    Mapped,
}

impl Way {
    const ALL: [Self; 3] = [Self::FromPods, Self::Answers, Self::Mapped];
}

impl Passage {
    /// Whether there are packets of it in a table's family.
    fn is_of(&self, family: TableFamily) -> bool {
        let families = self.families();
        match family {
            TableFamily::Ipv4 => families.ipv4,
            TableFamily::Ipv6 => families.ipv6,
            TableFamily::Inet => true,
            TableFamily::Bridge => false,
        }
    }

    fn families(&self) -> Families {
        match self.link {
            HostLink::Bridge(_, families) => families,
            HostLink::HostEnds(subnet) => Families::of([subnet]),
        }
    }

    fn comment(&self, way: Way) -> String {
        let way = match way {
            Way::FromPods => "from",
            Way::Answers => "answers to",
            Way::Mapped => "mapped to",
        };
        format!("{}{way} {}", comment_start(&self.network), self.link)
    }

    fn rules(&self, table: Table, before: Option<u64>) -> [NewRule; 3] {
        Way::ALL.map(|way| NewRule {
            table,
            chain: DOCKER_USER.to_owned(),
            before,
            comment: self.comment(way),
            expressions: self.expressions(way),
        })
    }

    fn expressions(&self, way: Way) -> Vec<Expression> {
        let name = match way {
            Way::FromPods => Meta::IifName,
            Way::Answers | Way::Mapped => Meta::OifName,
        };
        let mut rule = vec![expr::meta(name, R0)];
        match &self.link {
            HostLink::Bridge(bridge, _) => {
                // All of the name: with the zero that ends it.
                let mut bytes = bridge.as_str().as_bytes().to_vec();
                bytes.push(0);
                rule.push(expr::cmp(R0, Op::Eq, &bytes));
            }
            HostLink::HostEnds(subnet) => {
                rule.push(expr::cmp(R0, Op::Eq, HOST_END_START.as_bytes()));
                let v4 = subnet.is_ipv4();
                let field = match way {
                    Way::FromPods => Field::source(v4),
                    Way::Answers | Way::Mapped => Field::destination(v4),
                };
                rule.push(expr::payload(field, R0));
                rule.extend(expr::subnet(R0, Op::Eq, *subnet));
            }
        }
        match way {
            Way::FromPods => {}
            Way::Answers => rule.push(connections(ESTABLISHED | RELATED)),
            Way::Mapped => rule.push(connections(DNAT)),
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

#[cfg(test)]
mod tests;
