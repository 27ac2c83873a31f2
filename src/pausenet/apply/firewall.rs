//! Other firewalls of the host: adds rules that accept our traffic to DOCKER-USER, if that chain
//! exists, and finds chains that drop it.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::nft_elements::{amend, explain, is_unknown, open};
use crate::cni::{Code, During, Error, Family, NetworkName, Result};
use crate::kernel::nft::{Change, HookPoint, NewRule, Nft, Rule, Table, TableFamily};
use crate::kernel::{KernelError, iptables_legacy};
use crate::plan::elements::TABLE;
use crate::plan::firewall::{
    self, AllowedTraffic, BaseChain, CNI_FORWARD, DOCKER_USER, ForwardChain, Forwarded,
    LegacyForward, Obstacle, Sets, TABLES, TableRules, Unreachable, is_of_network, missing,
    network_of, tables_of,
};

const ATTEMPT: &str = "have Docker's firewall let the network's traffic through (DOCKER-USER)";

/// Makes DOCKER-USER accept the traffic, if the chain exists. Rules that are already there stay
/// where they are. Returns the nftables socket, if one was opened.
///
/// # Errors
/// Code 101 when the kernel refuses; 11 when other programs keep changing the ruleset.
pub fn ensure(traffic: &[AllowedTraffic]) -> Result<Option<Nft>> {
    let (missing_rules, nft) = find_missing_rules(traffic)?;
    if missing_rules.is_empty() {
        return Ok(nft);
    }
    let mut nft = nft.map_or_else(open, Ok)?;
    amend(&mut nft, ATTEMPT, |nft| {
        let tables = tables(nft, &tables_of(traffic))?;
        let missing_rules = rules_to_add(nft, &tables, traffic)?;
        Ok(missing_rules.into_iter().map(Change::Rule).collect())
    })?;
    Ok(Some(nft))
}

/// Checks that DOCKER-USER accepts the traffic, if the chain exists.
///
/// # Errors
/// Code 102 for the first rule that is missing; 101 when the kernel refuses.
pub fn verify(traffic: &[AllowedTraffic]) -> Result<()> {
    let Some(rule) = find_missing_rules(traffic)?.0.into_iter().next() else {
        return Ok(());
    };
    let program = if rule.table == TABLES[0] {
        "iptables"
    } else {
        "ip6tables"
    };
    Err(Error::new(
        Code::AttachmentDiffers,
        format!(
            "{DOCKER_USER} of {program} has lost the rule {:?}: Docker's firewall may drop the \
             network's traffic",
            rule.comment
        ),
    )
    .hint("the next ADD on the network makes it again"))
}

/// Removes a network's rules from other firewalls, and opens it if it is closed. True when there was anything.
pub fn forget(network: &NetworkName) -> Result<bool> {
    let in_forward = super::forward_chain::forget(network)?;
    let was_closed = super::ingress_policy::forget(network)?;
    Ok(forget_in_docker_user(network)? || in_forward || was_closed)
}

fn forget_in_docker_user(network: &NetworkName) -> Result<bool> {
    let (nft, found) = docker_user_tables(&TABLES)?;
    let Some(mut nft) = nft.filter(|_| !found.is_empty()) else {
        return Ok(false);
    };
    amend(
        &mut nft,
        "remove the network's rules from DOCKER-USER",
        |nft| {
            let mut changes = Vec::new();
            for table in tables(nft, &TABLES)? {
                let rules = nft.rules(table, Some(DOCKER_USER))?.into_iter();
                let of_network = rules.filter(|rule| is_of_network(&rule.comment, network));
                changes.extend(of_network.map(|rule| Change::RemoveRule(table, rule)));
            }
            Ok(changes)
        },
    )
}

/// The networks that have rules in other programs' chains, or are closed.
pub(super) fn networks() -> Result<BTreeSet<NetworkName>> {
    let read = || -> Result<BTreeSet<NetworkName>, KernelError> {
        let mut nft = Nft::open()?;
        let mut networks = super::ingress_policy::networks(&mut nft)?;
        for table in TABLES {
            for chain in [DOCKER_USER, CNI_FORWARD] {
                let rules = nft.rules(table, Some(chain))?;
                networks.extend(rules.iter().filter_map(|rule| network_of(&rule.comment)));
            }
        }
        Ok(networks)
    };
    match read() {
        Err(err) if is_unknown(&err) => Ok(BTreeSet::new()),
        networks => networks.map_err(|err| explain(err, "list the networks' rules in nftables")),
    }
}

/// The chains of nftables and iptables-legacy that drop these networks' forwarded packets.
pub fn obstacles(traffic: &[AllowedTraffic]) -> Result<Vec<Obstacle>> {
    let chains = match forward_chains() {
        Err(err) if is_unknown(&err) => Vec::new(),
        chains => chains.map_err(|err| explain(err, "list the chains of nftables"))?,
    };
    let mut old = Vec::new();
    for family in Family::ALL {
        old.push(legacy_forward(family).during_with(|| {
            let program = iptables_legacy::program(family);
            format!("read the table filter of {program}")
        })?);
    }
    Ok(firewall::obstacles(&chains, &old, traffic))
}

/// What rules of other programs do with these networks' packets, beyond the policies of the chains.
#[derive(Debug, Default)]
pub struct Drops {
    /// Rules that drop what pods send, or the answers to it.
    pub obstacles: Vec<Obstacle>,
    /// Addresses that pods do not reach, because rules want their packets to come another way.
    pub unreachable: Vec<Unreachable>,
    /// Chains that accept all traffic of a network by their rules, whatever their policy.
    pub accepted: HashSet<(String, NetworkName)>,
    /// Docker manages nftables itself, and no chain keeps new connections from outside from the
    /// pods' own addresses.
    pub open_beside_docker: bool,
}

/// Docker's tables, with its backend for nftables.
const DOCKER_TABLE: &str = "docker-bridges";

/// Follows the rules of all base chains on the way of forwarded packets. `uplink` is the link of the
/// default route.
pub fn drops(traffic: &[Forwarded], uplink: Option<&str>) -> Result<Drops> {
    match read_drops(traffic, uplink) {
        Err(err) if is_unknown(&err) => Ok(Drops::default()),
        drops => drops.map_err(|err| explain(err, "list the rules of nftables")),
    }
}

fn read_drops(traffic: &[Forwarded], uplink: Option<&str>) -> Result<Drops, KernelError> {
    let mut drops = Drops::default();
    let mut nft = Nft::open()?;
    let mut tables: HashMap<(TableFamily, String), (Vec<Rule>, Sets)> = HashMap::new();
    let mut is_docker_s = false;
    let mut lets_in = true;
    for head in nft.chains()? {
        is_docker_s |= head.table == DOCKER_TABLE;
        let Some((hook, policy)) = head.hook else {
            continue;
        };
        // Those of ours drop nothing that they should not.
        if !is_on_the_way(hook) || head.is_nat || head.table == TABLE.name {
            continue;
        }
        let key = (head.family, head.table.clone());
        if !tables.contains_key(&key) {
            let rules = nft.rules_of(head.family, &head.table, None)?;
            let mut sets = Sets::new();
            for name in firewall::looked_up(&rules) {
                sets.insert(
                    name.to_owned(),
                    nft.members(head.family, &head.table, name)?,
                );
            }
            tables.insert(key.clone(), (rules, sets));
        }
        let Some((rules, sets)) = tables.get(&key) else {
            continue;
        };
        let rules = TableRules::new(rules).with_sets(sets);
        let chain = BaseChain {
            family: head.family,
            table: head.table,
            name: head.name,
            hook,
            policy,
            is_legacy: false,
        };
        lets_in &= drops.follow(&chain, &rules, traffic, uplink);
    }
    for family in Family::ALL {
        for table in LEGACY_TABLES {
            lets_in &= drops.follow_legacy(family, table, traffic, uplink)?;
        }
    }
    drops.open_beside_docker = is_docker_s && lets_in && !traffic.is_empty();
    Ok(drops)
}

/// The tables of iptables-legacy that packets of pods go through.
const LEGACY_TABLES: [&str; 4] = ["raw", "mangle", "filter", "security"];

fn is_on_the_way(hook: HookPoint) -> bool {
    match hook {
        HookPoint::PreRouting | HookPoint::Forward | HookPoint::PostRouting => true,
        HookPoint::Input | HookPoint::Output => false,
    }
}

impl Drops {
    /// Follows the rules of a chain. False where it keeps others from the pods' own addresses.
    fn follow(
        &mut self,
        chain: &BaseChain,
        rules: &TableRules,
        traffic: &[Forwarded],
        uplink: Option<&str>,
    ) -> bool {
        self.obstacles.extend(chain.drops(rules, traffic, uplink));
        self.unreachable.extend(chain.unreachable(rules, traffic));
        if chain.hook != HookPoint::Forward {
            return true;
        }
        // Of a network in two families, both.
        let (accepted, others): (Vec<_>, Vec<_>) = traffic
            .iter()
            .partition(|one| chain.accepts_all(rules, one, uplink));
        let name = |one: &&Forwarded| one.allowed.network.clone();
        let others: HashSet<_> = others.iter().map(name).collect();
        let accepted = accepted
            .iter()
            .map(name)
            .filter(|name| !others.contains(name));
        self.accepted
            .extend(accepted.map(|name| (chain.place(), name)));
        traffic.iter().any(|one| chain.lets_in(rules, one, uplink))
    }

    fn follow_legacy(
        &mut self,
        family: Family,
        table: &str,
        traffic: &[Forwarded],
        uplink: Option<&str>,
    ) -> Result<bool, KernelError> {
        let Some(found) = iptables_legacy::table(family, table)? else {
            return Ok(true);
        };
        let rules = TableRules::new(&found.rules);
        let mut lets_in = true;
        for (name, hook, policy) in &found.chains {
            if !is_on_the_way(*hook) {
                continue;
            }
            let chain = BaseChain {
                family: match family {
                    Family::Ipv4 => TableFamily::Ipv4,
                    Family::Ipv6 => TableFamily::Ipv6,
                },
                table: table.to_owned(),
                name: (*name).to_owned(),
                hook: *hook,
                policy: *policy,
                is_legacy: true,
            };
            lets_in &= self.follow(&chain, &rules, traffic, uplink);
        }
        Ok(lets_in)
    }
}

fn forward_chains() -> Result<Vec<ForwardChain>, KernelError> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for head in nft.chains()? {
        let Some((HookPoint::Forward, policy)) = head.hook else {
            continue;
        };
        found.push(ForwardChain {
            rules: nft.rules_of(head.family, &head.table, None)?,
            family: head.family,
            table: head.table,
            name: head.name,
            policy,
        });
    }
    Ok(found)
}

fn legacy_forward(family: Family) -> Result<LegacyForward, KernelError> {
    Ok(LegacyForward {
        family,
        drops: iptables_legacy::forward_drops(family)?,
        chains: iptables_legacy::chains(family, "filter")?,
    })
}

/// The rules that DOCKER-USER lacks, and the socket, if one was opened. On a host without Docker,
/// this costs one query.
fn find_missing_rules(traffic: &[AllowedTraffic]) -> Result<(Vec<NewRule>, Option<Nft>)> {
    if traffic.is_empty() {
        return Ok((Vec::new(), None));
    }
    let (mut nft, tables) = docker_user_tables(&tables_of(traffic))?;
    let missing_rules = match &mut nft {
        Some(nft) => rules_to_add(nft, &tables, traffic)
            .map_err(|err| explain(err, "list the rules in Docker's chain DOCKER-USER"))?,
        None => Vec::new(),
    };
    Ok((missing_rules, nft))
}

/// Those of the tables that have a DOCKER-USER, and the socket. No socket without nftables.
fn docker_user_tables(asked: &[Table]) -> Result<(Option<Nft>, Vec<Table>)> {
    let answer = Nft::open().and_then(|mut nft| {
        let tables = tables(&mut nft, asked)?;
        Ok((nft, tables))
    });
    match answer {
        Err(err) if is_unknown(&err) => Ok((None, Vec::new())),
        Err(err) => Err(explain(err, "look for Docker's chain DOCKER-USER")),
        Ok((nft, tables)) => Ok((Some(nft), tables)),
    }
}

fn tables(nft: &mut Nft, asked: &[Table]) -> Result<Vec<Table>, KernelError> {
    let chains: Vec<_> = asked.iter().map(|table| (*table, DOCKER_USER)).collect();
    let there = nft.have(&chains)?.into_iter();
    let found = asked.iter().zip(there).filter(|(_, there)| *there);
    Ok(found.map(|(table, _)| *table).collect())
}

fn rules_to_add(
    nft: &mut Nft,
    tables: &[Table],
    traffic: &[AllowedTraffic],
) -> Result<Vec<NewRule>, KernelError> {
    let mut missing_rules = Vec::new();
    for &table in tables {
        let present = nft.rules(table, Some(DOCKER_USER))?;
        missing_rules.extend(missing(traffic, table, DOCKER_USER, &present));
    }
    Ok(missing_rules)
}
