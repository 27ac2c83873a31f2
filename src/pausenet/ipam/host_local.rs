//! The behaviour of the reference's `host-local`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::allocation::{Allocated, Allocation, Outcome};
use super::range::{self, RangeSet};
use super::resolv_conf;
use super::store::{Holder, Origins, SearchResult, StaleReservation, Store};
use crate::cni::config::{self, Ipam};
use crate::cni::error::invalid;
use crate::cni::json::cidr;
use crate::cni::request::{Attachment, Network};
use crate::cni::result::{Dns, Route};
use crate::cni::{Code, Error, Family, OnPath, Result, SpecVersion};

/// Where the reference keeps its stores.
pub const DATA_DIR: &str = "/var/lib/cni/networks";

/// Where the indexes of stores are: derived, and gone with the next boot.
pub const INDEXES: &str = "/run/pausenet/index";

/// `host-local` for one network: ranges that have been checked, and where the store is.
#[derive(Debug)]
pub struct HostLocal {
    sets: Vec<RangeSet>,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
    dir: PathBuf,
    indexes: PathBuf,
}

impl HostLocal {
    /// Checks a network's `ipam` object.
    ///
    /// # Errors
    /// Code 7, naming the range set and what is wrong with it.
    pub fn new(network: &Network, ipam: &Ipam) -> Result<Self> {
        let sets = range_sets(&network.requested_ranges, ipam)?;
        if network.version < SpecVersion::V0_3_0 {
            for family in Family::ALL {
                if sets.iter().filter(|set| set.family() == family).count() > 1 {
                    return Err(invalid(format!(
                        "cniVersion {} has room for one address per family, not more",
                        network.version
                    )));
                }
            }
        }
        let data_dir = ipam.data_dir.as_deref().filter(|dir| !dir.is_empty());
        Ok(Self {
            sets,
            routes: ipam.routes.clone(),
            resolv_conf: ipam
                .resolv_conf
                .as_deref()
                .filter(|file| !file.is_empty())
                .map(PathBuf::from),
            dir: PathBuf::from(data_dir.unwrap_or(DATA_DIR)).join(network.name.as_str()),
            indexes: INDEXES.into(),
        })
    }

    /// Every range that addresses are given out of.
    pub fn ranges(&self) -> impl Iterator<Item = &range::Range> {
        self.sets.iter().flat_map(RangeSet::ranges)
    }

    /// The same with the index in a folder of one's own.
    pub fn with_indexes(self, indexes: PathBuf) -> Self {
        Self { indexes, ..self }
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.dir)?.with_index(&self.indexes))
    }

    fn existing_store(&self) -> Result<Option<Store>> {
        let store = Store::open_existing(&self.dir)?;
        Ok(store.map(|store| store.with_index(&self.indexes)))
    }

    /// The network's store.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Takes an address from each range set: all of them, or none.
    ///
    /// # Errors
    /// Code 11 when a set has no free address, or a requested one is taken; 7 when a requested
    /// one cannot be had at all; 5 when the store cannot be used.
    pub fn allocate(&self, attachment: &Attachment, requested: &[IpAddr]) -> Result<Outcome> {
        // Read first: what fails here must not have taken an address.
        let dns = self.dns()?;
        let requested_by_set = self.requested_by_set(requested)?;
        let holder = Holder::of(attachment);
        let mut store = self.store()?;
        let held = store.held_by(&holder)?;
        if !held.is_empty() {
            return Ok(Outcome::AlreadyHeld(held));
        }
        let mut addresses = Vec::with_capacity(self.sets.len());
        for (index, (set, requested)) in self.sets.iter().zip(requested_by_set).enumerate() {
            match allocate_one(&mut store, &holder, index, set, requested) {
                Ok(given) => addresses.push(given),
                Err(err) => {
                    store.release(&holder)?;
                    return Err(err);
                }
            }
        }
        Ok(Outcome::Allocated(Allocation {
            addresses,
            routes: self.routes.clone(),
            dns,
        }))
    }

    /// Frees whatever the attachment has. Nothing to free is success.
    pub fn release(&self, attachment: &Attachment) -> Result<()> {
        match self.existing_store()? {
            Some(mut store) => store.release(&Holder::of(attachment)),
            None => Ok(()),
        }
    }

    /// Writes down that an attachment has an address, which it has in the kernel already. False
    /// when the address is somebody's in the store, or in none of the ranges.
    pub fn restore(&self, attachment: &Attachment, ip: IpAddr) -> Result<bool> {
        let Some(set) = self.sets.iter().position(|set| set.range_of(ip).is_some()) else {
            return Ok(false);
        };
        Store::open(&self.dir)?.reserve(ip, &Holder::of(attachment), set)
    }

    /// What the attachment has now, as far as it lies in the ranges.
    pub fn held(&self, attachment: &Attachment) -> Result<Vec<IpNetwork>> {
        let Some(mut store) = self.existing_store()? else {
            return Ok(Vec::new());
        };
        let held = store.held_by(&Holder::of(attachment))?;
        Ok(held
            .into_iter()
            .filter_map(|ip| self.in_subnet(ip))
            .collect())
    }

    fn in_subnet(&self, ip: IpAddr) -> Option<IpNetwork> {
        let range = self.sets.iter().find_map(|set| set.range_of(ip))?;
        IpNetwork::new(ip, range.subnet.prefix()).ok()
    }

    /// Every address of an attachment that `keep` does not want kept.
    pub fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<StaleReservation>> {
        match self.existing_store()? {
            Some(store) => store.stale(keep),
            None => Ok(Vec::new()),
        }
    }

    /// Frees those of the held addresses that `choose` leaves: it is given all that tell a holder,
    /// and where their files come from. How many those were.
    ///
    /// # Errors
    /// Code 5, after having freed what could be; those of `choose`.
    pub fn reclaim(
        &self,
        choose: impl FnOnce(Vec<StaleReservation>, &Origins) -> Result<Vec<StaleReservation>>,
    ) -> Result<usize> {
        match self.existing_store()? {
            Some(mut store) => store.reclaim(choose),
            None => Ok(0),
        }
    }

    /// Frees every address of an attachment that `keep` does not want kept.
    ///
    /// # Errors
    /// Code 5, after having freed what could be.
    pub fn release_others(&self, keep: impl Fn(&str, &str) -> bool) -> Result<()> {
        match self.existing_store()? {
            Some(mut store) => store.release_others(keep),
            None => Ok(()),
        }
    }

    /// Whether the next allocation can work: the store can be written, and each set has a free
    /// address.
    ///
    /// # Errors
    /// Code 11 naming the first set without one; 5 when the store cannot be used.
    pub fn ready(&self) -> Result<()> {
        let mut store = self.store()?;
        store.probe()?;
        for (index, set) in self.sets.iter().enumerate() {
            let in_use = store.in_use(set)?;
            if in_use >= set.size() {
                return Err(exhausted(&store, index, set, in_use));
            }
        }
        Ok(())
    }

    /// The first address of `expected` that lies in our ranges and that the store does not
    /// give to the attachment.
    pub fn first_not_held(
        &self,
        attachment: &Attachment,
        expected: &[IpAddr],
    ) -> Result<Option<IpAddr>> {
        let ours = |ip: &&IpAddr| self.sets.iter().any(|set| set.range_of(**ip).is_some());
        let mut ours = expected.iter().filter(ours);
        let Some(store) = self.existing_store()? else {
            return Ok(ours.next().copied());
        };
        let holder = Holder::of(attachment);
        Ok(ours.find(|ip| !store.holds(**ip, &holder)).copied())
    }

    /// For each set the requested address that it is to give: the first that it contains.
    fn requested_by_set(&self, requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
        let mut open = requested.to_vec();
        let mut requested_by_set = Vec::with_capacity(self.sets.len());
        for set in &self.sets {
            let found = open.iter().position(|ip| set.range_of(*ip).is_some());
            requested_by_set.push(found.map(|at| open.remove(at)));
        }
        // The same address asked for twice, in CNI_ARGS and a capability say, counts once.
        open.retain(|ip| !requested_by_set.contains(&Some(*ip)));
        match open.first() {
            None => Ok(requested_by_set),
            Some(ip) => {
                let sets: Vec<_> = self.sets.iter().map(RangeSet::to_string).collect();
                Err(invalid(format!(
                    "requested address {ip} is in no range set that has not given one already ({})",
                    sets.join("; ")
                )))
            }
        }
    }

    fn dns(&self) -> Result<Dns> {
        match &self.resolv_conf {
            None => Ok(Dns::default()),
            Some(path) => std::fs::read_to_string(path)
                .map(|text| resolv_conf::parse(&text))
                .on_path("cannot read resolvConf", path),
        }
    }
}

/// All range sets: those of the runtime first, then the legacy form, then `ranges`.
fn range_sets(requested: &[Vec<config::Range>], ipam: &Ipam) -> Result<Vec<RangeSet>> {
    let legacy = match ipam
        .legacy_range
        .subnet
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        None => None,
        Some(text) => Some(vec![config::Range {
            subnet: cidr::parse(text).map_err(|why| invalid(format!("ipam.subnet: {why}")))?,
            range_start: ipam.legacy_range.range_start,
            range_end: ipam.legacy_range.range_end,
            gateway: ipam.legacy_range.gateway,
        }]),
    };
    let mut sets: Vec<RangeSet> = Vec::new();
    for conf in requested.iter().chain(&legacy).chain(&ipam.ranges) {
        let index = sets.len();
        let set = RangeSet::new(conf)
            .map_err(|why| invalid(format!("ipam: range set {index}: {why}")))?;
        if let Some(other) = sets.iter().position(|other| other.overlaps(&set)) {
            return Err(invalid(format!(
                "ipam: range set {other} overlaps with {index}"
            )));
        }
        sets.push(set);
    }
    if sets.is_empty() {
        return Err(invalid("ipam: no range to allocate from")
            .hint("give \"subnet\", \"ranges\" or the capability ipRanges"));
    }
    Ok(sets)
}

#[expect(
    clippy::expect_used,
    reason = "the prefix length is that of a subnet of the same family"
)]
fn allocate_one(
    store: &mut Store,
    holder: &Holder,
    index: usize,
    set: &RangeSet,
    requested: Option<IpAddr>,
) -> Result<Allocated> {
    let given = |ip, range: &range::Range| Allocated {
        address: IpNetwork::new(ip, range.subnet.prefix())
            .expect("the prefix length of a subnet of the same family"),
        gateway: Some(range.gateway),
    };
    if let Some((ip, range)) = requested.and_then(|ip| Some((ip, set.range_of(ip)?))) {
        if ip == range.gateway {
            return Err(invalid(format!(
                "requested address {ip} is the gateway of {}",
                range.subnet
            )));
        }
        if !store.reserve(ip, holder, index)? {
            return Err(Error::new(
                Code::TryAgainLater,
                format!("requested address {ip} is taken"),
            )
            .hint(format!(
                "its holder is written in {}",
                store.dir().join(ip.to_string()).display()
            )));
        }
        return Ok(given(ip, range));
    }
    let last = store.last_reserved(index);
    match store.search(set, last) {
        Some(SearchResult::Exhausted(in_use)) => return Err(exhausted(store, index, set, in_use)),
        Some(SearchResult::Free(ip, range)) if store.reserve(ip, holder, index)? => {
            return Ok(given(ip, range));
        }
        _ => {}
    }
    // Try the next few by name, the way of a range with room. In a crowded one that would be
    // a system call for each neighbour: one listing then tells them all.
    const TRIES: usize = 8;
    let mut candidates = set.candidates(last);
    for (ip, range) in candidates.by_ref().take(TRIES) {
        if store.reserve(ip, holder, index)? {
            return Ok(given(ip, range));
        }
    }
    let taken: std::collections::HashSet<_> = store.taken()?.into_iter().collect();
    for (ip, range) in candidates.filter(|(ip, _)| !taken.contains(ip)) {
        if store.reserve(ip, holder, index)? {
            return Ok(given(ip, range));
        }
    }
    store.compare(taken.len());
    let taken: Vec<_> = taken.into_iter().collect();
    Err(exhausted(store, index, set, set.count(&taken)))
}

fn exhausted(store: &Store, index: usize, set: &RangeSet, in_use: u128) -> Error {
    Error::new(
        Code::TryAgainLater,
        format!(
            "no free address in range set {index} ({set}): {in_use} of {} in use",
            set.size()
        ),
    )
    .hint(format!(
        "each file in {} is an address and names the container that holds it",
        store.dir().display()
    ))
}
