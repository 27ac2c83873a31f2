//! The plugins that the binary can run as. The file name of the binary selects one; it is also the
//! `type` in a config.

use std::ffi::OsStr;
use std::path::Path;
use std::str::FromStr;

macro_rules! plugins {
    ($($(#[$doc:meta])* $plugin:ident = $name:literal,)*) => {
        /// The plugin that the binary runs as.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plugin {
            $($(#[$doc])* $plugin,)*
        }

        impl Plugin {
            /// All of them; [`Plugin::Pausenet`] first.
            pub const ALL: &'static [Self] = &[$(Self::$plugin,)*];

            /// The plugin's name: its `type` in a config and the file name of the binary.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$plugin => $name,)*
                }
            }
        }
    };
}

plugins! {
    /// Link, addresses, masquerade, ports and bandwidth in one config.
    Pausenet = "pausenet",
    /// Replacements for the reference's plugins of these names, one task each.
    Bridge = "bridge",
    Ptp = "ptp",
    HostLocal = "host-local",
    Loopback = "loopback",
    Portmap = "portmap",
    Firewall = "firewall",
    Bandwidth = "bandwidth",
    Tuning = "tuning",
}

impl Plugin {
    /// The plugin of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|plugin| plugin.name() == name)
    }

    /// The plugin selected by `argv[0]`. Any file name other than one of the reference's means
    /// pausenet.
    pub fn called(program: &OsStr) -> Self {
        Path::new(program)
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(Self::named)
            .unwrap_or(Self::Pausenet)
    }

    /// Whether it makes the container's interface. The others are chained behind one that does, or asked by one for
    /// addresses.
    pub fn is_wiring(self) -> bool {
        match self {
            Self::Pausenet | Self::Bridge | Self::Ptp => true,
            Self::HostLocal
            | Self::Loopback
            | Self::Portmap
            | Self::Firewall
            | Self::Bandwidth
            | Self::Tuning => false,
        }
    }

    /// The plugins of the reference that the binary replaces.
    pub fn of_the_reference() -> impl Iterator<Item = Self> {
        Self::ALL
            .iter()
            .copied()
            .filter(|plugin| *plugin != Self::Pausenet)
    }
}

impl FromStr for Plugin {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::named(name).ok_or_else(|| format!("plugin {name:?} is unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_it_is_called_by_decides() {
        for (name, plugin) in [
            ("/opt/cni/bin/bridge", Plugin::Bridge),
            ("host-local", Plugin::HostLocal),
            ("/x/pausenet", Plugin::Pausenet),
            ("/x/bridge2", Plugin::Pausenet),
            ("", Plugin::Pausenet),
        ] {
            assert_eq!(Plugin::called(OsStr::new(name)), plugin, "{name}");
        }
        for plugin in Plugin::of_the_reference() {
            assert_eq!(Plugin::called(OsStr::new(plugin.name())), plugin);
        }
    }
}
