//! The ports of the host that our maps lead to containers.

use std::net::{IpAddr, SocketAddr};

use super::dead_containers::Deaths;
use super::observed::ObservedElements;
use crate::cni::ports::Protocol;
use crate::cni::request::Attachment;
use crate::kernel::nft::{Element, Nft};
use crate::kernel::{KernelError, RouteSocket};
use crate::plan::element_owner;
use crate::plan::elements::mapping;

/// An element of a port map.
#[derive(Debug, Clone)]
pub struct MappedPort {
    /// None: every address of the host, of the family of `to`.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub to: SocketAddr,
    /// None if its comment is not one of ours.
    pub owner: Option<Attachment>,
    element: Element,
}

impl MappedPort {
    /// True when it is known that its container is gone: whoever maps the port next takes it.
    pub fn is_stale(&self, socket: &mut RouteSocket) -> bool {
        Deaths::new(socket).include(&self.element)
    }
}

/// All mapped ports, in order.
///
/// # Errors
/// The kernel's.
pub fn mapped_ports(nft: &mut Nft) -> Result<Vec<MappedPort>, KernelError> {
    let present = ObservedElements::read(nft)?;
    let ports = present.elements.into_iter();
    let ports = ports.filter(|((_, set, _), element)| set.starts_with("ports") && !element.expires);
    let mut mapped: Vec<_> = ports
        .filter_map(|(_, element)| {
            let (host_ip, protocol, host_port, to) = mapping(&element)?;
            Some(MappedPort {
                host_ip,
                host_port,
                protocol,
                to,
                owner: element_owner(&element.owner).map(|(_, owner)| owner),
                element,
            })
        })
        .collect();
    mapped.sort_by_key(|port| {
        (
            port.host_port,
            port.protocol.number(),
            port.host_ip,
            port.to,
        )
    });
    Ok(mapped)
}
