//! What runs on a node, according to its container runtime and its kernel.

use std::collections::BTreeMap;

use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link};
use pausenet::plan::LINK_GROUP;
use serde_json::Value;

use crate::cluster::{Node, Runtime};

/// A running container, according to its runtime.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) id: String,
    /// With Docker only.
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl Node {
    /// The running containers of a pod: those of the manifest by name, and the anchor as `POD`.
    pub(crate) fn running(&self, pod: &str) -> BTreeMap<String, Running> {
        match self.runtime {
            Runtime::Docker => self.running_in_docker(pod),
            Runtime::Containerd => self.running_in_containerd(pod),
        }
    }

    fn running_in_docker(&self, pod: &str) -> BTreeMap<String, Running> {
        let filter = format!("label=io.kubernetes.pod.name={pod}");
        let ids = self
            .script
            .run("docker", &["ps", "--quiet", "--filter", &filter]);
        let containers = ids.lines().filter_map(|id| {
            // It may have ended meanwhile.
            let output = self.script.output("docker", &["inspect", id]);
            let mut shown: Value = serde_json::from_slice(&output.stdout).ok()?;
            let shown = shown.get_mut(0)?.take();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let running = Running {
                id: text(&shown["Id"]),
                name: text(&shown["Name"]).trim_start_matches('/').to_owned(),
                pid: shown["State"]["Pid"].as_u64().unwrap() as u32,
            };
            let labels = &shown["Config"]["Labels"];
            Some((text(&labels["io.kubernetes.container.name"]), running))
        });
        containers.filter(|(_, running)| running.pid != 0).collect()
    }

    fn running_in_containerd(&self, pod: &str) -> BTreeMap<String, Running> {
        let ctr = |args: &[&str]| self.script.run("ctr", &[&["-n", "k8s.io"], args].concat());
        let filter = format!("labels.\"io.kubernetes.pod.name\"=={pod}");
        let ids = ctr(&["containers", "ls", "-q", &filter]);
        let tasks = ctr(&["tasks", "ls"]);
        let containers = ids.lines().filter_map(|id| {
            let task = tasks.lines().find(|line| line.starts_with(id))?;
            let mut words = task.split_whitespace().skip(1);
            let pid = words.next()?.parse().unwrap();
            words.next().filter(|state| *state == "RUNNING")?;
            let info = self
                .script
                .output("ctr", &["-n", "k8s.io", "containers", "info", id]);
            let info: Value = serde_json::from_slice(&info.stdout).ok()?;
            let name = info["Labels"]["io.kubernetes.container.name"].as_str();
            let running = Running {
                id: id.to_owned(),
                name: String::new(),
                pid,
            };
            Some((name.unwrap_or("POD").to_owned(), running))
        });
        containers.collect()
    }

    /// All our host ends.
    pub(crate) fn host_ends(&self) -> Vec<Link> {
        self.script.inside(|| {
            let mut links = link::list(&mut RouteSocket::open().unwrap()).unwrap();
            links.retain(|link| link.group == LINK_GROUP && link.kind == "veth");
            links
        })
    }
}
