//! From a request and an allocation to the plan of an attachment.

use std::collections::HashMap;

use ipnetwork::IpNetwork;

use super::bridge::{self, BridgePlan, PortPlan};
use super::container::{ContainerPlan, KnownMacs, PlannedRoute};
use super::families::Families;
use super::names::{host_end_name, mac_of};
use super::ptp::{self, PtpPlan};
use super::{elements, firewall};
use crate::cni::bandwidth::Bandwidth;
use crate::cni::error::invalid;
use crate::cni::link::{LinkConf, PortIsolation};
use crate::cni::ports::PortsConf;
use crate::cni::request::{Attachment, IpamConf, Request};
use crate::cni::result::{Dns, Route};
use crate::cni::{Family, IfName, MacAddr, Result};
use crate::ipam::Allocation;
use crate::kernel::nft::Set;

/// The desired state of an attachment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) attachment: Attachment,
    pub(crate) host_end: HostEndPlan,
    /// How the host end is connected.
    pub(crate) link: LinkPlan,
    /// The host forwards for these families.
    pub(crate) forward: Families,
    pub(crate) container: ContainerPlan,
    /// The attachment's desired nftables elements.
    pub(crate) elements: Vec<elements::DesiredElement>,
    /// Where an earlier holder of the addresses may have left elements.
    pub(crate) earlier_holders: Vec<(Set, Vec<u8>)>,
    /// The traffic that other firewalls should accept.
    pub(crate) allowed_traffic: Vec<firewall::AllowedTraffic>,
    /// The published ports.
    pub(crate) ports: Option<PortsConf>,
    /// The limits on the container's traffic.
    pub(crate) bandwidth: Option<Bandwidth>,
    /// The routes as configured, for the result; the container's list has next hops filled in.
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

/// The host's end of the pair, whatever it is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostEndPlan {
    /// Made from the attachment by [`host_end_name`].
    pub(crate) name: IfName,
    /// Of both ends; None leaves it to the kernel.
    pub(crate) mtu: Option<u32>,
}

/// How the host end is connected to the rest of the host: one variant for each mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkPlan {
    /// As a port of a bridge.
    Bridge { bridge: BridgePlan, port: PortPlan },
    /// By addresses and routes of its own.
    Ptp(PtpPlan),
}

/// What a mode decides about an attachment beyond the host end.
struct ModePlan {
    link: LinkPlan,
    forward: Families,
    up: bool,
    prefix_routes: bool,
    detect_duplicates: bool,
    /// Routes of the container that go before the configured ones.
    routes: Vec<PlannedRoute>,
}

/// How much of an attachment is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// The links, which need no address.
    Links,
}

/// Plans an attachment. `allocation` is None when the config has no IPAM: then the container is on
/// layer 2 only. `mac` is used if no MAC is requested and there is no address to derive one from
/// ([`mac_of`]); a delegated IPAM has seen the interface, whose MAC must not change after that.
///
/// # Errors
/// Code 7 when gateways and addresses do not fit together.
pub(crate) fn plan(
    request: &Request,
    allocation: Option<Allocation>,
    mac: MacAddr,
) -> Result<Plan> {
    plan_extent(request, allocation.unwrap_or_default(), mac, Extent::Whole)
}

/// Plans the links of an attachment: what a delegated IPAM finds when it is called.
///
/// # Errors
/// Those of [`plan`].
pub(crate) fn plan_links(request: &Request, mac: MacAddr) -> Result<Plan> {
    plan_extent(request, Allocation::default(), mac, Extent::Links)
}

fn plan_extent(
    request: &Request,
    mut allocation: Allocation,
    mac: MacAddr,
    extent: Extent,
) -> Result<Plan> {
    let network = &request.network;
    let mode = match &network.link {
        Some(LinkConf::Bridge(conf)) => {
            let bridge = bridge::plan(conf, network.mtu, &mut allocation)?;
            ModePlan {
                forward: Families::of(bridge.gateways.iter().copied()),
                up: !conf.leave_down,
                prefix_routes: true,
                detect_duplicates: conf.detect_duplicates,
                routes: Vec::new(),
                link: LinkPlan::Bridge {
                    bridge,
                    port: PortPlan {
                        hairpin: conf.hairpin(),
                        isolated: conf.isolation == PortIsolation::Isolated,
                    },
                },
            }
        }
        Some(LinkConf::Ptp) => ModePlan {
            link: LinkPlan::Ptp(match extent {
                Extent::Whole => ptp::plan(&allocation.addresses)?,
                Extent::Links => PtpPlan::default(),
            }),
            forward: Families::of(networks(&allocation)),
            up: true,
            prefix_routes: false,
            detect_duplicates: false,
            routes: ptp::container_routes(&allocation.addresses),
        },
        None => {
            return Err(invalid(
                "no link to plan: another plugin wires the container",
            ));
        }
    };
    let mut first_gateways = HashMap::new();
    for gateway in allocation
        .addresses
        .iter()
        .filter_map(|given| given.gateway)
    {
        first_gateways
            .entry(Family::from(gateway))
            .or_insert(gateway);
    }
    let gateway_of = |family: Family| first_gateways.get(&family).copied();
    let mut routes = mode.routes;
    routes.extend(allocation.routes.iter().map(|route| PlannedRoute {
        via: route.gw.or_else(|| gateway_of(route.dst.into())),
        source: None,
        route: route.clone(),
    }));
    let is_derived = network.ipam.as_ref().is_none_or(IpamConf::is_built_in);
    let first = allocation.addresses.first().filter(|_| is_derived);
    let own_mac = first.map(|given| mac_of(given.address.ip()));
    let mac = request.requested_mac.or(own_mac).unwrap_or(mac);
    let from_store = network.ipam.as_ref().is_some_and(IpamConf::is_host_local);
    let only_derived_ipv4 =
        networks(&allocation).all(|net| net.is_ipv6() || mac_of(net.ip()) == mac);
    let container = ContainerPlan {
        up: mode.up,
        mac,
        known: KnownMacs {
            is_derived: from_store && allocation.addresses.len() == 1 && own_mac == Some(mac),
            is_new: from_store && allocation.is_new && only_derived_ipv4,
        },
        prefix_routes: mode.prefix_routes,
        detect_duplicates: mode.detect_duplicates,
        routes,
        addresses: allocation.addresses,
    };
    if let Some(ports) = &network.ports
        && extent == Extent::Whole
    {
        ports.check_families(&container.networks())?;
    }
    let elements = elements::desired_elements(request, &container.networks(), Some(container.mac));
    let earlier_holders = elements::earlier_holders(&container.networks(), &elements);
    let allowed_traffic = firewall::allowed_traffic(network, &container.networks());
    let dns = network.dns.clone().unwrap_or(allocation.dns);
    Ok(Plan {
        attachment: request.attachment.clone(),
        host_end: HostEndPlan {
            name: host_end_name(&request.attachment),
            mtu: network.mtu,
        },
        link: mode.link,
        forward: mode.forward,
        container,
        elements,
        earlier_holders,
        allowed_traffic,
        ports: network.ports.clone(),
        bandwidth: network.bandwidth,
        routes: allocation.routes,
        dns,
    })
}

fn networks(allocation: &Allocation) -> impl Iterator<Item = IpNetwork> {
    allocation.addresses.iter().map(|given| given.address)
}
