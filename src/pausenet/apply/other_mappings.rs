//! Ports of the host that other programs map: NodePorts of kube-proxy, published ports of Docker.

use crate::cni::Family;
use crate::kernel::KernelError;
use crate::kernel::nft::{Nft, Table, TableFamily};

/// A port that another program maps at a priority before ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherMapping {
    /// Such as `a NodePort of kube-proxy`.
    pub whose: &'static str,
    pub family: Family,
    /// The IANA number of its protocol; None if the rule could not be read to the end.
    pub protocol: Option<u8>,
    pub port: u16,
}

/// Those that can be read: kube-proxy's in nftables and in iptables-nft mode, and Docker's with
/// iptables-nft.
///
/// # Errors
/// The kernel's.
pub fn other_mappings(nft: &mut Nft) -> Result<Vec<OtherMapping>, KernelError> {
    let mut found = Vec::new();
    for (family, table_family) in [
        (Family::Ipv4, TableFamily::Ipv4),
        (Family::Ipv6, TableFamily::Ipv6),
    ] {
        let kube_proxy = Table {
            family: table_family,
            name: "kube-proxy",
        };
        for element in nft.elements(kube_proxy, "service-nodeports")? {
            // Protocol and port, each padded to four bytes.
            if let [protocol, _, _, _, high, low, ..] = element.key[..] {
                found.push(OtherMapping {
                    whose: "a NodePort of kube-proxy",
                    family,
                    protocol: Some(protocol),
                    port: u16::from_be_bytes([high, low]),
                });
            }
        }
        for (chain, whose) in [
            ("KUBE-NODEPORTS", "a NodePort of kube-proxy"),
            ("DOCKER", "a published port of Docker"),
        ] {
            for rule in nft.rules_of(table_family, "nat", Some(chain))? {
                let native = rule.values.iter().find_map(|value| match value[..] {
                    [high, low] => Some(u16::from_be_bytes([high, low])),
                    _ => None,
                });
                let protocol = rule.values.iter().find_map(|value| match value[..] {
                    [protocol @ (6 | 17 | 132)] => Some(protocol),
                    _ => None,
                });
                let port = rule.destination_port.or(native);
                found.extend(port.map(|port| OtherMapping {
                    whose,
                    family,
                    protocol,
                    port,
                }));
            }
        }
    }
    Ok(found)
}
