//! The request: environment and config together, checked. What gets past here can be refused
//! by the kernel or the store, but is not wrong in itself.

use std::net::IpAddr;
use std::path::PathBuf;

use super::config::{Ipam, NetConf, Range};
use super::env::{Environment, Verb};
use super::result::{AddResult, Dns};
use super::{Code, ContainerId, Error, IfName, MacAddr, NetworkName, Result, SpecVersion};

/// What names an attachment: one interface of one container on one network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attachment {
    pub network: NetworkName,
    pub container: ContainerId,
    pub ifname: IfName,
}

impl std::fmt::Display for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            network,
            container,
            ifname,
        } = self;
        write!(
            f,
            "network {network}, container {container}, interface {ifname}"
        )
    }
}

/// ADD, DEL or CHECK of one attachment.
#[derive(Debug, Clone)]
pub struct Request {
    /// The config's version, and so the result's.
    pub version: SpecVersion,
    pub attachment: Attachment,
    /// `CNI_NETNS`; None only for DEL.
    pub netns: Option<PathBuf>,
    /// The container's namespace may be the plugin's own.
    pub netns_override: bool,
    pub bridge: BridgeConf,
    /// None: layer 2 only, no address.
    pub ipam: Option<Ipam>,
    /// Addresses asked for by CNI_ARGS, args and capabilities, in that order.
    pub requested_ips: Vec<IpAddr>,
    /// Range sets of the capability `ipRanges`; they go before the config's own.
    pub requested_ranges: Vec<Vec<Range>>,
    /// The MAC asked for; the last of CNI_ARGS, args and capabilities that names one.
    pub requested_mac: Option<MacAddr>,
    /// Name servers that go before those of the IPAM.
    pub dns: Dns,
    pub prev_result: Option<AddResult>,
}

/// The link of mode `bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConf {
    pub name: IfName,
    /// In bytes; None leaves it to the kernel.
    pub mtu: Option<u32>,
    pub gateway: GatewayRole,
    /// Replace an address on the bridge that is in the gateway's way.
    pub force_address: bool,
    pub frames: FrameMode,
}

/// What the bridge is to its containers beyond a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum GatewayRole {
    /// A switch only.
    None,
    /// It holds the gateway's address, and the host forwards.
    Gateway,
    /// And containers have a default route through it.
    DefaultGateway,
}

/// How a frame comes back to the container that sent it; the two ways exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameMode {
    Plain,
    Hairpin,
    Promiscuous,
}

/// The kernel's smallest and largest MTU for a veth (ETH_MIN_MTU, ETH_MAX_MTU).
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

impl Request {
    /// Checks a config together with the environment of an attachment's verb.
    ///
    /// # Errors
    /// Codes 1, 4, 6 and 7 of the specification, naming the field and its value.
    pub fn new(env: &Environment, conf: NetConf) -> Result<Self> {
        let version = SpecVersion::parse(conf.cni_version.as_deref())?;
        let network = NetworkName::parse(&conf.name)?;
        if env.verb == Verb::Check && version < SpecVersion::V0_4_0 {
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!("cniVersion {version} does not know CHECK"),
            )
            .hint("CHECK needs a config of 0.4.0 or newer"));
        }
        let (container, ifname) = env.attachment.clone().ok_or_else(|| {
            Error::new(Code::Internal, "a request without container and interface")
        })?;
        let bridge = BridgeConf::new(&conf)?;
        let runtime = conf.runtime_config.unwrap_or_default();
        let args = conf.args.and_then(|args| args.cni).unwrap_or_default();

        let mut requested_ips: Vec<_> = env.args.ip.into_iter().collect();
        for text in args.ips.iter().chain(&runtime.ips) {
            requested_ips.push(
                super::args::parse_ip(text)
                    .map_err(|why| invalid(format!("a requested address: {why}")))?,
            );
        }
        let mut requested_mac = env.args.mac;
        for text in [args.mac, runtime.mac]
            .into_iter()
            .flatten()
            .filter(|mac| !mac.is_empty())
        {
            requested_mac = Some(MacAddr::parse(&text).map_err(invalid)?);
        }
        let prev_result = match conf.prev_result {
            Some(json) if !json.is_null() => Some(
                AddResult::from_json(&json, version).map_err(|err| err.context("prevResult"))?,
            ),
            _ => None,
        };

        Ok(Self {
            version,
            attachment: Attachment {
                network,
                container,
                ifname,
            },
            netns: env.netns.clone(),
            netns_override: env.netns_override,
            bridge,
            ipam: conf.ipam.filter(|ipam| !ipam.r#type.is_empty()),
            requested_ips,
            requested_ranges: runtime.ip_ranges,
            requested_mac,
            dns: conf.dns.unwrap_or_default(),
            prev_result,
        })
    }
}

impl BridgeConf {
    fn new(conf: &NetConf) -> Result<Self> {
        if let Some(mode) = conf.mode.as_deref().filter(|mode| *mode != "bridge") {
            return Err(Error::new(
                Code::UnsupportedField,
                format!("mode {mode:?} is not supported"),
            )
            .hint("the mode is \"bridge\", which is also the default"));
        }
        let name = conf.bridge.as_deref().filter(|name| !name.is_empty());
        let name = IfName::parse(name.unwrap_or("cni0"))
            .map_err(|why| invalid(format!("bridge: {why}")))?;
        let mtu = conf.mtu.filter(|mtu| *mtu != 0);
        if let Some(mtu) = mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(invalid(format!(
                "mtu {mtu} is outside {} to {}",
                MTU.start(),
                MTU.end()
            )));
        }
        let frames = match (conf.hairpin_mode, conf.promisc_mode) {
            (false, false) => FrameMode::Plain,
            (true, false) => FrameMode::Hairpin,
            (false, true) => FrameMode::Promiscuous,
            (true, true) => {
                return Err(invalid("hairpinMode and promiscMode are both true")
                    .hint("they are two ways to the same end: choose one"));
            }
        };
        let gateway = match (conf.is_gateway, conf.is_default_gateway) {
            (_, true) => GatewayRole::DefaultGateway,
            (true, false) => GatewayRole::Gateway,
            (false, false) => GatewayRole::None,
        };
        Ok(Self {
            name,
            mtu,
            gateway,
            force_address: conf.force_address,
            frames,
        })
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn request(verb: &str, args: &str, conf: &str) -> Result<Request> {
        let env = Environment::parse(|name| {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => "c1",
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/run/netns/x",
                "CNI_PATH" => "/opt/cni/bin",
                "CNI_ARGS" => args,
                _ => return None,
            };
            Some(OsString::from(value))
        })
        .unwrap()
        .unwrap();
        Request::new(&env, NetConf::parse(conf.as_bytes()).unwrap())
    }

    #[test]
    fn a_minimal_config_gets_the_reference_s_defaults() {
        let request = request("ADD", "", r#"{"name": "podnet", "type": "pausenet"}"#).unwrap();
        assert_eq!(request.version, SpecVersion::V0_1_0);
        assert_eq!(request.bridge.name.as_str(), "cni0");
        assert_eq!(request.bridge.gateway, GatewayRole::None);
        assert!(request.ipam.is_none());
    }

    #[test]
    fn is_default_gateway_implies_is_gateway() {
        let request = request("ADD", "", r#"{"name": "x", "isDefaultGateway": true}"#).unwrap();
        assert!(request.bridge.gateway >= GatewayRole::Gateway);
    }

    #[test]
    fn the_nearest_source_of_a_mac_wins_and_addresses_add_up() {
        let conf = r#"{"name": "x",
            "args": {"cni": {"mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"]}},
            "runtimeConfig": {"mac": "02:00:00:00:00:03", "ips": ["10.0.0.3/24"]}}"#;
        let request = request("ADD", "MAC=02:00:00:00:00:01;IP=10.0.0.1", conf).unwrap();
        assert_eq!(
            request.requested_mac.unwrap().to_string(),
            "02:00:00:00:00:03"
        );
        let ips: Vec<_> = request
            .requested_ips
            .iter()
            .map(|ip| ip.to_string())
            .collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn contradictions_and_nonsense_are_code_7() {
        for bad in [
            r#"{"type": "pausenet"}"#,
            r#"{"name": ""}"#,
            r#"{"name": "../x"}"#,
            r#"{"name": "x", "bridge": "a/b"}"#,
            r#"{"name": "x", "mtu": 67}"#,
            r#"{"name": "x", "mtu": 65536}"#,
            r#"{"name": "x", "hairpinMode": true, "promiscMode": true}"#,
            r#"{"name": "x", "runtimeConfig": {"mac": "zz"}}"#,
            r#"{"name": "x", "args": {"cni": {"ips": ["300.0.0.1"]}}}"#,
        ] {
            assert_eq!(
                request("ADD", "", bad).unwrap_err().code,
                Code::InvalidConfig,
                "{bad}"
            );
        }
    }

    #[test]
    fn check_needs_version_0_4() {
        let conf = r#"{"name": "x", "cniVersion": "0.3.1"}"#;
        let err = request("CHECK", "", conf).unwrap_err();
        assert_eq!(err.code, Code::IncompatibleVersion);
    }

    #[test]
    fn prev_result_may_be_of_another_version_than_the_config() {
        let conf = r#"{"name": "x", "cniVersion": "1.1.0",
            "prevResult": {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}}"#;
        let prev = request("DEL", "", conf).unwrap().prev_result.unwrap();
        assert_eq!(prev.ips.len(), 1);
    }
}
