//! What a person asks of a network beyond its own rules: addresses, a MAC, ports of the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::published_ports::Port;
use pausenet::cni::args::parse_ip;
use pausenet::cni::request::Attachment;
use pausenet::cni::result::AddResult;
use pausenet::cni::{ContainerId, IfName, MacAddr};
use pausenet_host::Error;
use pausenet_host::runtime::Parameters;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::runtime::conflist::NetworkList;

/// The options by which they are asked.
#[derive(Debug, clap::Args)]
pub struct WishOptions {
    /// Lead a port of the host to one inside
    #[arg(long, short, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    publish: Vec<String>,

    /// Ask for this address
    #[arg(long = "ip", value_name = "ADDRESS")]
    ips: Vec<String>,

    /// Ask for this MAC
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// The name of the interface inside
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
}

impl WishOptions {
    /// The interface's name, and the wishes.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn parse(&self) -> Result<(IfName, Wishes), String> {
        let ifname = IfName::parse(&self.ifname).map_err(|why| format!("--ifname: {why}"))?;
        let mut wishes = Wishes::parse(&self.ips, self.mac.as_deref())?;
        wishes.ports = Port::parse_all(self.publish.iter().map(String::as_str))
            .map_err(|why| format!("--publish: {why}"))?;
        Ok((ifname, wishes))
    }
}

/// The name by which plugins know port mappings (CONVENTIONS.md of the specification).
pub const PORTS: &str = "portMappings";

/// Wishes, well-formed.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

impl Wishes {
    /// Checks addresses and a MAC as they were typed.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn parse(ips: &[String], mac: Option<&str>) -> Result<Self, String> {
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

    /// Each wish goes one way: through a capability where a plugin declares it, or else through
    /// CNI_ARGS. By both, some plugins would take it for two.
    ///
    /// # Errors
    /// For ports that no plugin of the network would map.
    pub fn parameters(
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
        let mut wish = |capability: &str, key: &str, json: Value, text: Vec<String>| {
            if declared(capability) {
                capabilities.insert(capability.to_owned(), json);
            } else {
                args.extend(text.into_iter().map(|text| [key.to_owned(), text]));
            }
        };
        if !self.ips.is_empty() {
            wish("ips", "IP", json!(self.ips), self.ips.clone());
        }
        if let Some(mac) = &self.mac {
            wish("mac", "MAC", json!(mac), vec![mac.clone()]);
        }
        if !self.ports.is_empty() {
            if !declared(PORTS) {
                return Err(no_ports(list));
            }
            capabilities.insert(PORTS.into(), json!(self.ports));
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

    /// Plugins may pass over what they do not know; the person who asked must not think that
    /// it was granted.
    ///
    /// # Errors
    /// An error that names the wish.
    pub fn check(&self, entry: &Entry, result: &Value) -> Result<(), Error> {
        let result = AddResult::from_json(result, entry.list.version)?;
        let refuse = |what: &str| {
            let msg = format!("network {} did not give {what}", entry.list.name);
            Err(Error::new(msg)
                .hint("none of its plugins takes such a wish, or not as an IPAM or by CNI_ARGS"))
        };
        for wish in self.ips.iter().filter_map(|ip| parse_ip(ip).ok()) {
            if !result.ips.iter().any(|given| given.address.ip() == wish) {
                return refuse(&format!("address {wish}"));
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

/// Nobody would map a port.
pub fn no_ports(list: &NetworkList) -> Error {
    Error::new(format!("network {} maps no ports of the host", list.name)).hint(
        "one of its plugins has to declare it: \"capabilities\": {\"portMappings\": true} \
         beside its \"type\"",
    )
}
