//! What happens to pods when kubelet is killed during an ADD, or the whole machine fails.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::cluster::{Runtime, pod_ip};
use crate::scene::{Scene, install, manifest, network};
use crate::script::kill;
use crate::wrapper::{self, REAL};
use common::wait::wait_until;
use common::{allocated, run};

/// What is killed during an ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Kubelet,
    KubeletAndPlugin,
}

/// kubelet is killed during an ADD and started again. The pod then has one attachment.
pub(crate) fn of_kubelet_during_add(scene: &Scene) {
    for (pod, ends) in [("early", Ends::Kubelet), ("late", Ends::KubeletAndPlugin)] {
        let script = &scene.node.script;
        script.inside(pause_adds);
        scene.cluster.apply(&manifest(pod));
        let adding = || {
            script
                .inside(|| fs::read_to_string(ADDING).ok())
                .filter(|said| said.ends_with('\n'))
        };
        wait_until("an ADD is under way", || adding().is_some());
        let plugin: u32 = adding().unwrap().trim().parse().unwrap();

        script.inside(wrapper::remove);
        if ends == Ends::KubeletAndPlugin {
            let kubelet = script.daemon("kubelet");
            kill(kubelet);
            kill(plugin);
            script.wait_for_another("kubelet", kubelet);
        } else {
            // containerd kills the plugin when its client is gone. With Docker, kubelet itself was the
            // plugin's caller, and the plugin goes on.
            script.kill("kubelet");
        }
        script.inside(resume_adds);

        scene.cluster.wait("condition=Ready", &format!("pod/{pod}"));
        wait_until("the pod has one network", || {
            let held = script.inside(|| allocated("podnet"));
            let shown = pod_ip(&scene.pod(pod)).map(|address| address.to_string());
            let pause = scene.running(pod).remove("POD");
            let is_wired = pause.is_some_and(|pause| scene.host_end(&pause.id).is_some());
            is_wired
                && scene.host_ends().len() == 1
                && held.len() == 1
                && held.first() == shown.as_ref()
        });
        scene
            .cluster
            .kubectl(&format!("delete pod {pod} --wait=false"));
        scene.assert_nothing_left();
        scene.note("kubelet was killed during an ADD");
    }
}

/// The machine is switched off with all addresses in use, and comes back with only the store of
/// addresses: nobody will ever call DEL for their holders.
#[test]
fn after_a_reboot_every_address_is_free_again() {
    let disk = tempfile::tempdir().unwrap();
    let Some(mut scene) = Scene::bare(Runtime::Containerd, Some(disk.path())) else {
        return;
    };
    let mut network = network(&scene.node, &scene.cluster);
    let range = &mut network["plugins"][0]["ipam"]["ranges"][0][0];
    let subnet = range["subnet"].as_str().unwrap().to_owned();
    let host = |number| subnet.replace(".0/24", &format!(".{number}"));
    range["rangeStart"] = json!(host(10));
    range["rangeEnd"] = json!(host(12));
    let all = [10, 11, 12].map(host);
    let names = ["one", "two", "three"];
    install(&scene.node, &network);
    scene.cluster.wait("condition=Ready", "node/node1");
    scene.cluster.apply(&names.map(manifest).concat());
    for name in names {
        scene
            .cluster
            .wait("condition=Ready", &format!("pod/{name}"));
    }
    assert_eq!(scene.node.script.inside(|| allocated("podnet")), all);
    let old = names.map(|name| scene.running(name)["POD"].id.clone());

    // All processes are killed and all namespaces end, with /run, before anything can react.
    scene.node.switch_off();
    for entry in fs::read_dir(disk.path()).unwrap().flatten() {
        if entry.file_name() != "cni" {
            run("rm", ["-rf", entry.path().to_str().unwrap()]);
        }
    }

    scene.node.switch_on(&scene.cluster);
    install(&scene.node, &network);
    wait_until("every pod has its network again", || {
        names.iter().zip(&old).all(|(name, old)| {
            let pause = scene.running(name).remove("POD");
            pause.is_some_and(|pause| pause.id != *old && scene.host_end(&pause.id).is_some())
        })
    });
    for name in names {
        scene
            .cluster
            .wait("condition=Ready", &format!("pod/{name}"));
    }
    assert_eq!(scene.node.script.inside(|| allocated("podnet")), all);
    scene
        .cluster
        .kubectl(&format!("delete pod {}", names.join(" ")));
    wait_until("every address is free", || {
        scene.node.script.inside(|| allocated("podnet")).is_empty()
    });
    scene.end();
}

/// The file with the PID of the waiting ADD.
const ADDING: &str = "/run/adding";
const GATE: &str = "/run/gate";

/// From here on each ADD writes its PID, and waits at the gate.
fn pause_adds() {
    let _ = fs::remove_file(ADDING);
    let _ = fs::remove_file(GATE);
    run("mkfifo", [GATE]);
    wrapper::put(&format!(
        "[ \"$CNI_COMMAND\" = ADD ] || exec {REAL}\necho $$ >{ADDING}\nread -r _ <{GATE}\nexec {REAL}\n"
    ));
}

/// Lets waiting ADDs through, if any are still alive.
fn resume_adds() {
    use std::io::Write;
    let gate = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(GATE));
    gate.unwrap().write_all(b"\n\n\n\n").unwrap();
}
