//! The result of an allocation (pure).

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cni::result::{AddResult, Dns, Route};

/// What an attachment gets. The addresses are in the order of the range sets.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) addresses: Vec<Allocated>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
    /// No IPv6 address among them was given before: see [`RangeSet::is_new`](super::range::RangeSet::is_new).
    pub(crate) is_new: bool,
}

/// One address with its subnet's prefix length and its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocated {
    pub(crate) address: IpNetwork,
    pub(crate) gateway: Option<IpAddr>,
}

impl Allocation {
    /// The addresses, routes and DNS in the result of a delegated plugin.
    pub(super) fn from_result(result: AddResult) -> Self {
        let addresses = result.ips.into_iter().map(|ip| Allocated {
            address: ip.address,
            gateway: ip.gateway,
        });
        Self {
            addresses: addresses.collect(),
            routes: result.routes,
            dns: result.dns,
            is_new: false,
        }
    }
}

/// The outcome of a request for addresses.
#[derive(Debug)]
pub(crate) enum Outcome {
    Allocated(Allocation),
    /// The attachment already holds these addresses: it exists, or an earlier ADD was killed.
    AlreadyHeld(Vec<IpAddr>),
}
