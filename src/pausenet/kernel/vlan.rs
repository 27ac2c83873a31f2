//! VLANs of bridge ports.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::BridgeVlanInfoFlags;
use rtnetlink::LinkBridgeVlan;

use super::request::Request;

/// A request that puts a bridge port into a VLAN, for a batch. `own`: it is the port's VLAN for
/// untagged frames.
pub(crate) fn join_request(port: u32, vid: u16, own: bool) -> Request<RouteNetlinkMessage> {
    let flags = if own {
        BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged
    } else {
        BridgeVlanInfoFlags::empty()
    };
    let message = LinkBridgeVlan::new(port).vlan(vid, flags).build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// A request that takes a bridge port out of a VLAN, for a batch.
pub(crate) fn leave_request(port: u32, vid: u16) -> Request<RouteNetlinkMessage> {
    let message = LinkBridgeVlan::new(port)
        .vlan(vid, BridgeVlanInfoFlags::empty())
        .build();
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}
