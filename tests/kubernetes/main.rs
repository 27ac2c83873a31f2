//! A real kubelet and API server, with our plugin as the node's network and our pause in every pod:
//! the pod of conf/kubernetes/pause.yaml from its first second to its last.

mod cluster;
mod conflist;
mod containers;
mod cri;
mod deaths;
mod kind;
mod kind_up;
mod lives;
mod node_image;
mod nodes;
mod outside;
mod scene;
mod script;
mod setup;
mod today;
mod wrapper;

use crate::cluster::Runtime;
use crate::scene::Scene;

#[test]
fn pods_live_and_die_on_kubelet_with_docker() {
    let Some(scene) = Scene::start(Runtime::Docker) else {
        return;
    };
    lives::of_two_containers(&scene);
    deaths::of_kubelet_during_add(&scene);
    lives::of_many(&scene);
    conflist::on_a_node(&scene);
    scene.end();
}

#[test]
fn pods_live_and_die_on_kubelet_with_containerd() {
    let Some(scene) = Scene::start(Runtime::Containerd) else {
        return;
    };
    lives::of_two_containers(&scene);
    deaths::of_kubelet_during_add(&scene);
    lives::of_many(&scene);
    scene.end();
}
