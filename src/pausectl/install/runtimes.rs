//! The container runtimes of this host, and the plugins that they need in their folder whatever the network.

use std::path::Path;

use clap::ValueEnum;

use super::DIR;
use pausenet::cni::Plugin;
use pausenet_host::install::managed_folder::ManagedFolder;

/// A container runtime that runs CNI plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Runtime {
    Containerd,
    #[value(name = "cri-o")]
    CriO,
    Nerdctl,
}

impl Runtime {
    const ALL: [Self; 3] = [Self::Containerd, Self::CriO, Self::Nerdctl];

    /// Plugins of ours that it calls by these names: `loopback` for each sandbox; without it no sandbox
    /// starts. The others are those of the networks that nerdctl makes itself.
    fn needs(self) -> &'static [Plugin] {
        match self {
            Self::Containerd | Self::CriO => &[Plugin::Loopback],
            Self::Nerdctl => &[
                Plugin::Loopback,
                Plugin::Bridge,
                Plugin::HostLocal,
                Plugin::Portmap,
                Plugin::Firewall,
                Plugin::Tuning,
            ],
        }
    }

    fn sockets(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &[
                "/run/containerd/containerd.sock",
                "/run/k3s/containerd/containerd.sock",
            ],
            Self::CriO => &["/run/crio/crio.sock"],
            Self::Nerdctl => &[],
        }
    }

    /// Its program, and the folder of its configuration.
    fn places(self) -> (&'static str, &'static str) {
        match self {
            Self::Containerd => ("containerd", "/etc/containerd"),
            Self::CriO => ("crio", "/etc/crio"),
            Self::Nerdctl => ("nerdctl", "/etc/nerdctl"),
        }
    }

    /// Whether it runs here, or is installed and uses the default folder.
    fn is_here(self, dir: &Path) -> bool {
        let is_running = || {
            self.sockets()
                .iter()
                .any(|socket| Path::new(socket).exists())
        };
        let is_installed = || {
            let (program, conf) = self.places();
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut folders = std::env::split_paths(&path);
            Path::new(conf).is_dir() || folders.any(|folder| folder.join(program).is_file())
        };
        is_running() || dir == Path::new(DIR) && is_installed()
    }
}

/// The plugins that runtimes need and the folder does not have: all that `asked` ones call, and `loopback`
/// for those that are found on this host.
pub(super) fn needed(asked: &[Runtime], place: &ManagedFolder, dir: &Path) -> Vec<Plugin> {
    let runtimes = asked.iter();
    let mut needed: Vec<Plugin> = runtimes
        .flat_map(|runtime| runtime.needs())
        .copied()
        .collect();
    if Runtime::ALL.iter().any(|runtime| runtime.is_here(dir)) {
        needed.push(Plugin::Loopback);
    }
    needed.retain(|plugin| place.path(plugin.name()).symlink_metadata().is_err());
    needed
}
