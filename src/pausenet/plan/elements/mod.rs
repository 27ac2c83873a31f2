//! The desired nftables elements: masquerade, port mappings and the guard against forged MACs.
//!
//! State is shared and flat. An attachment is elements of sets and maps, never rules of its
//! own, so neither a packet nor an ADD gets slower with the number of pods. Rules exist once
//! for a subnet or once for the host. Elements are keyed by what packets carry, so each
//! carries its owner in its comment ([`super::alias`]).
//!
//! ```text
//! table inet pausenet
//!   set  masquerade_SUBNET    pods whose traffic to outside SUBNET is masqueraded
//!   set  hairpin_SUBNET       pods with ports that neighbours and 127.0.0.1 may use too
//!   chain postrouting_SUBNET
//!   map  ports4, ports6       protocol . host port : pod . port
//!   map  ports4_at, ports6_at host address . protocol . host port : pod . port
//!   set  mapped4, mapped6     pods that have mapped ports
//!   set  masquerade_all4, _6  pods whose ports are reached by masquerade from everywhere
//!   chain dnat_prerouting, dnat_output → ports; postrouting; guard_input, guard_mapped
//!   set  closed               links of the host whose containers others do not reach
//!   set  inside               pairs of them between which traffic passes all the same
//!   chain ingress_policy
//! table bridge pausenet
//!   set  guarded              host ends whose frames are looked at
//!   set  allowed              host end . the MAC that it may send from
//!   chain prerouting
//!   set  isolated             host ends between which no frame passes
//!   chain isolation
//! ```

mod objects;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
pub use objects::{BRIDGE_TABLE, TABLE};
pub(crate) use objects::{CLOSED, REPLACED_CHAINS};
use objects::{
    SharedObjects, allowed_set, closed_set, guarded_set, hairpin_set, inside_set, isolated_set,
    mapped_set, masquerade_all_set, masquerade_set, ports_map,
};

use super::names::{HOST_END_START, Mapper, host_end_name};
use crate::cni::link::LinkConf;
use crate::cni::ports::{PortMapping, PortsConf, Protocol};
use crate::cni::request::{Network, Request};
use crate::cni::{Family, IfName, MacAddr};
use crate::kernel::conntrack::UdpFlows;
use crate::kernel::nft::expr::address_bytes;
use crate::kernel::nft::{Chain, Change, Element, Set};

/// An element that should be there, and the objects that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredElement {
    pub set: Set,
    pub element: Element,
    /// Whether the key is the attachment's own (its address, its link): any other holder is
    /// dead. A host port is not.
    pub own_key: bool,
    shared: SharedObjects,
}

impl DesiredElement {
    /// Whether the element found under this key is the desired one and does not expire.
    pub(crate) fn is_met_by(&self, found: &Element) -> bool {
        !found.expires && found.owner == self.element.owner && found.data == self.element.data
    }
}

/// All desired elements of an attachment with these addresses and this MAC.
pub(crate) fn desired_elements(
    request: &Request,
    addresses: &[IpNetwork],
    mac: Option<MacAddr>,
) -> Vec<DesiredElement> {
    let owner = Mapper::Own.owner(&request.attachment);
    let mut desired = Vec::new();
    if request.network.masquerade {
        desired.extend(addresses.iter().map(|address| masquerade(*address, &owner)));
    }
    if let Some(ports) = &request.network.ports {
        desired.extend(desired_port_elements(ports, addresses, &owner));
    }
    if let Some(mac) = mac.filter(|_| checks_macs(&request.network)) {
        desired.extend(spoof(&host_end_name(&request.attachment), mac, &owner));
    }
    desired
}

fn checks_macs(network: &Network) -> bool {
    network.link.as_ref().is_some_and(LinkConf::checks_macs)
}

/// Whether attachments of a network may have elements. A network whose config does not
/// say its link may.
pub(crate) fn are_used(network: &Network) -> bool {
    network.masquerade
        || network.ports.is_some()
        || checks_macs(network)
        || network.link.is_none()
        || network.is_incomplete
}

/// Whether an attachment may have elements that the request does not mention any more: mapped ports.
pub(crate) fn may_be_unmentioned(network: &Network) -> bool {
    network.maps_ports && network.ports.is_none()
}

/// Whether the elements must stay until the link is gone: without the guard, a container could send
/// from any MAC until then.
pub(crate) fn stay_until_the_link_is_gone(network: &Network) -> bool {
    checks_macs(network)
}

/// Where it is marked that an address has mapped ports.
pub(crate) fn port_marks(addresses: &[IpNetwork]) -> Vec<(Set, Vec<u8>)> {
    let mark = |address: &IpNetwork| (mapped_set((*address).into()), address_bytes(address.ip()));
    addresses.iter().map(mark).collect()
}

/// Where an earlier holder of these addresses may have left elements, unless one of the desired
/// elements would take their place.
pub(crate) fn earlier_holders(
    addresses: &[IpNetwork],
    desired: &[DesiredElement],
) -> Vec<(Set, Vec<u8>)> {
    let own = desired.iter().filter(|wanted| wanted.own_key);
    let place = |wanted: &DesiredElement| (wanted.set.name.clone(), wanted.element.key.clone());
    let taken: HashSet<_> = own.map(place).collect();
    let mut places = Vec::new();
    for address in addresses {
        let key = address_bytes(address.ip());
        for set in [mapped_set((*address).into()), masquerade_set(*address)] {
            if !taken.contains(&(set.name.clone(), key.clone())) {
                places.push((set, key.clone()));
            }
        }
    }
    places
}

/// The pod's address that an element is about: its key, or where it leads. None for frames.
pub(crate) fn address_of(element: &Element) -> Option<IpAddr> {
    // In the table of frames, keys are names; one of 16 bytes would be read as an address.
    let is_name = |key: &[u8]| key.starts_with(HOST_END_START.as_bytes());
    target(element).or_else(|| address(&element.key).filter(|_| !is_name(&element.key)))
}

/// Whether an element is about one of these addresses.
pub(crate) fn names_one_of(addresses: &HashSet<IpAddr>, element: &Element) -> bool {
    address_of(element).is_some_and(|ip| addresses.contains(&ip))
}

/// Mapped ports of a container that another plugin may have attached: its first address of each
/// family gets them.
pub fn desired_port_elements(
    ports: &PortsConf,
    addresses: &[IpNetwork],
    owner: &str,
) -> Vec<DesiredElement> {
    let mut desired = Vec::new();
    for family in Family::ALL {
        let Some(address) = addresses
            .iter()
            .find(|address| Family::from(**address) == family)
        else {
            continue;
        };
        let before = desired.len();
        // One port may be there twice: for a family, and for both.
        let mut seen = HashSet::new();
        desired.extend(
            ports
                .mappings
                .iter()
                .filter(|mapping| mapping.is_for(family))
                .map(|mapping| port(mapping, address.ip(), owner))
                .filter(|wanted| seen.insert(wanted.element.key.clone())),
        );
        if desired.len() == before {
            continue;
        }
        let key = address_bytes(address.ip());
        desired.push(own(SharedObjects::Ports, mapped_set(family), key, owner));
        if ports.masquerade_all {
            let set = masquerade_all_set(family);
            desired.push(own(
                SharedObjects::Ports,
                set,
                address_bytes(address.ip()),
                owner,
            ));
        } else if ports.snat {
            let set = hairpin_set(*address);
            desired.push(own(
                SharedObjects::Subnet(*address),
                set,
                address_bytes(address.ip()),
                owner,
            ));
        }
    }
    desired
}

fn own(shared: SharedObjects, set: Set, key: Vec<u8>, owner: &str) -> DesiredElement {
    let element = Element {
        key,
        data: Vec::new(),
        owner: owner.to_owned(),
        expires: false,
    };
    DesiredElement {
        set,
        element,
        own_key: true,
        shared,
    }
}

fn masquerade(address: IpNetwork, owner: &str) -> DesiredElement {
    let key = address_bytes(address.ip());
    own(
        SharedObjects::Subnet(address),
        masquerade_set(address),
        key,
        owner,
    )
}

fn port(mapping: &PortMapping, pod: IpAddr, owner: &str) -> DesiredElement {
    let family = Family::from(pod);
    let mut key = Vec::new();
    if let Some(host_ip) = mapping.host_ip {
        key.extend(address_bytes(host_ip));
    }
    key.extend([mapping.protocol.number(), 0, 0, 0]);
    key.extend(padded_port(mapping.host_port));
    let mut data = address_bytes(pod);
    data.extend(padded_port(mapping.container_port));
    DesiredElement {
        set: ports_map(family, mapping.host_ip.is_some()),
        element: Element {
            key,
            data,
            owner: owner.to_owned(),
            expires: false,
        },
        own_key: false,
        shared: SharedObjects::Ports,
    }
}

fn spoof(host_end: &IfName, mac: MacAddr, owner: &str) -> [DesiredElement; 2] {
    let name = padded_name(host_end);
    let mut pair = name.clone();
    pair.extend(mac.0);
    pair.resize(24, 0);
    [
        own(SharedObjects::Spoof, guarded_set(), name, owner),
        own(SharedObjects::Spoof, allowed_set(), pair, owner),
    ]
}

/// The elements of a link of the host by which a container's traffic goes, for one of the closed ingress policies:
/// that it is closed, and that traffic within it passes, which only `same-bridge` wants.
pub(crate) fn ingress_elements(link: &IfName, owner: &str) -> [DesiredElement; 2] {
    let name = padded_name(link);
    let pair = [name.clone(), name.clone()].concat();
    [
        own(SharedObjects::IngressPolicy, closed_set(), name, owner),
        own(SharedObjects::IngressPolicy, inside_set(), pair, owner),
    ]
}

/// The element of a host end that is isolated from others of its bridge.
pub(crate) fn isolated_element(host_end: &IfName, owner: &str) -> DesiredElement {
    let name = padded_name(host_end);
    own(SharedObjects::Isolation, isolated_set(), name, owner)
}

fn padded_name(link: &IfName) -> Vec<u8> {
    let mut name = link.as_str().as_bytes().to_vec();
    name.resize(16, 0);
    name
}

/// An attachment's elements, to remove. None when only a search through all elements can find them,
/// because its addresses, its MAC or its config are no longer known.
pub(crate) fn elements_to_remove(
    request: &Request,
    addresses: &[IpNetwork],
    mac: Option<MacAddr>,
) -> Option<Vec<(Set, Element)>> {
    let by_address = request.network.masquerade || request.network.ports.is_some();
    if by_address && addresses.is_empty()
        || checks_macs(&request.network) && mac.is_none()
        || request.network.link.is_none()
        || request.network.is_incomplete
    {
        return None;
    }
    Some(elements_of(&desired_elements(request, addresses, mac)))
}

/// The desired elements as they would be.
pub(crate) fn elements_of(desired: &[DesiredElement]) -> Vec<(Set, Element)> {
    desired
        .iter()
        .map(|wanted| (wanted.set.clone(), wanted.element.clone()))
        .collect()
}

/// The same of port mappings alone.
pub(crate) fn port_elements(ports: &PortsConf, addresses: &[IpNetwork]) -> Vec<(Set, Element)> {
    elements_of(&desired_port_elements(ports, addresses, ""))
}

/// The UDP flows through a mapped port; None for any other element.
pub(crate) fn flows_through(element: &Element) -> Option<(Family, UdpFlows)> {
    let pod = target(element)?;
    // The key ends with the protocol and the port, 4 bytes each.
    let (host, port) = element
        .key
        .split_at_checked(element.key.len().checked_sub(8)?)?;
    let [protocol, _, _, _, high, low, ..] = port else {
        return None;
    };
    if *protocol != Protocol::Udp.number() {
        return None;
    }
    let flows = UdpFlows {
        to: address(host),
        to_port: Some(u16::from_be_bytes([*high, *low])),
        answered_by: Some(pod),
    };
    Some((Family::from(pod), flows))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The pod's address that a port map's element leads to.
pub fn target(element: &Element) -> Option<IpAddr> {
    // It ends with the port.
    address(element.data.get(..element.data.len().checked_sub(4)?)?)
}

/// What a port map's element says: the host's address if it is for one only, the protocol, the
/// host's port, and the container's address and port. None for any other element.
pub fn mapping(element: &Element) -> Option<(Option<IpAddr>, Protocol, u16, SocketAddr)> {
    let (host, port) = element
        .key
        .split_at_checked(element.key.len().checked_sub(8)?)?;
    let [number, _, _, _, high, low, ..] = *port else {
        return None;
    };
    let mut protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter();
    let protocol = protocols.find(|protocol| protocol.number() == number)?;
    let to_port = element.data.get(element.data.len().checked_sub(4)?..)?;
    let [to_high, to_low, ..] = *to_port else {
        return None;
    };
    Some((
        address(host),
        protocol,
        u16::from_be_bytes([high, low]),
        SocketAddr::new(target(element)?, u16::from_be_bytes([to_high, to_low])),
    ))
}

/// The objects that desired elements need, each once.
pub fn shared_objects(desired: &[DesiredElement]) -> Vec<Change> {
    let mut done = HashSet::new();
    let mut changes = Vec::new();
    for wanted in desired {
        if done.insert(&wanted.shared) {
            changes.extend(wanted.shared.objects());
        }
    }
    changes
}

/// The chains among the objects that desired elements need: an element has no effect without them.
pub(crate) fn shared_chains(desired: &[DesiredElement]) -> impl Iterator<Item = Chain> {
    let objects = shared_objects(desired).into_iter();
    objects.filter_map(|change| match change {
        Change::Chain(chain) => Some(chain),
        _ => None,
    })
}

fn padded_port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_s_element_leads_back_to_its_pod() {
        let conf = PortsConf::for_test(r#"[{"hostPort": 8080, "containerPort": 80}]"#);
        for pod in ["10.1.0.5/24", "fd00::5/64"] {
            let pod: IpNetwork = pod.parse().unwrap();
            let desired = desired_port_elements(&conf, &[pod], "x");
            assert_eq!(target(&desired[0].element), Some(pod.ip()));
            let to = SocketAddr::new(pod.ip(), 80);
            let whole = (None, Protocol::Tcp, 8080, to);
            assert_eq!(mapping(&desired[0].element), Some(whole));
            assert_eq!(mapping(&desired[1].element), None);
            assert!(!desired[0].own_key && desired[1].own_key);
        }
    }

    #[test]
    fn the_same_mapping_twice_is_one() {
        let pods = ["10.1.0.5/24", "fd00::5/64"].map(|ip| ip.parse().unwrap());
        let desired = |list| desired_port_elements(&PortsConf::for_test(list), &pods, "x");
        let twice = r#"[{"hostPort": 1, "containerPort": 2}, {"hostPort": 1, "containerPort": 2},
            {"hostPort": 1, "containerPort": 2, "hostIP": "0.0.0.0", "protocol": "TCP"}]"#;
        let once = r#"[{"hostPort": 1, "containerPort": 2}]"#;
        assert_eq!(desired(twice), desired(once));
    }

    #[test]
    fn the_flows_of_a_udp_port_are_known_by_both_ends() {
        let conf = PortsConf::for_test(
            r#"[{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "::"},
                {"hostPort": 54, "containerPort": 80}]"#,
        );
        let pods: Vec<IpNetwork> = ["10.1.0.5/24", "fd00::5/64"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let flows: Vec<_> = desired_port_elements(&conf, &pods, "x")
            .iter()
            .filter_map(|wanted| flows_through(&wanted.element))
            .map(|(family, flows)| (family, flows.to, flows.to_port, flows.answered_by))
            .collect();
        let ip = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            flows,
            [
                (Family::Ipv4, ip("192.0.2.1"), Some(53), ip("10.1.0.5")),
                (Family::Ipv6, None, Some(53), ip("fd00::5")),
            ]
        );
    }

    #[test]
    fn a_mapping_at_an_address_is_of_its_family_only() {
        let conf =
            PortsConf::for_test(r#"[{"hostPort": 1, "containerPort": 2, "hostIP": "192.0.2.1"}]"#);
        let pods: Vec<IpNetwork> = ["10.1.0.5/24", "fd00::5/64"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let names: Vec<_> = desired_port_elements(&conf, &pods, "x")
            .into_iter()
            .map(|wanted| wanted.set.name)
            .collect();
        assert_eq!(names, ["ports4_at", "mapped4", "hairpin_10.1.0.0/24"]);
    }

    #[test]
    fn shared_objects_are_made_once() {
        let conf = PortsConf::for_test(
            r#"[{"hostPort": 1, "containerPort": 2}, {"hostPort": 3, "containerPort": 4}]"#,
        );
        let desired = desired_port_elements(&conf, &["10.1.0.5/24".parse().unwrap()], "x");
        let tables = shared_objects(&desired)
            .into_iter()
            .filter(|change| matches!(change, Change::Table(_)));
        assert_eq!(tables.count(), 2, "one for the ports, one for the subnet");
    }
}
