//! The plugins that the binary is, by name: a config's `type`, and what the file is called.

use std::ffi::OsStr;
use std::path::Path;
use std::str::FromStr;

macro_rules! plugins {
    ($($(#[$doc:meta])* $plugin:ident = $name:literal,)*) => {
        /// Which plugin the binary is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plugin {
            $($(#[$doc])* $plugin,)*
        }

        impl Plugin {
            /// All of them; [`Plugin::Pausenet`] first.
            pub const ALL: &'static [Self] = &[$(Self::$plugin,)*];

            /// The plugin's name: its `type` in a config, and the file name that makes the binary
            /// this plugin.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$plugin => $name,)*
                }
            }
        }
    };
}

plugins! {
    /// Link, addresses, masquerade, ports and bandwidth from one config.
    Pausenet = "pausenet",
    /// The reference's of these names, one task each.
    Bridge = "bridge",
    Ptp = "ptp",
    HostLocal = "host-local",
    Loopback = "loopback",
    Portmap = "portmap",
}

impl Plugin {
    /// The plugin of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|plugin| plugin.name() == name)
    }

    /// The plugin that a program (`argv[0]`) is: any file name that is not one of the reference's
    /// means pausenet.
    pub fn called(program: &OsStr) -> Self {
        Path::new(program)
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(Self::named)
            .unwrap_or(Self::Pausenet)
    }

    /// Those of the reference, whose place the binary takes under their names.
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
