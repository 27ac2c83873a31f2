//! What `pausectl explain` and `graph` say of the pods of today's kubelet, and what is true then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::cluster::Runtime;
use crate::containers::Running;
use crate::scene::Scene;
use crate::script::kill;
use common::programs;
use common::wait::wait_until;

/// Of a container of a pod.
const ENDS: &str = "the others keep the network; Kubernetes starts it again in the same one, if its \
    restartPolicy or a rule says so, and with the rule RestartAllContainers the others too; an ephemeral \
    container (kubectl debug) it never starts again";

#[test]
fn explain_is_right_about_every_kind_of_pod() {
    let Some(scene) = Scene::start(Runtime::Containerd) else {
        return;
    };
    let told = Told { scene: &scene };
    for (name, keys) in [
        ("kind-plain", ""),
        ("kind-host", "  hostNetwork: true\n"),
        ("kind-users", "  hostUsers: false\n"),
    ] {
        scene.cluster.apply(&manifest(name, keys, ""));
    }
    let rule = "    restartPolicy: Never\n    restartPolicyRules:\n    \
        - {action: RestartAllContainers, exitCodes: {operator: In, values: [137]}}\n";
    scene.cluster.apply(&manifest("kind-in-place", "", rule));
    let folder = Path::new(scene.node.script.variable("NODE_HOME")).join("manifests");
    let file = folder.join("static.yaml");
    let manifest = manifest("kind-static", "", "");
    scene
        .node
        .script
        .inside(|| fs::write(&file, manifest))
        .unwrap();
    wait_until("the static pod is known", || {
        !scene.pod("kind-static-node1").is_null()
    });
    scene.note("the pods are applied");

    told.a_plain_pod_and_its_debugger();
    told.a_pod_on_the_host_s_network();
    told.a_pod_with_users_of_its_own();
    told.a_pod_that_is_restarted_in_place();
    told.a_static_pod();

    scene.node.script.inside(|| fs::remove_file(&file)).unwrap();
    scene
        .cluster
        .kubectl("delete pod kind-plain kind-host kind-users kind-in-place");
    scene.assert_nothing_left();
    scene.end();
}

/// A pod of two containers, which end at once.
fn manifest(name: &str, of_pod: &str, of_one: &str) -> String {
    let container = |name: &str| {
        format!(
            "  - name: {name}\n    image: hwchiu/netutils\n    imagePullPolicy: IfNotPresent\n    \
             command: [sleep, 1d]\n"
        )
    };
    let (one, two) = (container("one"), container("two"));
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n{of_pod}  containers:\n{one}{of_one}{two}"
    )
}

struct Told<'a> {
    scene: &'a Scene,
}

impl Told<'_> {
    fn ready(&self, pod: &str) -> BTreeMap<String, Running> {
        self.scene
            .cluster
            .wait("condition=Ready", &format!("pod/{pod}"));
        self.scene.running(pod)
    }

    /// What is printed, as one line: where it breaks, the words decide.
    fn explain(&self, target: &str) -> String {
        let text = self
            .scene
            .node
            .script
            .run(programs::pausectl(), &["explain", target]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// By each of its names, the pod has this sandbox, these members and this address; and the ends of its
    /// containers do what is said.
    #[track_caller]
    fn is_a_pod(&self, pod: &str, members: &[&str]) {
        let running = self.ready(pod);
        let sandbox = &running["POD"].id;
        let short = &sandbox[..12];
        let address = self.scene.address(pod);
        let expected = format!("{short} is the sandbox of pod default/{pod}; ");
        for target in [
            pod,
            &format!("default/{pod}"),
            &format!("pod:{pod}"),
            sandbox,
            short,
        ] {
            let said = self.explain(target);
            let rest = said.strip_prefix(&expected).expect(&said);
            let (listed, _) = rest.split_once(" share its network.").expect(rest);
            let listed = listed.replace(" and ", ", ");
            let listed: BTreeSet<_> = listed.split(", ").collect();
            assert_eq!(
                listed,
                members.iter().copied().collect(),
                "{target}: {said}"
            );
            for words in [
                &format!("eth0 {address}/24"),
                "network podnet, made by pausenet",
                ENDS,
                "Kubernetes recreates the pod, unless its restartPolicy is Never",
            ] {
                assert!(said.contains(words), "{target}: {words:?} is not in {said}");
            }
        }
        for (name, container) in running.iter().filter(|(name, _)| *name != "POD") {
            for target in [
                &container.id,
                &container.id[..12],
                &format!("pid:{}", container.pid),
            ] {
                let said = self.explain(target);
                let expected = format!("{name} shares the network of {short}.");
                assert!(said.starts_with(&expected), "{target}: {said}");
            }
        }
        let graph = self
            .scene
            .node
            .script
            .run(programs::pausectl(), &["graph", "--format", "tree"]);
        assert!(graph.contains(&format!("default/{pod}")), "{graph}");
    }

    fn a_plain_pod_and_its_debugger(&self) {
        let before = self.ready("kind-plain");
        self.is_a_pod("kind-plain", &["one", "two"]);
        // Started again after its death, in the same network, as is said.
        kill(before["one"].pid);
        self.scene.wait_restarted("kind-plain", "one", 1);
        assert_eq!(self.scene.running("kind-plain")["POD"].id, before["POD"].id);
        self.is_a_pod("kind-plain", &["one", "two"]);
        let debug = "debug kind-plain --image=hwchiu/netutils --image-pull-policy=IfNotPresent -c debugger -- sleep 1d";
        self.scene.cluster.kubectl(debug);
        wait_until("the debugger runs", || {
            self.scene.running("kind-plain").contains_key("debugger")
        });
        self.is_a_pod("kind-plain", &["one", "two", "debugger"]);
        // It never comes back, as is said.
        kill(self.scene.running("kind-plain")["debugger"].pid);
        wait_until("kubelet knows of its end", || {
            let pod = self.scene.pod("kind-plain");
            pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_object()
        });
        self.is_a_pod("kind-plain", &["one", "two"]);
        self.scene
            .note("a plain pod is explained, before and after deaths");
    }

    fn a_pod_on_the_host_s_network(&self) {
        let running = self.ready("kind-host");
        for (target, who) in [
            ("kind-host", "pod default/kind-host"),
            ("default/kind-host", "pod default/kind-host"),
            (&running["POD"].id, "the sandbox of pod default/kind-host"),
            (
                &running["one"].id[..12],
                "container one of pod default/kind-host",
            ),
        ] {
            let said = self.explain(target);
            let expected = format!("{who} is on the host's own network");
            assert!(said.starts_with(&expected), "{target}: {said}");
        }
        self.scene.note("a pod on the host's network is explained");
    }

    fn a_pod_with_users_of_its_own(&self) {
        let running = self.ready("kind-users");
        let map = fs::read_to_string(format!("/proc/{}/uid_map", running["one"].pid)).unwrap();
        assert_ne!(
            map.split_whitespace().nth(1),
            Some("0"),
            "it has users of its own: {map}"
        );
        self.is_a_pod("kind-users", &["one", "two"]);
        self.scene.note("a pod with users of its own is explained");
    }

    fn a_pod_that_is_restarted_in_place(&self) {
        let before = self.ready("kind-in-place");
        self.is_a_pod("kind-in-place", &["one", "two"]);
        kill(before["one"].pid);
        wait_until("all its containers are others", || {
            let after = self.scene.running("kind-in-place");
            ["one", "two"]
                .into_iter()
                .all(|name| after.get(name).is_some_and(|new| new.id != before[name].id))
        });
        let after = self.ready("kind-in-place");
        assert_eq!(
            after["POD"].id, before["POD"].id,
            "in the same network, as is said"
        );
        self.is_a_pod("kind-in-place", &["one", "two"]);
        self.scene
            .note("a pod that is restarted in place is explained");
    }

    fn a_static_pod(&self) {
        self.is_a_pod("kind-static-node1", &["one", "two"]);
        self.scene.note("a static pod is explained");
    }
}
