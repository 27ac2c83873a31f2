//! Mode `bridge`: gateways and default routes by the reference's rules, and what they mean for
//! the addresses of the bridge itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};

use crate::cni::error::invalid;
use crate::cni::link::{BridgeConf, FrameMode, GatewayRole, VlanConf};
use crate::cni::result::Route;
use crate::cni::{Family, IfName, Result};
use crate::ipam::Allocation;

/// The bridge, shared by all attachments of its networks and never removed with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgePlan {
    pub(crate) name: IfName,
    /// For a bridge that has to be made; None leaves it to the kernel.
    pub(crate) mtu: Option<u32>,
    pub(crate) promiscuous: bool,
    /// Gateway addresses that the bridge is to hold.
    pub(crate) gateways: Vec<IpNetwork>,
    /// Replace an address that conflicts with a gateway's.
    pub(crate) force_address: bool,
    /// The VLANs that the container's port is in. The gateways are in its own.
    pub(crate) vlans: Option<VlanConf>,
}

/// The host end as a port of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortPlan {
    /// Frames may go back where they came from.
    pub(crate) hairpin: bool,
    /// No frames to other isolated ports.
    pub(crate) isolated: bool,
}

/// Plans the bridge, and completes the allocation with the gateways and default routes that
/// the bridge's role brings.
///
/// # Errors
/// Code 7 when the bridge is to be a gateway, and an address has no room for one beside it.
pub(super) fn plan(
    conf: &BridgeConf,
    mtu: Option<u32>,
    allocation: &mut Allocation,
) -> Result<BridgePlan> {
    let mut gateways = Vec::new();
    if conf.gateway >= GatewayRole::Gateway {
        for given in &mut allocation.addresses {
            let gateway = match given.gateway {
                Some(gateway) => gateway,
                None => *given.gateway.insert(first_host(given.address)?),
            };
            gateways.push(with_prefix_of(gateway, given.address)?);
        }
    }
    if conf.gateway == GatewayRole::DefaultGateway {
        add_default_routes(allocation);
    }
    Ok(BridgePlan {
        name: conf.name.clone(),
        mtu,
        promiscuous: conf.frames == FrameMode::Promiscuous,
        gateways,
        force_address: conf.force_address,
        vlans: conf.vlans.clone(),
    })
}

/// The first host address of the subnet: by convention, the gateway.
fn first_host(address: IpNetwork) -> Result<IpAddr> {
    let next = match address.network() {
        IpAddr::V4(net) => u32::from(net)
            .checked_add(1)
            .map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(net) => u128::from(net)
            .checked_add(1)
            .map(|next| Ipv6Addr::from(next).into()),
    };
    next.ok_or_else(|| invalid(format!("no room for a gateway in the subnet of {address}")))
}

fn with_prefix_of(gateway: IpAddr, address: IpNetwork) -> Result<IpNetwork> {
    IpNetwork::new(gateway, address.prefix())
        .ok()
        .filter(|_| Family::from(gateway) == Family::from(address))
        .ok_or_else(|| {
            invalid(format!(
                "gateway {gateway} and address {address} are of different families"
            ))
        })
}

/// `isDefaultGateway`: one default route for each family that has an address, unless the
/// config names one. (One without a next hop goes through the gateway too; the reference adds
/// a second, which the kernel refuses.)
#[expect(clippy::expect_used, reason = "0 is a prefix length")]
fn add_default_routes(allocation: &mut Allocation) {
    for family in Family::ALL {
        let Some(first) = allocation
            .addresses
            .iter()
            .find(|given| Family::from(given.address) == family)
        else {
            continue;
        };
        let everywhere: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let default = IpNetwork::new(everywhere, 0).expect("0 is a prefix length");
        let is_default =
            |route: &Route| route.dst.prefix() == 0 && Family::from(route.dst) == family;
        let named = allocation.routes.iter().any(is_default);
        if !named {
            allocation.routes.push(Route::via(default, first.gateway));
        }
    }
}

/// A change to a bridge's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressChange {
    Add(IpNetwork),
    Remove(IpNetwork),
}

/// What to change on a bridge that holds `present` so that it holds `wanted` too.
///
/// As in the reference: a second IPv4 address, or an IPv6 one of an overlapping subnet, is in
/// the way and is replaced only with `force`; other IPv6 addresses are left alone. Addresses
/// that this very list wants are never in each other's way.
///
/// # Errors
/// The conflicting address.
pub(crate) fn bridge_addresses(
    present: &[IpNetwork],
    wanted: &[IpNetwork],
    force: bool,
) -> std::result::Result<Vec<AddressChange>, IpNetwork> {
    let (there, all): (HashSet<_>, HashSet<_>) =
        (present.iter().collect(), wanted.iter().collect());
    let unwanted = present.iter().enumerate();
    let mut unwanted = Unwanted::new(unwanted.filter(|(_, have)| !all.contains(have)));
    let (mut changes, mut added) = (Vec::new(), HashSet::new());
    for want in wanted {
        if there.contains(want) || !added.insert(want) {
            continue;
        }
        let in_the_way = unwanted.take_in_the_way_of(want);
        if let Some((_, have)) = in_the_way.first_key_value().filter(|_| !force) {
            return Err(*have);
        }
        changes.extend(in_the_way.into_values().map(AddressChange::Remove));
        changes.push(AddressChange::Add(*want));
    }
    Ok(changes)
}

/// The addresses that a bridge holds and the list does not want, to be found by what they are in
/// the way of. Each has its place in the bridge's order.
#[derive(Default)]
struct Unwanted {
    ipv4: BTreeMap<usize, IpNetwork>,
    ipv6: BTreeMap<(Ipv6Addr, usize), IpNetwork>,
    by_subnet: HashMap<(Ipv6Addr, u8), Vec<(Ipv6Addr, usize)>>,
    prefixes: BTreeSet<u8>,
}

impl Unwanted {
    fn new<'a>(addresses: impl Iterator<Item = (usize, &'a IpNetwork)>) -> Self {
        let mut unwanted = Self::default();
        for (place, have) in addresses {
            match have {
                IpNetwork::V4(_) => {
                    unwanted.ipv4.insert(place, *have);
                }
                IpNetwork::V6(net) => {
                    let key = (net.ip(), place);
                    unwanted.ipv6.insert(key, *have);
                    unwanted.prefixes.insert(net.prefix());
                    let subnet = (net.network(), net.prefix());
                    unwanted.by_subnet.entry(subnet).or_default().push(key);
                }
            }
        }
        unwanted
    }

    /// Takes out those that are in the way: any IPv4 address, and IPv6 addresses whose subnet
    /// overlaps with the wanted one's.
    fn take_in_the_way_of(&mut self, want: &IpNetwork) -> BTreeMap<usize, IpNetwork> {
        let want = match want {
            IpNetwork::V4(_) => return std::mem::take(&mut self.ipv4),
            IpNetwork::V6(want) => want,
        };
        let inside = (want.network(), 0)..=(want.broadcast(), usize::MAX);
        let mut keys: Vec<_> = self.ipv6.range(inside).map(|(key, _)| *key).collect();
        for prefix in &self.prefixes {
            if let Ok(around) = Ipv6Network::new(want.ip(), *prefix) {
                let subnet = (around.network(), *prefix);
                keys.extend(self.by_subnet.remove(&subnet).unwrap_or_default());
            }
        }
        let taken = keys.into_iter().filter_map(|key| {
            let have = self.ipv6.remove(&key)?;
            Some((key.1, have))
        });
        taken.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::AddressChange;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_address_in_the_way_is_an_error_unless_forced() {
        let (have, want) = (net("10.1.0.1/24"), net("10.2.0.1/24"));
        assert_eq!(bridge_addresses(&[have], &[want], false), Err(have));
        assert_eq!(
            bridge_addresses(&[have], &[want], true).unwrap(),
            [AddressChange::Remove(have), AddressChange::Add(want)]
        );
    }

    #[test]
    fn ipv6_addresses_of_other_subnets_live_side_by_side() {
        let link_local = net("fe80::1/64");
        assert_eq!(
            bridge_addresses(&[link_local], &[net("fd00::1/64")], false).unwrap(),
            [AddressChange::Add(net("fd00::1/64"))]
        );
        let same_subnet = net("fd00::2/64");
        assert_eq!(
            bridge_addresses(&[same_subnet], &[net("fd00::1/64")], false),
            Err(same_subnet)
        );
    }

    #[test]
    fn two_gateways_of_one_network_do_not_fight() {
        let (a, b) = (net("10.1.0.1/24"), net("10.2.0.1/24"));
        let adds = bridge_addresses(&[], &[a, b], false).unwrap();
        assert_eq!(adds, [AddressChange::Add(a), AddressChange::Add(b)]);
        assert_eq!(bridge_addresses(&[a, b], &[a, b], false).unwrap(), []);
    }

    /// What the reference does, address by address.
    fn one_by_one(
        present: &[IpNetwork],
        wanted: &[IpNetwork],
        force: bool,
    ) -> std::result::Result<Vec<AddressChange>, IpNetwork> {
        let is_in_the_way = |have: &IpNetwork, want: &IpNetwork| match (have, want) {
            (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
            (IpNetwork::V6(have), IpNetwork::V6(want)) => {
                have.contains(want.ip()) || want.contains(have.ip())
            }
            _ => false,
        };
        let mut changes = Vec::new();
        for want in wanted {
            if present.contains(want) || changes.contains(&AddressChange::Add(*want)) {
                continue;
            }
            for have in present.iter().filter(|have| is_in_the_way(have, want)) {
                let removal = AddressChange::Remove(*have);
                if wanted.contains(have) || changes.contains(&removal) {
                    continue;
                }
                if !force {
                    return Err(*have);
                }
                changes.push(removal);
            }
            changes.push(AddressChange::Add(*want));
        }
        Ok(changes)
    }

    fn any_net() -> impl Strategy<Value = IpNetwork> {
        prop_oneof![
            (0..4u8, 0..4u8, 24..=32u8).prop_map(|(a, b, prefix)| IpNetwork::new(
                [10, 0, a, b].into(),
                prefix
            )
            .unwrap()),
            (0..4u16, 0..4u16, 108..=128u8).prop_map(|(a, b, prefix)| {
                let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, a, b);
                IpNetwork::new(ip.into(), prefix).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_changes_are_those_of_a_search_one_by_one(
            mut present in proptest::collection::vec(any_net(), 0..8),
            wanted in proptest::collection::vec(any_net(), 0..8),
            force: bool,
        ) {
            let mut seen = HashSet::new();
            present.retain(|have| seen.insert(*have));
            prop_assert_eq!(
                bridge_addresses(&present, &wanted, force),
                one_by_one(&present, &wanted, force)
            );
        }

        /// After applying the changes, there is nothing left to change.
        #[test]
        fn bridge_addresses_settle(
            present in proptest::collection::vec((any::<[u8; 4]>(), 8u8..31), 0..4),
            wanted in proptest::collection::vec((any::<[u8; 4]>(), 8u8..31), 0..4),
        ) {
            let nets = |list: &[([u8; 4], u8)]| -> Vec<IpNetwork> {
                list.iter().map(|(ip, len)| IpNetwork::new((*ip).into(), *len).unwrap()).collect()
            };
            let (mut present, wanted) = (nets(&present), nets(&wanted));
            for change in bridge_addresses(&present, &wanted, true).unwrap() {
                match change {
                    AddressChange::Add(add) => present.push(add),
                    AddressChange::Remove(gone) => present.retain(|have| *have != gone),
                }
            }
            prop_assert!(wanted.iter().all(|want| present.contains(want)));
            prop_assert_eq!(bridge_addresses(&present, &wanted, false), Ok(vec![]));
        }
    }
}
