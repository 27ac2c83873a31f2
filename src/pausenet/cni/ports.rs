//! Port mappings: the capability `portMappings` and the keys of the reference's `portmap`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::config::check_backend;
use super::error::{Code, Error, Result, invalid};
use super::family::Family;
use super::json::Json;

/// Layer 4 protocols that can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IANA number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Parses its name, in any case; the empty string means TCP.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The keys of the reference's `portmap`, including the capability.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PortKeys {
    /// `nftables` or `iptables`; the effect is the same, and always made with nftables.
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    conditions_v4: Option<Vec<String>>,
    conditions_v6: Option<Vec<String>>,
    runtime_config: PortRuntime,
}

/// The capability `portMappings` in `runtimeConfig`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortRuntime {
    port_mappings: Vec<PortEntry>,
}

/// An unchecked entry of `portMappings` (CONVENTIONS.md of the specification).
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortEntry {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// A host port mapped to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// None: every address of the host.
    pub(crate) host_ip: Option<IpAddr>,
    /// The only family of the mapping, if `hostIP` is an unspecified address (0.0.0.0, ::).
    only_family: Option<Family>,
}

impl PortMapping {
    /// True when the mapping applies to addresses of this family.
    pub(crate) fn is_for(&self, family: Family) -> bool {
        self.only_family.is_none_or(|only| only == family)
    }
}

impl std::fmt::Display for PortMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host_port, self.protocol)
    }
}

/// The validated port mappings of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsConf {
    pub mappings: Vec<PortMapping>,
    /// The ports are also reachable from the same subnet and from the host's 127.0.0.1.
    pub snat: bool,
    /// Every connection through a mapping is masqueraded.
    pub masquerade_all: bool,
}

impl PortsConf {
    /// Reads the mappings of a config. None when it has none.
    ///
    /// # Errors
    /// Code 7 for an invalid mapping; 2 for keys that only work with iptables.
    pub fn new(config: &Json) -> Result<Option<Self>> {
        Self::check(&config.read()?)
    }

    fn check(conf: &PortKeys) -> Result<Option<Self>> {
        let entries = conf.runtime_config.port_mappings.iter().enumerate();
        let mappings = entries
            .map(|(at, entry)| {
                mapping(entry).map_err(|err| invalid(format!("{}.{err}", place(at))))
            })
            .collect::<Result<Vec<_>>>()?;
        check_masquerade_keys(conf)?;
        check_backend("backend", conf.backend.as_deref())?;
        let mut mapped = HashMap::new();
        for (at, mapping) in mappings.iter().enumerate() {
            for family in Family::ALL
                .into_iter()
                .filter(|family| mapping.is_for(*family))
            {
                let port = (mapping.host_ip, mapping.host_port, mapping.protocol, family);
                let to = *mapped.entry(port).or_insert(mapping.container_port);
                // The same wish twice is one.
                if to != mapping.container_port {
                    let place = place(at);
                    return Err(invalid(format!(
                        "{place}: {mapping} is mapped to port {to} already"
                    )));
                }
            }
        }
        Ok((!mappings.is_empty()).then_some(Self {
            mappings,
            snat: conf.snat.unwrap_or(true),
            masquerade_all: conf.masq_all && conf.snat.unwrap_or(true),
        }))
    }

    /// Refuses a mapping that would map nothing, since the container has no address of its family, or
    /// packets to the host's address are [never forwarded](stays_here). One that is there for each
    /// family passes: runtimes write both 0.0.0.0 and :: for one published port.
    ///
    /// # Errors
    /// Code 7, naming the mapping and the family.
    pub fn check_families(&self, addresses: &[IpNetwork]) -> Result<()> {
        let has = |family: &Family| addresses.iter().any(|ip| Family::from(*ip) == *family);
        let is_served = |mapping: &&PortMapping| {
            !mapping.host_ip.is_some_and(stays_here)
                && Family::ALL
                    .iter()
                    .any(|family| mapping.is_for(*family) && has(family))
        };
        let port = |mapping: &PortMapping| (mapping.host_port, mapping.protocol);
        let served: HashSet<_> = self.mappings.iter().filter(is_served).map(port).collect();
        let mut mappings = self.mappings.iter().enumerate();
        let unserved = mappings.find(|(_, mapping)| !served.contains(&port(mapping)));
        let Some((at, mapping)) = unserved else {
            return Ok(());
        };
        let (what, hint) = match mapping.only_family {
            _ if mapping.host_ip.is_some_and(stays_here) => (
                "the kernel never forwards a packet to the hostIP".to_owned(),
                "use 127.0.0.1, or another address of the host",
            ),
            Some(family) => (
                format!(
                    "its hostIP is an {family} address, and the container has no {family} address"
                ),
                "leave out the hostIP, or give the network a range of that family",
            ),
            None => (
                "the container has no address".to_owned(),
                "give the network an \"ipam\", or publish no ports",
            ),
        };
        let place = place(at);
        Err(invalid(format!("{place}: {mapping} cannot be mapped: {what}")).hint(hint))
    }

    /// Whether the host itself may use a mapping at 127.0.0.1.
    pub fn are_for_localhost(&self) -> bool {
        let is_local = |mapping: &PortMapping| {
            mapping.is_for(Family::Ipv4) && mapping.host_ip.is_none_or(|ip| ip.is_loopback())
        };
        self.snat && self.mappings.iter().any(is_local)
    }

    /// Mappings from JSON, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(mappings: &str) -> Self {
        let conf = format!(r#"{{"name": "x", "runtimeConfig": {{"portMappings": {mappings}}}}}"#);
        Self::new(&Json::config(conf.as_bytes()).unwrap())
            .unwrap()
            .unwrap()
    }
}

/// Checks the reference's keys for the packet mark that selects packets to masquerade. pausenet
/// masquerades without a mark, so a mark bit or an iptables chain that sets it is validated but not
/// used.
fn check_masquerade_keys(conf: &PortKeys) -> Result<()> {
    let unsupported = |key: &str, value: &dyn std::fmt::Debug, why: &str| {
        Err(Error::new(
            Code::UnsupportedField,
            format!("{key} {value:?} is not supported"),
        )
        .hint(why))
    };
    if let Some(chain) = conf
        .external_set_mark_chain
        .as_deref()
        .filter(|chain| !chain.is_empty())
    {
        if conf.mark_masq_bit.is_some() {
            return Err(invalid(
                "externalSetMarkChain and markMasqBit exclude each other",
            ));
        }
        if conf.backend.as_deref() == Some("nftables") {
            return unsupported(
                "externalSetMarkChain",
                &chain,
                "such a chain is iptables': leave out the key, or the backend nftables",
            );
        }
    }
    if let Some(bit) = conf.mark_masq_bit.filter(|bit| !(0..=31).contains(bit)) {
        return Err(invalid(format!("markMasqBit {bit} is outside 0 to 31")));
    }
    for (key, conditions) in [
        ("conditionsV4", &conf.conditions_v4),
        ("conditionsV6", &conf.conditions_v6),
    ] {
        if let Some(conditions) = conditions.as_ref().filter(|list| !list.is_empty()) {
            return unsupported(
                key,
                conditions,
                "mappings are elements of maps that all networks share; name a hostIP instead",
            );
        }
    }
    Ok(())
}

/// Whether packets to an address of the host cannot go on to a container: the kernel takes those to
/// ::1 from lo only, and forwards none between link-local addresses.
fn stays_here(host_ip: IpAddr) -> bool {
    match host_ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// The key of the mapping at this place in the list.
fn place(at: usize) -> String {
    format!("runtimeConfig.portMappings[{at}]")
}

/// Checks a mapping. The error starts with the key in it.
fn mapping(entry: &PortEntry) -> std::result::Result<PortMapping, String> {
    let port = |key: &str, number: i64| {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| format!("{key}: {number} is not a port (1 to 65535)"))
    };
    let protocol = Protocol::parse(&entry.protocol)
        .ok_or_else(|| format!("protocol: {:?} is not tcp, udp or sctp", entry.protocol))?;
    let host_ip = match entry.host_ip.as_str() {
        "" => None,
        text => Some(super::args::parse_ip(text).map_err(|why| format!("hostIP: {why}"))?),
    };
    Ok(PortMapping {
        host_port: port("hostPort", entry.host_port)?,
        container_port: port("containerPort", entry.container_port)?,
        protocol,
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        only_family: host_ip.map(Family::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(keys: &str, mappings: &str) -> Result<Option<PortsConf>> {
        let conf =
            format!(r#"{{"name": "x"{keys}, "runtimeConfig": {{"portMappings": {mappings}}}}}"#);
        PortsConf::new(&Json::config(conf.as_bytes())?)
    }

    #[test]
    fn a_wildcard_address_only_says_the_family() {
        let list =
            r#"[{"hostPort": 1, "containerPort": 2, "hostIP": "0.0.0.0", "protocol": "UDP"}]"#;
        let mapping = ports("", list).unwrap().unwrap().mappings[0];
        assert_eq!(mapping.host_ip, None);
        assert!(mapping.is_for(Family::Ipv4) && !mapping.is_for(Family::Ipv6));
        assert_eq!(mapping.to_string(), "1/udp");
    }

    /// As containerd 1.6 and 2.1 write it.
    #[test]
    fn names_of_go_fields_mean_the_same() {
        let go =
            r#"[{"HostPort": 1, "ContainerPort": 2, "Protocol": "TCP", "HostIP": "192.0.2.1"}]"#;
        let json =
            r#"[{"hostPort": 1, "containerPort": 2, "protocol": "tcp", "hostIP": "192.0.2.1"}]"#;
        assert_eq!(ports("", go).unwrap(), ports("", json).unwrap());
        let empty = r#"[{"HostPort": 1, "ContainerPort": 2, "Protocol": "tcp", "HostIP": ""}]"#;
        assert_eq!(ports("", empty).unwrap().unwrap().mappings[0].host_ip, None);
    }

    #[test]
    fn an_invalid_port_is_code_7() {
        for bad in [
            r#"[{"hostPort": 0, "containerPort": 2}]"#,
            r#"[{"hostPort": 1, "containerPort": 65536}]"#,
            r#"[{"hostPort": -1, "containerPort": 1}]"#,
            r#"[{"hostPort": 1, "containerPort": 2, "protocol": "icmp"}]"#,
            r#"[{"hostPort": 1, "containerPort": 2, "hostIP": "x"}]"#,
            r#"[{"hostPort": 1, "containerPort": 2}, {"hostPort": 1, "containerPort": 3, "protocol": "tcp"}]"#,
        ] {
            assert_eq!(
                ports("", bad).unwrap_err().code,
                Code::InvalidConfig,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_port_that_no_address_of_the_container_serves_is_refused() {
        let at = |host_ip: &str| {
            format!(r#"{{"hostPort": 1, "containerPort": 2, "hostIP": "{host_ip}"}}"#)
        };
        let pod = |addresses: &[&str]| -> Vec<IpNetwork> {
            addresses.iter().map(|ip| ip.parse().unwrap()).collect()
        };
        let (v4, v6) = (pod(&["10.1.0.5/24"]), pod(&["fd00::5/64"]));
        let both = pod(&["10.1.0.5/24", "fd00::5/64"]);
        for (mappings, served, not_served) in [
            (at("::"), [&v6, &both], Some(&v4)),
            (at("fd00::1"), [&v6, &both], Some(&v4)),
            (at("0.0.0.0"), [&v4, &both], Some(&v6)),
            (at("192.0.2.1"), [&v4, &both], Some(&v6)),
            (at(""), [&v4, &v6], None),
            (format!("{}, {}", at("0.0.0.0"), at("::")), [&v4, &v6], None),
            (
                format!("{}, {}", at("127.0.0.1"), at("::1")),
                [&v4, &both],
                Some(&v6),
            ),
        ] {
            let ports = PortsConf::for_test(&format!("[{mappings}]"));
            for addresses in served {
                ports.check_families(addresses).unwrap();
            }
            let nothing = Vec::new();
            for addresses in not_served.into_iter().chain([&nothing]) {
                let error = ports.check_families(addresses).unwrap_err();
                assert_eq!(error.code, Code::InvalidConfig, "{mappings} {addresses:?}");
            }
        }
    }

    #[test]
    fn options_that_only_iptables_could_serve_are_code_2() {
        for (keys, name) in [
            (
                r#", "externalSetMarkChain": "KUBE-MARK-MASQ", "backend": "nftables""#,
                "externalSetMarkChain",
            ),
            (
                r#", "conditionsV4": ["!", "-d", "192.0.2.0/24"]"#,
                "conditionsV4",
            ),
            (
                r#", "conditionsV6": ["ip6 daddr != fd00::/8"]"#,
                "conditionsV6",
            ),
        ] {
            let err = ports(keys, "[]").unwrap_err();
            assert_eq!(err.code, Code::UnsupportedField);
            assert!(err.msg.contains(name), "{err}");
        }
        assert!(
            ports(r#", "markMasqBit": 13, "backend": "iptables""#, "[]")
                .unwrap()
                .is_none()
        );
        assert_eq!(
            ports(r#", "markMasqBit": 32"#, "[]").unwrap_err().code,
            Code::InvalidConfig
        );
    }
}
