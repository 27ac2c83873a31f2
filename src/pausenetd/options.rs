//! The daemon's flags, each with an environment variable, as they are typed; and [`Settings`]: what
//! they mean, checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ipnetwork::IpNetwork;

use super::node::subnet;
use pausenet::cni::error::invalid;
use pausenet::cni::{Error, NetworkName, Result};
use pausenet_host::install::Alias;

const NOTES: &str = "\
It watches the cluster's Nodes (get, list and watch are all that it may do there) and sees to it that
  - plugins are in --bin-dir: pausenet, and those of --plugins that are missing;
  - what this node's pods send to outside of the cluster is masqueraded (`nft list table inet
    pausenetd`);
  - there is a route to the pods of each other node (`ip route show proto 112`);
  - last, the network's configuration is in --conf-dir: the node is then ready for pods.

All of it is looked at again when a Node changes, when somebody changes routes, links or nftables,
and every --interval; what somebody removes of it is put back, and so are pods' ports. Stopped or
killed, it leaves everything in place, so that pods go on; --uninstall removes it.

Examples:
  pausenetd --node-name \"$(hostname)\" --kubeconfig /etc/kubernetes/kubelet.conf
  pausenetd --cluster-cidr 10.244.0.0/16,fd00:10:244::/56
  pausenetd --uninstall
  curl http://127.0.0.1:9112/metrics

Signals: SIGTERM and SIGINT stop it. Exit status: 0 when it was stopped, 1 for failure, 2 for wrong
usage.";

/// The network of a Kubernetes node: its conflist, the routes to other nodes, masquerade
#[derive(Debug, Clone, Parser)]
#[command(name = "pausenetd", version, after_help = NOTES)]
pub struct Options {
    /// This node's name in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME", env = "PAUSENETD_NODE_NAME")]
    pub node_name: Option<String>,

    /// How to reach the API server [default: as pods do]
    #[arg(long, value_name = "FILE", env = "PAUSENETD_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Another address of the API server than that file or the cluster tells; one that needs no
    /// Service, while nothing makes Services work yet
    #[arg(long, value_name = "URL", env = "PAUSENETD_API_SERVER")]
    pub api_server: Option<String>,

    /// Subnets of the cluster: what pods send there keeps its source address. Those of all Nodes'
    /// pods belong to them anyway; named here, there is no moment at which a new node's do not
    #[arg(long, value_name = "CIDRS", env = "PAUSENETD_CLUSTER_CIDR", default_value = "", hide_default_value = true, value_parser = parse_subnets)]
    pub cluster_cidr: Subnets,

    /// More subnets to which pods' source addresses are kept: where they are routed back to the
    /// nodes
    #[arg(long, value_name = "CIDRS", env = "PAUSENETD_MASQUERADE_EXCEPT", default_value = "", hide_default_value = true, value_parser = parse_subnets)]
    pub masquerade_except: Subnets,

    /// Whether what leaves the cluster gets the node's address
    #[arg(long, value_name = "BOOL", env = "PAUSENETD_MASQUERADE",
        default_value_t = true, action = clap::ArgAction::Set)]
    pub masquerade: bool,

    /// Routed links (ptp), or a bridge
    #[arg(long, env = "PAUSENETD_MODE", value_enum, default_value_t)]
    pub mode: Mode,

    /// The MTU of pods, in bytes [default: that of the link with the node's address]
    #[arg(long, value_name = "BYTES", env = "PAUSENETD_MTU",
        value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// The network's name
    #[arg(long, value_name = "NAME", env = "PAUSENETD_NETWORK", default_value = "pausenet",
        value_parser = parse_network)]
    pub network: NetworkName,

    /// Where container runtimes look for networks
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_CONF_DIR",
        default_value = "/etc/cni/net.d"
    )]
    pub conf_dir: PathBuf,

    /// The network's file there; runtimes take the first of all
    #[arg(long, value_name = "FILE", env = "PAUSENETD_CONF_NAME",
        default_value = "10-pausenet.conflist", value_parser = parse_conf_name)]
    pub conf_name: String,

    /// Where container runtimes look for plugins
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_BIN_DIR",
        default_value = "/opt/cni/bin"
    )]
    pub bin_dir: PathBuf,

    /// The plugin to put there [default: the pausenet beside pausenetd]
    #[arg(long, value_name = "FILE", env = "PAUSENETD_PLUGIN")]
    pub plugin: Option<PathBuf>,

    /// Names of other plugins that it is put there by too, where there is none of that name
    #[arg(
        long,
        value_name = "NAMES",
        env = "PAUSENETD_PLUGINS",
        value_enum,
        value_delimiter = ',',
        default_value = "loopback,portmap"
    )]
    pub plugins: Vec<Alias>,

    /// Put it in the place of somebody else's plugins of those names as well. They are kept, and
    /// come back with --uninstall
    #[arg(long, value_name = "BOOL", env = "PAUSENETD_REPLACE_PLUGINS",
        default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        action = clap::ArgAction::Set)]
    pub replace_plugins: bool,

    /// The store of addresses in use. Not kept over a reboot: no pod is either
    #[arg(
        long,
        value_name = "DIR",
        env = "PAUSENETD_STORE_DIR",
        default_value = "/run/pausenet/ipam"
    )]
    pub store_dir: PathBuf,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "PAUSENETD_LISTEN",
        default_value = "127.0.0.1:9112"
    )]
    pub listen: SocketAddr,

    /// How often everything is looked at though nothing is known to have changed, in seconds
    #[arg(long, value_name = "SECONDS", env = "PAUSENETD_INTERVAL", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,

    /// What is logged: LEVEL, or TARGET=LEVEL with commas between
    #[arg(
        long,
        value_name = "FILTER",
        env = "PAUSENETD_LOG",
        default_value = "info,kube=off"
    )]
    pub log: String,

    /// How log lines are written
    #[arg(long, env = "PAUSENETD_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Remove what it has made on this node, the network's configuration first, and end
    #[arg(long, env = "PAUSENETD_UNINSTALL")]
    pub uninstall: bool,
}

/// How pods are wired.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    #[default]
    Ptp,
    Bridge,
}

/// How log lines are written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: a JSON object a line.
    Json,
}

/// A list of subnets. Nothing is an empty one: a variable in a manifest may be set to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnets(pub Vec<IpNetwork>);

fn parse_subnets(text: &str) -> Result<Subnets, String> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let parse = |part: &str| {
        subnet(part).ok_or_else(|| {
            format!("{part:?} is no subnet like 10.244.0.0/16, with no bits set behind the prefix")
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
        .ok_or_else(|| "it has to be a file name like 10-pausenet.conflist".to_owned())
}

/// What the pure part needs to know of the options.
#[derive(Debug, Clone)]
pub struct Settings {
    pub network: NetworkName,
    pub mode: Mode,
    pub mtu: Option<u32>,
    pub store_dir: PathBuf,
    /// Where sources are kept, beside the subnets of pods.
    pub kept: Vec<IpNetwork>,
    pub masquerade: bool,
}

impl Options {
    /// The options as they are meant.
    pub fn settings(&self) -> Settings {
        let kept = self.cluster_cidr.0.iter().chain(&self.masquerade_except.0);
        Settings {
            network: self.network.clone(),
            mode: self.mode,
            mtu: self.mtu,
            store_dir: self.store_dir.clone(),
            kept: kept.copied().collect(),
            masquerade: self.masquerade,
        }
    }

    /// Checks what one flag alone cannot tell, and fills in the node's name.
    ///
    /// # Errors
    /// Code 7, naming the flag.
    pub fn complete(mut self) -> Result<Self> {
        if self.node_name.as_deref().unwrap_or_default().is_empty() {
            self.node_name = Some(own_name()?);
        }
        // An empty variable in a manifest means that there is none.
        for path in [&mut self.kubeconfig, &mut self.plugin] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        self.api_server = self.api_server.filter(|url| !url.is_empty());
        for (flag, path) in [
            ("--conf-dir", &self.conf_dir),
            ("--bin-dir", &self.bin_dir),
            ("--store-dir", &self.store_dir),
        ] {
            if !path.is_absolute() {
                let msg = format!("{flag} {}: it has to start with /", path.display());
                return Err(invalid(msg)
                    .hint("the runtime calls the plugin from another folder than this one"));
            }
        }
        if self.conf_dir == self.bin_dir {
            return Err(invalid("--conf-dir and --bin-dir are the same folder"));
        }
        Ok(self)
    }

    /// The node's name, once it is filled in.
    pub fn node_name(&self) -> &str {
        self.node_name.as_deref().unwrap_or_default()
    }

    /// The slow timer.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }
}

/// As kubelet names its node when it is told nothing: the host's name in lower case.
fn own_name() -> Result<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().trim().to_lowercase();
    if name.is_empty() {
        return Err(Error::new(
            pausenet::cni::Code::InvalidConfig,
            "this host has no name to look for among the Nodes",
        )
        .hint("--node-name NAME tells which Node it is"));
    }
    Ok(name)
}

/// An address that nobody can be reached at from another node.
pub fn is_unusable(ip: IpAddr) -> bool {
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
    fn what_cannot_be_meant_is_refused() {
        assert!(parse(&["--conf-name", "../x.conflist"]).is_err());
        assert!(parse(&["--conf-name", "x.json"]).is_err());
        assert!(parse(&["--mtu", "500"]).is_err());
        for relative in [
            ["--bin-dir", "x"],
            ["--store-dir", "x"],
            ["--conf-dir", "x"],
        ] {
            let err = parse(&relative).unwrap().complete().unwrap_err();
            assert!(err.msg.contains(relative[0]), "{err}");
        }
        let same = parse(&["--bin-dir", "/x", "--conf-dir", "/x"]).unwrap();
        assert!(same.complete().is_err());
    }

    #[test]
    fn the_host_s_name_is_the_node_s() {
        let options = parse(&["--node-name", ""]).unwrap().complete().unwrap();
        assert!(!options.node_name().is_empty());
        let named = parse(&["--node-name", "a"]).unwrap().complete().unwrap();
        assert_eq!(named.node_name(), "a");
    }
}
