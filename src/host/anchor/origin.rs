//! Which program created an interface of a container, as far as is known.

use serde_json::Value;

use super::cgroup::{Engine, is_hex};
use super::container::Container;
use super::interfaces::Interface;
use pausenet::cni::{MacAddr, NetworkName};
use pausenet::kernel::netns::NetnsId;
use pausenet::plan::attachment_of_host_end;

/// The program that created an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Our plugin, according to the host end's alias.
    Pausenet {
        network: NetworkName,
    },
    /// Other plugins, according to a runtime's result cache.
    Cni {
        network: String,
        plugins: Vec<String>,
    },
    /// Docker, according to Docker itself, or because the bridge has a name in Docker's form; the
    /// network is unknown then.
    Docker {
        network: Option<String>,
    },
    /// Podman's netavark, because a container of podman has it and the bridge a name in podman's
    /// form.
    Podman,
    Unknown,
}

/// An attachment in a runtime's result cache.
#[derive(Debug, Clone)]
pub(super) struct CachedAttachment {
    pub(super) network: String,
    pub(super) plugins: Vec<String>,
    pub(super) container: String,
    pub(super) ifname: String,
    /// The namespace it was made in, if that still exists.
    pub(super) netns: Option<NetnsId>,
    pub(super) macs: Vec<MacAddr>,
}

impl Origin {
    /// Finds the origin of an interface in a namespace with these containers.
    pub(super) fn of<'a>(
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
        let has_one_of = |engine| containers.clone().any(|found| found.engine == Some(engine));
        match bridge {
            Some(bridge) if is_bridge_of_docker(bridge) && has_one_of(Engine::Docker) => {
                Self::Docker { network: None }
            }
            Some(bridge) if is_bridge_of_podman(bridge) && has_one_of(Engine::Podman) => {
                Self::Podman
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
            Self::Podman | Self::Unknown => None,
        }
    }

    /// Its name in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pausenet { .. } => "pausenet",
            Self::Cni { .. } => "cni",
            Self::Docker { .. } => "docker",
            Self::Podman => "podman",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether this is `docker0`, or `br-` and the start of a network ID.
fn is_bridge_of_docker(name: &str) -> bool {
    name == "docker0"
        || name
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && is_hex(id))
}

/// Whether this is `podman` and a number.
fn is_bridge_of_podman(name: &str) -> bool {
    let number = name.strip_prefix("podman").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

/// The MAC addresses in a CNI result of any version.
pub(super) fn macs(result: Option<&Value>) -> Vec<MacAddr> {
    let interfaces = result.and_then(|result| result["interfaces"].as_array());
    let macs = interfaces
        .into_iter()
        .flatten()
        .filter_map(|found| found["mac"].as_str());
    macs.filter_map(|mac| MacAddr::parse(mac).ok()).collect()
}
