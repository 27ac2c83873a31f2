//! VLANs on a bridge: those of container ports, and the host's VLAN interface with a gateway's
//! address.

use std::os::fd::AsFd;

use crate::cni::link::VlanConf;
use crate::cni::request::Attachment;
use crate::cni::{Code, ContainerId, During, Error, IfName, MacAddr, NetworkName, Result};
use crate::kernel::link::{Link, NewVeth, Which};
use crate::kernel::netns::Netns;
use crate::kernel::{RouteSocket, link, vlan};
use crate::plan::host_end_name;

/// Checks that a bridge filters VLANs. Removes a bridge that was just created (`made`) if it does
/// not.
///
/// # Errors
/// Code 2, naming what is missing.
pub(super) fn require_filtering(socket: &mut RouteSocket, bridge: &Link, made: bool) -> Result<()> {
    if bridge.vlan_filtering {
        return Ok(());
    }
    if made {
        let _ = link::delete(socket, bridge.index);
        return Err(no_filtering());
    }
    Err(Error::new(
        Code::UnsupportedField,
        format!(
            "vlan and vlanTrunk: bridge {} exists and does not filter VLANs",
            bridge.name
        ),
    )
    .hint(format!(
        "ip link set {} type bridge vlan_filtering 1, or another bridge \
         (a kernel without CONFIG_BRIDGE_VLAN_FILTERING has none that can)",
        bridge.name
    )))
}

/// The error when the kernel does not support `vlan` and `vlanTrunk`.
pub(super) fn no_filtering() -> Error {
    Error::new(
        Code::UnsupportedField,
        "vlan and vlanTrunk: this kernel's bridges cannot filter VLANs",
    )
    .hint("it was built without CONFIG_BRIDGE_VLAN_FILTERING")
}

/// Puts a bridge port into its VLANs.
pub(super) fn join(
    socket: &mut RouteSocket,
    bridge: &Link,
    port: &Link,
    vlans: &VlanConf,
) -> Result<()> {
    let mut batch = Vec::new();
    if !vlans.keep_default && bridge.default_vlan != 0 {
        batch.push(vlan::leave_request(port.index, bridge.default_vlan));
    }
    if let Some(own) = vlans.own {
        batch.push(vlan::join_request(port.index, own, true));
    }
    batch.extend(
        vlans
            .trunk
            .iter()
            .map(|vid| vlan::join_request(port.index, *vid, false)),
    );
    if vlans.own.is_none() {
        // As in the reference: a trunk without its own VLAN uses VLAN 1 for untagged frames.
        batch.push(vlan::join_request(port.index, 1, true));
    }
    socket
        .all(batch)
        .during_with(|| format!("set the VLANs of port {}", port.name))
}

/// The host's interface in a VLAN of a bridge, `BRIDGE.VLAN`; created if it is missing. Like the
/// bridge, it is shared and never removed with an attachment.
///
/// # Errors
/// Code 7 when its name does not fit; 101 when the kernel refuses.
pub(super) fn gateway_link(
    socket: &mut RouteSocket,
    bridge: &Link,
    vid: u16,
    keep_default: bool,
) -> Result<Link> {
    let name = gateway_name(&bridge.name, vid)?;
    let attempt = || format!("create {name}, the host's interface in VLAN {vid}");
    let present = link::get(socket, Which::Name(&name)).during_with(attempt)?;
    let port = match present {
        Some(present) if present.up => return Ok(present),
        // An ADD that was killed made it: to switch it on is the last step.
        Some(Link {
            peer: Some(peer), ..
        }) => link::get(socket, Which::Index(peer)).during_with(attempt)?,
        _ => None,
    };
    let port = match port {
        Some(port) => port,
        None => create_gateway_link(socket, bridge, &name)?,
    };
    let vlans = VlanConf {
        own: Some(vid),
        trunk: Vec::new(),
        keep_default,
    };
    join(socket, bridge, &port, &vlans)?;
    let index = port.peer.unwrap_or_default();
    link::set_up(socket, index, false).during_with(attempt)?;
    link::get(socket, Which::Index(index))
        .during_with(attempt)?
        .ok_or_else(|| {
            Error::new(
                Code::TryAgainLater,
                format!("{name} was removed while in use"),
            )
        })
}

/// The name of the host's interface in a VLAN of a bridge.
///
/// # Errors
/// Code 7 when it does not fit.
pub(crate) fn gateway_name(bridge: &str, vid: u16) -> Result<IfName> {
    IfName::parse(&format!("{bridge}.{vid}")).map_err(|why| Error::new(Code::InvalidConfig, why))
}

/// Creates the pair of the host's interface in a VLAN. Returns the bridge's end.
fn create_gateway_link(socket: &mut RouteSocket, bridge: &Link, name: &IfName) -> Result<Link> {
    let own = Netns::own()?;
    let new = NewVeth {
        host_name: &port_name(&bridge.name, name)?,
        container_name: name,
        container_netns: own.as_fd(),
        container_mac: MacAddr::random()?,
        host_mac: MacAddr::random_high()?,
        mtu: Some(bridge.mtu),
        controller: Some(bridge.index),
        // It belongs to no attachment, and GC must not take it for debris.
        group: 0,
    };
    link::create_veth(socket, &new)
        .during_with(|| format!("create {name} and its port of the bridge"))
}

/// A name for the bridge's end: that of the host end of an attachment that cannot exist.
fn port_name(bridge: &str, link: &IfName) -> Result<IfName> {
    Ok(host_end_name(&Attachment {
        network: NetworkName::parse("pausenet-vlan")?,
        container: ContainerId::parse(&format!("bridge-{bridge}"))?,
        ifname: link.clone(),
    }))
}
