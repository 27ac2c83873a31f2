//! The request: environment and config, validated together. The kernel or the store may still
//! refuse a valid request.

use std::net::IpAddr;
use std::path::PathBuf;

use super::args::{Args, RequestedIp};
use super::bandwidth::Bandwidth;
use super::config::{DnsKeys, Heading, Range, VALID_ATTACHMENTS, ValidAttachment};
use super::env::{Environment, Verb};
use super::error::{Code, Error, Result, invalid, warn};
use super::json::Json;
use super::link::{Firewall, LinkConf};
use super::names::{ContainerId, IfName, MacAddr, NetworkName};
use super::plugin::Plugin;
use super::ports::PortsConf;
use super::result::{AddResult, Dns};
use super::version::SpecVersion;
use super::wiring::{Chained, Wiring, maps_ports};

/// The identity of an attachment: one interface of one container on one network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attachment {
    pub network: NetworkName,
    pub container: ContainerId,
    pub ifname: IfName,
}

impl Attachment {
    /// An attachment of a network, from names stored elsewhere; None if they are invalid.
    pub fn of_network(network: &NetworkName, container: &str, ifname: &str) -> Option<Self> {
        Some(Self {
            network: network.clone(),
            container: ContainerId::parse(container).ok()?,
            ifname: IfName::parse(ifname).ok()?,
        })
    }
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

/// The validated config of a network, for all verbs.
#[derive(Debug, Clone)]
pub struct Network {
    pub name: NetworkName,
    /// The version of the config, and of the result.
    pub version: SpecVersion,
    /// `CNI_PATH`, where delegates are found.
    pub path: Vec<PathBuf>,
    /// The config as received, for delegates.
    pub raw: Vec<u8>,
    /// None: another plugin wires the container (this one is chained, or an IPAM), or the verb is
    /// DEL and the config's link is invalid.
    pub link: Option<LinkConf>,
    /// The MTU of both veth ends and of a new bridge, in bytes; None leaves it to the kernel.
    pub mtu: Option<u32>,
    /// Traffic that leaves the subnet is masqueraded: it gets the host's address.
    pub masquerade: bool,
    /// Whether to make other firewalls of the host accept the network's traffic.
    pub firewall: Firewall,
    /// None: no host port is mapped to the container.
    pub ports: Option<PortsConf>,
    /// Whether this plugin maps ports at all, now or in an earlier ADD.
    pub maps_ports: bool,
    /// None: no limit.
    pub bandwidth: Option<Bandwidth>,
    /// What only a chained plugin has.
    pub(crate) chained: Chained,
    /// None: layer 2 only, no address.
    pub ipam: Option<IpamConf>,
    /// Range sets of the capability `ipRanges`; they precede the config's own.
    pub requested_ranges: Vec<Vec<Range>>,
    /// Name servers that replace the IPAM's, even if none is named.
    pub dns: Option<Dns>,
    pub prev_result: Option<AddResult>,
    /// GC: the attachments (container, interface) that the runtime still has.
    pub valid_attachments: Vec<(String, String)>,
    /// STATUS does not report the network as unavailable when all its addresses are in use.
    pub status_ignores_exhaustion: bool,
    /// A part of the config or of CNI_ARGS could not be read, so that DEL and GC have to search for what it would
    /// say.
    pub is_incomplete: bool,
}

/// A network's IPAM: the plugin's name and its `ipam` object.
#[derive(Debug, Clone)]
pub struct IpamConf {
    pub plugin: String,
    pub object: Json,
}

impl IpamConf {
    /// The IPAM that a config names, if any.
    fn read(config: &Json) -> Result<Option<Self>> {
        let plugin: String = config.read_part(&["ipam", "type"])?;
        let object = config.part(&["ipam"])?;
        Ok((!plugin.is_empty()).then_some(Self { plugin, object }))
    }

    /// What to remove addresses with if the config does not say its IPAM: if host-local's store
    /// names the attachment, then that was it.
    fn unreadable(config: &Json) -> Result<Self> {
        Ok(Self {
            plugin: "host-local".to_owned(),
            object: config.part(&["ipam"])?,
        })
    }

    /// Whether addresses are allocated here, and not by another plugin.
    pub fn is_built_in(&self) -> bool {
        matches!(self.plugin.as_str(), "host-local" | "static")
    }

    /// Whether addresses come from a store on this node.
    pub fn is_host_local(&self) -> bool {
        self.plugin == "host-local"
    }
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
    /// The requested MAC. Capabilities take precedence over `args`, and those over CNI_ARGS.
    pub requested_mac: Option<MacAddr>,
}

/// Requested addresses, by source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RequestedIps {
    /// `IP` in CNI_ARGS.
    pub(crate) env: Vec<RequestedIp>,
    /// `GATEWAY` in CNI_ARGS.
    pub(crate) env_gateways: Vec<IpAddr>,
    /// `args.cni.ips`.
    pub(crate) args: Vec<RequestedIp>,
    /// The capability `ips`.
    pub(crate) runtime: Vec<RequestedIp>,
}

impl RequestedIps {
    /// The addresses of all sources.
    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> {
        let lists = [&self.env, &self.args, &self.runtime];
        lists.into_iter().flatten().map(|requested| requested.ip)
    }

    /// Where the address at this place in [`RequestedIps::all`] was requested, for errors.
    pub(crate) fn key_of(&self, at: usize) -> String {
        let Some(in_args) = at.checked_sub(self.env.len()) else {
            return "CNI_ARGS: IP".to_owned();
        };
        match in_args.checked_sub(self.args.len()) {
            None => format!("args.cni.ips[{in_args}]"),
            Some(at) => format!("runtimeConfig.ips[{at}]"),
        }
    }
}

impl Network {
    /// Validates a config by the rules of `plugin` and verb. `path` is `CNI_PATH`.
    ///
    /// # Errors
    /// Codes 1, 2, 6 and 7 of the specification, naming the field and its value.
    pub fn new(plugin: Plugin, verb: Verb, path: &[PathBuf], raw: Vec<u8>) -> Result<Self> {
        let config = Json::config(&raw)?;
        Self::read(plugin, verb, path, &config, raw)
    }

    fn read(
        plugin: Plugin,
        verb: Verb,
        path: &[PathBuf],
        config: &Json,
        raw: Vec<u8>,
    ) -> Result<Self> {
        let heading: Heading = config.read()?;
        let version = SpecVersion::parse(Some(&heading.cni_version))?;
        let name = NetworkName::parse(&heading.name)?;
        let oldest = match verb {
            Verb::Check => SpecVersion::V0_4_0,
            Verb::Gc | Verb::Status => SpecVersion::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => SpecVersion::V0_1_0,
        };
        if version < oldest {
            let verb = verb.as_str();
            return Err(Error::new(
                Code::IncompatibleVersion,
                format!("cniVersion {version} does not know {verb}"),
            )
            .hint(format!("{verb} needs a config of {oldest} or newer")));
        }
        let mut parts = Parts::of(verb);
        let mut ipam = parts.take(IpamConf::read(config))?;
        if parts.is_incomplete {
            ipam = Some(IpamConf::unreadable(config)?);
        }
        let wiring = parts.take(Wiring::read(plugin, config, ipam.is_some()))?;
        let requested_ranges = parts.take(config.read_part(&["runtimeConfig", "ipRanges"]))?;
        let dns: DnsKeys = parts.take(config.read_part(&["dns"]))?;
        let prev_result = parts.take(prev_result(config, version))?;
        let status_ignores_exhaustion =
            parts.take(config.read_part(&["statusIgnoresExhaustion"]))?;
        Ok(Self {
            name,
            version,
            path: path.to_vec(),
            mtu: wiring.mtu,
            masquerade: wiring.masquerade,
            firewall: wiring.firewall,
            ports: wiring.ports,
            maps_ports: maps_ports(plugin),
            raw,
            link: wiring.link,
            bandwidth: wiring.bandwidth,
            chained: wiring.chained,
            ipam,
            requested_ranges,
            dns: dns.named(),
            prev_result,
            valid_attachments: valid_attachments(config)?,
            status_ignores_exhaustion,
            is_incomplete: parts.is_incomplete,
        })
    }
}

/// The parts of a config. One that cannot be read makes ADD fail; but the ADD that a DEL undoes has
/// succeeded, with another plugin or another config, and a pod whose DEL fails can never be removed.
/// So DEL and GC say what they cannot read, and go on without it.
struct Parts {
    may_lack: bool,
    is_incomplete: bool,
}

impl Parts {
    fn of(verb: Verb) -> Self {
        Self {
            may_lack: matches!(verb, Verb::Del | Verb::Gc),
            is_incomplete: false,
        }
    }

    fn take<T: Default>(&mut self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(err) if self.may_lack => {
                warn(format_args!("{err}; going on without it"));
                self.is_incomplete = true;
                Ok(T::default())
            }
            outcome => outcome,
        }
    }
}

fn prev_result(config: &Json, version: SpecVersion) -> Result<Option<AddResult>> {
    let part = config.part(&["prevResult"])?;
    if part.is_absent() {
        return Ok(None);
    }
    AddResult::read(&part.as_map()?, version).map(Some)
}

/// The attachments on the runtime's list, under either of its names.
fn valid_attachments(config: &Json) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for name in VALID_ATTACHMENTS {
        let listed: Vec<ValidAttachment> = config.read_part(&[name])?;
        let names = listed.into_iter();
        all.extend(names.map(|valid| (valid.container_id, valid.ifname)));
    }
    Ok(all)
}

impl Request {
    /// Validates config and environment together, for a verb about an attachment.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 6 and 7 of the specification, naming the field and its value.
    pub(crate) fn new(plugin: Plugin, env: &Environment, raw: Vec<u8>) -> Result<Self> {
        let names = env.attachment.clone().ok_or_else(|| {
            Error::new(Code::Internal, "a request without container and interface")
        })?;
        let mut request = Self::read(plugin, env.verb, names, &env.args, &env.path, raw)?;
        request.network.is_incomplete |= env.lacks_args;
        Ok(Self {
            netns: env.netns.clone(),
            netns_override: env.netns_override,
            ..request
        })
    }

    /// The request of an earlier or hypothetical ADD of `plugin` with this config, container and
    /// interface. It has no namespace.
    ///
    /// # Errors
    /// The errors of that ADD: codes 1, 2, 6 and 7, naming the field and its value.
    pub fn of_add(
        plugin: Plugin,
        names: (ContainerId, IfName),
        args: &Args,
        path: &[PathBuf],
        raw: Vec<u8>,
    ) -> Result<Self> {
        Self::read(plugin, Verb::Add, names, args, path, raw)
    }

    fn read(
        plugin: Plugin,
        verb: Verb,
        (container, ifname): (ContainerId, IfName),
        env_args: &Args,
        path: &[PathBuf],
        raw: Vec<u8>,
    ) -> Result<Self> {
        let config = Json::config(&raw)?;
        let mut network = Network::read(plugin, verb, path, &config, raw)?;
        let mut parts = Parts::of(verb);
        let requested_ips = RequestedIps {
            env: env_args.ips.clone(),
            env_gateways: env_args.gateways.clone(),
            args: parts.take(requested_ips(&config, &["args", "cni", "ips"]))?,
            runtime: parts.take(requested_ips(&config, &["runtimeConfig", "ips"]))?,
        };
        let mut requested_mac = env_args.mac;
        let mut sources = [&["args", "cni", "mac"][..], &["runtimeConfig", "mac"]];
        if plugin == Plugin::Tuning {
            // As the reference's does.
            sources.reverse();
        }
        for keys in sources {
            let mac = parts.take(requested_mac_at(&config, keys))?;
            requested_mac = mac.or(requested_mac);
        }
        network.is_incomplete |= parts.is_incomplete;
        Ok(Self {
            attachment: Attachment {
                network: network.name.clone(),
                container,
                ifname,
            },
            network,
            netns: None,
            netns_override: false,
            requested_ips,
            requested_mac,
        })
    }
}

/// The addresses in the list under these keys.
fn requested_ips(config: &Json, keys: &[&'static str]) -> Result<Vec<RequestedIp>> {
    let list: Vec<String> = config.read_part(keys)?;
    let parse = |(at, text): (usize, &String)| {
        let place = || format!("{}[{at}]", keys.join("."));
        RequestedIp::parse(text).map_err(|why| invalid(format!("{}: {why}", place())))
    };
    list.iter().enumerate().map(parse).collect()
}

/// The MAC under these keys; the empty string means none.
fn requested_mac_at(config: &Json, keys: &[&'static str]) -> Result<Option<MacAddr>> {
    let text: String = config.read_part(keys)?;
    match text.as_str() {
        "" => Ok(None),
        text => MacAddr::parse(text)
            .map(Some)
            .map_err(|why| invalid(format!("{}: {why}", keys.join(".")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::link::GatewayRole;
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
        Request::new(Plugin::Pausenet, &env, conf.as_bytes().to_vec())
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
            r#"{"name": "x", "firewall": "on"}"#,
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
