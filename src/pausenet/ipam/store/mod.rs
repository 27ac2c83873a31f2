//! The store on disk, in the format of the reference's `host-local`, so that both plugins can use
//! one store at the same time:
//!
//! ```text
//! <dataDir>/<network>/10.1.0.5             a file for each address: "<container>\r\n<interface>"
//! <dataDir>/<network>/last_reserved_ip.0   where the search of range set 0 left off
//! <dataDir>/<network>/lock                 flock(2), exclusive, around every operation
//! ```
//!
//! A larger store has an index (see `ipam::index`), so that no operation reads every file. The
//! index only saves time: without a valid one, the files give the same result.

mod earlier;
mod files;
mod folder;
mod holder;
mod probe;
#[cfg(test)]
mod tests;

pub(crate) use earlier::{Origin, Origins};
pub use folder::{SearchResult, Store};
pub use holder::{Holder, StaleReservation};
