//! The life of pods: they start, are used, lose a container or their pause, and are deleted.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use crate::cluster::{Runtime, pod_ip};
use crate::containers::Running;
use crate::scene::{POD, Scene, container_of, manifest, share_a_network};
use crate::script::kill;
use crate::wrapper::{self, REAL};
use common::programs;
use common::wait::{wait_same, wait_until};
use common::{allocated, lab};

/// The number of pods that are created and deleted at once.
const MANY: usize = 100;

/// The pod of pause.yaml from creation to deletion, with the death of each container in between.
pub(crate) fn of_two_containers(scene: &Scene) {
    starts(scene);
    its_containers_share_the_network_of_our_pause(scene);
    pausectl_lists_one_anchor_with_its_members(scene);
    its_containers_are_reached_by_name(scene);
    scene.note("its containers share a network and are reached by name");
    if scene.node.runtime == Runtime::Docker {
        a_guest_joins_its_network(scene);
        scene.note("a guest has been in the pod's network");
    }
    for container in ["www-server", "client"] {
        a_container_that_dies_keeps_the_address(scene, container);
        scene.note("a container was killed, and runs again");
    }
    a_pause_that_dies_leaves_nothing(scene);
    scene.note("the pause was killed, and the pod runs again");
    scene.cluster.kubectl(&format!("delete pod {POD}"));
    scene.assert_nothing_left();
    scene.note("the pod is gone");
}

/// Reports how long the pod took to start, and the plugin's part of it.
fn starts(scene: &Scene) {
    let script = &scene.node.script;
    script.inside(|| {
        wrapper::put(&format!(
            "start=$(date +%s%N)\n{REAL}\nstatus=$?\n\
             echo \"$CNI_COMMAND $((($(date +%s%N) - start) / 1000))\" >>/run/calls\nexit $status\n"
        ));
    });
    let start = Instant::now();
    scene.apply();
    let took = start.elapsed();
    let calls = script.inside(|| {
        wrapper::remove();
        fs::read_to_string("/run/calls").unwrap()
    });
    let adds: Vec<_> = calls
        .lines()
        .filter_map(|call| call.strip_prefix("ADD "))
        .collect();
    assert_eq!(adds.len(), 1, "{calls}");
    lab::measured(&format!(
        "kubelet with {:?}: two-containers runs {took:.1?} after kubectl apply, of which ADD took {} µs",
        scene.node.runtime, adds[0]
    ));
    scene.note("the pod runs");
}

fn its_containers_share_the_network_of_our_pause(scene: &Scene) {
    let address = scene.address(POD);
    let listed = scene
        .cluster
        .kubectl(&format!("get pods {POD} -o wide --no-headers"));
    let columns: Vec<_> = listed.split_whitespace().collect();
    assert_eq!(columns[..3], [POD, "2/2", "Running"], "{listed}");
    assert!(columns.contains(&&*address.to_string()), "{listed}");

    let running = scene.running(POD);
    let names: Vec<_> = running.keys().map(String::as_str).collect();
    assert_eq!(names, ["POD", "client", "www-server"]);
    if scene.node.runtime == Runtime::Docker {
        for (container, running) in &running {
            let name = format!("k8s_{container}_{POD}_default_");
            assert!(running.name.starts_with(&name), "{running:?}");
        }
    }
    let pause = &running["POD"];
    let program = fs::read(format!("/proc/{}/exe", pause.pid)).unwrap();
    assert!(program == fs::read(programs::pause()).unwrap());
    for running in running.values() {
        assert!(share_a_network(running.pid, pause.pid), "{running:?}");
    }

    let inside = container_of(pause.pid);
    assert_eq!(inside.addresses("eth0"), [format!("{address}/24")]);
    let host_end = scene
        .host_end(&pause.id)
        .expect("our link, with the pod's name");
    let bridge = scene.node.script.inside(|| crate::scene::link("cni0"));
    assert_eq!(host_end.controller, bridge.map(|bridge| bridge.index));
    let addresses = scene.node.script.inside(|| allocated("podnet"));
    assert_eq!(addresses, [address.to_string()]);
}

fn pausectl_lists_one_anchor_with_its_members(scene: &Scene) {
    let listed = ["ls", "--output", "json"];
    let listed = scene.node.script.run(programs::pausectl(), &listed);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let [row] = &listed["attachments"].as_array().unwrap()[..] else {
        panic!("{listed:#}");
    };
    let pause = scene.running(POD).remove("POD").unwrap();
    let host_end = scene.host_end(&pause.id).unwrap();
    assert_eq!(row["network"], "podnet", "{row}");
    assert_eq!(row["containerId"], *pause.id, "{row}");
    assert_eq!(row["anchor"], pause.pid, "{row}");
    assert_eq!(row["state"], "running", "{row}");
    assert_eq!(row["hostEnd"], *host_end.name, "{row}");
    assert_eq!(row["bridge"] == "cni0", host_end.controller.is_some());
    let address = format!("{}/24", scene.address(POD));
    assert_eq!(row["addresses"], serde_json::json!([address]), "{row}");
    let members = row["members"].as_array().unwrap();
    assert_eq!(members.len(), 2, "{row}");
    for (member, name) in members.iter().zip(["client", "www-server"]) {
        assert!(member.as_str().unwrap().contains(name), "{row}");
    }
}

fn its_containers_are_reached_by_name(scene: &Scene) {
    let fetch = "wget -q -O - 127.0.0.1";
    let page = scene.cluster.exec(POD, "client", fetch);
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let shown = |container| {
        let shown = scene
            .cluster
            .exec(POD, container, "ifconfig eth0; hostname");
        // The counters move on.
        let still = shown.lines().filter(|line| !line.contains("packets"));
        still.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown("client"), shown("www-server"));
    assert!(shown("client")[1].contains(&format!("inet {} ", scene.address(POD))));

    for container in ["client", "www-server"] {
        let words = format!("echo '{container} speaks' >/proc/1/fd/1");
        scene.cluster.exec(POD, container, &words);
    }
    for container in ["client", "www-server"] {
        let said = || scene.cluster.kubectl(&format!("logs {POD} -c {container}"));
        wait_until("the words are in the log", || said().contains(" speaks"));
        // The client's image has greeted before.
        let said = said();
        let words: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("Hello!"))
            .collect();
        assert_eq!(words, [format!("{container} speaks")]);
    }
}

/// A container that Kubernetes does not know joins a pod's network, which Docker allows.
fn a_guest_joins_its_network(scene: &Scene) {
    let pause = scene.running(POD)["POD"].clone();
    let network = format!("--net=container:{}", pause.name);
    let guest = |program: &str, args: &[&str]| {
        let program = format!("--entrypoint={program}");
        let run = ["run", "--rm", &network, &program, "hwchiu/netutils"];
        scene.node.script.run("docker", &[&run[..], args].concat())
    };
    let shown = guest("ifconfig", &["eth0"]);
    let address = scene.address(POD);
    assert!(shown.contains(&format!("inet {address} ")), "{shown}");
    let link = container_of(pause.pid).link("eth0").unwrap();
    let mac = link.mac.unwrap().to_string();
    assert!(shown.contains(&format!("ether {mac} ")), "{shown}");
    let page = guest("wget", &["-q", "-O", "-", "127.0.0.1"]);
    assert!(page.contains("Welcome to nginx!"), "{page}");
}

fn a_container_that_dies_keeps_the_address(scene: &Scene, container: &str) {
    let address = scene.address(POD);
    let before = scene.running(POD);
    let uid = scene.pod(POD)["metadata"]["uid"].clone();
    kill(before[container].pid);
    scene.wait_restarted(POD, container, 1);

    let after = scene.running(POD);
    assert_ne!(after[container].id, before[container].id);
    assert_eq!(after["POD"].id, before["POD"].id);
    assert!(share_a_network(after[container].pid, after["POD"].pid));
    assert_eq!(scene.address(POD), address);
    assert_eq!(scene.pod(POD)["metadata"]["uid"], uid);
    scene.cluster.wait("condition=Ready", &format!("pod/{POD}"));
    let page = scene.cluster.exec(POD, "client", "wget -q -O - 127.0.0.1");
    assert!(page.contains("Welcome to nginx!"), "{page}");
}

fn a_pause_that_dies_leaves_nothing(scene: &Scene) {
    let before = scene.running(POD);
    let uid = scene.pod(POD)["metadata"]["uid"].clone();
    kill(before["POD"].pid);
    wait_until("kubelet has built the pod again", || {
        let after = scene.running(POD);
        let is_new = |name| {
            let old: &Running = &before[name];
            after.get(name).is_some_and(|new| new.id != old.id)
        };
        ["POD", "client", "www-server"].into_iter().all(is_new)
    });
    wait_until("the pod has its new address", || {
        let pod = scene.pod(POD);
        let held = scene.node.script.inside(|| allocated("podnet"));
        let shown = pod_ip(&pod).map(|address| address.to_string());
        scene.host_ends().len() == 1 && held.len() == 1 && shown.as_ref() == held.first()
    });
    scene.cluster.wait("condition=Ready", &format!("pod/{POD}"));
    assert_eq!(scene.pod(POD)["metadata"]["uid"], uid);
    let after = scene.running(POD);
    assert!(scene.host_end(&after["POD"].id).is_some());
    assert!(scene.host_end(&before["POD"].id).is_none());
    let page = scene.cluster.exec(POD, "client", "wget -q -O - 127.0.0.1");
    assert!(page.contains("Welcome to nginx!"), "{page}");
}

/// Many pods are created and deleted at once: each has an address of its own, and nothing is left
/// afterwards.
pub(crate) fn of_many(scene: &Scene) {
    let manifests: String = (0..MANY)
        .map(|number| manifest(&format!("idle-{number}")))
        .collect();
    scene.cluster.apply(&manifests);
    let ran = scene
        .cluster
        .output("wait --timeout=600s --for=condition=Ready pod -l app=idle");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    scene.note("so many pods run");

    let addresses = || {
        let pods = scene.cluster.get("pods -l app=idle");
        let pods = pods["items"].as_array().unwrap();
        let mut addresses: Vec<_> = pods
            .iter()
            .filter_map(|pod| Some(pod_ip(pod)?.to_string()))
            .collect();
        addresses.sort();
        addresses
    };
    // kubelet may still be removing a sandbox that it gave up.
    wait_same(
        "every pod has an address, and no other address is in use",
        || {
            let held = scene.node.script.inside(|| allocated("podnet"));
            (held, addresses())
        },
    );
    assert_eq!(addresses().len(), MANY);
    assert_eq!(scene.host_ends().len(), MANY);

    scene
        .cluster
        .kubectl("delete pod -l app=idle --timeout=600s");
    scene.assert_nothing_left();
    scene.note("and are gone");
}
