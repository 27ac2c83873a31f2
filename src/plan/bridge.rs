//! Mode `bridge`: from request and allocation to a plan, with the reference's rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{BridgePlan, ContainerPlan, Plan, VethPlan, host_end_name};
use crate::cni::request::{FrameMode, GatewayRole, Request};
use crate::cni::result::Route;
use crate::cni::{Code, Error, Result};
use crate::ipam::Allocation;

/// Plans an attachment. `allocation` is None when the config has no IPAM: then the container
/// is on layer 2 only.
///
/// # Errors
/// Code 7 when the bridge is to be a gateway, and an address has no room for one beside it.
pub fn plan(request: &Request, allocation: Option<Allocation>) -> Result<Plan> {
    let conf = &request.bridge;
    let mut allocation = allocation.unwrap_or_default();
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
        add_default_routes(&mut allocation);
    }
    let dns = if request.dns.is_empty() {
        allocation.dns
    } else {
        request.dns.clone()
    };
    Ok(Plan {
        attachment: request.attachment.clone(),
        bridge: BridgePlan {
            name: conf.name.clone(),
            mtu: conf.mtu,
            promiscuous: conf.frames == FrameMode::Promiscuous,
            gateways,
            force_address: conf.force_address,
        },
        veth: VethPlan {
            host_name: host_end_name(&request.attachment),
            mtu: conf.mtu,
            container_mac: request.requested_mac,
            frames: conf.frames,
        },
        container: ContainerPlan {
            addresses: allocation.addresses,
            routes: allocation.routes,
        },
        dns,
    })
}

/// The first address after the network's own: where a gateway is by convention.
fn first_host(address: IpNetwork) -> Result<IpAddr> {
    let next = match address.network() {
        IpAddr::V4(net) => u32::from(net)
            .checked_add(1)
            .map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(net) => u128::from(net)
            .checked_add(1)
            .map(|next| Ipv6Addr::from(next).into()),
    };
    next.ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            format!("no room for a gateway in the subnet of {address}"),
        )
    })
}

fn with_prefix_of(gateway: IpAddr, address: IpNetwork) -> Result<IpNetwork> {
    IpNetwork::new(gateway, address.prefix())
        .ok()
        .filter(|_| gateway.is_ipv4() == address.is_ipv4())
        .ok_or_else(|| {
            Error::new(
                Code::InvalidConfig,
                format!("gateway {gateway} and address {address} are of different families"),
            )
        })
}

/// `isDefaultGateway`: one default route for each family that has an address, unless the
/// config names one with a next hop of its own.
fn add_default_routes(allocation: &mut Allocation) {
    for v4 in [true, false] {
        let Some(first) = allocation
            .addresses
            .iter()
            .find(|given| given.address.is_ipv4() == v4)
        else {
            continue;
        };
        let everywhere: IpAddr = if v4 {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let default = IpNetwork::new(everywhere, 0).expect("0 is a prefix length");
        let named = allocation
            .routes
            .iter()
            .any(|route| route.dst == default && route.gw.is_some());
        if !named {
            allocation.routes.push(Route::via(default, first.gateway));
        }
    }
}

/// A step towards the addresses that a bridge is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChange {
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
/// The address that is in the way.
pub fn bridge_addresses(
    present: &[IpNetwork],
    wanted: &[IpNetwork],
    force: bool,
) -> std::result::Result<Vec<AddressChange>, IpNetwork> {
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

fn is_in_the_way(have: &IpNetwork, want: &IpNetwork) -> bool {
    match (have, want) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(have), IpNetwork::V6(want)) => {
            have.contains(want.ip()) || want.contains(have.ip())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::NetConf;
    use crate::cni::env::Environment;
    use crate::ipam::Allocated;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn plan_of(conf: &str, addresses: &[(&str, Option<&str>)], routes: &[&str]) -> Plan {
        let env = Environment::parse(|name| {
            let value = match name {
                "CNI_COMMAND" => "ADD",
                "CNI_CONTAINERID" => "c1",
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/run/netns/x",
                "CNI_PATH" => "/",
                _ => return None,
            };
            Some(value.into())
        });
        let conf = NetConf::parse(conf.as_bytes()).unwrap();
        let request = Request::new(&env.unwrap().unwrap(), conf).unwrap();
        let allocation = Allocation {
            addresses: addresses
                .iter()
                .map(|(address, gateway)| Allocated {
                    address: net(address),
                    gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                })
                .collect(),
            routes: routes
                .iter()
                .map(|dst| Route::via(net(dst), None))
                .collect(),
            ..Allocation::default()
        };
        plan(&request, Some(allocation)).unwrap()
    }

    #[test]
    fn a_plain_switch_holds_no_address() {
        let plan = plan_of(
            r#"{"name": "x"}"#,
            &[("10.1.0.5/16", Some("10.1.0.1"))],
            &[],
        );
        assert!(plan.bridge.gateways.is_empty());
        assert!(plan.container.routes.is_empty());
    }

    #[test]
    fn a_gateway_holds_the_gateway_s_address_of_each_family() {
        let plan = plan_of(
            r#"{"name": "x", "isGateway": true}"#,
            &[("10.1.0.5/16", None), ("fd00::5/64", Some("fd00::ff"))],
            &[],
        );
        assert_eq!(
            plan.bridge.gateways,
            [net("10.1.0.1/16"), net("fd00::ff/64")]
        );
    }

    #[test]
    fn a_default_gateway_adds_one_default_route_for_each_family() {
        let plan = plan_of(
            r#"{"name": "x", "isDefaultGateway": true}"#,
            &[
                ("10.1.0.5/16", None),
                ("10.2.0.5/16", None),
                ("fd00::5/64", None),
            ],
            &[],
        );
        let routes: Vec<_> = plan
            .container
            .routes
            .iter()
            .map(|r| (r.dst, r.gw.unwrap()))
            .collect();
        assert_eq!(
            routes,
            [
                (net("0.0.0.0/0"), "10.1.0.1".parse().unwrap()),
                (net("::/0"), "fd00::1".parse().unwrap())
            ]
        );
    }

    #[test]
    fn routes_without_a_next_hop_go_through_the_first_gateway_of_their_family() {
        let plan = plan_of(
            r#"{"name": "x"}"#,
            &[
                ("fd00::5/64", Some("fd00::1")),
                ("10.1.0.5/16", Some("10.1.0.1")),
            ],
            &["192.168.0.0/16"],
        );
        let route = &plan.container.routes[0];
        assert_eq!(route.gw, None, "the result tells what was configured");
        assert_eq!(
            plan.container.next_hop(route),
            Some("10.1.0.1".parse().unwrap())
        );
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

    proptest! {
        /// Applying the changes once leaves nothing to change.
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
