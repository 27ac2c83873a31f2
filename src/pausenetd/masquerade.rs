//! Masquerade for what leaves the cluster: one table of nftables, made in one transaction.
//!
//! ```text
//! table inet pausenetd
//!   set   pods4, pods6   subnets of this node's pods
//!   set   kept4, kept6   where their source addresses are kept: the cluster, multicast
//!   chain postrouting    from pods, and not to kept: masquerade
//! ```
//!
//! It belongs to the daemon as a whole, so whatever is found changed in it is a reason to make it
//! anew. The kernel's telling of the table right after it was made is kept, and compared with later
//! ones: nothing has to be understood for that.

use ipnetwork::IpNetwork;

use super::desired::Masquerade;
use pausenet::cni::{Code, During, Error, Result};
use pausenet::kernel::nft::expr::{self, Field, Meta, Op, R0};
use pausenet::kernel::nft::{
    Chain, Change, Contents, Family, Hook, HookPoint, Kind, Nft, Set, Table,
};

/// The daemon's table.
pub const TABLE: Table = Table {
    family: Family::Inet,
    name: "pausenetd",
};

/// NF_IP_PRI_NAT_SRC.
const SNAT: i32 = 100;

/// NFPROTO_IPV4 and _IPV6.
fn protocol(v4: bool) -> u8 {
    if v4 { 2 } else { 10 }
}

/// The transaction that makes the table, whatever was there (pure).
pub fn changes(wanted: &Masquerade) -> Vec<Change> {
    let mut changes = vec![
        // Made first, so that there is one to remove.
        Change::Table(TABLE),
        Change::RemoveTable(TABLE),
        Change::Table(TABLE),
    ];
    let mut rules = Vec::new();
    for v4 in [true, false] {
        let of_family = |nets: &[IpNetwork]| -> Vec<_> {
            nets.iter()
                .copied()
                .filter(|net| net.is_ipv4() == v4)
                .collect()
        };
        let (pods, kept) = (set("pods", v4), set("kept", v4));
        rules.push(vec![
            expr::meta(Meta::NfProto, R0),
            expr::cmp(R0, Op::Eq, &[protocol(v4)]),
            expr::payload(Field::source(v4), R0),
            expr::in_set(&pods.name, R0, false),
            expr::payload(Field::destination(v4), R0),
            expr::in_set(&kept.name, R0, true),
            expr::masquerade(),
        ]);
        changes.push(Change::Subnets(pods, of_family(&wanted.pods)));
        changes.push(Change::Subnets(kept, of_family(&wanted.kept)));
    }
    changes.push(Change::Chain(Chain {
        table: TABLE,
        name: "postrouting".into(),
        hook: Some(Hook {
            kind: "nat",
            point: HookPoint::PostRouting,
            priority: SNAT,
        }),
        rules,
    }));
    changes
}

fn set(name: &str, v4: bool) -> Set {
    Set {
        table: TABLE,
        name: format!("{name}{}", if v4 { '4' } else { '6' }),
        key: vec![if v4 { Kind::Ipv4 } else { Kind::Ipv6 }],
        data: Vec::new(),
    }
}

/// The table as it was made last.
#[derive(Debug)]
pub struct Made {
    wanted: Masquerade,
    contents: Contents,
    /// Of the whole ruleset. While it is this one, nothing can have changed.
    generation: u32,
}

/// What became of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    AsItWas,
    /// It was not there, or something else was wanted.
    Made,
    /// Somebody had changed or removed it.
    Repaired,
}

/// Has the table there, as wanted. `made` is what an earlier call left there.
///
/// # Errors
/// Codes 11 and 101. What was there before still is.
pub fn ensure(nft: &mut Nft, wanted: &Masquerade, made: &mut Option<Made>) -> Result<Outcome> {
    const TRIES: usize = 16;
    let attempt = "look at the masquerade in nftables";
    let mut outcome = Outcome::Made;
    if let Some(before) = made.as_mut().filter(|made| made.wanted == *wanted) {
        let generation = nft.generation().during(attempt)?;
        if generation == before.generation {
            return Ok(Outcome::AsItWas);
        }
        if nft.contents(TABLE).during(attempt)? == before.contents {
            before.generation = generation;
            return Ok(Outcome::AsItWas);
        }
        outcome = Outcome::Repaired;
    }
    *made = None;
    for _ in 0..TRIES {
        let generation = nft.generation().during(attempt)?;
        nft.commit(&changes(wanted), None).map_err(|failed| {
            let refusal = failed.error;
            let unknown = refusal.is(rustix::io::Errno::OPNOTSUPP)
                || refusal.is(rustix::io::Errno::INVAL)
                || refusal.is(rustix::io::Errno::NOENT);
            let err = refusal.during("make the masquerade in nftables");
            if unknown {
                return err.hint(
                    "the kernel needs nf_tables with nat and masq (CONFIG_NF_TABLES_INET, NFT_NAT, \
                     NFT_MASQ); --masquerade=false goes without",
                );
            }
            err
        })?;
        let contents = nft.contents(TABLE).during(attempt)?;
        // Only if nobody else came in between is this what we have made.
        if nft.generation().during(attempt)? == generation.wrapping_add(1) {
            *made = Some(Made {
                wanted: wanted.clone(),
                contents,
                generation: generation.wrapping_add(1),
            });
            return Ok(outcome);
        }
    }
    // It is there; that it still is will be known when the ruleset is at rest.
    Err(Error::new(
        Code::TryAgainLater,
        format!("others changed nftables {TRIES} times while the masquerade was being made"),
    ))
}

/// Removes the table. True when it was there.
///
/// # Errors
/// Code 101.
pub fn remove(nft: &mut Nft) -> Result<bool> {
    match nft.commit(&[Change::RemoveTable(TABLE)], None) {
        Ok(()) => Ok(true),
        Err(failed) if failed.error.is(rustix::io::Errno::NOENT) => Ok(false),
        Err(failed) => Err(failed.error.during("remove the masquerade from nftables")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_made_anew_as_a_whole() {
        let wanted = Masquerade {
            pods: vec!["10.1.0.0/24".parse().unwrap()],
            kept: vec!["10.1.0.0/16".parse().unwrap(), "ff00::/8".parse().unwrap()],
        };
        let changes = changes(&wanted);
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
