//! What of the kernel's news is a reason to look: changes of links, addresses and routes that may
//! have taken some of ours with them, and of nftables. What each pod's coming and going brings is
//! none.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::wakeup::{Bell, Scope};
use pausenet::kernel::owned_route::is_owned;
use pausenet::kernel::route::MAIN_TABLE;
use pausenet::kernel::watch::{Ear, Heard};
use pausenet::plan::LINK_GROUP;

/// The subnets of this node's pods, as they are known at present.
pub type OwnPods = Arc<RwLock<Vec<IpNetwork>>>;

/// Listens for as long as the process lives, on a thread for each kind of news.
///
/// # Errors
/// The kernel's, when it gives no socket or no thread.
pub fn listen(bell: &Arc<Bell>, own_pods: &OwnPods) -> std::io::Result<()> {
    for (name, ear) in [("routes", Ear::for_routes()?), ("nft", Ear::for_nft()?)] {
        let (bell, own_pods) = (bell.clone(), own_pods.clone());
        std::thread::Builder::new()
            .name(format!("ear-{name}"))
            .spawn(move || {
                loop {
                    match ear.hear() {
                        Ok(heard) if is_reason(&heard, &own_pods) => bell.ring(Scope::Network),
                        Ok(_) => {}
                        Err(err) => {
                            // The slow timer goes on without it.
                            tracing::error!("cannot listen to the kernel ({name}) any more: {err}");
                            return;
                        }
                    }
                }
            })?;
    }
    Ok(())
}

fn is_reason(heard: &Heard, own_pods: &OwnPods) -> bool {
    match heard {
        Heard::Nft | Heard::TooMuch => true,
        Heard::Route(messages) => {
            let own_pods = own_pods.read();
            let own_pods = own_pods.as_deref().map_or(&[][..], Vec::as_slice);
            messages
                .iter()
                .any(|message| is_relevant(message, own_pods))
        }
    }
}

/// Whether news may be about something that our routes rely on, or about one of them (pure).
pub fn is_relevant(message: &RouteNetlinkMessage, own_pods: &[IpNetwork]) -> bool {
    use RouteNetlinkMessage as News;
    match message {
        News::NewLink(link) | News::DelLink(link) => !is_of_a_pod(link),
        News::NewAddress(address) | News::DelAddress(address) => {
            !address_of(address).is_some_and(|ip| is_in(ip, own_pods) || is_link_local(ip))
        }
        News::NewRoute(route) | News::DelRoute(route) => is_relevant_route(route, own_pods),
        _ => false,
    }
}

fn is_of_a_pod(link: &LinkMessage) -> bool {
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

/// Routes in other tables are nothing to us, unless a rule leads there; the slow timer sees to that.
fn is_relevant_route(route: &RouteMessage, own_pods: &[IpNetwork]) -> bool {
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
    is_owned(route) || !destination.is_some_and(|ip| is_in(ip, own_pods) || is_link_local(ip))
}

fn is_in(ip: IpAddr, subnets: &[IpNetwork]) -> bool {
    subnets.iter().any(|subnet| subnet.contains(ip))
}

/// Every IPv6 link has an address and a route of this kind, a pod's host end too.
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
    fn a_pod_that_comes_or_goes_is_no_reason_to_look() {
        let own = [
            "10.1.0.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
        ];
        assert!(!is_relevant(&link(LINK_GROUP), &own));
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
    fn what_may_have_taken_a_route_of_ours_is_one() {
        let own = ["10.1.0.0/24".parse().unwrap()];
        assert!(is_relevant(&link(0), &own));
        assert!(is_relevant(&route("10.1.1.0", true), &own));
        assert!(is_relevant(&route("10.1.0.0", true), &own), "unreachable");
        assert!(
            is_relevant(&route("192.0.2.0", false), &own),
            "a neighbours' subnet"
        );
        let mut address = AddressMessage::default();
        address.attributes = vec![AddressAttribute::Address("192.0.2.1".parse().unwrap())];
        assert!(is_relevant(&RouteNetlinkMessage::DelAddress(address), &own));
    }
}
