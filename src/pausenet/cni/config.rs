//! The network configuration as written: types only; nothing but the JSON is validated.
//!
//! [`super::request`] validates the values. Unknown keys are ignored, as the specification
//! requires; `null` counts as absent, as in the reference.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::bandwidth::BandwidthKeys;
use super::error::{Result, invalid};
use super::json::{cidr, nullable};
use super::result::{Dns, Route};

/// The keys of every plugin's configuration (specification, section 1).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetConf {
    pub(super) cni_version: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) name: String,
    /// Its form depends on its `type`; [`Ipam`] is that of the built-in ones.
    pub(super) ipam: Option<Value>,
    pub(super) dns: Option<Dns>,
    pub(super) args: Option<ConfArgs>,
    pub(super) runtime_config: Option<RuntimeConfig>,
    /// The result of the plugin before this one, or of the whole ADD; any version.
    pub(super) prev_result: Option<Value>,
    /// STATUS does not report the network as unavailable when all its addresses are in use.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) status_ignores_exhaustion: bool,
    /// GC: the attachments that the runtime still has; all others are removed.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(super) valid_attachments: Option<Vec<ValidAttachment>>,
    /// The same under the name that the specification's text had at first; libcni writes both.
    #[serde(rename = "cni.dev/attachments")]
    pub(super) attachments: Option<Vec<ValidAttachment>>,
}

/// Keys of the link: those of the reference's `bridge` and `ptp`, and our own `mode`. Other
/// plugins may give them other types, so they are read only where they are ours.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkKeys {
    /// `bridge`, the default, or `ptp`.
    pub(super) mode: Option<String>,
    /// The bridge's name on the host; `cni0` by default.
    pub(super) bridge: Option<String>,
    /// The MTU of both veth ends and of a new bridge, in bytes; 0 leaves it to the kernel.
    pub(super) mtu: Option<u32>,
    /// The bridge gets the gateway's address.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) is_gateway: bool,
    /// The container gets a default route through the bridge; implies `isGateway`.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) is_default_gateway: bool,
    /// Replaces an address on the bridge that differs from the gateway's.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) force_address: bool,
    /// The bridge may send a container's frames back to it.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) hairpin_mode: bool,
    /// The bridge receives every frame.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) promisc_mode: bool,
    /// The bridge drops frames that a container sends from another MAC than its own.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) macspoofchk: bool,
    /// Containers cannot reach each other through the bridge.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) port_isolation: bool,
    /// The container's interface stays down; not allowed together with IPAM.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) disable_container_interface: bool,
    /// The kernel checks IPv6 addresses for duplicates before it uses them.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) enabledad: bool,
    /// The port's VLAN for untagged frames, 1 to 4094.
    pub(super) vlan: Option<i64>,
    /// VLANs that the port carries tagged.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) vlan_trunk: Vec<VlanTrunk>,
    /// The port also stays in the bridge's default VLAN.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) preserve_default_vlan: bool,
    /// Traffic that leaves the subnet is masqueraded: it gets the host's address.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ip_masq: bool,
    /// `nftables` or `iptables`; the effect is the same, and always made with nftables.
    pub(super) ip_masq_backend: Option<String>,
}

/// Our own key `firewall`. It is ignored when the binary runs as one of the reference's plugins.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FirewallKeys {
    /// `auto`, the default, or `off`.
    pub(super) firewall: Option<String>,
}

/// An entry of `vlanTrunk`: one VLAN, a range, or both.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct VlanTrunk {
    pub(super) id: Option<i64>,
    #[serde(rename = "minID")]
    pub(super) min_id: Option<i64>,
    #[serde(rename = "maxID")]
    pub(super) max_id: Option<i64>,
}

/// An entry of `cni.dev/valid-attachments`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
}

/// The `ipam` object of the built-in IPAM: the keys of the reference's `host-local` and `static`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ipam {
    /// The legacy form: one range directly in `ipam`, which becomes the first range set.
    #[serde(flatten)]
    pub(crate) legacy_range: LegacyRange,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ranges: Vec<Vec<Range>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) routes: Vec<Route>,
    /// The folder that holds a store per network; `/var/lib/cni/networks` by default.
    pub(crate) data_dir: Option<String>,
    /// A file in the format of /etc/resolv.conf; its content becomes the result's `dns`.
    pub(crate) resolv_conf: Option<String>,
    /// Only for `static`: the addresses.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) addresses: Vec<StaticAddress>,
    /// Only for `static`.
    pub(crate) dns: Option<Dns>,
}

/// An address of the built-in `static`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StaticAddress {
    #[serde(with = "cidr")]
    pub(crate) address: IpNetwork,
    pub(crate) gateway: Option<IpAddr>,
}

/// A range in `ranges`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    #[serde(with = "cidr")]
    pub subnet: IpNetwork,
    /// The first address to allocate, inclusive.
    pub range_start: Option<IpAddr>,
    /// The last address to allocate, inclusive.
    pub range_end: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
}

/// The same keys directly in `ipam`, where all are optional.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LegacyRange {
    pub(crate) subnet: Option<String>,
    pub(crate) range_start: Option<IpAddr>,
    pub(crate) range_end: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
}

/// `args`: values that the runtime adds for all plugins (CONVENTIONS.md of the specification).
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct ConfArgs {
    pub(super) cni: Option<ConfArgsCni>,
}

/// `args.cni`.
#[derive(Debug, Default, Clone, Deserialize)]
pub(super) struct ConfArgsCni {
    pub(super) mac: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ips: Vec<String>,
}

/// `runtimeConfig`: the capability arguments (CONVENTIONS.md of the specification).
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuntimeConfig {
    pub(super) mac: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ips: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) ip_ranges: Vec<Vec<Range>>,
    pub(super) bandwidth: Option<BandwidthKeys>,
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
        for bad in ["", "  \n", "x", "[]", "{", "3", "{\"name\": 3}"] {
            let err = parse::<NetConf>(bad.as_bytes()).unwrap_err();
            assert_eq!(err.code, Code::Decode, "{bad:?}");
        }
        assert!(parse::<LinkKeys>(b"{\"mtu\": -1}").is_err());
    }

    #[test]
    fn an_error_names_line_and_column() {
        let err = parse::<LinkKeys>(b"{\"name\": \"x\",\n \"isGateway\": \"yes\"}").unwrap_err();
        assert!(err.msg.contains("line 2"), "{}", err.msg);
    }

    #[test]
    fn unknown_keys_and_nulls_are_ignored() {
        let text = r#"{"name": "x", "isGateway": null, "ipam": null, "futureKey": {"a": [1]}}"#;
        let conf: NetConf = parse(text.as_bytes()).unwrap();
        let link: LinkKeys = parse(text.as_bytes()).unwrap();
        assert!(!link.is_gateway && conf.ipam.is_none());
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = parse::<NetConf>(&bytes);
        }
    }
}
