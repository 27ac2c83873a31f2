//! A Kubernetes cluster in a world of its own: a control plane, and machines with a kubelet.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::script::{Images, Script};
use common::wait::wait_until;
use common::{World, lab};

/// The control plane. Machines join it.
pub(crate) struct Cluster {
    pub(crate) script: Script,
    images: Images,
    _world: World,
}

impl Cluster {
    /// Starts it. None where the lab has no Kubernetes; the test is skipped then.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        lab::kubernetes()?;
        Self::of_tools(options)
    }

    /// The last one that can have nodes with this runtime.
    pub(crate) fn for_runtime(runtime: Runtime) -> Option<Self> {
        match runtime {
            Runtime::Containerd => Self::start(&[]),
            Runtime::Docker => {
                lab::kubernetes_1_20()?;
                Self::of_tools(&["--version", "1.20"])
            }
        }
    }

    fn of_tools(options: &[&str]) -> Option<Self> {
        let images = Images::find()?;
        let world = World::new();
        let words = [&["kubernetes.sh", "control-plane"], options].concat();
        let script = Script::start(&[&words], &BTreeMap::new());
        Some(Self {
            script,
            images,
            _world: world,
        })
    }

    /// `kubectl` as administrator.
    fn command(&self) -> Command {
        let mut command = Command::new("env"); // env looks up kubectl in the PATH of these variables
        command.env_clear().envs(&self.script.env).arg("kubectl");
        command.stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` with arguments separated by spaces.
    pub(crate) fn output(&self, args: &str) -> Output {
        let args = args.split_whitespace();
        self.command().args(args).output().unwrap()
    }

    /// Runs `kubectl`, which must succeed. Returns its output.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &str) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Applies manifests.
    #[track_caller]
    pub(crate) fn apply(&self, manifests: &str) {
        let mut apply = self.command();
        apply.args(["apply", "-f", "-"]);
        apply.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut apply = apply.spawn().unwrap();
        let mut stdin = apply.stdin.take().unwrap();
        stdin.write_all(manifests.as_bytes()).unwrap();
        drop(stdin);
        assert!(apply.wait().unwrap().success());
    }

    /// `kubectl exec` of a shell command in a container.
    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, container: &str, script: &str) -> String {
        let mut command = self.command();
        command.args(["exec", pod, "-c", container, "--", "sh", "-c", script]);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} in {container}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// An object from the API server; Null if it does not exist.
    #[track_caller]
    pub(crate) fn get(&self, what: &str) -> Value {
        let said = self.kubectl(&format!("get {what} --ignore-not-found -o json"));
        if said.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&said).unwrap()
    }

    /// Waits for a condition of an object, as `kubectl wait` watches for it.
    #[track_caller]
    pub(crate) fn wait(&self, condition: &str, what: &str) {
        let output = self.output(&format!("wait --timeout=180s --for={condition} {what}"));
        if !output.status.success() {
            let state = self.kubectl(&format!("describe {what}"));
            panic!("{what} is not {condition}:\n{state}");
        }
    }

    /// Stops it, and checks that nothing is left.
    pub(crate) fn end(self) {
        self.script.end(&["KUBE_HOME"]);
    }
}

/// The container runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Docker,
    Containerd,
}

/// A machine with a kubelet. Its script has namespaces of its own.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) runtime: Runtime,
    /// The folder for /var/lib, if it should outlive the machine.
    disk: Option<PathBuf>,
    options: &'static [&'static str],
    pub(crate) script: Script,
}

/// A node with kube-proxy, for Services.
pub(crate) const WITH_SERVICES: &[&str] = &["--kube-proxy"];
/// The same in a dual-stack cluster.
pub(crate) const OF_BOTH_FAMILIES: &[&str] = &["--dual-stack", "--kube-proxy"];

impl Node {
    /// Starts node1, node2 or node3, with the images of the lab. With `disk`, /var/lib is there and is
    /// kept.
    pub(crate) fn start(
        cluster: &Cluster,
        name: &str,
        runtime: Runtime,
        disk: Option<&Path>,
    ) -> Self {
        Self::with(cluster, name, runtime, disk, &[])
    }

    /// The same with options for the node.
    pub(crate) fn with(
        cluster: &Cluster,
        name: &str,
        runtime: Runtime,
        disk: Option<&Path>,
        options: &'static [&'static str],
    ) -> Self {
        let node = Self {
            name: name.to_owned(),
            runtime,
            disk: disk.map(Path::to_owned),
            options,
            script: start(cluster, name, runtime, disk, options),
        };
        node.load_all(cluster);
        node
    }

    /// Kills everything on the machine; all its namespaces end.
    pub(crate) fn switch_off(&mut self) {
        self.script.stop();
    }

    /// Starts the machine again with its disk.
    pub(crate) fn switch_on(&mut self, cluster: &Cluster) {
        let disk = self.disk.as_deref();
        self.script = start(cluster, &self.name, self.runtime, disk, self.options);
        self.load_all(cluster);
    }

    fn load_all(&self, cluster: &Cluster) {
        for file in cluster.images.files() {
            self.load(file);
        }
    }

    /// Loads the images of a file.
    pub(crate) fn load(&self, file: &str) {
        match self.runtime {
            Runtime::Docker => self
                .script
                .run("docker", &["load", "--quiet", "--input", file]),
            Runtime::Containerd => self.script.load_into_containerd(file),
        };
    }

    /// The node's IPv4 podCIDR.
    pub(crate) fn pods(&self, cluster: &Cluster) -> IpNetwork {
        let mut pods = None;
        wait_until("the node has a podCIDR", || {
            let node = cluster.get(&format!("node {}", self.name));
            pods = node["spec"]["podCIDR"].as_str().map(str::to_owned);
            pods.is_some()
        });
        pods.unwrap().parse().unwrap()
    }

    /// Stops it, and checks that nothing is left.
    pub(crate) fn end(self) {
        self.script.end(&["NODE_HOME"]);
    }
}

fn start(
    cluster: &Cluster,
    name: &str,
    runtime: Runtime,
    disk: Option<&Path>,
    options: &[&str],
) -> Script {
    let address = format!("192.168.77.{}", name.trim_start_matches("node"));
    let mut machine = vec!["kubernetes.sh", "machine"];
    machine.extend(["--name", name, "--address", &address]);
    if let Some(disk) = disk {
        machine.extend(["--keep", disk.to_str().unwrap()]);
    }
    let engine: &[&str] = match runtime {
        Runtime::Docker => &["docker.sh", "run", "--bridge", "none"],
        Runtime::Containerd => &["containerd.sh", "run"],
    };
    let node = [&["kubernetes.sh", "kubelet"], options].concat();
    let mut env = cluster.script.env.clone();
    env.insert("DOCKER_VERSION".into(), "20.10".into()); // the last that a kubelet speaks to
    Script::start(&[&machine, engine, &node], &env)
}

/// The address of a pod, once it has one.
pub(crate) fn pod_ip(pod: &Value) -> Option<IpAddr> {
    pod["status"]["podIP"].as_str()?.parse().ok()
}
