//! iptables' chain FORWARD on a host without Docker: the plugin `firewall` has it accept a network's traffic, as the
//! reference's does, by a chain of the same name, behind one of the user's own:
//!
//! ```text
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
//! -A CNI-FORWARD …  the network's rules, see plan::firewall
//! ```
//!
//! Docker has a place for such rules, [`DOCKER_USER`], where the user's own come first.

use super::nft_elements::{amend, explain, open};
use crate::cni::{Code, Error, NetworkName, Result};
use crate::kernel::KernelError;
use crate::kernel::nft::expr::{self, Verdict};
use crate::kernel::nft::{Chain, Change, NewRule, Nft, Rule, Table};
use crate::plan::firewall::{
    AllowedTraffic, CNI_FORWARD, DOCKER_USER, TABLES, is_of_network, missing, tables_of,
};

const ATTEMPT: &str = "have iptables' chain FORWARD let the network's traffic through";

const FORWARD: &str = "FORWARD";

/// The comments of the reference's jumps, by which it finds its own.
const FROM_FORWARD: &str = "CNI firewall plugin rules";
const TO_ADMIN: &str = "CNI firewall plugin admin overrides";

/// Makes FORWARD accept the traffic, in the tables of iptables that exist and where Docker has no place for it.
///
/// # Errors
/// Code 101 when the kernel refuses; 11 when other programs keep changing the ruleset.
pub(crate) fn ensure(traffic: &[AllowedTraffic], admin_chain: &str) -> Result<()> {
    amend(&mut open()?, ATTEMPT, |nft| {
        let mut changes = Vec::new();
        for table in tables_of(traffic) {
            changes.extend(changes_in(nft, table, traffic, admin_chain)?);
        }
        Ok(changes)
    })
    .map(drop)
}

/// Checks that FORWARD accepts the traffic, where [`ensure`] makes it.
///
/// # Errors
/// Code 102 for a table in which a rule is missing; 101 when the kernel refuses.
pub(crate) fn verify(traffic: &[AllowedTraffic], admin_chain: &str) -> Result<()> {
    let mut nft = open()?;
    for table in tables_of(traffic) {
        let changes = changes_in(&mut nft, table, traffic, admin_chain);
        let changes = changes.or_else(|err| match super::nft_elements::is_unknown(&err) {
            true => Ok(Vec::new()),
            false => Err(explain(err, "list the rules of iptables' chain FORWARD")),
        })?;
        if !changes.is_empty() {
            return Err(Error::new(
                Code::AttachmentDiffers,
                format!(
                    "the chain FORWARD of table {} {} has lost rules that let the network's traffic through",
                    table.family, table.name
                ),
            )
            .hint("the next ADD on the network makes them again"));
        }
    }
    Ok(())
}

/// Removes a network's rules, and the chains that are empty then. True when there were any.
pub(super) fn forget(network: &NetworkName) -> Result<bool> {
    amend(
        &mut open()?,
        "remove the network's rules from iptables",
        |nft| {
            let mut changes = Vec::new();
            for table in TABLES {
                let rules = nft.rules(table, Some(CNI_FORWARD))?;
                let (gone, left): (Vec<_>, Vec<_>) = rules
                    .into_iter()
                    .partition(|rule| is_of_network(&rule.comment, network));
                if gone.is_empty() {
                    continue;
                }
                changes.extend(gone.into_iter().map(|rule| Change::RemoveRule(table, rule)));
                if left.iter().all(|rule| rule.comment == TO_ADMIN) {
                    changes.extend(without_chain(nft, table, left)?);
                }
            }
            Ok(changes)
        },
    )
}

/// The removal of our chain, of the jumps to it, and of the user's chain if it has no rules.
fn without_chain(
    nft: &mut Nft,
    table: Table,
    to_admin: Vec<Rule>,
) -> std::result::Result<Vec<Change>, KernelError> {
    let forward = nft.rules(table, Some(FORWARD))?.into_iter();
    let jumps = forward.filter(|rule| jumps_to(rule, CNI_FORWARD));
    let mut changes: Vec<_> = jumps.map(|rule| Change::RemoveRule(table, rule)).collect();
    let admin: Vec<_> = to_admin
        .iter()
        .flat_map(|rule| rule.jumps.clone())
        .collect();
    changes.extend(
        to_admin
            .into_iter()
            .map(|rule| Change::RemoveRule(table, rule)),
    );
    changes.push(Change::RemoveChain(table, CNI_FORWARD.to_owned()));
    for chain in admin {
        if nft.rules(table, Some(&chain))?.is_empty() {
            changes.push(Change::RemoveChain(table, chain));
        }
    }
    Ok(changes)
}

/// What a table lacks; nothing where there is no FORWARD, or where Docker has a place for the rules.
fn changes_in(
    nft: &mut Nft,
    table: Table,
    traffic: &[AllowedTraffic],
    admin_chain: &str,
) -> std::result::Result<Vec<Change>, KernelError> {
    let names = [FORWARD, DOCKER_USER, CNI_FORWARD, admin_chain].map(|name| (table, name));
    let [has_forward, has_docker, has_own, has_admin] = nft.have(&names)?[..] else {
        return Ok(Vec::new());
    };
    if !has_forward || has_docker {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    for (name, is_there) in [(admin_chain, has_admin), (CNI_FORWARD, has_own)] {
        if !is_there {
            changes.push(Change::Chain(Chain {
                table,
                name: name.to_owned(),
                hook: None,
                rules: Vec::new(),
            }));
        }
    }
    let present = nft.rules(table, Some(CNI_FORWARD))?;
    changes.extend(first_jump(
        table,
        CNI_FORWARD,
        &present,
        admin_chain,
        TO_ADMIN,
    ));
    let forward = nft.rules(table, Some(FORWARD))?;
    changes.extend(first_jump(
        table,
        FORWARD,
        &forward,
        CNI_FORWARD,
        FROM_FORWARD,
    ));
    let rules = missing(traffic, table, CNI_FORWARD, &present);
    changes.extend(rules.into_iter().map(Change::Rule));
    Ok(changes)
}

/// A jump in front of a chain's rules, unless one of them is it.
fn first_jump(
    table: Table,
    chain: &str,
    present: &[Rule],
    to: &str,
    comment: &str,
) -> Option<Change> {
    if present.iter().any(|rule| jumps_to(rule, to)) {
        return None;
    }
    Some(Change::Rule(NewRule {
        table,
        chain: chain.to_owned(),
        before: present.first().map(|rule| rule.handle),
        comment: comment.to_owned(),
        expressions: vec![expr::counter(), expr::verdict(Verdict::Jump(to))],
    }))
}

fn jumps_to(rule: &Rule, chain: &str) -> bool {
    rule.jumps.iter().any(|to| to == chain)
}
