//! Options shared by several commands.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Stop, patience, say_waiting, waiting};
use crate::docker_api::{Docker, Slow, Socket};
use pausenet_host::Error;
use pausenet_host::runtime::Runtime;
use pausenet_host::runtime::conflist::NetworkList;

/// The default folder of network configurations.
pub(crate) const CONF_DIR: &str = "/etc/pausenet/net.d";

/// The folder of the runtimes' configurations.
pub(crate) const RUNTIME_CONF_DIR: &str = "/etc/cni/net.d";

/// Selects the network.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkOptions {
    /// The network's configuration: a conflist, or a single plugin's config
    #[arg(long, value_name = "FILE", conflicts_with = "networks")]
    pub(crate) conf: Option<PathBuf>,

    /// The network's name, in the folder of configurations [default: the first file's network]; may
    /// be given several times
    #[arg(long = "network", value_name = "NAME")]
    pub(crate) networks: Vec<String>,

    /// The folder of configurations. Not /etc/cni/net.d, since a container runtime uses what is
    /// there for its own pods
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENET_CONF_DIR",
        default_value = CONF_DIR
    )]
    pub(crate) conf_dir: PathBuf,
}

impl NetworkOptions {
    /// The selected networks, or the first; at least one.
    pub(crate) fn load(&self) -> Result<Vec<NetworkList>, Error> {
        match (&self.conf, self.networks.as_slice()) {
            (Some(file), _) => Ok(vec![NetworkList::read(file)?]),
            (None, []) => Ok(vec![NetworkList::find(&self.conf_dir, None)?]),
            (None, names) => {
                let names = names.iter().map(String::as_str);
                names
                    .map(|name| NetworkList::find(&self.conf_dir, Some(name)))
                    .collect()
            }
        }
    }

    /// Whether the user selected any.
    pub(crate) fn is_given(&self) -> bool {
        self.conf.is_some() || !self.networks.is_empty()
    }
}

/// Where to find plugins, and how long they may run.
#[derive(Debug, clap::Args)]
pub(crate) struct PluginOptions {
    /// Folders of CNI plugins, separated by colons [default: the folder of pausectl,
    /// /opt/cni/bin, /usr/lib/cni]
    #[arg(long, value_name = "DIRS", env = "CNI_PATH")]
    cni_path: Option<OsString>,

    /// The longest time that each plugin may run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

impl PluginOptions {
    /// The runtime that these options describe.
    pub(crate) fn runtime(&self) -> Runtime {
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

/// Selects the Docker daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct DockerOptions {
    /// Docker's socket: PATH or unix://PATH
    #[arg(long, value_name = "SOCKET", env = "DOCKER_HOST", default_value = Socket::DEFAULT)]
    docker: String,
}

impl DockerOptions {
    /// # Errors
    /// Wrong usage, if it is not a socket's path.
    pub(crate) fn socket(&self) -> Result<Socket, Stop> {
        Socket::parse(&self.docker).map_err(|why| {
            let what = format!("--docker or DOCKER_HOST: {why}");
            Stop::Usage(Error::new(what))
        })
    }

    /// Why the address is of no use here although Docker's own tools can use it: it is another host's.
    pub(crate) fn is_remote(&self) -> Option<Error> {
        let why = Socket::parse(&self.docker).err()?;
        Socket::is_remote(&self.docker).then(|| {
            Error::new(format!(
                "going on without Docker: --docker or DOCKER_HOST: {why}"
            ))
        })
    }

    /// The daemon behind it.
    pub(crate) async fn connect(&self) -> Result<Docker, Stop> {
        let socket = self.socket()?;
        let what = || "Docker to answer".to_owned();
        let docker = waiting(what, Docker::connect(&socket)).await?;
        Ok(docker.telling(Slow {
            after: patience(),
            tell: say_waiting,
        }))
    }
}

/// The folder of the pausectl program.
pub(crate) fn own_folder() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
