//! What the user can request for an attachment: addresses, a MAC, published ports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::published_ports::{PublishedPort, in_use};
use pausenet::cni::args::parse_ip;
use pausenet::cni::request::Attachment;
use pausenet::cni::result::AddResult;
use pausenet::cni::{ContainerId, IfName, MacAddr};
use pausenet_host::Error;
use pausenet_host::runtime::Parameters;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::runtime::conflist::NetworkList;

/// The command-line options of an attachment.
#[derive(Debug, clap::Args)]
pub(crate) struct AttachmentOptions {
    /// Publish a port: forward HOSTPORT of the host to PORT of the container. Ranges of equal length
    /// publish each port; of a range of host ports for one PORT, the first free one is taken
    #[arg(long, short, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    publish: Vec<String>,

    /// Request this address
    #[arg(long = "ip", value_name = "ADDRESS")]
    ips: Vec<String>,

    /// Request this MAC address
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// The name of the container's interface [default: the first free one of eth0, eth1, …]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
}

impl AttachmentOptions {
    /// Whether an interface's name is given.
    pub(crate) fn has_ifname(&self) -> bool {
        self.ifname.is_some()
    }

    /// The interface's name, if one is given, and the settings.
    ///
    /// # Errors
    /// A message that names the option.
    pub(crate) fn parse(&self) -> Result<(Option<IfName>, AttachmentSettings), String> {
        let ifname = self.ifname.as_deref().map(IfName::parse).transpose();
        let ifname = ifname.map_err(|why| format!("--ifname: {why}"))?;
        let mut settings = AttachmentSettings::parse(&self.ips, self.mac.as_deref())?;
        let ports = self.publish.iter().map(String::as_str);
        settings.ports = PublishedPort::parse_all(ports, in_use::is_free_now())
            .map_err(|why| format!("--publish: {why}"))?;
        Ok((ifname, settings))
    }
}

/// The capability for port mappings (CONVENTIONS.md of the CNI specification).
pub(crate) const PORT_MAPPINGS: &str = "portMappings";

/// What was requested, validated.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentSettings {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PublishedPort>,
}

impl AttachmentSettings {
    /// Validates addresses and a MAC.
    ///
    /// # Errors
    /// A message that names the option.
    pub(crate) fn parse(ips: &[String], mac: Option<&str>) -> Result<Self, String> {
        for ip in ips {
            parse_ip(ip).map_err(|why| format!("--ip: {why}"))?;
        }
        let mac = mac.map(MacAddr::parse).transpose();
        let mac = mac.map_err(|why| format!("--mac: {why}"))?;
        Ok(Self {
            ips: ips.to_owned(),
            mac: mac.map(|mac| mac.to_string()),
            ports: Vec::new(),
        })
    }

    /// The settings for each of several networks: published ports are those of the first one that
    /// maps ports; the others apply to one network only.
    ///
    /// # Errors
    /// An option that does not say which of the networks it is for.
    pub(crate) fn for_networks(
        self,
        ifname: Option<&IfName>,
        lists: &[&NetworkList],
    ) -> Result<Vec<Self>, String> {
        if lists.len() > 1 {
            let given = [
                (ifname.is_some(), "--ifname"),
                (!self.ips.is_empty(), "--ip"),
                (self.mac.is_some(), "--mac"),
            ];
            if let Some((_, option)) = given.iter().find(|(is_given, _)| *is_given) {
                return Err(format!(
                    "{option} is for one network: name it with --network, and attach the others \
                     in commands of their own"
                ));
            }
        }
        let maps_ports = |list: &&NetworkList| {
            let mut plugins = list.plugins.iter();
            plugins.any(|plugin| plugin.has_capability(PORT_MAPPINGS))
        };
        let at = lists.iter().position(maps_ports).unwrap_or(0);
        let mut all = vec![Self::default(); lists.len()];
        if let Some(first) = all.get_mut(at) {
            *first = self;
        }
        Ok(all)
    }

    /// The runtime's parameters. Each setting is passed once: as a capability if a plugin declares
    /// it, or else in CNI_ARGS. Passed both ways, some plugins would count it twice.
    ///
    /// # Errors
    /// When ports are requested and no plugin of the network maps ports.
    pub(crate) fn parameters(
        &self,
        list: &NetworkList,
        container: ContainerId,
        ifname: IfName,
        netns: PathBuf,
    ) -> Result<Parameters, Error> {
        let declared = |name: &str| {
            list.plugins
                .iter()
                .any(|plugin| plugin.has_capability(name))
        };
        let mut capabilities = Map::new();
        let mut args = Vec::new();
        let mut add = |capability: &str, key: &str, json: Value, text: Vec<String>| {
            if declared(capability) {
                capabilities.insert(capability.to_owned(), json);
            } else {
                args.extend(text.into_iter().map(|text| [key.to_owned(), text]));
            }
        };
        if !self.ips.is_empty() {
            add("ips", "IP", json!(self.ips), self.ips.clone());
        }
        if let Some(mac) = &self.mac {
            add("mac", "MAC", json!(mac), vec![mac.clone()]);
        }
        if !self.ports.is_empty() {
            if !declared(PORT_MAPPINGS) {
                return Err(no_port_mappings(list));
            }
            capabilities.insert(PORT_MAPPINGS.into(), json!(self.ports));
        }
        if !args.is_empty() {
            args.insert(0, ["IgnoreUnknown".into(), "1".into()]);
        }
        Ok(Parameters {
            attachment: Attachment {
                network: list.name.clone(),
                container,
                ifname,
            },
            netns: Some(netns),
            args,
            capabilities,
        })
    }

    /// Checks that the result has what was requested: plugins may ignore settings that they do not
    /// know.
    ///
    /// # Errors
    /// Names the setting that the network did not provide.
    pub(crate) fn check(&self, entry: &Entry, result: &Value) -> Result<(), Error> {
        let result = AddResult::from_json(result, entry.list.version)?;
        let refuse = |what: &str| {
            let msg = format!("network {} did not provide {what}", entry.list.name);
            Err(Error::new(msg)
                .hint("none of its plugins accepts this as a capability or in CNI_ARGS"))
        };
        for ip in self.ips.iter().filter_map(|ip| parse_ip(ip).ok()) {
            if !result.ips.iter().any(|given| given.address.ip() == ip) {
                return refuse(&format!("address {ip}"));
            }
        }
        let ifname = entry.parameters.attachment.ifname.as_str();
        let has = |mac: MacAddr| {
            let mut inside = result.interfaces.iter();
            inside.any(|link| link.name == ifname && MacAddr::parse(&link.mac) == Ok(mac))
        };
        let mac = self.mac.as_deref().and_then(|mac| MacAddr::parse(mac).ok());
        match mac.filter(|mac| !has(*mac)) {
            Some(mac) => refuse(&format!("MAC {mac}")),
            None => Ok(()),
        }
    }
}

/// The error for a network none of whose plugins maps ports.
pub(crate) fn no_port_mappings(list: &NetworkList) -> Error {
    Error::new(format!(
        "network {} does not support published ports",
        list.name
    ))
    .hint(
        "one of its plugins must declare \"capabilities\": {\"portMappings\": true} \
         beside its \"type\"",
    )
}
