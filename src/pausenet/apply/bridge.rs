//! The bridge of a network: created on demand, shared, never removed.

use std::path::Path;

use ipnetwork::IpNetwork;

use super::host::{Host, LOCKS, SETTLE_LIMIT};
use super::host_end::host_end_in;
use super::settings::refuse_router_advertisements;
use super::vlan;
use crate::cni::{Code, During, Error, IfName, MacAddr, Result};
use crate::kernel::link::{Link, NewBridge, Which};
use crate::kernel::lock::Lock;
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::{Sysctl, no_ipv6};
use crate::kernel::{KernelPart, RouteSocket, address, link, route};
use crate::plan::{
    AddressChange, BridgePlan, KnownMacs, NEW_GROUP, STEADY_GROUP, bridge_addresses,
};

/// The bridge, and the link with its gateway addresses.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) link: Link,
    /// The host's VLAN interface, if the gateways are in a VLAN. None: they are on the bridge
    /// itself.
    pub(crate) gateway: Option<Link>,
}

/// Creates the bridge if it is missing, and adds what the plan requires.
///
/// # Errors
/// Code 7 when a link of another kind has the name, or another address conflicts with a gateway's;
/// 5 and 101 when the kernel refuses a change.
pub(super) fn ensure(
    socket: &mut RouteSocket,
    plan: &BridgePlan,
    known: KnownMacs,
) -> Result<Bridge> {
    let name = &plan.name;
    let present = find(socket, plan)?;
    let made = present.is_none();
    let bridge = match present {
        Some(bridge) => bridge,
        None => create(socket, plan, known.mark())?,
    };
    if bridge.kind != "bridge" {
        let what = if bridge.kind.is_empty() {
            "a device"
        } else {
            &bridge.kind
        };
        return Err(Error::new(
            Code::InvalidConfig,
            format!(
                "bridge {name:?}: a link of this name exists and is no bridge, but {what}",
                name = name.as_str()
            ),
        )
        .hint("give the config another \"bridge\" name, or remove the link"));
    }
    if plan.vlans.is_some() {
        vlan::require_filtering(socket, &bridge, made)?;
    }
    if !bridge.up || (plan.promiscuous && !bridge.promiscuous) {
        link::set_up(socket, bridge.index, plan.promiscuous)
            .during_with(|| format!("switch on bridge {name}"))?;
    }
    let vlan = plan
        .vlans
        .as_ref()
        .and_then(|vlans| Some((vlans.own?, vlans.keep_default)));
    let gateway = match vlan {
        Some((vid, keep)) if !plan.gateways.is_empty() => {
            Some(vlan::gateway_link(socket, &bridge, vid, keep)?)
        }
        _ => None,
    };
    let (mut bridge, mut gateway) = (bridge, gateway);
    if !plan.gateways.is_empty() {
        ensure_gateways(socket, plan, gateway.as_mut().unwrap_or(&mut bridge))?;
    }
    // Only now that the bridge is known to be usable.
    refuse_router_advertisements(&bridge, name);
    Ok(Bridge {
        link: bridge,
        gateway,
    })
}

/// Whether the bridge says of its containers which MACs neighbours may know ([`KnownMacs`]).
pub(super) fn is_marked(bridge: &Link) -> bool {
    [STEADY_GROUP, NEW_GROUP].contains(&bridge.group)
}

/// Takes the mark off the bridge, for good: nothing puts it back, so no other ADD is in the way. Call it before the
/// container is attached that the mark is not true of.
pub(super) fn clear_mark(socket: &mut RouteSocket, bridge: &Link) -> Result<()> {
    let request = link::group_request(bridge.index, 0);
    socket
        .one(request)
        .during_with(|| format!("take {} out of its group", bridge.name))?;
    Ok(())
}

/// Takes the mark off the bridge of a container's interface, before a chained plugin gives that another MAC.
///
/// # Errors
/// Code 101. A link that is no port of a bridge has no mark.
pub(crate) fn forget_known_macs(host: &mut Host, netns: &Netns, ifname: &IfName) -> Result<()> {
    let Ok(port) = host_end_in(host, netns, ifname) else {
        return Ok(());
    };
    let Some(index) = port.controller else {
        return Ok(());
    };
    let bridge = link::get(&mut host.socket, Which::Index(index))
        .during_with(|| format!("look up the bridge of {}", port.name))?;
    match bridge.filter(is_marked) {
        Some(bridge) => clear_mark(&mut host.socket, &bridge),
        None => Ok(()),
    }
}

fn find(socket: &mut RouteSocket, plan: &BridgePlan) -> Result<Option<Link>> {
    link::get(socket, Which::Name(&plan.name))
        .during_with(|| format!("look up bridge {}", plan.name))
}

const BRIDGES: KernelPart = KernelPart {
    module: "bridge",
    option: "CONFIG_BRIDGE",
};

fn create(socket: &mut RouteSocket, plan: &BridgePlan, group: u32) -> Result<Link> {
    let name = &plan.name;
    let new = NewBridge {
        name,
        mac: MacAddr::random()?,
        mtu: plan.mtu,
        promiscuous: plan.promiscuous,
        vlan_filtering: plan.vlans.is_some(),
        group,
    };
    match link::create_bridge(socket, &new) {
        // Another ADD was first.
        Err(err) if err.is(rustix::io::Errno::EXIST) => {}
        Err(err)
            if plan.vlans.is_some()
                && err.is(rustix::io::Errno::OPNOTSUPP)
                && !err.is_unknown_link_kind() =>
        {
            return Err(vlan::no_filtering());
        }
        outcome => {
            let attempt = || format!("create bridge {name}");
            outcome.map_err(|err| err.during_use_of(BRIDGES, attempt()))?;
        }
    }
    // While its link-local address is probed, for a second or two after the first port, the host
    // could not resolve a container's MAC, and routed IPv6 packets would not reach it.
    Sysctl::AcceptDad(name).prefer("0");
    find(socket, plan)?.ok_or_else(|| {
        Error::new(
            Code::TryAgainLater,
            format!("bridge {name} was removed while in use"),
        )
    })
}

fn ensure_gateways(socket: &mut RouteSocket, plan: &BridgePlan, on: &mut Link) -> Result<()> {
    let name = on.name.clone();
    let present = address::of_link(socket, on.index)
        .during_with(|| format!("list the addresses of {name}"))?;
    let changes = bridge_addresses(&present, &plan.gateways, plan.force_address).map_err(|have| {
        Error::new(
            Code::InvalidConfig,
            format!("{name} has address {have}, which is not the gateway's"),
        )
        .hint("give the network a bridge of its own, or set \"forceAddress\" to replace the address")
    })?;
    for change in &changes {
        match *change {
            AddressChange::Remove(have) => address::remove(socket, on.index, have)
                .during_with(|| format!("remove {have} from {name}"))?,
            AddressChange::Add(gateway) => {
                let request = address::add_request(on.index, gateway, address::AddOptions::PLAIN);
                match socket.one(request) {
                    // Another ADD was first.
                    Err(error) if error.is(rustix::io::Errno::EXIST) => {}
                    outcome => {
                        let outcome = outcome.during_with(|| format!("add {gateway} to {name}"));
                        let lacks = no_ipv6().filter(|_| gateway.is_ipv6());
                        outcome.map_err(|err| err.hint(lacks.unwrap_or_default()))?;
                    }
                }
            }
        }
    }
    let added = changes.iter().filter_map(|change| match change {
        AddressChange::Add(IpNetwork::V6(gateway)) => Some(gateway.ip()),
        _ => None,
    });
    route::wait_local(socket, added, SETTLE_LIMIT, RouteSocket::open)
        .during_with(|| format!("wait for the IPv6 addresses of {name}"))?;
    if on.mac == Some(MacAddr::ZERO) {
        return give_mac(socket, on);
    }
    // A bridge whose MAC was never set takes the lowest of its ports', and containers would lose
    // their gateway whenever that changes. Setting it to its current value makes it permanent. So it
    // is for one that had the address already, if it has no port yet; one that has ports keeps its
    // MAC as long as these, since ours are never the lowest.
    if let Some(mac) = on.mac.filter(|_| !changes.is_empty() || !on.running) {
        link::set_mac(socket, on.index, mac).during_with(|| format!("keep the MAC of {name}"))?;
    }
    Ok(())
}

/// Gives a MAC to a link that holds gateway addresses and has none: a bridge whose MAC was never
/// set and whose last port is gone, or one where 00:00:00:00:00:00 was set. Nobody can send to it.
fn give_mac(socket: &mut RouteSocket, on: &mut Link) -> Result<()> {
    let attempt = || format!("give {} a MAC, which is 00:00:00:00:00:00", on.name);
    // Two first ADDs must agree: the container of the other would keep the wrong MAC in its cache.
    let _lock = Lock::take(Path::new(LOCKS), &on.name)?;
    let now = link::get(socket, Which::Index(on.index)).during_with(attempt)?;
    let mac = match now.and_then(|now| now.mac) {
        // A port that has joined in between lends its MAC, for as long as it is there.
        Some(mac) if mac != MacAddr::ZERO => mac,
        _ => MacAddr::random()?,
    };
    link::set_mac(socket, on.index, mac).during_with(attempt)?;
    on.mac = Some(mac);
    Ok(())
}
