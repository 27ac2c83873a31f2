//! Snapshots of a network namespace and of the address store, to compare before and after.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use pausenet::kernel::link::Link;
use pausenet::kernel::route::Present;
use pausenet::kernel::{RouteSocket, address, link, route};

use crate::wait;

/// RT_TABLE_LOCAL: routes that the kernel derives from addresses, asynchronously.
const LOCAL_TABLE: u32 = 255;

/// Links, addresses and routes of one namespace. Counters and ages are left out, and so is what
/// the kernel does by itself and asynchronously: IPv6 link-local addresses, their routes, and
/// whether a link is `running`, or `blocked` without a carrier.
#[derive(Debug, Clone, PartialEq)]
pub struct NetState {
    pub links: Vec<Link>,
    pub addresses: BTreeMap<String, Vec<IpNetwork>>,
    pub routes: Vec<Present>,
}

impl NetState {
    /// Reads the calling thread's namespace.
    pub fn read() -> Self {
        let mut socket = RouteSocket::open().unwrap();
        // A link may disappear after it was listed: then everything is read again.
        let (links, addresses) = wait::wait_for("the links stay while they are read", || {
            let mut links = link::list(&mut socket).unwrap();
            let mut addresses = BTreeMap::new();
            for link in &mut links {
                (link.running, link.blocked) = (false, false);
                let mut present = match address::of_link(&mut socket, link.index) {
                    Err(refusal) if refusal.is(rustix::io::Errno::NODEV) => return None,
                    present => present.unwrap(),
                };
                present.retain(|net| !is_link_local(net));
                addresses.insert(link.name.clone(), present);
            }
            Some((links, addresses))
        });
        let mut routes = route::list(&mut socket).unwrap();
        routes.retain(|route| !is_link_local(&route.dst) && route.table != LOCAL_TABLE);
        Self {
            links,
            addresses,
            routes,
        }
    }
}

/// The host of a [`World`](crate::World) at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub net: NetState,
    /// Path below the store's root, and content.
    pub store: BTreeMap<PathBuf, Vec<u8>>,
}

impl Snapshot {
    /// The same without a bridge, its addresses and routes: they may stay after a failed ADD.
    pub fn without_bridge(mut self, name: &str) -> Self {
        let index = self
            .net
            .links
            .iter()
            .find(|link| link.name == name)
            .map(|link| link.index);
        self.net.links.retain(|link| link.name != name);
        self.net.addresses.remove(name);
        self.net
            .routes
            .retain(|route| route.link != index || index.is_none());
        self
    }

    /// The same without locks, cursors and empty folders of stores: only address files remain.
    pub fn addresses_only(mut self) -> Self {
        self.store.retain(|path, _| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.parse::<IpAddr>().is_ok())
        });
        self
    }
}

/// Link-local or multicast: addresses that the kernel adds to every IPv6 interface.
pub(crate) fn is_link_local(net: &IpNetwork) -> bool {
    match net {
        IpNetwork::V6(net) => net.ip().is_unicast_link_local() || net.ip().is_multicast(),
        IpNetwork::V4(_) => false,
    }
}
