//! The part of a config that says how containers are wired, by the rules of each plugin.

use super::bandwidth::{Bandwidth, Shaped};
use super::config::LinkKeys;
use super::error::Result;
use super::firewall::FirewallConf;
use super::json::Json;
use super::link::{Firewall, LinkConf, Mode, link, mtu};
use super::plugin::Plugin;
use super::ports::PortsConf;
use super::tuning::Tuning;

/// The validated settings of the link and its features.
#[derive(Default)]
pub(super) struct Wiring {
    pub(super) link: Option<LinkConf>,
    pub(super) mtu: Option<u32>,
    pub(super) masquerade: bool,
    pub(super) firewall: Firewall,
    pub(super) ports: Option<PortsConf>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) chained: Chained,
}

/// The settings of a plugin that is chained behind the one that makes the interface.
#[derive(Debug, Clone, Default)]
pub(crate) enum Chained {
    Bandwidth(Shaped),
    Firewall(FirewallConf),
    Tuning(Tuning),
    /// Another plugin, or one whose settings are those of the link too.
    #[default]
    Other,
}

impl Wiring {
    pub(super) fn read(plugin: Plugin, config: &Json, has_ipam: bool) -> Result<Self> {
        let mut wiring = Self::default();
        match plugin {
            Plugin::Pausenet => wiring.read_link(config, None, has_ipam)?,
            Plugin::Bridge => wiring.read_link(config, Some(Mode::Bridge), has_ipam)?,
            Plugin::Ptp => wiring.read_link(config, Some(Mode::Ptp), has_ipam)?,
            Plugin::Firewall => wiring.chained = Chained::Firewall(FirewallConf::new(config)?),
            Plugin::Tuning => wiring.chained = Chained::Tuning(Tuning::new(config)?),
            Plugin::Bandwidth => {
                wiring.bandwidth = Bandwidth::of_plugin(config)?;
                wiring.chained = Chained::Bandwidth(Shaped::new(config)?);
            }
            Plugin::HostLocal | Plugin::Loopback | Plugin::Portmap => {}
        }
        if maps_ports(plugin) {
            wiring.ports = PortsConf::new(config)?;
        }
        // After bridge and ptp, these are the tasks of the chained plugins.
        if plugin == Plugin::Pausenet {
            wiring.firewall = Firewall::new(config)?;
            wiring.bandwidth = Bandwidth::of_runtime(config)?;
        }
        Ok(wiring)
    }

    fn read_link(&mut self, config: &Json, fixed: Option<Mode>, has_ipam: bool) -> Result<()> {
        let keys: LinkKeys = config.read()?;
        self.link = Some(link(&keys, fixed, has_ipam)?);
        self.mtu = mtu(&keys)?;
        self.masquerade = keys.ip_masq;
        Ok(())
    }
}

/// Whether this plugin handles the port mappings in a config. After bridge and ptp, portmap does,
/// as in the reference.
pub(super) fn maps_ports(plugin: Plugin) -> bool {
    match plugin {
        Plugin::Pausenet | Plugin::HostLocal | Plugin::Loopback | Plugin::Portmap => true,
        Plugin::Bridge | Plugin::Ptp | Plugin::Firewall | Plugin::Bandwidth | Plugin::Tuning => {
            false
        }
    }
}
