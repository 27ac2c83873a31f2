//! What mapped ports need beside nftables: 127.0.0.1 let through, and old flows forgotten.

use ipnetwork::IpNetwork;

use crate::cni::ports::{PortsConf, Protocol};
use crate::cni::{IfName, Result};
use crate::kernel::conntrack;
use crate::kernel::sysctl::Sysctl;

/// Opens the ways that mappings to these addresses need. `towards` is the host's link to the
/// container.
///
/// # Errors
/// Codes 5 and 101.
pub fn open_ways(ports: &PortsConf, addresses: &[IpNetwork], towards: &IfName) -> Result<()> {
    for v4 in [true, false] {
        if !addresses.iter().any(|address| address.is_ipv4() == v4) {
            continue;
        }
        if v4 && ports.snat {
            Sysctl::RouteLocalnet(towards).ensure("1")?;
        }
        let udp: Vec<_> = ports
            .mappings
            .iter()
            .filter(|mapping| mapping.protocol == Protocol::Udp && mapping.is_for(v4))
            .map(|mapping| (mapping.host_ip, mapping.host_port))
            .collect();
        if !udp.is_empty() {
            conntrack::forget_udp(v4, &udp).map_err(|refusal| {
                refusal.during("forget the flows that mapped UDP ports had before")
            })?;
        }
    }
    Ok(())
}
