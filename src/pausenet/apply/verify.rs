//! CHECK: compares the result of ADD with the kernel's state.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::bandwidth::Limiter;
use super::host::Host;
use super::host_end::host_end;
use super::{container, vlan};
use crate::cni::link::{BridgeConf, FrameMode, GatewayRole, LinkConf, PortIsolation};
use crate::cni::request::{Attachment, Request};
use crate::cni::result::{AddResult, Interface, IpConfig};
use crate::cni::{Code, During, Error, Family, IfName, MacAddr, Result};
use crate::kernel::link::{Link, Which};
use crate::kernel::netns::Netns;
use crate::kernel::{RouteSocket, address, link, route};
use crate::plan::{Ownership, host_end_name, is_half_made};

/// Compares the kernel with `promised`, the result of the attachment's ADD. Returns which plugin
/// attached the container.
///
/// # Errors
/// Code 102 for the first difference; 8 and 101 when the comparison cannot be made.
pub(crate) fn verify(
    host: &mut Host,
    netns: &Netns,
    request: &Request,
    promised: &AddResult,
) -> Result<WiredBy> {
    let mut inside = netns.enter(&host.netns, container::open)?;
    let ifname = &request.attachment.ifname;
    let end = find(&mut inside, ifname, "in the container")
        .map_err(|err| explain_missing_interface(host, &request.attachment, err))?;
    // First check that the two ends are a pair: differences on an interface that is not ours mean
    // nothing.
    let (port, maker) = host_end_of(host, request, promised, &end)
        .map_err(|err| explain_wrong_interface(host, netns, &request.attachment, &end, err))?;
    let promised_end = promised
        .interfaces
        .iter()
        .position(|interface| interface.name == ifname.as_str() && !interface.sandbox.is_empty());
    // An address without an interface is the container's: old results have no interfaces.
    let ours = |ip: &&IpConfig| {
        let index = promised.interface_of(ip);
        index.is_none() || index == promised_end
    };
    let ips: Vec<_> = promised.ips.iter().filter(ours).collect();
    match &request.network.link {
        Some(LinkConf::Bridge(conf)) => bridge_side(host, conf, promised, &ips, &port)?,
        Some(LinkConf::Ptp) => routed_side(host, &ips, &port)?,
        None => {}
    }
    if let Some(limits) = &request.network.bandwidth {
        Limiter::own(&request.attachment, &port).verify(&mut host.socket, limits)?;
    }
    if let Some(at) = promised_end {
        same_mac(&end, &promised.interfaces[at])?;
    }
    let link = request.network.link.as_ref();
    if !end.up && !link.is_some_and(LinkConf::leaves_down) {
        return Err(differs(format!(
            "{ifname} is switched off in the container"
        )));
    }
    addresses(&mut inside, &ips, &end)?;
    routes(&mut inside, promised, &ips, &end)?;
    Ok(maker)
}

/// The plugin that attached the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WiredBy {
    Pausenet,
    /// The plugin that the node used before; its nftables rules are not checked.
    OtherPlugin,
}

/// The host end of the container's interface: ours, by its name, or else the one in the result.
fn host_end_of(
    host: &mut Host,
    request: &Request,
    promised: &AddResult,
    end: &Link,
) -> Result<(Link, WiredBy)> {
    let (port, maker) = match host_end(&mut host.socket, &request.attachment)? {
        Some(port) if is_half_made(&port) => {
            return Err(differs(format!(
                "the host end {} is only half made",
                port.name
            )));
        }
        Some(port) => (port, WiredBy::Pausenet),
        None => (
            other_plugins_host_end(host, request, promised)?,
            WiredBy::OtherPlugin,
        ),
    };
    // Each end must name the other as its peer. If the path now leads to another namespace, its
    // interface is a different one, even if it has the same name.
    if port.peer != Some(end.index) || end.peer != Some(port.index) {
        return Err(differs(format!(
            "{} in the container is not the other end of {}: CNI_NETNS leads to another namespace \
             than at ADD",
            end.name, port.name
        ))
        .hint(PATH_WAS_REUSED));
    }
    if let Some(promised) = on_host(promised, &port.name) {
        same_mac(&port, promised)?;
    }
    if !port.up {
        return Err(differs(format!(
            "the host end {} is switched off",
            port.name
        )));
    }
    Ok((port, maker))
}

/// The hint for a path that now leads to another namespace.
const PATH_WAS_REUSED: &str = "a process number in CNI_NETNS (/proc/PID/ns/net) may have been given \
    to another process since ADD; DEL takes the attachment down and leaves that one alone";

/// Explains a missing container end: if the host end exists, its peer exists somewhere else.
fn explain_missing_interface(host: &mut Host, attachment: &Attachment, err: Error) -> Error {
    match host_end(&mut host.socket, attachment) {
        Ok(Some(port)) if err.code == Code::AttachmentDiffers => err.hint(format!(
            "its other end {} is there: it was renamed, or it is in another namespace than the one \
             that CNI_NETNS leads to; {PATH_WAS_REUSED}",
            port.name
        )),
        _ => err,
    }
}

/// Explains an interface that belongs to another attachment, which its host end may name.
fn explain_wrong_interface(
    host: &mut Host,
    netns: &Netns,
    attachment: &Attachment,
    end: &Link,
    err: Error,
) -> Error {
    let peer = end
        .peer
        .map(|index| link::get(&mut host.socket, Which::Index(index)));
    let Some(Ok(Some(peer))) = peer.filter(|_| err.code == Code::AttachmentDiffers) else {
        return err;
    };
    match Ownership::of(&peer) {
        Ownership::Attachment(other) if other != *attachment => differs(format!(
            "{} leads to another namespace than at ADD: {} in it belongs to {other}",
            netns.path().display(),
            end.name
        ))
        .hint(PATH_WAS_REUSED),
        Ownership::Attachment(_) | Ownership::HalfMade | Ownership::Foreign => err,
    }
}

fn other_plugins_host_end(
    host: &mut Host,
    request: &Request,
    promised: &AddResult,
) -> Result<Link> {
    let name = super::reference::promised_host_end(promised, &request.network)
        .and_then(|interface| IfName::parse(&interface.name).ok())
        .filter(|name| *name != host_end_name(&request.attachment));
    match name {
        Some(name) => find(&mut host.socket, &name, "on the host"),
        None => Err(differs("the host end of the veth pair is gone".into())),
    }
}

fn on_host<'a>(promised: &'a AddResult, name: &str) -> Option<&'a Interface> {
    promised
        .interfaces
        .iter()
        .find(|interface| interface.sandbox.is_empty() && interface.name == name)
}

fn bridge_side(
    host: &mut Host,
    conf: &BridgeConf,
    promised: &AddResult,
    ips: &[&IpConfig],
    port: &Link,
) -> Result<()> {
    let name = &conf.name;
    let bridge = find(&mut host.socket, name, "on the host")?;
    if bridge.kind != "bridge" {
        return Err(differs(format!(
            "{name} is no bridge, but a {}",
            bridge.kind
        )));
    }
    if !bridge.up {
        return Err(differs(format!("bridge {name} is switched off")));
    }
    if conf.frames == FrameMode::Promiscuous && !bridge.promiscuous {
        return Err(differs(format!("bridge {name} is not promiscuous")));
    }
    // Without a gateway's address nobody sends to it, and its MAC may be the lowest of its ports'.
    let has_address = conf.gateway >= GatewayRole::Gateway;
    if let Some(promised) = on_host(promised, &bridge.name).filter(|_| has_address) {
        same_mac(&bridge, promised)?;
    }
    if has_address && bridge.mac == Some(MacAddr::ZERO) {
        return Err(differs(format!(
            "bridge {name} has no MAC (00:00:00:00:00:00), so that nothing reaches the gateway on it"
        ))
        .hint("the next ADD gives it one"));
    }
    if port.controller != Some(bridge.index) {
        return Err(differs(format!(
            "{} is not a port of bridge {name}",
            port.name
        )));
    }
    let isolated = conf.isolation == PortIsolation::Isolated;
    for (what, is, should) in [
        ("hairpin mode", port.hairpin, conf.hairpin()),
        ("isolation", port.isolated, isolated),
    ] {
        if is != should {
            let is = if is { "on" } else { "off" };
            return Err(differs(format!("{what} of port {} is {is}", port.name)));
        }
    }
    if !has_address {
        return Ok(());
    }
    match conf.vlans.as_ref().and_then(|vlans| vlans.own) {
        None => gateways(host, ips, &bridge),
        Some(vid) => {
            let name = vlan::gateway_name(name.as_str(), vid)?;
            let on = find(&mut host.socket, &name, "on the host")?;
            if !on.up {
                return Err(differs(format!("{name} is switched off")));
            }
            gateways(host, ips, &on)
        }
    }
}

/// Mode ptp: checks the host's addresses on the link and its routes to the container's.
fn routed_side(host: &mut Host, ips: &[&IpConfig], port: &Link) -> Result<()> {
    gateways(host, ips, port)?;
    for ip in ips.iter().filter(|ip| ip.gateway.is_some()) {
        let ip = ip.address.ip();
        let way = route::link_towards(&mut host.socket, ip)
            .during_with(|| format!("find the way to {ip}"))?;
        if way != Some(port.index) {
            return Err(differs(format!(
                "the host has lost its route to {ip} out of {}",
                port.name
            )));
        }
    }
    Ok(())
}

/// Checks that the host's link towards the containers has their gateways' addresses.
fn gateways(host: &mut Host, ips: &[&IpConfig], towards: &Link) -> Result<()> {
    let present = address::of_link(&mut host.socket, towards.index)
        .during_with(|| format!("list the addresses of {}", towards.name))?;
    let present: HashSet<_> = present.iter().map(|have| have.ip()).collect();
    for gateway in ips.iter().filter_map(|ip| ip.gateway) {
        if !present.contains(&gateway) {
            return Err(differs(format!(
                "{} has lost gateway address {gateway}",
                towards.name
            )));
        }
    }
    Ok(())
}

fn addresses(inside: &mut RouteSocket, ips: &[&IpConfig], end: &Link) -> Result<()> {
    let present = address::of_link(inside, end.index)
        .during_with(|| format!("list the addresses of {}", end.name))?;
    let present: HashSet<_> = present.into_iter().collect();
    for ip in ips {
        if !present.contains(&ip.address) {
            return Err(differs(format!(
                "{} has lost address {}",
                end.name, ip.address
            )));
        }
    }
    Ok(())
}

/// Checks that the container has the routes, as the kernel tells them: bits beyond the prefix are
/// cleared, and a next hop that is no address, or a table that is none, is left out.
fn routes(
    inside: &mut RouteSocket,
    promised: &AddResult,
    ips: &[&IpConfig],
    end: &Link,
) -> Result<()> {
    if promised.routes.is_empty() {
        return Ok(());
    }
    let present = route::list(inside).during("list the routes in the container")?;
    let mut by_destination: HashMap<_, Vec<_>> = HashMap::new();
    for have in present.iter().filter(|have| have.link == Some(end.index)) {
        let key = (have.dst, have.table);
        by_destination.entry(key).or_default().push(have.via);
    }
    let gateways = Family::ALL.map(|family| {
        let mut gateways = ips.iter().filter_map(|ip| ip.gateway);
        let gateway = gateways.find(|gateway| Family::from(*gateway) == family);
        (family, gateway)
    });
    for promised_route in &promised.routes {
        let via: Option<IpAddr> = promised_route.gw.or_else(|| {
            let family = Family::from(promised_route.dst);
            let of_family = gateways.iter().find(|(of, _)| *of == family);
            of_family.and_then(|(_, gateway)| *gateway)
        });
        let via = via.filter(|via| !via.is_unspecified());
        let table = promised_route.table.filter(|table| *table != 0);
        let table = table.unwrap_or(route::MAIN_TABLE);
        let dst = promised_route.dst;
        let found = IpNetwork::new(dst.network(), dst.prefix())
            .ok()
            .and_then(|dst| by_destination.get(&(dst, table)))
            .is_some_and(|have| via.is_none() || have.contains(&via));
        if !found {
            let via = via.map_or_else(String::new, |via| format!(" via {via}"));
            return Err(differs(format!(
                "the container has lost its route to {}{via} out of {}",
                promised_route.dst, end.name
            )));
        }
    }
    Ok(())
}

fn find(socket: &mut RouteSocket, name: &IfName, place: &str) -> Result<Link> {
    link::get(socket, Which::Name(name))
        .during_with(|| format!("look up {name} {place}"))?
        .ok_or_else(|| differs(format!("{name} is gone {place}")))
}

fn same_mac(link: &Link, promised: &Interface) -> Result<()> {
    let have = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let is_same = promised.mac.eq_ignore_ascii_case(&have)
        || MacAddr::parse(&promised.mac).is_ok_and(|mac| link.mac == Some(mac));
    // Nobody could send to a MAC of zeros: a later ADD has given the bridge one.
    if promised.mac.is_empty() || promised.mac == MacAddr::ZERO.to_string() || is_same {
        return Ok(());
    }
    Err(differs(format!(
        "{} has MAC {have}, not {} as in prevResult",
        link.name, promised.mac
    )))
}

fn differs(what: String) -> Error {
    Error::new(Code::AttachmentDiffers, what)
}
