//! What the user can request for an attachment: addresses, a MAC, published ports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::published_ports::PublishedPort;
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
    /// Publish a port: forward HOSTPORT of the host to PORT of the container
    #[arg(long, short, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    publish: Vec<String>,

    /// Request this address
    #[arg(long = "ip", value_name = "ADDRESS")]
    ips: Vec<String>,

    /// Request this MAC address
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// The name of the container's interface
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
}

impl AttachmentOptions {
    /// The interface's name, and the settings.
    ///
    /// # Errors
    /// A message that names the option.
    pub(crate) fn parse(&self) -> Result<(IfName, AttachmentSettings), String> {
        let ifname = IfName::parse(&self.ifname).map_err(|why| format!("--ifname: {why}"))?;
        let mut settings = AttachmentSettings::parse(&self.ips, self.mac.as_deref())?;
        settings.ports = PublishedPort::parse_all(self.publish.iter().map(String::as_str))
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
