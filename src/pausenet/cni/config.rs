//! The network configuration as written: types only; nothing but the JSON is validated.
//!
//! [`super::request`] validates the values. Keys are matched, and null and a key that is there
//! twice are taken, as Go does: see [`super::json`]. Unknown keys are ignored, as the specification
//! requires. An empty address counts as absent, as in the reference.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Result, invalid};
use super::json::{address, cidr, last};
use super::result::{Dns, Route};

/// What an error names, and what decides how the rest is read.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Heading {
    pub(super) cni_version: String,
    pub(super) name: String,
}

/// Keys of the link: those of the reference's `bridge` and `ptp`, and our own `mode`. Other
/// plugins may give them other types, so they are read only where they are ours.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LinkKeys {
    /// `bridge`, the default, or `ptp`.
    pub(super) mode: String,
    /// The bridge's name on the host; `cni0` by default.
    pub(super) bridge: String,
    /// The MTU of both veth ends and of a new bridge, in bytes; 0 and less leave it to the kernel.
    pub(super) mtu: i64,
    /// The bridge gets the gateway's address.
    pub(super) is_gateway: bool,
    /// The container gets a default route through the bridge; implies `isGateway`.
    pub(super) is_default_gateway: bool,
    /// Replaces an address on the bridge that differs from the gateway's.
    pub(super) force_address: bool,
    /// The bridge may send a container's frames back to it.
    pub(super) hairpin_mode: bool,
    /// The bridge receives every frame.
    pub(super) promisc_mode: bool,
    /// The bridge drops frames that a container sends from another MAC than its own.
    pub(super) macspoofchk: bool,
    /// Containers cannot reach each other through the bridge.
    pub(super) port_isolation: bool,
    /// The container's interface stays down; not allowed together with IPAM.
    pub(super) disable_container_interface: bool,
    /// The kernel checks IPv6 addresses for duplicates before it uses them.
    pub(super) enabledad: bool,
    /// The port's VLAN for untagged frames, 1 to 4094.
    pub(super) vlan: i64,
    /// VLANs that the port carries tagged.
    pub(super) vlan_trunk: Vec<VlanTrunk>,
    /// The port also stays in the bridge's default VLAN.
    pub(super) preserve_default_vlan: bool,
    /// Traffic that leaves the subnet is masqueraded: it gets the host's address.
    pub(super) ip_masq: bool,
    /// `nftables` or `iptables`; the effect is the same, and always made with nftables.
    pub(super) ip_masq_backend: Option<String>,
}

/// Our own key `firewall`. It is ignored when the binary runs as one of the reference's plugins.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct FirewallKeys {
    /// `auto`, the default, or `off`.
    pub(super) firewall: String,
}

/// An entry of `vlanTrunk`: one VLAN, a range, or both.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct VlanTrunk {
    pub(super) id: Option<i64>,
    #[serde(rename = "minID")]
    pub(super) min_id: Option<i64>,
    #[serde(rename = "maxID")]
    pub(super) max_id: Option<i64>,
}

/// GC: the key with the attachments that the runtime still has, as the specification's text had it
/// at first, and as it has it now; libcni writes both.
pub(super) const VALID_ATTACHMENTS: [&str; 2] =
    ["cni.dev/attachments", "cni.dev/valid-attachments"];

/// `dns`, with what is left out apart from what is empty.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct DnsKeys {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl DnsKeys {
    /// The settings, if there are any. An empty list is one, as in the reference.
    pub(super) fn named(self) -> Option<Dns> {
        let lists = [&self.nameservers, &self.search, &self.options];
        let is_set = !self.domain.is_empty() || lists.iter().any(|list| list.is_some());
        is_set.then(|| Dns {
            nameservers: self.nameservers.unwrap_or_default(),
            domain: self.domain,
            search: self.search.unwrap_or_default(),
            options: self.options.unwrap_or_default(),
        })
    }
}

/// An entry of `cni.dev/valid-attachments`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
}

/// The `ipam` object of the built-in IPAM: the keys of the reference's `host-local` and `static`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ipam {
    /// The legacy form: one range directly in `ipam`, which becomes the first range set.
    pub(crate) subnet: String,
    #[serde(deserialize_with = "address")]
    pub(crate) range_start: Option<IpAddr>,
    #[serde(deserialize_with = "address")]
    pub(crate) range_end: Option<IpAddr>,
    #[serde(deserialize_with = "address")]
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ranges: Vec<Vec<Range>>,
    #[serde(deserialize_with = "last")]
    pub(crate) routes: Vec<Route>,
    /// The folder that holds a store per network; `/var/lib/cni/networks` by default.
    pub(crate) data_dir: String,
    /// A file in the format of /etc/resolv.conf; its content becomes the result's `dns`.
    pub(crate) resolv_conf: String,
    /// Only for `static`: the addresses.
    pub(crate) addresses: Vec<StaticAddress>,
    /// Only for `static`.
    pub(crate) dns: Dns,
}

/// An address of the built-in `static`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StaticAddress {
    #[serde(with = "cidr")]
    pub(crate) address: IpNetwork,
    #[serde(default, deserialize_with = "address")]
    pub(crate) gateway: Option<IpAddr>,
}

/// A range in `ranges`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    #[serde(with = "cidr")]
    pub subnet: IpNetwork,
    /// The first address to allocate, inclusive.
    #[serde(default, deserialize_with = "address")]
    pub range_start: Option<IpAddr>,
    /// The last address to allocate, inclusive.
    #[serde(default, deserialize_with = "address")]
    pub range_end: Option<IpAddr>,
    #[serde(default, deserialize_with = "address")]
    pub gateway: Option<IpAddr>,
}

/// Checks a key that names a firewall backend. Both of the reference's backends are accepted;
/// pausenet always uses nftables.
///
/// # Errors
/// Code 7 for an unknown backend.
pub(super) fn check_backend(key: &str, backend: Option<&str>) -> Result<()> {
    match backend {
        None | Some("" | "iptables" | "nftables") => Ok(()),
        Some(other) => Err(invalid(format!("{key} {other:?} is unknown"))
            .hint("known: nftables, iptables (made with nftables too)")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::super::json::parse;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invalid_json_is_code_6() {
        for bad in ["", "  \n", "x", "[]", "null", "{", "3", "{\"name\": 3}"] {
            let err = parse::<Heading>(bad.as_bytes()).unwrap_err();
            assert_eq!(err.code, Code::Decode, "{bad:?}");
        }
    }

    #[test]
    fn an_error_of_syntax_names_line_and_column() {
        let err = parse::<LinkKeys>(b"{\"name\": \"x\",\n \"isGateway\": yes}").unwrap_err();
        assert!(err.msg.contains("line 2"), "{}", err.msg);
    }

    #[test]
    fn unknown_keys_and_nulls_are_ignored() {
        let text =
            r#"{"name": "x", "isGateway": null, "vlanTrunk": null, "futureKey": {"a": [1]}}"#;
        let link: LinkKeys = parse(text.as_bytes()).unwrap();
        assert!(!link.is_gateway && link.vlan_trunk.is_empty());
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = parse::<LinkKeys>(&bytes);
        }
    }
}
