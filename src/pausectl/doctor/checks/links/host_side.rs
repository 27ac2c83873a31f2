//! The host's side of attachments: host ends, bridges, and the gateways' addresses and routes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rustix::io::Errno;

use super::Expected;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::{LiveAttachment, exists};
use pausenet::apply::{Host, is_locked};
use pausenet::cni::link::{BridgeConf, GatewayRole, PortIsolation};
use pausenet::cni::{Family, IfName, MacAddr};
use pausenet::kernel::link::Link;
use pausenet::kernel::route::{MAIN_TABLE, Present};
use pausenet::kernel::sysctl::Sysctl;
use pausenet::kernel::{KernelError, RouteSocket, address, route};
use pausenet_host::{During, Result};

/// A host end that is down, or not a port of its network's bridge.
pub(super) fn host_end(
    live: &LiveAttachment,
    expected: Option<&Expected>,
    links: &[Link],
) -> Option<Finding> {
    let end = &live.host_end;
    let subject = format!("{} ({})", end.name, live.attachment);
    if is_locked(&live.attachment) {
        return None;
    }
    let problem = |what: String| Finding::problem(&subject, what).means("the pod is cut off");
    if !end.up {
        let mut commands = vec![format!("ip link set {} up", end.name)];
        // What is on the host end goes with it: routes, and addresses of IPv6.
        if let Some(state) = expected.map(|expected| &expected.state)
            && state.towards.as_str() == end.name
        {
            let lost = state.gateways.iter().filter(|gateway| gateway.is_ipv6());
            commands.extend(lost.map(|gateway| add_address(*gateway, &end.name)));
            let routes = state.addresses.iter().map(|net| net.ip());
            commands.extend(routes.map(|ip| add_host_route(ip, &end.name)));
        }
        return Some(problem("the host end is down".into()).how(commands.join("; ")));
    }
    if end.peer_netns.is_none() {
        let other = links.iter().find(|link| Some(link.index) == end.peer);
        let other = other.map_or_else(|| "?".to_owned(), |link| link.name.clone());
        return Some(
            problem(format!(
                "its other end {other} is not in a pod, but on the host"
            ))
            .how("recreate the pod, or: ip link set END netns PID, and give it its addresses"),
        );
    }
    let conf = live
        .add_calls
        .iter()
        .find_map(|add_call| add_call.request.network.link.as_ref()?.bridge())?;
    let bridge = links.iter().find(|link| link.name == conf.name.as_str());
    match bridge {
        None => Some(
            problem(format!("its bridge {} is gone", conf.name))
                .how("DEL and ADD it again: ADD makes the bridge"),
        ),
        Some(bridge) if end.controller != Some(bridge.index) => Some(
            problem(format!("it is not a port of its bridge {}", conf.name))
                .how(format!("ip link set {} master {}", end.name, conf.name)),
        ),
        Some(bridge) => port_settings(end, conf, bridge).map(|(what, means, command)| {
            Finding::problem(&subject, what).means(means).how(command)
        }),
    }
}

/// How the bridge treats its port otherwise than the network says; what it means, and the command that mends it.
fn port_settings(
    end: &Link,
    conf: &BridgeConf,
    bridge: &Link,
) -> Option<(String, &'static str, String)> {
    let set = |option: &str| format!("bridge link set dev {} {option}", end.name);
    // Without a carrier, the other end is off. Of a bridge that is down, every port is blocked.
    if end.blocked && end.running && bridge.up {
        let what = format!("its bridge {} has blocked its port", conf.name);
        return Some((what, "the pod is cut off", set("state 3")));
    }
    let isolated = conf.isolation == PortIsolation::Isolated;
    let settings = [
        ("hairpin", end.hairpin, conf.hairpin()),
        ("isolated", end.isolated, isolated),
    ];
    let (name, _, wanted) = settings.into_iter().find(|(_, is, wanted)| is != wanted)?;
    let [wanted, is] = match wanted {
        true => ["on", "off"],
        false => ["off", "on"],
    };
    Some((
        format!("the setting {name} of its port of {} is {is}", conf.name),
        "the pod reaches others on its bridge, or itself by its published ports, otherwise than its network says",
        set(&format!("{name} {wanted}")),
    ))
}

/// What is wrong with the bridges of attachments, once for each.
pub(super) fn bridges(attachments: &[LiveAttachment], links: &[Link]) -> Vec<Finding> {
    let mut gateways = BTreeMap::new();
    for live in attachments {
        let mut networks = live.add_calls.iter().map(|call| &call.request.network);
        let conf = networks.find_map(|network| network.link.as_ref()?.bridge());
        if let Some(conf) = conf.filter(|_| !is_locked(&live.attachment)) {
            let is_gateway = gateways.entry(conf.name.clone()).or_insert(false);
            *is_gateway |= conf.gateway >= GatewayRole::Gateway;
        }
    }
    let mut findings = Vec::new();
    for (name, is_gateway) in gateways {
        let Some(bridge) = links.iter().find(|link| link.name == name.as_str()) else {
            continue; // a finding of each host end
        };
        if is_gateway && bridge.mac == Some(MacAddr::ZERO) {
            let no_mac = "has no MAC (00:00:00:00:00:00), and holds the gateway's address";
            let found = Finding::problem(&bridge.name, no_mac)
                .means("the pods on it do not reach their gateway, nor anything behind it");
            findings.push(match MacAddr::random() {
                Ok(mac) => found.how(format!("ip link set {} address {mac}", bridge.name)),
                Err(_) => found,
            });
        }
    }
    findings
}

/// A link of the host towards pods: a bridge, an interface of one in a VLAN, or a host end.
#[derive(Default)]
struct Gateway<'a> {
    addresses: BTreeSet<IpNetwork>,
    /// The attachments behind it.
    attachments: Vec<&'a Expected<'a>>,
}

/// Gateways that are down, or have lost an address or the route to a pod.
///
/// # Errors
/// The kernel does not list the host's addresses.
pub(super) fn gateways(expected: &[Expected], links: &[Link]) -> Result<Vec<Finding>> {
    let mut gateways: BTreeMap<&IfName, Gateway> = BTreeMap::new();
    for one in expected {
        if one.live.host_end.up && !is_locked(&one.live.attachment) {
            let gateway = gateways.entry(&one.state.towards).or_default();
            gateway.addresses.extend(&one.state.gateways);
            gateway.attachments.push(one);
        }
    }
    if gateways.is_empty() {
        return Ok(Vec::new());
    }
    let mut socket = Host::open_socket()?;
    let mut present: HashMap<u32, HashSet<IpAddr>> = HashMap::new();
    for (index, net) in address::list(&mut socket).during("list the host's addresses")? {
        present.entry(index).or_default().insert(net.ip());
    }
    let by_name: HashMap<_, _> = links
        .iter()
        .map(|link| (link.name.as_str(), link))
        .collect();
    let mut findings = Vec::new();
    for (name, gateway) in gateways {
        match by_name.get(name.as_str()) {
            Some(link) => {
                let present = present.remove(&link.index).unwrap_or_default();
                findings.extend(gateway.findings(link, &present, &mut socket));
            }
            // The bridge itself is a finding of each host end.
            None if name.as_str().contains('.') => findings.push(
                Finding::problem(name, "the host's interface in the VLAN is gone")
                    .means("the pods do not reach their gateway, nor anything behind it")
                    .how("DEL and ADD one of its pods again: ADD makes it"),
            ),
            None => {}
        }
    }
    Ok(findings)
}

impl Gateway<'_> {
    fn findings(
        &self,
        link: &Link,
        present: &HashSet<IpAddr>,
        socket: &mut RouteSocket,
    ) -> Vec<Finding> {
        let missing: Vec<_> = self
            .addresses
            .iter()
            .filter(|gateway| !present.contains(&gateway.ip()))
            .collect();
        let mut what = Vec::new();
        let mut commands = Vec::new();
        if !link.up {
            what.push("it is down".to_owned());
            commands.push(format!("ip link set {} up", link.name));
        }
        if missing.iter().any(|gateway| gateway.is_ipv6()) {
            let disabled = IfName::parse(&link.name).is_ok_and(|name| is_ipv6_disabled(&name));
            if let Some((why, command)) = without_ipv6(link, disabled) {
                what.push(why);
                commands.push(command);
            }
        }
        for gateway in &missing {
            what.push(format!("the gateway's address {} is missing", gateway.ip()));
            commands.push(add_address(**gateway, &link.name));
        }
        // In mode ptp, the routes to pods go with the gateway's address.
        let of_ptp = self
            .attachments
            .iter()
            .filter(|one| !what.is_empty() && one.live.host_end.name == link.name);
        for one in of_ptp {
            let lost = one.state.addresses.iter().map(|net| net.ip());
            commands.extend(lost.map(|ip| add_host_route(ip, &link.name)));
        }
        if !what.is_empty() {
            // Its pods may have been removed meanwhile, and the bridge with the last of them.
            let mut attachments = self.attachments.iter();
            if !attachments.any(|one| exists(&one.live.attachment)) {
                return Vec::new();
            }
            return vec![
                Finding::problem(&link.name, what.join(", and "))
                    .means("the pods on it do not reach their gateway, nor anything behind it")
                    .how(commands.join("; ")),
            ];
        }
        if self.addresses.is_empty() {
            return Vec::new(); // layer 2 only: the host need not reach the pods
        }
        let lost = self.attachments.iter().flat_map(|one| {
            let addresses = one.state.addresses.iter();
            addresses.map(|net| (*one, *net)).collect::<Vec<_>>()
        });
        lost.filter_map(|(one, net)| self.lost_route(one, net, link, socket))
            .collect()
    }

    /// The host sends what is for a pod elsewhere, or nowhere.
    fn lost_route(
        &self,
        one: &Expected,
        net: IpNetwork,
        link: &Link,
        socket: &mut RouteSocket,
    ) -> Option<Finding> {
        let ip = net.ip();
        let found = route::towards(socket, ip);
        let is_refused = |err: &KernelError| REFUSALS.iter().any(|refusal| err.is(*refusal));
        let is_refused = found.as_ref().is_err_and(is_refused);
        let leads_to = match found {
            Ok(found) => found.and_then(|route| route.link),
            Err(_) if is_refused => None,
            Err(_) => return None,
        };
        if leads_to == Some(link.index) || !exists(&one.live.attachment) {
            return None;
        }
        let mut routes = route::list(socket).ok()?;
        routes.retain(|route| route.table == MAIN_TABLE && route.dst.contains(ip));
        let mut ours = routes.iter();
        let is_there = ours.any(|route| route.link == Some(link.index) && route.via.is_none());
        let refusing = routes.iter().filter(|route| route.refuses);
        let refusing = refusing.filter(|route| route.dst.prefix() != 0);
        let put_back = match link.name == one.live.host_end.name {
            true => add_host_route(ip, &link.name),
            false => add_subnet_route(net, &self.addresses, &link.name),
        };
        let (what, how) = match refusing.max_by_key(|route| route.dst.prefix()) {
            Some(Present { dst, .. }) => {
                let remove = format!("{} route del {dst}", ip_of(ip.into()));
                (
                    format!("a route of the host to {dst} drops or refuses what is for {ip}"),
                    if is_there {
                        remove
                    } else {
                        format!("{remove}; {put_back}")
                    },
                )
            }
            None if is_refused => (
                format!(
                    "a rule of the host, or a route of another table, refuses what is for {ip}"
                ),
                format!("find it (ip route get {ip}; ip rule) and remove it"),
            ),
            None if is_there => (
                format!(
                    "another route of the host to {ip} goes before the one to {}",
                    link.name
                ),
                format!("find that route (ip route get {ip}) and remove it"),
            ),
            None => (
                format!("the host has lost its route to {ip} out of {}", link.name),
                put_back,
            ),
        };
        let subject = format!("{} ({})", one.live.host_end.name, one.live.attachment);
        Some(
            Finding::problem(subject, what)
                .means("what the host and others send to it does not arrive")
                .how(how),
        )
    }
}

/// The kernel's answers where a rule or a route drops or refuses packets.
const REFUSALS: [Errno; 3] = [Errno::INVAL, Errno::HOSTUNREACH, Errno::ACCESS];

/// The smallest MTU with which a link has IPv6.
const LEAST_MTU_OF_IPV6: u32 = 1280;

/// Whether the namespace of the calling thread has no IPv6 on a link.
pub(super) fn is_ipv6_disabled(link: &IfName) -> bool {
    Sysctl::DisableIpv6(link)
        .get()
        .is_ok_and(|value| value == "1")
}

/// Why a link can have no address of IPv6, if so, and the command that changes that.
pub(super) fn without_ipv6(link: &Link, disabled: bool) -> Option<(String, String)> {
    let name = &link.name;
    if disabled {
        let sysctl = IfName::parse(name).ok()?;
        let sysctl = Sysctl::DisableIpv6(&sysctl).name();
        let why = format!("IPv6 is disabled on {name}");
        return Some((why, format!("sysctl -w {sysctl}=0")));
    }
    (link.mtu < LEAST_MTU_OF_IPV6).then(|| {
        let why = format!("the MTU of {name} is {}, too small for IPv6", link.mtu);
        (why, format!("ip link set {name} mtu {LEAST_MTU_OF_IPV6}"))
    })
}

/// `ip -6` where a command of `ip` needs it.
pub(super) fn ip_of(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip -6",
    }
}

/// An option for addresses of IPv6, so that they can be used at once.
pub(super) fn no_probe(net: IpNetwork) -> &'static str {
    match net {
        IpNetwork::V4(_) => "",
        IpNetwork::V6(_) => " nodad",
    }
}

fn add_address(net: IpNetwork, link: &str) -> String {
    format!("ip address replace {net} dev {link}{}", no_probe(net))
}

fn add_host_route(ip: IpAddr, link: &str) -> String {
    let scope = match ip {
        IpAddr::V4(_) => " scope host",
        IpAddr::V6(_) => "",
    };
    format!("{} route replace {ip} dev {link}{scope}", ip_of(ip.into()))
}

/// The route that the kernel makes for the address of a bridge.
fn add_subnet_route(net: IpNetwork, gateways: &BTreeSet<IpNetwork>, link: &str) -> String {
    let source = gateways.iter().find(|gateway| gateway.contains(net.ip()));
    let source = match source {
        Some(gateway) if gateway.is_ipv4() => format!(" scope link src {}", gateway.ip()),
        _ => String::new(),
    };
    let subnet = format!("{}/{}", net.network(), net.prefix());
    format!(
        "{} route replace {subnet} dev {link}{source}",
        ip_of(net.into())
    )
}
