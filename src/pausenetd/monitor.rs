//! Kernel monitors: netlink notifications that request a pass. These are changes of links, addresses
//! and routes that may have removed routes of ours, and any change of nftables. Of what comes with
//! each pod's ADD and DEL, only the host end is noticed, to count the attachments.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::wakeup::{PassScope, WakeUp};
use pausenet::kernel::monitor::{Event, Monitor};
use pausenet::kernel::owned_route::is_owned;
use pausenet::kernel::route::MAIN_TABLE;
use pausenet::plan::LINK_GROUP;

/// The current subnets of this node's pods.
pub(crate) type OwnPodSubnets = Arc<RwLock<Vec<IpNetwork>>>;

/// Starts the route monitor and the nftables monitor, each on a thread that lives as long as the
/// process.
///
/// # Errors
/// The kernel grants no socket or no thread.
pub(crate) fn start(wake_up: &Arc<WakeUp>, own_pod_subnets: &OwnPodSubnets) -> std::io::Result<()> {
    for (name, monitor) in [
        ("routes", Monitor::for_routes()?),
        ("nft", Monitor::for_nft()?),
    ] {
        let (wake_up, own_pod_subnets) = (wake_up.clone(), own_pod_subnets.clone());
        std::thread::Builder::new()
            .name(format!("monitor-{name}"))
            .spawn(move || {
                loop {
                    match monitor.next_event() {
                        Ok(notification) => {
                            if let Some(scope) = needed_pass(&notification, &own_pod_subnets) {
                                wake_up.request(scope);
                            }
                        }
                        Err(err) => {
                            // Passes on the timer go on without it.
                            tracing::error!("the {name} monitor stopped: {err}");
                            return;
                        }
                    }
                }
            })?;
    }
    Ok(())
}

fn needed_pass(notification: &Event, own_pod_subnets: &OwnPodSubnets) -> Option<PassScope> {
    match notification {
        Event::Nft | Event::Overrun => Some(PassScope::Network),
        Event::Route(messages) => {
            let own_pod_subnets = own_pod_subnets.read();
            let own_pod_subnets = own_pod_subnets.as_deref().map_or(&[][..], Vec::as_slice);
            let scopes = messages
                .iter()
                .filter_map(|message| scope_of(message, own_pod_subnets));
            scopes.max()
        }
    }
}

/// The pass that a notification calls for (pure).
fn scope_of(message: &RouteNetlinkMessage, own_pod_subnets: &[IpNetwork]) -> Option<PassScope> {
    use RouteNetlinkMessage as Message;
    match message {
        Message::NewLink(link) | Message::DelLink(link) if is_host_end(link) => {
            Some(PassScope::Attachments)
        }
        _ => is_relevant(message, own_pod_subnets).then_some(PassScope::Network),
    }
}

/// Whether a notification may concern one of our routes, or something they depend on (pure).
fn is_relevant(message: &RouteNetlinkMessage, own_pod_subnets: &[IpNetwork]) -> bool {
    use RouteNetlinkMessage as Message;
    match message {
        Message::NewLink(_) | Message::DelLink(_) => true,
        Message::NewAddress(address) | Message::DelAddress(address) => !address_of(address)
            .is_some_and(|ip| is_in_any(ip, own_pod_subnets) || is_link_local(ip)),
        Message::NewRoute(route) | Message::DelRoute(route) => {
            is_relevant_route(route, own_pod_subnets)
        }
        _ => false,
    }
}

fn is_host_end(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::Group(LINK_GROUP))
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
}

/// Ignores other tables: a rule may lead there, but then the pass on the timer is soon enough.
fn is_relevant_route(route: &RouteMessage, own_pod_subnets: &[IpNetwork]) -> bool {
    if u32::from(route.header.table) != MAIN_TABLE {
        return false;
    }
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
            _ => None,
        });
    is_owned(route)
        || !destination.is_some_and(|ip| is_in_any(ip, own_pod_subnets) || is_link_local(ip))
}

fn is_in_any(ip: IpAddr, subnets: &[IpNetwork]) -> bool {
    subnets.iter().any(|subnet| subnet.contains(ip))
}

/// Every IPv6 link has an address and a route of this kind, the host end of a pod too.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::RouteProtocol;

    fn route(dst: &str, owned: bool) -> RouteNetlinkMessage {
        let dst: IpAddr = dst.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.table = 254;
        message.attributes = vec![RouteAttribute::Destination(match dst {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        })];
        if owned {
            message.header.protocol = RouteProtocol::from(pausenet::kernel::owned_route::PROTOCOL);
            let metric = pausenet::kernel::owned_route::METRIC;
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        RouteNetlinkMessage::DelRoute(message)
    }

    fn link(group: u32) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::Group(group)];
        RouteNetlinkMessage::NewLink(message)
    }

    #[test]
    fn creating_or_removing_a_pod_causes_no_pass_over_the_network() {
        let own = [
            "10.1.0.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ];
        assert_eq!(
            scope_of(&link(LINK_GROUP), &own),
            Some(PassScope::Attachments)
        );
        assert!(!is_relevant(&route("10.1.0.7", false), &own));
        assert!(!is_relevant(&route("fd00:1::7", false), &own));
        assert!(!is_relevant(&route("fe80::", false), &own));
        let mut address = AddressMessage::default();
        address.attributes = vec![AddressAttribute::Address("10.1.0.1".parse().unwrap())];
        assert!(!is_relevant(
            &RouteNetlinkMessage::NewAddress(address),
            &own
        ));
    }

    #[test]
    fn changes_that_may_remove_our_routes_cause_a_pass() {
        let own = ["10.1.0.0/24".parse().unwrap()];
        assert_eq!(scope_of(&link(0), &own), Some(PassScope::Network));
        assert!(is_relevant(&route("10.1.1.0", true), &own));
        assert!(is_relevant(&route("10.1.0.0", true), &own), "unreachable");
        assert!(
            is_relevant(&route("192.0.2.0", false), &own),
            "the subnet of a neighbour"
        );
        let mut address = AddressMessage::default();
        address.attributes = vec![AddressAttribute::Address("192.0.2.1".parse().unwrap())];
        assert!(is_relevant(&RouteNetlinkMessage::DelAddress(address), &own));
    }
}
