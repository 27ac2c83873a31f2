//! Who made an interface of a container, as far as can be told.

use serde_json::Value;

use super::cgroup::{Engine, is_hex};
use super::container::Container;
use super::interfaces::Interface;
use pausenet::cni::{MacAddr, NetworkName};
use pausenet::kernel::netns::NetnsId;
use pausenet::plan::attachment_of_host_end;

/// Who made an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Our plugin: the host end's alias says so.
    Pausenet {
        network: NetworkName,
    },
    /// Other plugins: a runtime's cache of results says so.
    Cni {
        network: String,
        plugins: Vec<String>,
    },
    /// Docker: it says so, or the bridge is named as Docker names them; then the network is not
    /// known.
    Docker {
        network: Option<String>,
    },
    Unknown,
}

/// What a runtime has cached of an attachment that CNI's plugins made.
#[derive(Debug, Clone)]
pub struct CachedAttachment {
    pub network: String,
    pub plugins: Vec<String>,
    pub container: String,
    pub ifname: String,
    /// The namespace that it was made in, if that is there still.
    pub netns: Option<NetnsId>,
    pub macs: Vec<MacAddr>,
}

impl Origin {
    /// Decides who made an interface in a namespace with these containers.
    pub fn of<'a>(
        interface: &Interface,
        bridge: Option<&str>,
        netns: NetnsId,
        containers: impl Iterator<Item = &'a Container> + Clone,
        cached: &[CachedAttachment],
    ) -> Self {
        if let Some(attachment) = interface.host_end.as_ref().and_then(attachment_of_host_end) {
            return Self::Pausenet {
                network: attachment.network,
            };
        }
        let mac = interface.link.mac;
        let mut endpoints = containers
            .clone()
            .flat_map(|container| &container.endpoints);
        if let Some(endpoint) = endpoints.find(|found| found.mac.is_some() && found.mac == mac) {
            return Self::Docker {
                network: Some(endpoint.network.clone()),
            };
        }
        let is_cached = |cached: &&CachedAttachment| {
            let here = cached.netns == Some(netns)
                || containers
                    .clone()
                    .any(|container| container.id == cached.container);
            let same_mac = mac.is_some_and(|mac| cached.macs.contains(&mac));
            here && cached.ifname == interface.link.name && (cached.macs.is_empty() || same_mac)
        };
        if let Some(cached) = cached.iter().find(is_cached) {
            return Self::Cni {
                network: cached.network.clone(),
                plugins: cached.plugins.clone(),
            };
        }
        let is_docker_s = containers
            .clone()
            .any(|found| found.engine == Some(Engine::Docker));
        match bridge {
            Some(bridge) if is_docker_s && is_bridge_of_docker(bridge) => {
                Self::Docker { network: None }
            }
            _ => Self::Unknown,
        }
    }

    /// The network's name, if one is known.
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::Pausenet { network } => Some(network.as_str()),
            Self::Cni { network, .. } => Some(network),
            Self::Docker { network } => network.as_deref(),
            Self::Unknown => None,
        }
    }

    /// Its name in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pausenet { .. } => "pausenet",
            Self::Cni { .. } => "cni",
            Self::Docker { .. } => "docker",
            Self::Unknown => "unknown",
        }
    }
}

/// `docker0`, or `br-` and the beginning of a network's ID.
fn is_bridge_of_docker(name: &str) -> bool {
    name == "docker0"
        || name
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && is_hex(id))
}

/// The MACs that a result of CNI, of any version, names.
pub fn macs(result: Option<&Value>) -> Vec<MacAddr> {
    let interfaces = result.and_then(|result| result["interfaces"].as_array());
    let macs = interfaces
        .into_iter()
        .flatten()
        .filter_map(|found| found["mac"].as_str());
    macs.filter_map(|mac| MacAddr::parse(mac).ok()).collect()
}
