//! A Node of the cluster, reduced to what the network depends on.

use pausenet::cni::Family;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as api;

/// A Node's name, addresses and pod subnets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub name: String,
    /// Its addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    /// The subnets of its pods; empty until the cluster assigns some.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Values that are not addresses or subnets.
    pub unreadable: Vec<String>,
}

impl Node {
    /// Reads the API object. Takes `podCIDRs`, or `podCIDR` where that is the only one set.
    pub(crate) fn read(node: &api::Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let cidrs = match spec.pod_cidrs {
            Some(cidrs) if !cidrs.is_empty() => cidrs,
            _ => spec.pod_cidr.into_iter().collect(),
        };
        let status = node.status.clone().unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        let internal = addresses
            .into_iter()
            .filter(|address| address.type_ == "InternalIP")
            .map(|address| address.address);
        let mut unreadable = Vec::new();
        let addresses = parse(internal, &mut unreadable, |text| text.parse().ok());
        let pod_cidrs = parse(cidrs, &mut unreadable, subnet);
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            addresses,
            pod_cidrs,
            unreadable,
        }
    }

    /// The first address of a family.
    pub(crate) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|ip| Family::from(*ip) == family)
    }
}

fn parse<T>(
    texts: impl IntoIterator<Item = String>,
    unreadable: &mut Vec<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for text in texts {
        match parse(&text) {
            Some(value) => parsed.push(value),
            None => unreadable.push(text),
        }
    }
    parsed
}

/// Parses a subnet with a prefix length and without host bits.
pub(crate) fn subnet(text: &str) -> Option<IpNetwork> {
    let net = pausenet::cni::json::cidr::parse(text).ok()?;
    (net.ip() == net.network()).then_some(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(node: serde_json::Value) -> Node {
        Node::read(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn a_dual_stack_node_has_an_address_and_a_subnet_of_each_family() {
        let node = read(json!({
            "metadata": {"name": "a"},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "2001:db8::1"},
            ]},
        }));
        assert_eq!(node.name, "a");
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(
            node.address(Family::Ipv4),
            Some("192.0.2.1".parse().unwrap())
        );
        assert_eq!(
            node.address(Family::Ipv6),
            Some("2001:db8::1".parse().unwrap())
        );
        assert!(node.unreadable.is_empty());
    }

    #[test]
    fn pod_cidr_counts_where_pod_cidrs_is_missing() {
        let node = read(json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24"}}));
        assert_eq!(node.pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
    }

    #[test]
    fn a_new_node_has_no_addresses_and_subnets() {
        let node = read(json!({"metadata": {"name": "a"}}));
        assert!(node.pod_cidrs.is_empty() && node.addresses.is_empty());
    }

    #[test]
    fn unreadable_values_are_collected_for_the_message() {
        let node = read(json!({
            "metadata": {"name": "a"},
            "spec": {"podCIDRs": ["10.1.0.7/24", "10.1.0.0", "x"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "y"}]},
        }));
        assert!(node.pod_cidrs.is_empty() && node.addresses.is_empty());
        assert_eq!(node.unreadable, ["y", "10.1.0.7/24", "10.1.0.0", "x"]);
    }
}
