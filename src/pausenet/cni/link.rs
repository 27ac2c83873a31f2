//! The validated link of a config: a bridge port or a routed link.

use std::fmt::Display;

use super::config::{FirewallKeys, LinkKeys, check_backend};
use super::error::{Code, Error, Result, invalid};
use super::json::Json;
use super::names::IfName;

/// How the container is connected to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkConf {
    /// As a port of a bridge.
    Bridge(BridgeConf),
    /// By its own routed link.
    Ptp,
}

impl LinkConf {
    /// The bridge, in mode `bridge`.
    pub fn bridge(&self) -> Option<&BridgeConf> {
        match self {
            Self::Bridge(conf) => Some(conf),
            Self::Ptp => None,
        }
    }

    /// Whether frames with a forged source MAC are dropped.
    pub(crate) fn checks_macs(&self) -> bool {
        match self {
            Self::Bridge(conf) => conf.mac_spoof_check,
            Self::Ptp => false,
        }
    }

    /// Whether the container's interface stays switched off.
    pub(crate) fn leaves_down(&self) -> bool {
        match self {
            Self::Bridge(conf) => conf.leave_down,
            Self::Ptp => false,
        }
    }
}

/// The link of mode `bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConf {
    pub name: IfName,
    pub gateway: GatewayRole,
    /// Replace an address on the bridge that conflicts with the gateway's.
    pub force_address: bool,
    pub frames: FrameMode,
    pub isolation: PortIsolation,
    /// Drop frames from the container with another source MAC than its own.
    pub mac_spoof_check: bool,
    /// Leave the container's interface switched off.
    pub leave_down: bool,
    /// The kernel checks IPv6 addresses for duplicates before it uses them.
    pub detect_duplicates: bool,
    pub vlans: Option<VlanConf>,
}

impl BridgeConf {
    /// True when the port may send frames back where they came from.
    pub fn hairpin(&self) -> bool {
        self.frames == FrameMode::Hairpin
    }
}

/// How to handle other firewalls of the host, such as Docker's, that drop forwarded packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// Add rules that accept the network's traffic, where the firewall has a place for them.
    Auto,
    /// Do nothing.
    #[default]
    Off,
}

impl Firewall {
    /// Reads the config's key `firewall`.
    ///
    /// # Errors
    /// Code 6 when it is not a string, 7 for an unknown value.
    pub(super) fn new(config: &Json) -> Result<Self> {
        let keys: FirewallKeys = config.read()?;
        match keys.firewall.as_str() {
            "" | "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            other => Err(invalid(format!("firewall {other:?} is unknown"))
                .hint("known: auto, which is also the default, and off")),
        }
    }
}

/// Whether bridge ports reach one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortIsolation {
    Open,
    Isolated,
}

/// The VLANs of a bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanConf {
    /// The VLAN for untagged frames.
    pub(crate) own: Option<u16>,
    /// The tagged VLANs, ascending.
    pub(crate) trunk: Vec<u16>,
    /// Whether the port also stays in the bridge's default VLAN.
    pub(crate) keep_default: bool,
}

/// What the bridge does besides switching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum GatewayRole {
    /// Nothing else.
    None,
    /// The bridge has the gateway's address, and the host forwards.
    Gateway,
    /// The same, and containers get a default route through it.
    DefaultGateway,
}

/// How a frame gets back to the container that sent it. The two ways exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameMode {
    Plain,
    Hairpin,
    Promiscuous,
}

/// The kernel's smallest and largest MTU for a veth (ETH_MIN_MTU, ETH_MAX_MTU).
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

/// How containers are connected to the host: the config's `mode`, or the name of the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Bridge,
    Ptp,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Bridge, Self::Ptp];

    /// The mode's name in a config.
    fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Bridge);
        }
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::new(
                Code::UnsupportedField,
                format!("mode {text:?} is not supported"),
            )
            .hint(format!("known: {known}; the default is bridge"))
        })
    }
}

/// Validates the keys of the link. `fixed` is the mode of a plugin that has only one; otherwise the
/// config decides.
///
/// # Errors
/// Codes 2 and 7, naming the field and its value.
pub(crate) fn link(conf: &LinkKeys, fixed: Option<Mode>, has_ipam: bool) -> Result<LinkConf> {
    check_backend("ipMasqBackend", conf.ip_masq_backend.as_deref())?;
    let mode = match fixed {
        Some(mode) => mode,
        None => Mode::parse(&conf.mode)?,
    };
    match mode {
        Mode::Bridge => bridge(conf, has_ipam).map(LinkConf::Bridge),
        Mode::Ptp => Ok(LinkConf::Ptp),
    }
}

/// The MTU of both ends; None leaves it to the kernel, as zero and less do in the reference.
///
/// # Errors
/// Code 7 when it is out of a veth's range.
pub(super) fn mtu(conf: &LinkKeys) -> Result<Option<u32>> {
    match u32::try_from(conf.mtu) {
        _ if conf.mtu <= 0 => Ok(None),
        Ok(mtu) if MTU.contains(&mtu) => Ok(Some(mtu)),
        _ => Err(invalid(format!(
            "mtu {} is outside {} to {}",
            conf.mtu,
            MTU.start(),
            MTU.end()
        ))),
    }
}

fn bridge(conf: &LinkKeys, has_ipam: bool) -> Result<BridgeConf> {
    let name = match conf.bridge.as_str() {
        "" => "cni0",
        name => name,
    };
    let name = IfName::parse(name).map_err(|why| invalid(format!("bridge: {why}")))?;
    let frames = match (conf.hairpin_mode, conf.promisc_mode) {
        (false, false) => FrameMode::Plain,
        (true, false) => FrameMode::Hairpin,
        (false, true) => FrameMode::Promiscuous,
        (true, true) => {
            return Err(invalid("hairpinMode and promiscMode are both true").hint("set only one"));
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
                .hint("an address on an interface that is down is useless"),
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
    let own = match conf.vlan {
        0 => None,
        vlan => Some(vlan_id(&"vlan", vlan)?),
    };
    Ok(Some(VlanConf {
        own,
        trunk: trunk(conf)?,
        keep_default: conf.preserve_default_vlan,
    })
    .filter(|vlans| vlans.own.is_some() || !vlans.trunk.is_empty()))
}

fn vlan_id(key: &dyn Display, id: i64) -> Result<u16> {
    let valid = u16::try_from(id).ok().filter(|id| (1..=4094).contains(id));
    valid.ok_or_else(|| invalid(format!("{key}: {id} is outside 1 to 4094")))
}

/// The VLANs of `vlanTrunk`, each once, in their order.
fn trunk(conf: &LinkKeys) -> Result<Vec<u16>> {
    if conf.vlan_trunk.is_empty() {
        return Ok(Vec::new());
    }
    // An entry may have thousands, and there may be thousands of entries.
    let mut carried = vec![false; 4095];
    for (at, entry) in conf.vlan_trunk.iter().enumerate() {
        if let Some(single) = entry.id {
            carried[usize::from(vlan_id(&format_args!("vlanTrunk[{at}].id"), single)?)] = true;
        }
        match (entry.min_id, entry.max_id) {
            (None, None) => {}
            (Some(min), Some(max)) => {
                let (min, max) = (
                    vlan_id(&format_args!("vlanTrunk[{at}].minID"), min)?,
                    vlan_id(&format_args!("vlanTrunk[{at}].maxID"), max)?,
                );
                if max < min {
                    return Err(invalid(format!(
                        "vlanTrunk[{at}].minID: {min} is greater than maxID {max}"
                    )));
                }
                carried[usize::from(min)..=usize::from(max)].fill(true);
            }
            (Some(_), None) => return Err(invalid(format!("vlanTrunk[{at}].maxID: missing"))),
            (None, Some(_)) => return Err(invalid(format!("vlanTrunk[{at}].minID: missing"))),
        }
    }
    Ok((1..=4094).filter(|id| carried[usize::from(*id)]).collect())
}
