//! The request: environment and config together, checked. What gets past here can be refused
//! by the kernel or the store, but is not wrong in itself.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::args::RequestedIp;
use super::bandwidth::Bandwidth;
use super::config::{self, LinkKeys, NetConf, Range, ValidAttachment};
use super::env::{Environment, Verb};
use super::ports::PortsConf;
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

/// What the config says about the network, whatever the verb.
#[derive(Debug, Clone)]
pub struct Network {
    pub name: NetworkName,
    /// The config's version, and so the result's.
    pub version: SpecVersion,
    /// `CNI_PATH`, where delegates are found.
    pub path: Vec<PathBuf>,
    /// The config as it came in, for delegates.
    pub raw: Vec<u8>,
    /// None: somebody else wires the container (as in a chained plugin, or IPAM).
    pub link: Option<LinkConf>,
    /// Of both ends of the veth and a new bridge, in bytes; None leaves it to the kernel.
    pub mtu: Option<u32>,
    /// Traffic to outside the subnet leaves with the host's address.
    pub masquerade: bool,
    /// None: no port of the host leads to the container.
    pub ports: Option<PortsConf>,
    /// None: no limit.
    pub bandwidth: Option<Bandwidth>,
    /// None: layer 2 only, no address.
    pub ipam: Option<IpamConf>,
    /// Range sets of the capability `ipRanges`; they go before the config's own.
    pub requested_ranges: Vec<Vec<Range>>,
    /// Name servers that go before those of the IPAM.
    pub dns: Dns,
    pub prev_result: Option<AddResult>,
    /// GC: what the runtime still has. None: it did not say.
    pub valid_attachments: Option<Vec<(String, String)>>,
    /// STATUS does not count the network as unavailable because its addresses are in use.
    pub status_ignores_exhaustion: bool,
}

/// A network's IPAM: the plugin's name, and its object as it was written.
#[derive(Debug, Clone)]
pub struct IpamConf {
    pub plugin: String,
    pub object: Value,
}

/// ADD, DEL or CHECK of one attachment.
#[derive(Debug, Clone)]
pub struct Request {
    pub network: Network,
    pub attachment: Attachment,
    /// `CNI_NETNS`; None only for DEL.
    pub netns: Option<PathBuf>,
    /// The container's namespace may be the plugin's own.
    pub netns_override: bool,
    pub requested_ips: RequestedIps,
    /// The MAC asked for; the last of CNI_ARGS, args and capabilities that names one.
    pub requested_mac: Option<MacAddr>,
}

/// Addresses that are asked for, by who asks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RequestedIps {
    /// `IP` in CNI_ARGS.
    pub env: Vec<RequestedIp>,
    /// `GATEWAY` in CNI_ARGS.
    pub env_gateways: Vec<IpAddr>,
    /// `args.cni.ips`.
    pub args: Vec<RequestedIp>,
    /// The capability `ips`.
    pub runtime: Vec<RequestedIp>,
}

impl RequestedIps {
    /// All of them together.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        let lists = [&self.env, &self.args, &self.runtime];
        lists.into_iter().flatten().map(|requested| requested.ip)
    }
}

/// How the container is connected to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkConf {
    /// As a port of a bridge.
    Bridge(BridgeConf),
    /// By a routed link of its own.
    Ptp,
}

/// The link of mode `bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConf {
    pub name: IfName,
    pub gateway: GatewayRole,
    /// Replace an address on the bridge that is in the gateway's way.
    pub force_address: bool,
    pub frames: FrameMode,
    pub isolation: PortIsolation,
    /// Drop frames with another source MAC than the container's.
    pub mac_spoof_check: bool,
    /// The container's interface is not switched on.
    pub leave_down: bool,
    /// IPv6 addresses are checked for duplicates before they are used.
    pub detect_duplicates: bool,
    pub vlans: Option<VlanConf>,
}

impl BridgeConf {
    /// True when the port sends frames back where they came from.
    pub fn hairpin(&self) -> bool {
        self.frames == FrameMode::Hairpin
    }
}

/// Whether a bridge port reaches other ports of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortIsolation {
    Open,
    Isolated,
}

/// The VLANs of a bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanConf {
    /// The one for untagged frames.
    pub own: Option<u16>,
    /// Those that it carries tagged, ascending.
    pub trunk: Vec<u16>,
    /// Whether it stays in the bridge's default VLAN too.
    pub keep_default: bool,
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

/// What the binary is called as decides over `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As `pausenet`: the config says.
    Configured,
    Bridge,
    Ptp,
    /// As a plugin that wires no container itself.
    Foreign,
}

impl Network {
    /// Checks a config.
    ///
    /// # Errors
    /// Codes 1, 2, 6 and 7 of the specification, naming the field and its value.
    pub fn new(env: &Environment, mode: Mode, raw: Vec<u8>) -> Result<Self> {
        Self::read(env, mode, &config::parse(&raw)?, raw)
    }

    fn read(env: &Environment, mode: Mode, conf: &NetConf, raw: Vec<u8>) -> Result<Self> {
        let version = SpecVersion::parse(conf.cni_version.as_deref())?;
        let name = NetworkName::parse(&conf.name)?;
        let oldest = match env.verb {
            Verb::Check => SpecVersion::V0_4_0,
            Verb::Gc | Verb::Status => SpecVersion::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => SpecVersion::V0_1_0,
        };
        if version < oldest {
            let verb = env.verb.as_str();
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!("cniVersion {version} does not know {verb}"),
            )
            .hint(format!("{verb} needs a config of {oldest} or newer")));
        }
        let keys: Option<LinkKeys> = match mode {
            Mode::Foreign => None,
            _ => Some(config::parse(&raw)?),
        };
        let ipam = ipam(conf)?;
        let link = match &keys {
            Some(keys) => Some(link(keys, mode, ipam.is_some())?),
            None => None,
        };
        let prev_result = match &conf.prev_result {
            Some(json) if !json.is_null() => {
                Some(AddResult::from_json(json, version).map_err(|err| err.context("prevResult"))?)
            }
            _ => None,
        };
        let runtime = conf.runtime_config.as_ref();
        let bandwidth = match runtime.and_then(|runtime| runtime.bandwidth.as_ref()) {
            // Named as the reference's plugins, a limit is the plugin bandwidth's.
            Some(keys) if mode == Mode::Configured => Bandwidth::new(keys)?,
            _ => None,
        };
        Ok(Self {
            name,
            version,
            path: env.path.clone(),
            mtu: keys.as_ref().map_or(Ok(None), mtu)?,
            masquerade: keys.is_some_and(|keys| keys.ip_masq),
            ports: match mode {
                // Named as the reference's plugins, the port mappings are portmap's.
                Mode::Configured | Mode::Foreign => PortsConf::new(&raw)?,
                Mode::Bridge | Mode::Ptp => None,
            },
            raw,
            link,
            bandwidth,
            ipam,
            requested_ranges: runtime
                .map(|runtime| runtime.ip_ranges.clone())
                .unwrap_or_default(),
            dns: conf.dns.clone().unwrap_or_default(),
            prev_result,
            valid_attachments: conf.valid_attachments.as_ref().map(|list| {
                let pair =
                    |valid: &ValidAttachment| (valid.container_id.clone(), valid.ifname.clone());
                list.iter().map(pair).collect()
            }),
            status_ignores_exhaustion: conf.status_ignores_exhaustion,
        })
    }
}

impl Request {
    /// Checks a config together with the environment of an attachment's verb.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 6 and 7 of the specification, naming the field and its value.
    pub fn new(env: &Environment, mode: Mode, raw: Vec<u8>) -> Result<Self> {
        let conf: NetConf = config::parse(&raw)?;
        let network = Network::read(env, mode, &conf, raw)?;
        let (container, ifname) = env.attachment.clone().ok_or_else(|| {
            Error::new(Code::Internal, "a request without container and interface")
        })?;
        let runtime = conf.runtime_config.unwrap_or_default();
        let args = conf.args.and_then(|args| args.cni).unwrap_or_default();
        let parse_all = |list: &[String]| {
            let list = list.iter().map(|text| RequestedIp::parse(text));
            list.collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|why| invalid(format!("a requested address: {why}")))
        };
        let requested_ips = RequestedIps {
            env: env.args.ips.clone(),
            env_gateways: env.args.gateways.clone(),
            args: parse_all(&args.ips)?,
            runtime: parse_all(&runtime.ips)?,
        };
        let mut requested_mac = env.args.mac;
        for text in [args.mac, runtime.mac]
            .into_iter()
            .flatten()
            .filter(|mac| !mac.is_empty())
        {
            requested_mac = Some(MacAddr::parse(&text).map_err(invalid)?);
        }
        Ok(Self {
            attachment: Attachment {
                network: network.name.clone(),
                container,
                ifname,
            },
            network,
            netns: env.netns.clone(),
            netns_override: env.netns_override,
            requested_ips,
            requested_mac,
        })
    }
}

/// The IPAM that a config names, if it names one.
fn ipam(conf: &NetConf) -> Result<Option<IpamConf>> {
    let Some(object) = conf.ipam.as_ref().filter(|object| !object.is_null()) else {
        return Ok(None);
    };
    let decode = |what| Error::new(Code::Decode, format!("network config: ipam: {what}"));
    let object = object.as_object().ok_or_else(|| decode("not an object"))?;
    let plugin = match object.get("type") {
        None | Some(Value::Null) => "",
        Some(Value::String(plugin)) => plugin,
        Some(_) => return Err(decode("type: not a string")),
    };
    Ok((!plugin.is_empty()).then(|| IpamConf {
        plugin: plugin.to_owned(),
        object: Value::Object(object.clone()),
    }))
}

fn link(conf: &LinkKeys, mode: Mode, has_ipam: bool) -> Result<LinkConf> {
    check_masquerade_backend(conf)?;
    match (mode, conf.mode.as_deref()) {
        (Mode::Bridge, _) | (Mode::Configured, None | Some("" | "bridge")) => {
            bridge(conf, has_ipam).map(LinkConf::Bridge)
        }
        (Mode::Ptp, _) | (Mode::Configured, Some("ptp")) => Ok(LinkConf::Ptp),
        (_, mode) => Err(Error::new(
            Code::UnsupportedField,
            format!("mode {:?} is not supported", mode.unwrap_or_default()),
        )
        .hint("the mode is \"bridge\", which is also the default, or \"ptp\"")),
    }
}

fn mtu(conf: &LinkKeys) -> Result<Option<u32>> {
    match conf.mtu {
        None | Some(0) => Ok(None),
        Some(mtu) if MTU.contains(&mtu) => Ok(Some(mtu)),
        Some(mtu) => Err(invalid(format!(
            "mtu {mtu} is outside {} to {}",
            MTU.start(),
            MTU.end()
        ))),
    }
}

/// Both backends of the reference mean the same masquerade; ours is made with nftables.
fn check_masquerade_backend(conf: &LinkKeys) -> Result<()> {
    match conf.ip_masq_backend.as_deref() {
        None | Some("" | "iptables" | "nftables") => Ok(()),
        Some(other) => Err(invalid(format!("ipMasqBackend {other:?} is unknown"))
            .hint("known: nftables, iptables (made with nftables too)")),
    }
}

fn bridge(conf: &LinkKeys, has_ipam: bool) -> Result<BridgeConf> {
    let name = conf.bridge.as_deref().filter(|name| !name.is_empty());
    let name =
        IfName::parse(name.unwrap_or("cni0")).map_err(|why| invalid(format!("bridge: {why}")))?;
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
    if conf.disable_container_interface && has_ipam {
        return Err(
            invalid("disableContainerInterface and ipam exclude each other")
                .hint("an interface that is down can have no address of use"),
        );
    }
    Ok(BridgeConf {
        name,
        gateway,
        force_address: conf.force_address,
        frames,
        isolation: if conf.port_isolation {
            PortIsolation::Isolated
        } else {
            PortIsolation::Open
        },
        mac_spoof_check: conf.macspoofchk,
        leave_down: conf.disable_container_interface,
        detect_duplicates: conf.enabledad,
        vlans: vlans(conf)?,
    })
}

fn vlans(conf: &LinkKeys) -> Result<Option<VlanConf>> {
    let id = |what: &str, id: i64| {
        u16::try_from(id)
            .ok()
            .filter(|id| (1..=4094).contains(id))
            .ok_or_else(|| invalid(format!("{what} {id} is outside 1 to 4094")))
    };
    let own = match conf.vlan {
        None | Some(0) => None,
        Some(vlan) => Some(id("vlan", vlan)?),
    };
    let mut trunk = std::collections::BTreeSet::new();
    for entry in &conf.vlan_trunk {
        if let Some(single) = entry.id {
            trunk.insert(id("vlanTrunk: id", single)?);
        }
        match (entry.min_id, entry.max_id) {
            (None, None) => {}
            (Some(min), Some(max)) => {
                let (min, max) = (id("vlanTrunk: minID", min)?, id("vlanTrunk: maxID", max)?);
                if max < min {
                    return Err(invalid(format!(
                        "vlanTrunk: minID {min} is greater than maxID {max}"
                    )));
                }
                trunk.extend(min..=max);
            }
            (Some(_), None) => return Err(invalid("vlanTrunk: minID without maxID")),
            (None, Some(_)) => return Err(invalid("vlanTrunk: maxID without minID")),
        }
    }
    Ok((own.is_some() || !trunk.is_empty()).then(|| VlanConf {
        own,
        trunk: trunk.into_iter().collect(),
        keep_default: conf.preserve_default_vlan,
    }))
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
        Request::new(&env, Mode::Configured, conf.as_bytes().to_vec())
    }

    #[test]
    fn a_minimal_config_gets_the_reference_s_defaults() {
        let request = request("ADD", "", r#"{"name": "podnet", "type": "pausenet"}"#).unwrap();
        assert_eq!(request.network.version, SpecVersion::V0_1_0);
        let Some(LinkConf::Bridge(bridge)) = request.network.link else {
            panic!("not a bridge");
        };
        assert_eq!(bridge.name.as_str(), "cni0");
        assert_eq!(bridge.gateway, GatewayRole::None);
        assert!(request.network.ipam.is_none());
    }

    #[test]
    fn is_default_gateway_implies_is_gateway() {
        let request = request("ADD", "", r#"{"name": "x", "isDefaultGateway": true}"#).unwrap();
        let Some(LinkConf::Bridge(bridge)) = request.network.link else {
            panic!("not a bridge");
        };
        assert!(bridge.gateway >= GatewayRole::Gateway);
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
            .all()
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
            r#"{"name": "x", "disableContainerInterface": true, "ipam": {"type": "host-local"}}"#,
            r#"{"name": "x", "ipMasqBackend": "ebtables"}"#,
            r#"{"name": "x", "vlan": 4095}"#,
            r#"{"name": "x", "vlanTrunk": [{"minID": 5}]}"#,
            r#"{"name": "x", "vlanTrunk": [{"minID": 5, "maxID": 4}]}"#,
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
    fn vlans_are_collected_and_checked() {
        let conf = r#"{"name": "x", "vlan": 5,
            "vlanTrunk": [{"id": 9}, {"minID": 7, "maxID": 9}, {"minID": 20, "maxID": 20, "id": 3}]}"#;
        let Some(LinkConf::Bridge(bridge)) = request("ADD", "", conf).unwrap().network.link else {
            panic!("not a bridge");
        };
        let vlans = bridge.vlans.unwrap();
        assert_eq!((vlans.own, vlans.trunk), (Some(5), vec![3, 7, 8, 9, 20]));
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
        let prev = request("DEL", "", conf)
            .unwrap()
            .network
            .prev_result
            .unwrap();
        assert_eq!(prev.ips.len(), 1);
    }
}
