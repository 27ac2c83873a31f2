//! IPAM `host-local`, compatible with the reference plugin.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::allocation::{Allocated, Allocation, Outcome};
use super::range::{self, RangeSet, RangeSets};
use super::resolv_conf;
use super::store::{Holder, Origins, SearchResult, StaleReservation, Store};
use crate::cni::config::{self, Ipam};
use crate::cni::error::invalid;
use crate::cni::json::cidr;
use crate::cni::request::{Attachment, IpamConf, Network, RequestedIps};
use crate::cni::result::{Dns, Route};
use crate::cni::{Code, Error, Family, OnPath, Result, SpecVersion, warn};
use crate::kernel::file::{self, Symlinks};

/// The reference's default `dataDir`.
pub const DATA_DIR: &str = "/var/lib/cni/networks";

/// The folder of the stores' indexes. They are derived from the stores and do not survive a boot.
pub const INDEXES: &str = "/run/pausenet/index";

/// `host-local` for one network: its validated ranges and the path of its store.
#[derive(Debug)]
pub struct HostLocal {
    sets: RangeSets,
    /// The keys of the sets.
    places: Places,
    routes: Vec<Route>,
    resolv_conf: Option<PathBuf>,
    dir: PathBuf,
    indexes: PathBuf,
}

impl HostLocal {
    /// Checks a network's `ipam` object.
    ///
    /// # Errors
    /// Code 7, naming the range set and what is wrong with it, or the network's name.
    pub fn new(network: &Network, ipam: &Ipam) -> Result<Self> {
        network.name.check_folder()?;
        let places = Places::of(&network.requested_ranges, ipam);
        let sets = range_sets(&network.requested_ranges, ipam, places)?;
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
        let resolv_conf = Some(&ipam.resolv_conf).filter(|file| !file.is_empty());
        Ok(Self {
            sets,
            places,
            routes: ipam.routes.clone(),
            resolv_conf: resolv_conf.map(PathBuf::from),
            dir: dir(network, &ipam.data_dir),
            indexes: INDEXES.into(),
        })
    }

    /// The same to release addresses, which needs no range: what cannot be read is said on stderr.
    pub(crate) fn to_release(network: &Network, conf: &IpamConf) -> Self {
        let read = conf
            .object
            .read()
            .and_then(|ipam| Self::new(network, &ipam));
        read.unwrap_or_else(|err| {
            warn(format_args!(
                "{err}; all addresses that the store gives to the container are freed"
            ));
            let data_dir: String = conf.object.read_part(&["dataDir"]).unwrap_or_default();
            Self {
                sets: RangeSets::default(),
                places: Places::default(),
                routes: Vec::new(),
                resolv_conf: None,
                dir: dir(network, &data_dir),
                indexes: INDEXES.into(),
            }
        })
    }

    /// False where [`HostLocal::to_release`] could not read the ranges.
    pub(super) fn has_ranges(&self) -> bool {
        self.sets.len() > 0
    }

    /// Every range to allocate from.
    pub fn ranges(&self) -> impl Iterator<Item = &range::Range> {
        self.sets.iter().flat_map(RangeSet::ranges)
    }

    /// Replaces [`INDEXES`] as the folder for the index.
    #[cfg(test)]
    pub(super) fn with_indexes(self, indexes: PathBuf) -> Self {
        Self { indexes, ..self }
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.dir)?.with_index(&self.indexes))
    }

    fn existing_store(&self) -> Result<Option<Store>> {
        let store = Store::open_existing(&self.dir)?;
        Ok(store.map(|store| store.with_index(&self.indexes)))
    }

    /// The same to free addresses. Where no folder can be, nothing was ever reserved, and every DEL
    /// would fail as the ADD before it.
    fn store_to_clear(&self) -> Result<Option<Store>> {
        use std::io::ErrorKind::{InvalidFilename, NotADirectory};
        let opened = self.existing_store();
        let is_impossible = || match std::fs::metadata(&self.dir) {
            Ok(found) => !found.is_dir(),
            Err(err) => {
                matches!(err.kind(), NotADirectory | InvalidFilename)
                    || err.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
            }
        };
        match opened {
            Err(err) if is_impossible() => {
                warn(err);
                Ok(None)
            }
            opened => opened,
        }
    }

    /// The path of the network's store.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Allocates an address from each range set, or none at all.
    ///
    /// # Errors
    /// Code 11 when a set has no free address or a requested one is taken; 7 when a requested
    /// address can never be allocated (a gateway, or in no range set), or a gateway is outside its
    /// subnet; 5 when the store cannot be used.
    pub(crate) fn allocate(
        &self,
        attachment: &Attachment,
        requested: &RequestedIps,
    ) -> Result<Outcome> {
        self.check_gateways()?;
        check_routes(&self.routes)?;
        // Read first: a failure here must not leave an address reserved.
        let dns = self.dns()?;
        let requested_by_set = self.requested_by_set(requested)?;
        let holder = Holder::of(attachment);
        let mut store = self.store()?;
        let held = store.held_by(&holder)?;
        if !held.is_empty() {
            return Ok(Outcome::AlreadyHeld(held));
        }
        let mut addresses = Vec::with_capacity(self.sets.len());
        let mut is_new = true;
        for (index, (set, requested)) in self.sets.iter().zip(requested_by_set).enumerate() {
            // A requested address is not searched for.
            let last = match requested {
                None => store.last_reserved(index),
                Some(_) => None,
            };
            match allocate_one(&mut store, &holder, index, set, requested, last) {
                Ok(given) => {
                    let ip = given.address.ip();
                    is_new &= ip.is_ipv4() || (requested.is_none() && set.is_new(ip, last));
                    addresses.push(given);
                }
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
            is_new,
        }))
    }

    /// Refuses a gateway outside its subnet, as the reference does. Only for new attachments: those
    /// of a config that was accepted once are still checked and removed.
    fn check_gateways(&self) -> Result<()> {
        for (index, set) in self.sets.iter().enumerate() {
            for (at, range) in set.ranges().iter().enumerate() {
                let (gateway, subnet) = (range.gateway, range.subnet);
                if !subnet.contains(gateway) {
                    let key = self.places.of_range(index, at);
                    return Err(invalid(format!(
                        "{key}.gateway: {gateway} is not in subnet {subnet}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Frees all of the attachment's addresses. Succeeds when it has none.
    pub(crate) fn release(&self, attachment: &Attachment) -> Result<()> {
        match self.store_to_clear()? {
            Some(mut store) => store.release(&Holder::of(attachment)),
            None => Ok(()),
        }
    }

    /// Reserves an address that the attachment already has in the kernel. False when the address is
    /// already reserved or outside all ranges.
    pub fn restore(&self, attachment: &Attachment, ip: IpAddr) -> Result<bool> {
        let Some(set) = self.sets.position_of(ip) else {
            return Ok(false);
        };
        Store::open(&self.dir)?.reserve(ip, &Holder::of(attachment), set)
    }

    /// The attachment's reserved addresses that lie in the ranges; all of them, with the longest
    /// prefix, if the ranges are not known.
    pub(crate) fn held(&self, attachment: &Attachment) -> Result<Vec<IpNetwork>> {
        let Some(mut store) = self.store_to_clear()? else {
            return Ok(Vec::new());
        };
        let held = store.held_by(&Holder::of(attachment))?;
        Ok(held
            .into_iter()
            .filter_map(|ip| self.in_subnet(ip))
            .collect())
    }

    /// What [`HostLocal::allocate`] has given an attachment, as far as the ranges still say it.
    pub(crate) fn held_allocation(&self, attachment: &Attachment) -> Result<Allocation> {
        let addresses = self.held(attachment)?.into_iter().map(|address| Allocated {
            address,
            gateway: self.sets.range_of(address.ip()).map(|range| range.gateway),
        });
        Ok(Allocation {
            addresses: addresses.collect(),
            routes: self.routes.clone(),
            ..Allocation::default()
        })
    }

    /// Checks that no address file is unreadable: it may be any attachment's.
    ///
    /// # Errors
    /// Code 5 for the first that is.
    pub(crate) fn require_readable(&self) -> Result<()> {
        match self.existing_store()? {
            Some(store) => store.require_readable(),
            None => Ok(()),
        }
    }

    fn in_subnet(&self, ip: IpAddr) -> Option<IpNetwork> {
        if !self.has_ranges() {
            return Some(ip.into());
        }
        let range = self.sets.range_of(ip)?;
        IpNetwork::new(ip, range.subnet.prefix()).ok()
    }

    /// The reservations for which `keep` (container, interface) is false.
    pub(super) fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<StaleReservation>> {
        match self.store_to_clear()? {
            Some(store) => store.stale(keep),
            None => Ok(Vec::new()),
        }
    }

    /// Frees the reservations that `choose` returns, and returns how many it freed. `choose` gets
    /// all reservations, and the origins of their files.
    ///
    /// # Errors
    /// Code 5, after freeing as many as possible; the errors of `choose`.
    pub(crate) fn reclaim(
        &self,
        choose: impl FnOnce(Vec<StaleReservation>, &Origins) -> Result<Vec<StaleReservation>>,
    ) -> Result<usize> {
        match self.existing_store()? {
            Some(mut store) => store.reclaim(choose),
            None => Ok(0),
        }
    }

    /// Frees the reservations for which `keep` (container, interface) is false. Returns whether there
    /// are files that name no holder.
    ///
    /// # Errors
    /// Code 5, after freeing as many as possible.
    pub(super) fn release_others(&self, keep: impl Fn(&str, &str) -> bool) -> Result<bool> {
        match self.store_to_clear()? {
            Some(mut store) => store.release_others(keep),
            None => Ok(false),
        }
    }

    /// Checks that the next allocation can succeed: the store is writable and each set has a free
    /// address.
    ///
    /// # Errors
    /// Code 11 naming the first set without a free address; 7 when ADD refuses the config; 5 when the
    /// store cannot be used.
    pub(super) fn ready(&self) -> Result<()> {
        self.check_gateways()?;
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

    /// Checks that the store, if there is one, can take another address file.
    ///
    /// # Errors
    /// Code 5, naming the folder.
    pub fn check_writable(&self) -> Result<()> {
        match self.existing_store()? {
            Some(store) => store.probe(),
            None => Ok(()),
        }
    }

    /// The first address of `expected` that lies in our ranges and that the attachment does not
    /// hold in the store.
    pub(super) fn first_not_held(
        &self,
        attachment: &Attachment,
        expected: &[IpAddr],
    ) -> Result<Option<IpAddr>> {
        let ours = |ip: &&IpAddr| self.sets.position_of(**ip).is_some();
        let mut ours = expected.iter().filter(ours);
        let Some(store) = self.existing_store()? else {
            return Ok(ours.next().copied());
        };
        let holder = Holder::of(attachment);
        for ip in ours {
            if !store.holds(*ip, &holder)? {
                return Ok(Some(*ip));
            }
        }
        Ok(None)
    }

    /// For each set, the first requested address that it contains.
    fn requested_by_set(&self, requested: &RequestedIps) -> Result<Vec<Option<IpAddr>>> {
        let mut requested_by_set = vec![None; self.sets.len()];
        for (at, ip) in requested.all().enumerate() {
            let set = self.sets.position_of(ip);
            match set.and_then(|set| requested_by_set.get_mut(set)) {
                Some(open @ None) => *open = Some(ip),
                // Requested twice, for example in CNI_ARGS and a capability, it counts once.
                Some(Some(other)) if *other == ip => {}
                _ => {
                    return Err(invalid(format!(
                        "{}: requested address {ip} is in no range set that has not given one \
                         already ({})",
                        requested.key_of(at),
                        self.sets
                    )));
                }
            }
        }
        Ok(requested_by_set)
    }

    fn dns(&self) -> Result<Dns> {
        match &self.resolv_conf {
            None => Ok(Dns::default()),
            // Often a symbolic link, to the file of systemd-resolved.
            Some(path) => file::read(path, resolv_conf::MAX, Symlinks::Follow)
                // A comment may be in any encoding.
                .map(|text| resolv_conf::parse(&String::from_utf8_lossy(&text)))
                .on_path("cannot read resolvConf", path),
        }
    }
}

/// The folder with the addresses of a network.
fn dir(network: &Network, data_dir: &str) -> PathBuf {
    let all = if data_dir.is_empty() {
        DATA_DIR
    } else {
        data_dir
    };
    PathBuf::from(all).join(network.name.as_given())
}

/// Where range sets are in a config, in the reference's order: the runtime's `ipRanges`, the legacy
/// `subnet`, then `ranges`.
#[derive(Debug, Default, Clone, Copy)]
struct Places {
    requested: usize,
    legacy: usize,
}

impl Places {
    fn of(requested: &[Vec<config::Range>], ipam: &Ipam) -> Self {
        Self {
            requested: requested.len(),
            legacy: usize::from(!ipam.subnet.is_empty()),
        }
    }

    /// The key of the set with this index.
    fn of_set(self, index: usize) -> String {
        match index.checked_sub(self.requested) {
            None => format!("runtimeConfig.ipRanges[{index}]"),
            Some(0) if self.legacy > 0 => "ipam".to_owned(),
            Some(index) => format!("ipam.ranges[{}]", index - self.legacy),
        }
    }

    /// That of a range in it.
    fn of_range(self, index: usize, at: usize) -> String {
        match self.of_set(index) {
            legacy if legacy == "ipam" => legacy,
            set => format!("{set}[{at}]"),
        }
    }
}

fn range_sets(requested: &[Vec<config::Range>], ipam: &Ipam, places: Places) -> Result<RangeSets> {
    let legacy = match ipam.subnet.as_str() {
        "" => None,
        text => Some(vec![config::Range {
            subnet: cidr::parse(text).map_err(|why| invalid(format!("ipam.subnet: {why}")))?,
            range_start: ipam.range_start,
            range_end: ipam.range_end,
            gateway: ipam.gateway,
        }]),
    };
    let mut sets: Vec<RangeSet> = Vec::new();
    for conf in requested.iter().chain(&legacy).chain(&ipam.ranges) {
        let index = sets.len();
        let set = RangeSet::new(conf).map_err(|fault| {
            invalid(match fault.range {
                Some(at) => format!("{}.{fault}", places.of_range(index, at)),
                None => format!("{}: {fault}", places.of_set(index)),
            })
        })?;
        sets.push(set);
    }
    if sets.is_empty() {
        return Err(invalid("ipam: no range to allocate from")
            .hint("give \"subnet\", \"ranges\" or the capability ipRanges"));
    }
    RangeSets::new(sets).map_err(|(one, other)| {
        let (one, other) = (places.of_set(one), places.of_set(other));
        invalid(format!("{other}: the range set overlaps with {one}"))
    })
}

/// Refuses a next hop that no packet for the route's destination can have.
///
/// # Errors
/// Code 7, naming the route.
pub(super) fn check_routes(routes: &[Route]) -> Result<()> {
    for (at, route) in routes.iter().enumerate() {
        if let Some(gw) = route
            .gw
            .filter(|gw| Family::from(*gw) != Family::from(route.dst))
        {
            return Err(invalid(format!(
                "ipam.routes[{at}].gw: {gw} is of another family than dst {}",
                route.dst
            )));
        }
    }
    Ok(())
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
    last: Option<IpAddr>,
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
    match store.search(set, last) {
        Some(SearchResult::Exhausted(in_use)) => return Err(exhausted(store, index, set, in_use)),
        Some(SearchResult::Free(ip, range)) if store.reserve(ip, holder, index)? => {
            return Ok(given(ip, range));
        }
        _ => {}
    }
    // Try to create the next few files: enough for a range with room. In a crowded range, that
    // would cost a system call for each taken address, so list the folder once instead.
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
