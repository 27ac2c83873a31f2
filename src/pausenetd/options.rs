//! [`Options`]: the daemon's flags as typed, each with an environment variable. [`Settings`]: the part
//! that the pure code needs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use ipnetwork::IpNetwork;

use super::node::subnet;
use pausenet::cni::{NetworkName, Plugin};
use pausenet_host::{Error, Result};

const NOTES: &str = "\
It watches the cluster's Nodes (it only needs get, list and watch on them) and makes sure that
  - the plugins are in --bin-dir: pausenet, and those of --plugins that are missing;
  - there is a route to the pods of each other node (`ip route show proto 112`);
  - traffic from this node's pods to outside the cluster is masqueraded (`nft list table inet
    pausenetd`);
  - the network configuration is in --conf-dir. It is written last: the node is Ready from then on.

It checks all of this when a Node changes, when routes, links or nftables change, and every
--interval. It restores what another program removes, published ports of pods included. When it is
stopped or killed, everything stays in place and pods keep running; --uninstall removes it.

Examples:
  pausenetd --node-name \"$(hostname)\" --kubeconfig /etc/kubernetes/kubelet.conf
  pausenetd --cluster-cidr 10.244.0.0/16,fd00:10:244::/56
  pausenetd --uninstall
  curl http://127.0.0.1:9112/metrics

Signals: SIGTERM and SIGINT stop it. Exit status: 0 when stopped, 1 on failure, 2 on wrong usage.";

/// Sets up the network of a Kubernetes node: CNI configuration, routes to other nodes, masquerade
#[derive(Debug, Clone, Parser)]
#[command(name = "pausenetd", version, after_help = NOTES)]
pub struct Options {
    /// The name of this node's Node object [default: the host name]
    #[arg(long, value_name = "NAME", env = "PAUSENETD_NODE_NAME")]
    pub(crate) node_name: Option<String>,

    /// The kubeconfig for the API server [default: the files of KUBECONFIG, merged as kubectl does;
    /// or else the service account of the pod]
    #[arg(long, value_name = "FILE", env = "PAUSENETD_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current-context]
    #[arg(long, value_name = "NAME", env = "PAUSENETD_CONTEXT")]
    pub(crate) context: Option<String>,

    /// The URL of the API server, in place of the one from the kubeconfig or the cluster. It
    /// must be reachable without Services, which may not work yet
    #[arg(long, value_name = "URL", env = "PAUSENETD_API_SERVER")]
    pub(crate) api_server: Option<String>,

    /// The cluster's subnets: traffic from pods to them is not masqueraded. The podCIDRs of all Nodes
    /// are included anyway; listing them here covers Nodes not seen yet
    #[arg(long, value_name = "CIDRS", env = "PAUSENETD_CLUSTER_CIDR", default_value = "", hide_default_value = true, value_parser = parse_subnets)]
    pub(crate) cluster_cidr: Subnets,

    /// More subnets to exempt from masquerade: they need routes back to the pods
    #[arg(long, value_name = "CIDRS", env = "PAUSENETD_MASQUERADE_EXCEPT", default_value = "", hide_default_value = true, value_parser = parse_subnets)]
    pub(crate) masquerade_except: Subnets,

    /// Masquerade traffic that leaves the cluster: it gets the node's address
    #[arg(long, value_name = "BOOL", env = "PAUSENETD_MASQUERADE",
        default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) masquerade: bool,

    /// How to attach pods: a routed link for each (ptp), or a bridge
    #[arg(long, env = "PAUSENETD_MODE", value_enum, default_value_t)]
    pub(crate) mode: Mode,

    /// The MTU of pods in bytes [default: the MTU of the link with the node's address]
    #[arg(long, value_name = "BYTES", env = "PAUSENETD_MTU",
        value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub(crate) mtu: Option<u32>,

    /// The name of the network
    #[arg(long, value_name = "NAME", env = "PAUSENETD_NETWORK", default_value = "pausenet",
        value_parser = parse_network)]
    pub(crate) network: NetworkName,

    /// The folder where container runtimes look for network configurations
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_CONF_DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub(crate) conf_dir: PathBuf,

    /// The file name of the network configuration; runtimes take the first file by name
    #[arg(long, value_name = "FILE", env = "PAUSENETD_CONF_NAME",
        default_value = "10-pausenet.conflist", value_parser = parse_conf_name)]
    pub(crate) conf_name: String,

    /// The folder where container runtimes look for plugins
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_BIN_DIR",
        default_value = "/opt/cni/bin"
    )]
    pub(crate) bin_dir: PathBuf,

    /// The plugin to install [default: the file pausenet beside pausenetd]
    #[arg(long, value_name = "FILE", env = "PAUSENETD_PLUGIN")]
    pub(crate) plugin: Option<PathBuf>,

    /// Also install it under these names of reference plugins, where they are missing
    #[arg(
        long,
        value_name = "NAMES",
        env = "PAUSENETD_PLUGINS",
        value_parser = PossibleValuesParser::new(Plugin::of_the_reference().map(Plugin::name))
            .try_map(|name| name.parse::<Plugin>()),
        value_delimiter = ',',
        default_value = "loopback,portmap"
    )]
    pub(crate) plugins: Vec<Plugin>,

    /// Also replace other plugins that have these names. They are kept, and --uninstall restores them
    #[arg(long, value_name = "BOOL", env = "PAUSENETD_REPLACE_PLUGINS",
        default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        action = clap::ArgAction::Set)]
    pub(crate) replace_plugins: bool,

    /// The store of addresses in use. It may be lost on reboot, because no pod survives one
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_STORE_DIR",
        default_value = "/run/pausenet/ipam"
    )]
    pub(crate) store_dir: PathBuf,

    /// The address that serves /healthz, /readyz and /metrics
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "PAUSENETD_LISTEN",
        default_value = "127.0.0.1:9112"
    )]
    pub(crate) listen: SocketAddr,

    /// The time between full passes when nothing is known to have changed, in seconds
    #[arg(long, value_name = "SECONDS", env = "PAUSENETD_INTERVAL", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,

    /// How long a watch of the Nodes lasts before the next one, in seconds. A connection that died without
    /// a word is noticed a quarter later
    #[arg(long, value_name = "SECONDS", env = "PAUSENETD_WATCH_TIME", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=280))]
    pub(crate) watch_time: u64,

    /// What to log: LEVEL, or a list of TARGET=LEVEL with commas between
    #[arg(
        long,
        value_name = "FILTER",
        env = "PAUSENETD_LOG",
        default_value = "info,kube=off"
    )]
    pub(crate) log: String,

    /// The format of log lines
    #[arg(long, env = "PAUSENETD_LOG_FORMAT", value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,

    /// Remove everything pausenetd made on this node, once no pod needs it, and exit
    #[arg(long, env = "PAUSENETD_UNINSTALL")]
    pub(crate) uninstall: bool,

    /// How long --uninstall waits for the pods on this node to go, in seconds
    #[arg(long, value_name = "SECONDS", env = "PAUSENETD_UNINSTALL_WAIT", default_value_t = 240,
        value_parser = clap::value_parser!(u64).range(0..=86400))]
    pub(crate) uninstall_wait: u64,
}

/// How pods are attached.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    #[default]
    Ptp,
    Bridge,
}

/// The format of log lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A list of subnets. Empty text is an empty list: a manifest may set a variable to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subnets(Vec<IpNetwork>);

fn parse_subnets(text: &str) -> Result<Subnets, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let parse = |part: &str| {
        subnet(part).ok_or_else(|| {
            format!(
                "{part:?} is not a subnet like 10.244.0.0/16, without bits set after the prefix"
            )
        })
    };
    parts.map(parse).collect::<Result<_, _>>().map(Subnets)
}

fn parse_network(text: &str) -> Result<NetworkName, String> {
    NetworkName::parse(text).map_err(|err| err.to_string())
}

fn parse_conf_name(text: &str) -> Result<String, String> {
    let plain = !text.starts_with('.') && !text.contains('/') && text.ends_with(".conflist");
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| "it must be a file name like 10-pausenet.conflist".to_owned())
}

/// The options that the pure code depends on.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) network: NetworkName,
    pub(crate) mode: Mode,
    pub(crate) mtu: Option<u32>,
    pub(crate) store_dir: PathBuf,
    /// Destinations that are not masqueraded, in addition to the podCIDRs of all Nodes.
    pub(crate) masquerade_exempt: Vec<IpNetwork>,
    pub(crate) masquerade: bool,
}

impl Options {
    /// The settings these options stand for.
    pub fn settings(&self) -> Settings {
        let exempt = self.cluster_cidr.0.iter().chain(&self.masquerade_except.0);
        Settings {
            network: self.network.clone(),
            mode: self.mode,
            mtu: self.mtu,
            store_dir: self.store_dir.clone(),
            masquerade_exempt: exempt.copied().collect(),
            masquerade: self.masquerade,
        }
    }

    /// Checks what clap cannot check, and fills in the node's name.
    ///
    /// # Errors
    /// A flag has an invalid value; the message names it.
    pub fn complete(mut self) -> Result<Self> {
        if self.node_name.as_deref().unwrap_or_default().is_empty() {
            self.node_name = Some(host_name()?);
        }
        // An empty variable in a manifest counts as unset.
        for path in [&mut self.kubeconfig, &mut self.plugin] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        self.context = self.context.filter(|name| !name.is_empty());
        self.api_server = self.api_server.filter(|url| !url.is_empty());
        for (flag, path) in [
            ("--conf-dir", &self.conf_dir),
            ("--bin-dir", &self.bin_dir),
            ("--store-dir", &self.store_dir),
        ] {
            if !path.is_absolute() {
                let msg = format!("{flag} {}: it must start with /", path.display());
                return Err(Error::new(msg)
                    .hint("the runtime calls the plugin from another folder than this one"));
            }
        }
        if self.conf_dir == self.bin_dir {
            return Err(Error::new(
                "--conf-dir and --bin-dir must be different folders",
            ));
        }
        Ok(self)
    }

    /// The node's name; empty before [`Self::complete`].
    pub(crate) fn node_name(&self) -> &str {
        self.node_name.as_deref().unwrap_or_default()
    }

    /// How long a watch of the Nodes lasts.
    pub(crate) fn watch_time(&self) -> Duration {
        Duration::from_secs(self.watch_time)
    }

    /// How long to wait for pods before an uninstall.
    pub(crate) fn uninstall_wait(&self) -> Duration {
        Duration::from_secs(self.uninstall_wait)
    }

    /// The time between full passes.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }
}

/// The name that kubelet gives its Node by default: the host name in lower case.
fn host_name() -> Result<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().trim().to_lowercase();
    if name.is_empty() {
        return Err(
            Error::new("this host has no name to find its Node by").hint("set --node-name NAME")
        );
    }
    Ok(name)
}

/// An address that cannot be a next hop to another node.
pub(crate) fn is_unusable_as_gateway(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("pausenetd").chain(args.iter().copied()))
    }

    #[test]
    fn every_flag_has_an_environment_variable_named_like_it() {
        Options::command().debug_assert();
        let command = Options::command();
        let mut count = 0;
        for arg in command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
        {
            let flag = arg.get_long().unwrap();
            if ["help", "version"].contains(&flag) {
                continue;
            }
            let name = format!("PAUSENETD_{}", flag.replace('-', "_").to_uppercase());
            let env = arg.get_env().and_then(|env| env.to_str());
            assert_eq!(env, Some(name.as_str()), "--{flag}");
            count += 1;
        }
        assert!(count > 15);
    }

    #[test]
    fn subnets_are_a_list() {
        let options = parse(&["--cluster-cidr", "10.244.0.0/16, fd00::/56"]).unwrap();
        assert_eq!(options.cluster_cidr.0.len(), 2);
        assert_eq!(parse(&["--cluster-cidr", ""]).unwrap().cluster_cidr.0, []);
        for bad in ["10.244.0.1/16", "10.244.0.0", "x"] {
            assert!(parse(&["--cluster-cidr", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        assert!(parse(&["--conf-name", "../x.conflist"]).is_err());
        assert!(parse(&["--conf-name", "x.json"]).is_err());
        assert!(parse(&["--mtu", "500"]).is_err());
        for relative in [
            ["--bin-dir", "x"],
            ["--store-dir", "x"],
            ["--conf-dir", "x"],
        ] {
            let err = parse(&relative).unwrap().complete().unwrap_err();
            assert!(err.message.contains(relative[0]), "{err}");
        }
        let same = parse(&["--bin-dir", "/x", "--conf-dir", "/x"]).unwrap();
        assert!(same.complete().is_err());
    }

    #[test]
    fn the_node_name_defaults_to_the_host_name() {
        let options = parse(&["--node-name", ""]).unwrap().complete().unwrap();
        assert!(!options.node_name().is_empty());
        let named = parse(&["--node-name", "a"]).unwrap().complete().unwrap();
        assert_eq!(named.node_name(), "a");
    }
}
