//! Options that several commands share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Stop;
use crate::docker_api::{Docker, Socket};
use pausenet_host::Error;
use pausenet_host::runtime::Runtime;
use pausenet_host::runtime::conflist::NetworkList;

/// Where networks are looked for.
pub const CONF_DIR: &str = "/etc/pausenet/net.d";

/// ContainerFilter network is meant.
#[derive(Debug, clap::Args)]
pub struct NetworkOptions {
    /// The network's configuration: a conflist, or the config of a single plugin
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    pub conf: Option<PathBuf>,

    /// A network by name, from the folder of configurations; without it, the first file there
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,

    /// The folder of configurations. Not /etc/cni/net.d: what lies there may become the
    /// network of a container runtime's pods
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENET_CONF_DIR",
        default_value = CONF_DIR
    )]
    pub conf_dir: PathBuf,
}

impl NetworkOptions {
    /// The network that was named, or the first.
    ///
    /// # Errors
    /// An error that names the file or the folder.
    pub fn load(&self) -> Result<NetworkList, Error> {
        match &self.conf {
            Some(file) => NetworkList::read(file),
            None => NetworkList::find(&self.conf_dir, self.network.as_deref()),
        }
    }
}

/// How plugins are found and run.
#[derive(Debug, clap::Args)]
pub struct PluginOptions {
    /// Folders of CNI plugins, with colons between them; by default that of pausectl itself,
    /// then /opt/cni/bin and /usr/lib/cni
    #[arg(long, value_name = "DIRS", env = "CNI_PATH")]
    pub cni_path: Option<OsString>,

    /// How long each plugin may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
}

impl PluginOptions {
    /// The runtime that these options describe.
    pub fn runtime(&self) -> Runtime {
        let path = match &self.cni_path {
            Some(path) if !path.is_empty() => std::env::split_paths(path).collect(),
            _ => own_folder()
                .into_iter()
                .chain(["/opt/cni/bin".into(), "/usr/lib/cni".into()])
                .collect(),
        };
        Runtime {
            path,
            limit: Duration::from_secs(self.timeout),
        }
    }
}

/// Where Docker is.
#[derive(Debug, clap::Args)]
pub struct DockerOptions {
    /// Docker's socket: a path, or unix:// and the path
    #[arg(long, value_name = "SOCKET", env = "DOCKER_HOST", default_value = Socket::DEFAULT)]
    pub docker: String,
}

impl DockerOptions {
    /// The socket that was named.
    ///
    /// # Errors
    /// Wrong usage, when it is none.
    pub fn socket(&self) -> Result<Socket, Stop> {
        Socket::parse(&self.docker).map_err(|why| {
            let what = format!("--docker, or DOCKER_HOST: {why}");
            Stop::Usage(Error::new(what))
        })
    }

    /// The daemon behind it.
    ///
    /// # Errors
    /// Without one, or when it may not be spoken to.
    pub async fn connect(&self) -> Result<Docker, Stop> {
        Ok(Docker::connect(&self.socket()?).await?)
    }
}

/// The folder that pausectl lies in.
pub fn own_folder() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// A path for a message.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
