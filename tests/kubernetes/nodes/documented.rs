//! The commands of the page about Kubernetes, as documented.

use std::process::{Command, Stdio};

use super::Pair;
use crate::cluster::pod_ip;
use crate::scene::keep_other_pods_out;
use crate::script::CHECKOUT;
use common::programs;

const KUBERNETES_PAGE: &str = include_str!("../../../src/docs/kubernetes.md");

impl Pair {
    /// With the commands of the docs.
    pub(super) fn pausectl_works_as_documented(&self) {
        let _no_other_pods = keep_other_pods_out();
        let page = self.run_from_page("conf/kubernetes/pause.yaml");
        assert!(page.contains("Welcome to nginx!"), "{page}");
        let pod = self.cluster.get("pod two-containers");
        let address = pod_ip(&pod).unwrap().to_string();
        let shown = self.run_from_page("conf/kubernetes/pausectl.yaml");
        let (listed, explained) = shown.split_once("Owner\n").expect(&shown);
        for part in [&*address, "client, www-server"] {
            assert!(listed.contains(part), "{part}: {shown}");
        }
        for part in ["(pause)", "(nginx)", "What happens when one of them ends"] {
            assert!(explained.contains(part), "{part}: {shown}");
        }
        let node = pod["spec"]["nodeName"].as_str().unwrap();
        let daemons = "-n kube-system get pods -l app.kubernetes.io/name=pausenet -o name";
        let selector = format!("--field-selector=spec.nodeName={node}");
        let daemon = self.cluster.kubectl(&format!("{daemons} {selector}"));
        let exec = format!("-n kube-system exec {daemon} -- /pausectl ls");
        let seen = self.cluster.kubectl(&exec);
        assert!(seen.contains(&address) && seen.contains("unseen"), "{seen}");
        self.explains_pods_on_the_host_s_network(node, daemon.trim());
        self.cluster.kubectl("delete pod two-containers");
    }

    /// The daemon's own pod has hostNetwork.
    fn explains_pods_on_the_host_s_network(&self, node: &str, pod: &str) {
        let name = pod.strip_prefix("pod/").unwrap_or(pod);
        let pod = self
            .cluster
            .get(&format!("pod {name} --namespace=kube-system"));
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
        let id = id.unwrap().rsplit('/').next().unwrap();
        let at = self.nodes.iter().find(|other| other.name == node).unwrap();
        for (target, words) in [
            (name, "pod kube-system/"),
            (format!("kube-system/{name}").as_str(), "pod kube-system/"),
            (id, "container "),
            (&id[..12], "container "),
        ] {
            let said = at.script.run(programs::pausectl(), &["explain", target]);
            assert!(
                said.starts_with(words) && said.contains("is on the host's own network"),
                "{target}: {said}"
            );
        }
    }

    /// Runs the shell block of the page that contains `part`; it must succeed. Returns its output.
    #[track_caller]
    pub(super) fn run_from_page(&self, part: &str) -> String {
        let mut blocks = KUBERNETES_PAGE.split("```sh\n").skip(1);
        let block =
            blocks.find_map(|rest| Some(rest.split_once("```")?.0).filter(|it| it.contains(part)));
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", block.expect(part)])
            .current_dir(CHECKOUT)
            .env_clear()
            .envs(&self.cluster.script.env)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{stderr}");
        said
    }
}
