//! One node with our plugin, and the state of its pods according to the API server, the runtime and the
//! kernel.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use pausenet::kernel::link::{self, Link};
use pausenet::kernel::{RouteSocket, netns::NetnsId};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Node, Runtime, pod_ip};
use crate::containers::Running;
use crate::script::CHECKOUT;
use common::programs;
use common::wait::{wait_same, wait_until};
use common::{Container, NetState, allocated, run};

/// The pod of conf/kubernetes/pause.yaml.
pub(crate) const POD: &str = "two-containers";

/// Held while a test runs one of the few concurrent clusters.
pub(crate) type ClusterSlot = MutexGuard<'static, ()>;

/// Waits until a cluster may start. Two clusters run at a time: more would slow each other down.
pub(crate) fn wait_for_slot() -> ClusterSlot {
    static PLACES: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let place = NEXT.fetch_add(1, Ordering::Relaxed) % PLACES.len();
    PLACES[place].lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lookup of a pod by name, as root, finds pods of all clusters on this machine. A test that must be
/// the only one with pods takes the write lock.
static PODS: RwLock<()> = RwLock::new(());

/// Waits until no other scene has pods, and keeps others from starting.
pub(crate) fn keep_other_pods_out() -> RwLockWriteGuard<'static, ()> {
    PODS.write().unwrap_or_else(PoisonError::into_inner)
}

// Dropped in this order.
pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
    before: State,
    noted: Cell<Instant>,
    _pods: RwLockReadGuard<'static, ()>,
    _slot: ClusterSlot,
}

/// What pods change on their node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    net: NetState,
    addresses: Vec<String>,
    /// The elements of nftables.
    elements: Vec<String>,
    /// The lock files of attachments.
    locks: Vec<PathBuf>,
}

impl Scene {
    /// A node that is ready for pods: with a bridge for Docker, in mode ptp for containerd.
    pub(crate) fn start(runtime: Runtime) -> Option<Self> {
        let scene = Self::bare(runtime, None)?;
        install(&scene.node, &network(&scene.node, &scene.cluster));
        scene.cluster.wait("condition=Ready", "node/node1");
        scene.note("the node is ready");
        Some(scene)
    }

    /// A node without a network. With `disk`, its /var/lib is there.
    pub(crate) fn bare(runtime: Runtime, disk: Option<&Path>) -> Option<Self> {
        let slot = wait_for_slot();
        let pods = PODS.read().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let cluster = Cluster::for_runtime(runtime)?;
        let node = Node::start(&cluster, "node1", runtime, disk);
        let before = node.script.inside(State::read);
        Some(Self {
            node,
            cluster,
            before,
            noted: Cell::new(start),
            _pods: pods,
            _slot: slot,
        })
    }

    /// Prints progress and the time it took (visible with --nocapture).
    pub(crate) fn note(&self, what: &str) {
        let passed = self.noted.replace(Instant::now()).elapsed();
        eprintln!("{:?}: {what}, {passed:.1?}", self.node.runtime);
    }

    /// Creates the pod of conf/kubernetes/pause.yaml, and waits until it runs.
    pub(crate) fn apply(&self) {
        let file = Path::new(CHECKOUT).join("conf/kubernetes/pause.yaml");
        self.cluster
            .kubectl(&format!("apply -f {}", file.display()));
        self.cluster.wait("condition=Ready", &format!("pod/{POD}"));
    }

    /// The running containers of a pod on the node.
    pub(crate) fn running(&self, pod: &str) -> BTreeMap<String, Running> {
        self.node.running(pod)
    }

    /// The host end of a container's attachment.
    pub(crate) fn host_end(&self, id: &str) -> Option<Link> {
        let alias = format!("pausenet podnet {id} eth0");
        let mut links = self.host_ends().into_iter();
        links.find(|link| link.alias.as_deref() == Some(&*alias))
    }

    /// All our host ends.
    pub(crate) fn host_ends(&self) -> Vec<Link> {
        self.node.host_ends()
    }

    /// Waits until nothing of any pod is left on the node.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        wait_same("nothing of any pod is left", || {
            (self.node.script.inside(State::read), self.before.clone())
        });
    }

    /// A pod's object from the API server.
    pub(crate) fn pod(&self, name: &str) -> Value {
        self.cluster.get(&format!("pod {name}"))
    }

    /// Waits until a container of a pod is ready after this many restarts.
    #[track_caller]
    pub(crate) fn wait_restarted(&self, pod: &str, container: &str, restarts: u64) {
        wait_until("the container is started again", || {
            let pod = self.pod(pod);
            let mut states = pod["status"]["containerStatuses"]
                .as_array()
                .unwrap()
                .iter();
            let state = states.find(|state| state["name"] == container).unwrap();
            state["restartCount"] == restarts && state["ready"] == true
        });
    }

    /// The pod's address, checked to be in the node's podCIDR.
    #[track_caller]
    pub(crate) fn address(&self, pod: &str) -> std::net::IpAddr {
        let address = pod_ip(&self.pod(pod)).expect("a pod with an address");
        let pods = self.node.pods(&self.cluster);
        assert!(pods.contains(address), "{address} of {pods}");
        address
    }

    /// Stops everything, and checks that nothing is left.
    pub(crate) fn end(self) {
        self.node.end();
        self.cluster.end();
    }
}

impl State {
    /// Reads the state of the calling thread's namespaces, without the bridge, which may stay.
    pub(crate) fn read() -> Self {
        let mut net = NetState::read();
        let bridge = net.links.iter().find(|link| link.name == "cni0");
        if let Some(index) = bridge.map(|link| link.index) {
            net.links.retain(|link| link.index != index);
            net.addresses.remove("cni0");
            net.routes.retain(|route| route.link != Some(index));
        }
        let locks = fs::read_dir("/run/pausenet/lock").into_iter().flatten();
        Self {
            net,
            addresses: allocated("podnet"),
            elements: elements(),
            locks: locks.map(|entry| entry.unwrap().path()).collect(),
        }
    }
}

/// The elements of our tables' sets and maps.
fn elements() -> Vec<String> {
    let listed: Value = serde_json::from_str(&run("nft", ["-j", "list", "ruleset"])).unwrap();
    let mut found = Vec::new();
    for object in listed["nftables"].as_array().unwrap() {
        let Some(set) = object.get("set").or(object.get("map")) else {
            continue;
        };
        if set["table"] == "pausenet" {
            let elements = set["elem"].as_array().into_iter().flatten();
            found.extend(elements.map(|element| format!("{}: {element}", set["name"])));
        }
    }
    found
}

/// A pod that does nothing.
pub(crate) fn manifest(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: idle}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: one, image: pausenet/pause, imagePullPolicy: IfNotPresent}}\n"
    )
}

/// The network of a node's pods.
pub(crate) fn network(node: &Node, cluster: &Cluster) -> Value {
    let (version, link) = match node.runtime {
        Runtime::Docker => ("0.4.0", json!({"bridge": "cni0", "isDefaultGateway": true})),
        Runtime::Containerd => ("1.1.0", json!({"mode": "ptp"})),
    };
    let mut plugin = json!({
        "type": "pausenet",
        "ipMasq": true,
        "capabilities": {"portMappings": true},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pods(cluster)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let keys = plugin.as_object_mut().unwrap();
    keys.extend(link.as_object().unwrap().clone());
    json!({"cniVersion": version, "name": "podnet", "plugins": [plugin]})
}

/// Puts the plugin and a conflist where the runtime looks for them. The conflist comes last.
pub(crate) fn install(node: &Node, network: &Value) {
    node.script.inside(|| {
        let plugin = Path::new(programs::pausenet());
        for name in ["pausenet", "loopback"] {
            fs::copy(plugin, Path::new("/opt/cni/bin").join(name)).unwrap();
        }
        fs::write("/etc/cni/net.d/.new", network.to_string()).unwrap();
        fs::rename("/etc/cni/net.d/.new", "/etc/cni/net.d/10-podnet.conflist").unwrap();
    });
}

/// A link of the calling thread's network.
pub(crate) fn link(name: &str) -> Option<Link> {
    let mut links = link::list(&mut RouteSocket::open().unwrap())
        .unwrap()
        .into_iter();
    links.find(|link| link.name == name)
}

/// A container's network, as its process sees it.
pub(crate) fn container_of(pid: u32) -> Container {
    Container {
        path: format!("/proc/{pid}/ns/net").into(),
    }
}

/// Whether two processes share a network.
pub(crate) fn share_a_network(one: u32, other: u32) -> bool {
    let [one, other] = [one, other].map(NetnsId::of_process);
    one.expect("a process that runs") == other.expect("a process that runs")
}
