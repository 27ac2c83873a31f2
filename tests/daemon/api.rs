//! The lab's control plane: etcd, the API server with RBAC, and the controllers that assign podCIDRs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::nodes::{CHECKOUT, Node, write_kubeconfig};
use common::daemon::assert_nothing_was_forbidden;
use common::wait::wait_until;
use common::{World, lab};

/// Programs from the lab. Look them up before the world is created.
pub(crate) struct Tools {
    kubernetes: PathBuf,
    /// Of CNI 1.1.
    pub(crate) cnitool: PathBuf,
    /// Of CNI 1.0.
    pub(crate) cnitool_1_1: PathBuf,
}

impl Tools {
    pub(crate) fn find() -> Option<Self> {
        Some(Self {
            kubernetes: lab::kubernetes()?,
            cnitool: lab::cnitool()?,
            cnitool_1_1: lab::cnitool_1_1()?,
        })
    }
}

/// A control plane that ends with its test, and its world.
pub(crate) struct Api {
    pub(crate) world: World,
    control_plane: Child,
    /// The folder with the logs of its programs.
    home: PathBuf,
    kubectl: PathBuf,
}

impl Api {
    pub(crate) fn start(tools: &Tools, options: &[&str]) -> Self {
        let world = World::new();
        let mut control_plane = Command::new(Path::new(CHECKOUT).join("scripts/lab/kubernetes.sh"))
            .arg("control-plane")
            .args(options)
            // Until the end of its stdin, which comes even if this process is killed.
            .args(["sh", "-c", "echo \"$KUBE_HOME\"; exec cat"])
            .env("PAUSENET_KUBERNETES", &tools.kubernetes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut home = String::new();
        BufReader::new(control_plane.stdout.take().unwrap())
            .read_line(&mut home)
            .unwrap();
        let home = PathBuf::from(home.trim());
        assert!(home.is_dir(), "no control plane: {home:?}");
        Self {
            world,
            control_plane,
            home,
            kubectl: tools.kubernetes.join("kubectl"),
        }
    }

    /// Runs kubectl, which must succeed. Returns its output.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl_with(args, "")
    }

    #[track_caller]
    fn kubectl_with(&self, args: &[&str], stdin: &str) -> String {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not every command reads it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(args)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            // For its cache.
            .env("HOME", &self.home);
        command
    }

    fn get(&self, what: &[&str]) -> Value {
        let args = [&["get", "-o", "json"], what].concat();
        serde_json::from_str(&self.kubectl(&args)).unwrap()
    }

    /// A control plane with our manifest applied, the host for node1 without a Node object yet, and a
    /// kubeconfig of the daemon's account.
    pub(crate) fn for_one_node(tools: &Tools) -> (Self, Node, PathBuf) {
        let api = Self::start(tools, &[]);
        let kubeconfig = api.apply_manifest();
        let node = Node::new(&api.world, "node1", 1);
        (api, node, kubeconfig)
    }

    /// Applies conf/kubernetes, and returns a kubeconfig of its account.
    pub(crate) fn apply_manifest(&self) -> PathBuf {
        let conf = Path::new(CHECKOUT).join("conf/kubernetes");
        self.kubectl(&["apply", "-k", conf.to_str().unwrap()]);
        let token = self.kubectl(&["create", "token", "-n", "kube-system", "pausenet"]);
        let admin = ["config", "view", "--raw", "--flatten", "-o", "json"];
        let admin: Value = serde_json::from_str(&self.kubectl(&admin)).unwrap();
        let cluster = &admin["clusters"][0]["cluster"];
        let file = Path::new("/run/pausenetd.kubeconfig");
        write_kubeconfig(
            file,
            cluster["server"].as_str().unwrap(),
            cluster["certificate-authority-data"].as_str().unwrap(),
            &token,
        );
        file.to_owned()
    }

    /// Creates a Node as its kubelet would. Without a podCIDR in `spec`, the controllers assign one.
    pub(crate) fn create_node(&self, node: &Node, spec: Value) {
        let addresses = json!([
            {"type": "Hostname", "address": node.name},
            {"type": "InternalIP", "address": node.address()},
            {"type": "InternalIP", "address": format!("fd00:77::{}", node.last)},
        ]);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": spec,
            "status": {"addresses": addresses},
        });
        self.kubectl_with(&["create", "-f", "-"], &object.to_string());
        wait_until("it has a podCIDR", || !self.pod_cidr(node.name).is_empty());
    }

    /// The first podCIDR of a Node.
    pub(crate) fn pod_cidr(&self, node: &str) -> String {
        self.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.podCIDR}"])
    }

    /// Changes a Node's address, as its kubelet would.
    pub(crate) fn set_address(&self, node: &str, address: &str) {
        let path = format!("/api/v1/nodes/{node}/status");
        let mut object = self.get(&["node", node]);
        object["status"]["addresses"] = json!([{"type": "InternalIP", "address": address}]);
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("resourceVersion");
        self.kubectl_with(&["replace", "--raw", &path, "-f", "-"], &object.to_string());
    }

    /// Stops the API server until [`Self::resume`].
    pub(crate) fn stop(&self) {
        fs::write(self.home.join("kube-apiserver.hold"), "").unwrap();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(command) = fs::read(process.path().join("cmdline")) else {
                continue;
            };
            let words: Vec<_> = command.split(|byte| *byte == 0).collect();
            let home = self.home.to_str().unwrap().as_bytes();
            let is_ours = words.iter().any(|word| word.starts_with(home));
            if words[0].ends_with(b"kube-apiserver") && is_ours {
                let pid = process.file_name().to_str().unwrap().parse().unwrap();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
        wait_until("it does not answer", || !self.answers());
    }

    pub(crate) fn resume(&self) {
        fs::remove_file(self.home.join("kube-apiserver.hold")).unwrap();
        wait_until("it answers again", || self.answers());
    }

    fn answers(&self) -> bool {
        let mut command = self.command(&["get", "--raw", "/readyz"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    /// Checks in the audit log that the daemons' account requested only nodes, and was allowed to.
    #[track_caller]
    pub(crate) fn assert_nothing_was_forbidden(&self) {
        let log = fs::read_to_string(self.home.join("audit.log"));
        assert_nothing_was_forbidden(&log.unwrap());
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It ends when its stdin does.
        drop(self.control_plane.stdin.take());
        let _ = self.control_plane.wait();
    }
}
