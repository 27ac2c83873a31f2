//! Masquerade for traffic that leaves the cluster: one nftables table, replaced in one transaction.
//!
//! ```text
//! table inet pausenetd
//!   set   pods4, pods6   subnets of this node's pods
//!   set   kept4, kept6   exempt destinations: the cluster, multicast, --masquerade-except
//!   chain postrouting    masquerade what comes from pods and does not go to kept
//! ```
//!
//! The table belongs to the daemon as a whole, so any change in it leads to its replacement. To find
//! changes, the kernel's dump of the table right after a replacement is remembered and compared with
//! later dumps; nothing has to be parsed.

use ipnetwork::IpNetwork;

use super::desired::DesiredMasquerade;
use pausenet::cni::Family;
use pausenet::kernel::nft::expr::{self, Field, MetaKey, Operator, R0};
use pausenet::kernel::nft::{
    Chain, Change, Contents, Hook, HookPoint, Kind, Nft, Set, Table, TableFamily,
};
use pausenet_host::{During, Error, Result};

/// The daemon's table.
pub const TABLE: Table = Table {
    family: TableFamily::Inet,
    name: "pausenetd",
};

/// NF_IP_PRI_NAT_SRC.
const SNAT_PRIORITY: i32 = 100;

/// The transaction that replaces the table, whatever is there (pure).
fn changes(desired: &DesiredMasquerade) -> Vec<Change> {
    let mut changes = vec![
        // Added first, so that the removal finds one.
        Change::Table(TABLE),
        Change::RemoveTable(TABLE),
        Change::Table(TABLE),
    ];
    let mut rules = Vec::new();
    for family in Family::ALL {
        let of_family = |nets: &[IpNetwork]| -> Vec<_> {
            nets.iter()
                .copied()
                .filter(|net| Family::from(*net) == family)
                .collect()
        };
        let (pods, kept) = (set("pods", family), set("kept", family));
        rules.push(vec![
            expr::meta(MetaKey::Nfproto, R0),
            expr::cmp(R0, Operator::Equal, &[expr::nfproto(family)]),
            expr::payload(Field::source(family), R0),
            expr::in_set(&pods.name, R0, false),
            expr::payload(Field::destination(family), R0),
            expr::in_set(&kept.name, R0, true),
            expr::masquerade(),
        ]);
        changes.push(Change::Subnets(pods, of_family(&desired.pods)));
        changes.push(Change::Subnets(kept, of_family(&desired.exempt)));
    }
    changes.push(Change::Chain(Chain {
        table: TABLE,
        name: "postrouting".into(),
        hook: Some(Hook {
            kind: "nat",
            point: HookPoint::PostRouting,
            priority: SNAT_PRIORITY,
        }),
        rules,
    }));
    changes
}

fn set(name: &str, family: Family) -> Set {
    Set {
        table: TABLE,
        name: format!(
            "{name}{}",
            match family {
                Family::Ipv4 => '4',
                Family::Ipv6 => '6',
            }
        ),
        key: vec![match family {
            Family::Ipv4 => Kind::Ipv4,
            Family::Ipv6 => Kind::Ipv6,
        }],
        data: Vec::new(),
    }
}

/// The table as it was last applied.
#[derive(Debug)]
pub struct LastApplied {
    desired: DesiredMasquerade,
    contents: Contents,
    /// The generation of the whole ruleset. While it stays the same, nothing has changed.
    generation: u32,
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    /// There was none of this daemon's, or the desired state is another one now.
    Created,
    /// Another program had changed or removed the table.
    Repaired,
}

/// Makes sure that the table is there as desired. `last_applied` carries over to the next call.
///
/// # Errors
/// The kernel refuses the transaction; the table is unchanged then. Or others keep changing nftables
/// (try again later); the table is in place then, but not verified.
pub fn ensure(
    nft: &mut Nft,
    desired: &DesiredMasquerade,
    last_applied: &mut Option<LastApplied>,
) -> Result<Outcome> {
    const TRIES: usize = 16;
    let attempt = "read the masquerade table from nftables";
    let mut outcome = Outcome::Created;
    if let Some(before) = last_applied
        .as_mut()
        .filter(|before| before.desired == *desired)
    {
        let generation = nft.generation().during(attempt)?;
        if generation == before.generation {
            return Ok(Outcome::Unchanged);
        }
        if nft.contents(TABLE).during(attempt)? == before.contents {
            before.generation = generation;
            return Ok(Outcome::Unchanged);
        }
        outcome = Outcome::Repaired;
    }
    *last_applied = None;
    for _ in 0..TRIES {
        let generation = nft.generation().during(attempt)?;
        nft.commit(&changes(desired), None).map_err(|failed| {
            let error = failed.error;
            let unknown = error.is(rustix::io::Errno::OPNOTSUPP)
                || error.is(rustix::io::Errno::INVAL)
                || error.is(rustix::io::Errno::NOENT);
            let err = error.during("set the masquerade table in nftables");
            if unknown {
                return err.hint(
                    "the kernel needs nf_tables with nat and masq (CONFIG_NF_TABLES_INET, NFT_NAT, \
                     NFT_MASQ); --masquerade=false does without",
                );
            }
            err
        })?;
        let contents = nft.contents(TABLE).during(attempt)?;
        // If the generation grew by one, only our change was made: the dump is of our own table.
        if nft.generation().during(attempt)? == generation.wrapping_add(1) {
            *last_applied = Some(LastApplied {
                desired: desired.clone(),
                contents,
                generation: generation.wrapping_add(1),
            });
            return Ok(outcome);
        }
    }
    // The table is in place, but verifying it has to wait until the others are done.
    Err(Error::new(format!(
        "others changed nftables {TRIES} times while the masquerade table was being set"
    )))
}

/// Removes the table. True if there was one.
pub fn remove(nft: &mut Nft) -> Result<bool> {
    match nft.commit(&[Change::RemoveTable(TABLE)], None) {
        Ok(()) => Ok(true),
        Err(failed) if failed.error.is(rustix::io::Errno::NOENT) => Ok(false),
        Err(failed) => Err(failed
            .error
            .during("remove the masquerade table from nftables")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table_is_replaced_in_one_transaction() {
        let desired = DesiredMasquerade {
            pods: vec!["10.1.0.0/24".parse().unwrap()],
            exempt: vec!["10.1.0.0/16".parse().unwrap(), "ff00::/8".parse().unwrap()],
        };
        let changes = changes(&desired);
        assert!(matches!(
            changes[..3],
            [Change::Table(_), Change::RemoveTable(_), Change::Table(_)]
        ));
        let subnets: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Subnets(set, nets) => Some((set.name.as_str(), nets.len())),
                _ => None,
            })
            .collect();
        assert_eq!(
            subnets,
            [("pods4", 1), ("kept4", 1), ("pods6", 0), ("kept6", 1)]
        );
    }
}
