//! The config of the plugin `firewall`: which traffic of other networks reaches the container.

use serde::Deserialize;

use super::error::{Result, invalid};
use super::json::Json;

/// The keys as written.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct FirewallPluginKeys {
    /// `iptables`, `firewalld`, `nftables`, or nothing; the effect is the same, and always made with nftables.
    backend: String,
    /// A chain of the user's own that is asked first; `CNI-ADMIN` by default.
    iptables_admin_chain_name: String,
    /// Not used: firewalld's zones take no rules of others.
    firewalld_zone: String,
    /// `open`, the default, `same-bridge` or `isolated`.
    ingress_policy: String,
}

/// The checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallConf {
    pub(crate) ingress: IngressPolicy,
    /// The user's own chain of iptables, which is asked before our rules.
    pub(crate) admin_chain: String,
}

/// Where new connections to a container may come from, of what the host forwards.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum IngressPolicy {
    /// From everywhere.
    #[default]
    Open,
    /// From everywhere but the containers of other networks that have this policy or the next.
    SameBridge,
    /// Like [`IngressPolicy::SameBridge`], and not from those of the same network either.
    Isolated,
}

impl Default for FirewallConf {
    fn default() -> Self {
        Self {
            ingress: IngressPolicy::default(),
            admin_chain: ADMIN_CHAIN.to_owned(),
        }
    }
}

/// The reference's default.
const ADMIN_CHAIN: &str = "CNI-ADMIN";

/// The kernel takes longer names; iptables does not (XT_EXTENSION_MAXNAMELEN less its NUL).
const LONGEST_CHAIN: usize = 28;

impl FirewallConf {
    /// Reads a config.
    ///
    /// # Errors
    /// Code 6 for a key of the wrong type, 7 for an unknown value.
    pub(super) fn new(config: &Json) -> Result<Self> {
        let keys: FirewallPluginKeys = config.read()?;
        if !matches!(
            keys.backend.as_str(),
            "" | "iptables" | "firewalld" | "nftables"
        ) {
            return Err(invalid(format!("backend {:?} is unknown", keys.backend))
                .hint("known: nftables, iptables and firewalld, which have the same effect"));
        }
        let ingress = match keys.ingress_policy.as_str() {
            "" | "open" => IngressPolicy::Open,
            "same-bridge" => IngressPolicy::SameBridge,
            "isolated" => IngressPolicy::Isolated,
            other => {
                return Err(invalid(format!("ingressPolicy {other:?} is unknown"))
                    .hint("known: open, which is also the default, same-bridge and isolated"));
            }
        };
        let admin_chain = match keys.iptables_admin_chain_name {
            name if name.is_empty() => ADMIN_CHAIN.to_owned(),
            name => name,
        };
        let is_name = admin_chain.bytes().all(|byte| byte.is_ascii_graphic());
        if admin_chain.len() > LONGEST_CHAIN || !is_name || admin_chain.starts_with(['-', '!']) {
            return Err(invalid(format!(
                "iptablesAdminChainName {admin_chain:?} is not a name that iptables takes"
            )));
        }
        Ok(Self {
            ingress,
            admin_chain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;

    fn conf(json: &str) -> Result<FirewallConf> {
        FirewallConf::new(&Json::config(json.as_bytes()).unwrap())
    }

    #[test]
    fn every_backend_of_the_reference_is_known() {
        for backend in ["", "iptables", "firewalld", "nftables"] {
            let json = format!(r#"{{"backend": "{backend}", "firewalldZone": "x"}}"#);
            assert_eq!(conf(&json).unwrap(), FirewallConf::default());
        }
        let named = conf(r#"{"ingressPolicy": "isolated", "iptablesAdminChainName": "MINE"}"#);
        let named = named.unwrap();
        assert_eq!(named.ingress, IngressPolicy::Isolated);
        assert_eq!(named.admin_chain, "MINE");
    }

    #[test]
    fn what_is_unknown_is_code_7() {
        for bad in [
            r#"{"backend": "ebtables"}"#,
            r#"{"ingressPolicy": "closed"}"#,
            r#"{"iptablesAdminChainName": "a b"}"#,
            r#"{"iptablesAdminChainName": "-j"}"#,
            r#"{"iptablesAdminChainName": "a-name-of-twenty-nine-letters"}"#,
        ] {
            assert_eq!(conf(bad).unwrap_err().code, Code::InvalidConfig, "{bad}");
        }
    }
}
