//! Chains of other firewalls that drop what pods forward, and what an administrator can do about
//! them (pure: computed from the rules of all chains at the forward hook).

use std::collections::{HashMap, HashSet};

use super::forwarding::{AllowedTraffic, DOCKER_USER, HostLink, RuleKind};
use crate::cni::Family;
use crate::cni::NetworkName;
use crate::kernel::iptables_legacy;
use crate::kernel::nft::{Policy, Rule, RuleVerdict, TableFamily, TerminalVerdict};

/// A base chain of nftables that is asked about forwarded packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardChain {
    pub(crate) family: TableFamily,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) policy: Policy,
    /// All rules of its table, those of other chains too.
    pub(crate) rules: Vec<Rule>,
}

/// The chain FORWARD of iptables-legacy, where its table is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LegacyForward {
    pub(crate) family: Family,
    /// Whether its policy is DROP.
    pub(crate) drops: bool,
    /// The user-defined chains in its table.
    pub(crate) chains: Vec<String>,
}

/// A chain that drops what networks forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub manager: FirewallManager,
    /// Such as `chain FORWARD of table ip filter`.
    pub place: String,
    /// Such as `its policy is drop`.
    pub why: String,
    /// The networks that it drops packets of.
    pub networks: Vec<NetworkName>,
    pub remedy: Remedy,
}

/// The program that a chain belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallManager {
    Docker,
    Firewalld,
    Ufw,
    /// None that is known here.
    Unknown,
}

/// How to remove an obstacle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Our own rules do, which the next ADD of the network makes, or
    /// [`ensure`](crate::apply::firewall::ensure) right away.
    Ours,
    /// Commands for the administrator, in their order.
    Commands(Vec<String>),
}

/// The chains that drop packets of these networks.
///
/// A firewall is taken to let a network through if one of its rules names the network's bridge or
/// subnet: what the rule says beyond that is the administrator's decision.
pub(crate) fn obstacles(
    chains: &[ForwardChain],
    legacy: &[LegacyForward],
    traffic: &[AllowedTraffic],
) -> Vec<Obstacle> {
    let mut found: Vec<_> = chains
        .iter()
        .filter_map(|chain| chain.obstacle(traffic))
        .collect();
    found.extend(legacy.iter().filter_map(|chain| chain.obstacle(traffic)));
    found
}

impl ForwardChain {
    fn obstacle(&self, traffic: &[AllowedTraffic]) -> Option<Obstacle> {
        let why = self.why()?;
        let manager = self.manager();
        let passes = Passes::of(self);
        let shut_out: Vec<_> = traffic
            .iter()
            .filter(|allowed| allowed.is_of(self.family) && !passes.has(allowed, manager))
            .collect();
        let family = match self.family {
            TableFamily::Inet => "inet",
            TableFamily::Ipv4 => "ip",
            TableFamily::Ipv6 => "ip6",
            TableFamily::Bridge => "bridge",
        };
        let remedy = match manager {
            FirewallManager::Docker => Remedy::Ours,
            FirewallManager::Firewalld => firewalld(&shut_out),
            FirewallManager::Ufw => ufw(&shut_out),
            FirewallManager::Unknown => nft(&shut_out, family, self),
        };
        Some(Obstacle {
            manager,
            place: format!("chain {} of table {family} {}", self.name, self.table),
            why: why.to_owned(),
            networks: networks(&shut_out)?,
            remedy,
        })
    }

    /// How it drops packets that no rule of it accepts, if it does.
    fn why(&self) -> Option<&'static str> {
        let mut own = self.rules.iter().filter(|rule| rule.chain == self.name);
        if own.any(|rule| rule.unconditional == Some(TerminalVerdict::Drop)) {
            return Some("a rule of it drops or rejects what none before it accepts");
        }
        (self.policy == Policy::Drop).then_some("its policy is drop")
    }

    fn manager(&self) -> FirewallManager {
        let jumps = |to: &dyn Fn(&String) -> bool| {
            let mut own = self.rules.iter().filter(|rule| rule.chain == self.name);
            own.any(|rule| rule.jumps.iter().any(to))
        };
        if self.table == "firewalld" {
            FirewallManager::Firewalld
        } else if self.table == "filter" && jumps(&|to| to == DOCKER_USER) {
            // It is evaluated before all others.
            FirewallManager::Docker
        } else if jumps(&|to| to.starts_with("ufw")) {
            FirewallManager::Ufw
        } else {
            FirewallManager::Unknown
        }
    }
}

/// What a firewall lets through, looked up at once: networks and rules may be many.
struct Passes<'a> {
    /// The comments of rules in Docker's chain for administrators.
    comments: HashSet<&'a str>,
    /// What rules compare with, without the zeros at the end, and how long it was at most.
    values: HashMap<&'a [u8], usize>,
}

impl<'a> Passes<'a> {
    fn of(chain: &'a ForwardChain) -> Self {
        let (mut comments, mut values) = (HashSet::new(), HashMap::new());
        for rule in &chain.rules {
            if rule.chain == DOCKER_USER {
                comments.insert(rule.comment.as_str());
            }
            // One that drops our packets does not let them through.
            if rule.verdict != Some(RuleVerdict::Drop) {
                for value in &rule.values {
                    let longest = values.entry(without_padding(value)).or_insert(0);
                    *longest = value.len().max(*longest);
                }
            }
        }
        Self { comments, values }
    }

    fn has(&self, allowed: &AllowedTraffic, manager: FirewallManager) -> bool {
        if manager == FirewallManager::Docker {
            let mut kinds = RuleKind::ALL.into_iter();
            return kinds.all(|kind| self.comments.contains(&*allowed.comment(kind)));
        }
        self.name(&allowed.link)
    }

    /// Whether a rule compares something with a link's name, or its subnet.
    fn name(&self, link: &HostLink) -> bool {
        let wanted = match link {
            HostLink::Bridge(name, _) => name.as_str().as_bytes().to_vec(),
            // Compared byte by byte, as far as the prefix goes.
            HostLink::HostEnds(subnet) => {
                let mut bytes = crate::kernel::nft::expr::address_bytes(subnet.network());
                bytes.truncate(usize::from(subnet.prefix()).div_ceil(8));
                bytes
            }
        };
        let longest = self.values.get(without_padding(&wanted));
        longest.is_some_and(|longest| *longest >= wanted.len())
    }
}

fn without_padding(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| *byte != 0);
    &value[..end.map_or(0, |last| last + 1)]
}

impl LegacyForward {
    fn obstacle(&self, traffic: &[AllowedTraffic]) -> Option<Obstacle> {
        let shut_out: Vec<_> = traffic
            .iter()
            .filter(|allowed| match self.family {
                Family::Ipv4 => allowed.families().ipv4,
                Family::Ipv6 => allowed.families().ipv6,
            })
            .collect();
        let networks = networks(&shut_out).filter(|_| self.drops)?;
        let has = |start: &str| self.chains.iter().any(|chain| chain.starts_with(start));
        let program = iptables_legacy::program(self.family);
        let (manager, remedy) = if has(DOCKER_USER) {
            let commands = iptables(&shut_out, program, DOCKER_USER);
            (FirewallManager::Docker, commands)
        } else if has("ufw") {
            (FirewallManager::Ufw, ufw(&shut_out))
        } else {
            let commands = iptables(&shut_out, program, "FORWARD");
            (FirewallManager::Unknown, commands)
        };
        Some(Obstacle {
            manager,
            place: format!("chain FORWARD of {program}'s table filter"),
            why: "its policy is drop, and whether a rule of it accepts the network cannot be seen"
                .to_owned(),
            networks,
            remedy,
        })
    }
}

/// The networks, each once; None if the list is empty.
fn networks(traffic: &[&AllowedTraffic]) -> Option<Vec<NetworkName>> {
    let mut networks: Vec<_> = traffic
        .iter()
        .map(|allowed| allowed.network.clone())
        .collect();
    networks.dedup();
    (!networks.is_empty()).then_some(networks)
}

fn commands(traffic: &[&AllowedTraffic], of: impl Fn(&HostLink) -> Vec<String>) -> Remedy {
    let mut commands: Vec<_> = traffic
        .iter()
        .flat_map(|allowed| of(&allowed.link))
        .collect();
    let mut seen = HashSet::new();
    commands.retain(|command| seen.insert(command.clone()));
    Remedy::Commands(commands)
}

fn firewalld(traffic: &[&AllowedTraffic]) -> Remedy {
    let Remedy::Commands(mut all) = commands(traffic, |link| {
        let what = match link {
            HostLink::Bridge(name, _) => format!("--add-interface={name}"),
            HostLink::HostEnds(subnet) => format!("--add-source={subnet}"),
        };
        vec![format!("firewall-cmd --permanent --zone=trusted {what}")]
    }) else {
        return Remedy::Ours;
    };
    all.push("firewall-cmd --reload".to_owned());
    Remedy::Commands(all)
}

/// It accepts answers by itself. What comes by mapped ports has to be allowed by its user.
fn ufw(traffic: &[&AllowedTraffic]) -> Remedy {
    commands(traffic, |link| match link {
        HostLink::Bridge(name, _) => vec![format!("ufw route allow in on {name}")],
        HostLink::HostEnds(subnet) => vec![format!("ufw route allow from {subnet}")],
    })
}

fn iptables(traffic: &[&AllowedTraffic], program: &str, chain: &str) -> Remedy {
    commands(traffic, |link| {
        let (from, to) = match link {
            HostLink::Bridge(name, _) => (format!("-i {name}"), format!("-o {name}")),
            HostLink::HostEnds(subnet) => (format!("-s {subnet}"), format!("-d {subnet}")),
        };
        vec![
            format!("{program} -I {chain} {from} -j ACCEPT"),
            format!(
                "{program} -I {chain} {to} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
            ),
        ]
    })
}

fn nft(traffic: &[&AllowedTraffic], family: &str, chain: &ForwardChain) -> Remedy {
    let insert = format!("nft insert rule {family} {} {}", chain.table, chain.name);
    commands(traffic, |link| {
        let (from, to) = match link {
            HostLink::Bridge(name, _) => (format!("iifname {name}"), format!("oifname {name}")),
            HostLink::HostEnds(subnet) => {
                let ip = match Family::from(*subnet) {
                    Family::Ipv4 => "ip",
                    Family::Ipv6 => "ip6",
                };
                (
                    format!("{ip} saddr {subnet}"),
                    format!("{ip} daddr {subnet}"),
                )
            }
        };
        vec![
            format!("{insert} {from} accept"),
            format!("{insert} {to} ct state established,related accept"),
            format!("{insert} {to} ct status dnat accept"),
        ]
    })
}
