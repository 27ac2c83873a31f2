//! The part of a config that says how containers are wired, by the rules of each plugin.

use super::bandwidth::Bandwidth;
use super::config::LinkKeys;
use super::error::Result;
use super::json::Json;
use super::link::{Firewall, LinkConf, Mode, link, mtu};
use super::plugin::Plugin;
use super::ports::PortsConf;

/// The validated settings of the link and its features.
#[derive(Default)]
pub(super) struct Wiring {
    pub(super) link: Option<LinkConf>,
    pub(super) mtu: Option<u32>,
    pub(super) masquerade: bool,
    pub(super) firewall: Firewall,
    pub(super) ports: Option<PortsConf>,
    pub(super) bandwidth: Option<Bandwidth>,
}

impl Wiring {
    pub(super) fn read(plugin: Plugin, config: &Json, has_ipam: bool) -> Result<Self> {
        let mut wiring = Self::default();
        match plugin {
            Plugin::Pausenet => wiring.read_link(config, None, has_ipam)?,
            Plugin::Bridge => wiring.read_link(config, Some(Mode::Bridge), has_ipam)?,
            Plugin::Ptp => wiring.read_link(config, Some(Mode::Ptp), has_ipam)?,
            Plugin::HostLocal | Plugin::Loopback | Plugin::Portmap => {}
        }
        if maps_ports(plugin) {
            wiring.ports = PortsConf::new(config)?;
        }
        match plugin {
            Plugin::Pausenet => {
                wiring.firewall = Firewall::new(config)?;
                wiring.bandwidth =
                    Bandwidth::new(&config.read_part(&["runtimeConfig", "bandwidth"])?)?;
            }
            // These are the tasks of the chained plugins firewall and bandwidth.
            Plugin::Bridge
            | Plugin::Ptp
            | Plugin::HostLocal
            | Plugin::Loopback
            | Plugin::Portmap => {}
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
        Plugin::Bridge | Plugin::Ptp => false,
    }
}
