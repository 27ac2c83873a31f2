//! A node with pods that one vendor's plugins wired, and all that can be seen of them: links, the
//! store, nftables, and traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pausenet::kernel::route::MAIN_TABLE;
use serde_json::{Value, json};

use crate::Peers;
use common::programs;
use common::traffic::bound;
use common::wait::wait_until;
use common::{Call, Container, NetState, STORES, World, ip, run, store_files, with};

/// An address of the host that pods reach by their default route alone.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Beyond the host: knows no way to the pods, so only masqueraded traffic comes back.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const MASQUERADED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SOON: Duration = Duration::from_secs(60);

/// What wires the pods, and with which rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wiring {
    /// `bridge` or `ptp`.
    pub(crate) plugin: &'static str,
    /// `nftables` or `iptables`.
    pub(crate) backend: &'static str,
}

/// Whose plugins are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Reference,
    Ours,
}

pub(crate) struct Node<'a> {
    pub(crate) world: World,
    pub peers: &'a Peers,
    /// Our binary under the reference's names.
    ours: tempfile::TempDir,
    pub(crate) wiring: Wiring,
    outside: TcpListener,
    /// A folder with nft and no iptables.
    nft_alone: tempfile::TempDir,
}

/// A pod, and what its runtime remembers of it.
pub(crate) struct Pod {
    pub(crate) network: &'static str,
    pub(crate) id: String,
    pub(crate) ifname: &'static str,
    pub(crate) netns: PathBuf,
    pub(crate) result: Value,
    pub(crate) ips: Vec<String>,
    pub(crate) host_end: String,
    host_port: u16,
    /// What runs in it. It holds the namespace, whatever becomes of its path.
    pub(crate) server: Option<TcpListener>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(peers: &'a Peers, wiring: Wiring) -> Self {
        let world = World::new();
        let ours = tempfile::tempdir().unwrap();
        for name in ["bridge", "ptp", "host-local", "portmap"] {
            let link = ours.path().join(name);
            std::os::unix::fs::symlink(programs::pausenet(), link).unwrap();
        }
        let nft_alone = tempfile::tempdir().unwrap();
        let nft = run("sh", ["-c", "command -v nft"]);
        std::os::unix::fs::symlink(nft.trim(), nft_alone.path().join("nft")).unwrap();
        ip(&format!("address add {HOST}/32 dev lo"));
        let outside = world.container("outside");
        ip("link add out0 type veth peer name eth0 netns outside");
        ip(&format!("address add {MASQUERADED}/24 dev out0"));
        ip("link set out0 up");
        outside.ip(&format!("address add {OUTSIDE}/24 dev eth0"));
        outside.ip("link set eth0 up");
        let outside = outside.enter(|| listen((OUTSIDE, 7000).into()));
        Self {
            world,
            peers,
            ours,
            wiring,
            outside,
            nft_alone,
        }
    }

    /// Wires a pod in a namespace of its own.
    pub(crate) fn wire(&self, vendor: Vendor, id: &str) -> Pod {
        let container = self.world.container(id);
        self.wire_into(vendor, &container, id, "podnet", "eth0")
    }

    /// Wires an interface of a container, with ports.
    pub(crate) fn wire_into(
        &self,
        vendor: Vendor,
        container: &Container,
        id: &str,
        network: &'static str,
        ifname: &'static str,
    ) -> Pod {
        let mut pod = Pod {
            network,
            id: id.to_owned(),
            ifname,
            netns: container.path.clone(),
            result: Value::Null,
            ips: Vec::new(),
            host_end: String::new(),
            host_port: 0,
            server: None,
        };
        pod.result = self.link_plugin(vendor, "ADD", &pod).run().ok();
        let addresses = pod.result["ips"].as_array().unwrap().iter();
        pod.ips = addresses
            .map(|ip| ip["address"].as_str().unwrap())
            .map(|address| address.split('/').next().unwrap().to_owned())
            .collect();
        let at = usize::from(self.wiring.plugin == "bridge");
        pod.host_end = pod.result["interfaces"][at]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let here: Ipv4Addr = pod.ips[0].parse().unwrap();
        let [_, subnet, _, last] = here.octets();
        pod.host_port = 8000 + 100 * u16::from(subnet) + u16::from(last);
        self.portmap(vendor, "ADD", &pod).run().ok();
        pod.server = Some(container.enter(|| listen((here, 80).into())));
        pod
    }

    /// A call of the plugin that wires the pod, as its runtime makes it: with the result.
    pub(crate) fn link_plugin(&self, vendor: Vendor, verb: &str, pod: &Pod) -> Call {
        self.call(
            vendor,
            self.wiring.plugin,
            verb,
            pod,
            &self.network(pod.network),
        )
    }

    /// A call of `portmap` for the pod.
    pub(crate) fn portmap(&self, vendor: Vendor, verb: &str, pod: &Pod) -> Call {
        let ports = json!({"runtimeConfig": {"portMappings": [
            {"hostPort": pod.host_port, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": pod.host_port, "containerPort": 53, "protocol": "udp", "hostIP": HOST},
        ]}});
        let config = with(self.ports(pod.network), ports);
        self.call(vendor, "portmap", verb, pod, &config)
    }

    fn call(&self, vendor: Vendor, plugin: &str, verb: &str, pod: &Pod, config: &Value) -> Call {
        let config = with(config.clone(), json!({"prevResult": pod.result}));
        let dir = match vendor {
            Vendor::Reference => self.peers.dir.as_path(),
            Vendor::Ours => self.ours.path(),
        };
        let call = Call::new(verb, &config)
            .program(dir.join(plugin))
            .id(&pod.id)
            .ifname(pod.ifname)
            .var("CNI_NETNS", pod.netns.as_os_str())
            .var("CNI_PATH", dir.as_os_str());
        match (vendor, self.wiring.backend) {
            (Vendor::Ours, _) => call,
            // On a node of today's that has no iptables. macspoofchk calls nft everywhere.
            (Vendor::Reference, "nftables") => call.var("PATH", self.nft_alone.path()),
            (Vendor::Reference, _) => call.var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        }
    }

    /// Both DELs of a pod in the runtime's order, each call after a change.
    #[track_caller]
    pub(crate) fn del(&self, vendor: Vendor, pod: &Pod, change: impl Fn(Call) -> Call) {
        change(self.portmap(vendor, "DEL", pod)).run().ok();
        change(self.link_plugin(vendor, "DEL", pod)).run().ok();
    }

    /// The same by a runtime that has forgotten the result.
    #[track_caller]
    pub(crate) fn del_without_result(&self, vendor: Vendor, pod: &Pod) {
        for (plugin, config) in [
            ("portmap", self.ports(pod.network)),
            (self.wiring.plugin, self.network(pod.network)),
        ] {
            self.call(vendor, plugin, "DEL", pod, &config)
                .stdin(config.to_string())
                .run()
                .ok();
        }
    }

    /// GC by our plugins, one after the other as in the conflist.
    #[track_caller]
    pub(crate) fn gc<'b>(&self, network: &'static str, valid: impl IntoIterator<Item = &'b Pod>) {
        let valid: Vec<_> = valid
            .into_iter()
            .map(|pod| json!({"containerID": pod.id, "ifname": pod.ifname}))
            .collect();
        let list = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
        for (plugin, config) in [
            (self.wiring.plugin, self.network(network)),
            ("portmap", self.ports(network)),
        ] {
            Call::new("GC", &with(config, list.clone()))
                .program(self.ours.path().join(plugin))
                .without("CNI_CONTAINERID")
                .without("CNI_IFNAME")
                .run()
                .ok();
        }
    }

    fn network(&self, name: &str) -> Value {
        let (bridge, subnet) = match name {
            "podnet" => ("cni0", 1),
            _ => ("cni1", 2),
        };
        json!({
            "cniVersion": self.peers.version,
            "name": name,
            "type": self.wiring.plugin,
            "bridge": bridge,
            "isGateway": true,
            "ipMasq": true,
            "ipMasqBackend": self.wiring.backend,
            "macspoofchk": true,
            "ipam": {
                "type": "host-local",
                "ranges": [
                    [{"subnet": format!("10.{subnet}.0.0/24")}],
                    [{"subnet": format!("fd00:{subnet}::/64")}]
                ],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
            }
        })
    }

    fn ports(&self, network: &str) -> Value {
        json!({
            "cniVersion": self.peers.version,
            "name": network,
            "type": "portmap",
            "backend": self.wiring.backend,
            "capabilities": {"portMappings": true}
        })
    }

    /// The whole node, but for the local routes of IPv6 addresses: the kernel makes those when
    /// it has looked for duplicates.
    pub(crate) fn seen(&self) -> NodeState {
        let mut net = NetState::read();
        net.routes
            .retain(|route| route.dst.is_ipv4() || route.table == MAIN_TABLE);
        NodeState {
            net,
            store: store_files(Path::new(STORES)),
            rules: ruleset(),
        }
    }

    /// The pod answers on its mapped port, and reaches the outside masqueraded.
    #[track_caller]
    pub(crate) fn assert_traffic(&self, pod: &Pod) {
        let server = pod.server.as_ref().unwrap();
        let port = SocketAddr::from((HOST, pod.host_port));
        let client = TcpStream::connect_timeout(&port, SOON);
        client.unwrap_or_else(|err| panic!("port of {}: {err}", pod.id));
        server.accept().expect("the pod's own server got it");

        let container = Container {
            path: pod.netns.clone(),
        };
        let outside = self.outside.local_addr().unwrap();
        let client = container.enter(|| TcpStream::connect_timeout(&outside, SOON));
        client.unwrap_or_else(|err| panic!("{} to the outside: {err}", pod.id));
        let (_, from) = self.outside.accept().expect("the outside got it");
        assert_eq!(from.ip(), MASQUERADED, "{}", pod.id);
    }

    /// The pod's processes end, and its namespace with them.
    pub(crate) fn destroy_netns(&self, pod: &mut Pod) {
        pod.server = None;
        unname(pod);
        wait_until(&format!("{} goes", pod.host_end), || {
            self.world.link(&pod.host_end).is_none()
        });
    }
}

/// The namespace loses its path; what runs in it holds it still.
pub(crate) fn unname(pod: &Pod) {
    let container = Container {
        path: pod.netns.clone(),
    };
    container.destroy();
}

/// A listener whose `accept` does not wait: connections are queued already.
fn listen(at: SocketAddr) -> TcpListener {
    let listener = bound(|| TcpListener::bind(at)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    listener
}

/// The ruleset's lines, without counters.
pub(crate) fn ruleset() -> Vec<String> {
    run("nft", ["-s", "list", "ruleset"])
        .lines()
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// What a node shows at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeState {
    pub(crate) net: NetState,
    pub(crate) store: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) rules: Vec<String>,
}

impl NodeState {
    /// The same without one pod of the reference's: its host end, its addresses, and every rule
    /// and chain that is its own.
    pub(crate) fn without(&self, pod: &Pod) -> Self {
        let mut seen = self.without_link(pod);
        for ip in &pod.ips {
            let file = seen.store.remove(&Path::new(pod.network).join(ip));
            assert!(file.is_some(), "{ip} was reserved");
        }
        let chains = own_chains(&self.rules, pod);
        seen.rules.clear();
        let mut own_chain = false;
        for line in &self.rules {
            match line.trim_start().strip_prefix("chain ") {
                Some(name) => own_chain = chains.contains(name.trim_end_matches(" {")),
                None if line == "}" => own_chain = false,
                None => {}
            }
            let end_of_own = own_chain && line == "\t}";
            if !own_chain && !is_rule_of(line, pod, &chains) {
                seen.rules.push(line.clone());
            }
            own_chain &= !end_of_own;
        }
        seen
    }

    /// The same without its host end alone.
    pub(crate) fn without_link(&self, pod: &Pod) -> Self {
        let mut seen = self.clone();
        let net = &mut seen.net;
        let at = net.links.iter().position(|link| link.name == pod.host_end);
        if let Some(at) = at {
            let index = net.links.remove(at).index;
            net.addresses.remove(&pod.host_end);
            net.routes.retain(|route| route.link != Some(index));
        }
        seen
    }
}

fn is_rule_of(line: &str, pod: &Pod, chains: &BTreeSet<String>) -> bool {
    pod.ips.iter().any(|ip| has_word(line, ip))
        || jump(line).is_some_and(|to| chains.contains(to))
        || has_word(line, &pod.host_end)
}

/// Chains that are this pod's alone: that of the guard against forged MACs by its name, those of
/// the iptables backends by what jumps to them.
fn own_chains(rules: &[String], pod: &Pod) -> BTreeSet<String> {
    let guard = format!("cni-br-iface-{}-{}", pod.id, pod.ifname);
    let port = format!("dport {}", pod.host_port);
    let jumps = rules
        .iter()
        .filter(|line| pod.ips.iter().any(|ip| has_word(line, ip)) || has_word(line, &port))
        .filter_map(|line| jump(line))
        .filter(|to| to.starts_with("CNI-") && !to.starts_with("CNI-HOSTPORT-"))
        .map(str::to_owned);
    jumps.chain([format!("{guard}-mac"), guard]).collect()
}

fn jump(line: &str) -> Option<&str> {
    line.split_once("jump ")?.1.split(' ').next()
}

/// Whether a text is there whole: 10.1.0.2 is not in 10.1.0.20, but in 10.1.0.2:80.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '.';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(|c| part(c) || c == ':') && !after.is_some_and(part)
    })
}
