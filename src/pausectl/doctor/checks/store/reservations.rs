//! The reservations in the address stores.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pausenet::apply::{ProcessSnapshot, ReclaimEvidence};
use pausenet::ipam::host_local::INDEXES;
use pausenet::ipam::store::Store;
use pausenet_host::Result;

/// An address file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reservation {
    pub(super) ip: IpAddr,
    /// Container and interface. None: the file names no container.
    pub(super) holder: Option<(String, String)>,
    /// Whether an ADD may still be making an interface for it.
    pub(super) evidence: ReclaimEvidence,
}

/// The store of one network.
#[derive(Debug)]
pub(super) struct NetworkStore {
    pub(super) dir: PathBuf,
    pub(super) network: String,
    /// By address.
    pub(super) reservations: Vec<Reservation>,
}

impl NetworkStore {
    /// Reads the store in a folder. None if there is none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn read(dir: PathBuf, processes: &ProcessSnapshot) -> Result<Option<Self>> {
        let Some(store) = Store::open_existing(&dir)? else {
            return Ok(None);
        };
        let store = store.with_index(Path::new(INDEXES));
        let holders = store.stale(|_, _| false)?;
        let mut holders: HashMap<_, _> = holders
            .into_iter()
            .map(|held| (held.ip, (held.container, held.ifname)))
            .collect();
        let taken = store.taken()?;
        let origins = store.origins(&taken);
        let reservation = |ip: IpAddr| {
            let origin = origins.of(ip)?; // gone meanwhile
            let holder = holders.remove(&ip);
            let container = holder.as_ref().map_or("", |(container, _)| container);
            Some(Reservation {
                ip,
                evidence: processes.evidence(container, origin),
                holder,
            })
        };
        let mut reservations: Vec<_> = taken.iter().copied().filter_map(reservation).collect();
        reservations.sort_by_key(|reservation| reservation.ip);
        let network = dir.file_name().unwrap_or_default().to_string_lossy();
        Ok(Some(Self {
            network: network.into_owned(),
            reservations,
            dir,
        }))
    }
}
