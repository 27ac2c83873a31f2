//! A real kubelet and API server, with our plugin as the node's network and our pause in every pod: the
//! life of the pod of conf/kubernetes/pause.yaml, and of many others.

mod cluster;
mod conflist;
mod containerd;
mod containers;
mod cri;
mod critest;
mod deaths;
mod explain;
mod kind;
mod kind_up;
mod lab_cache;
mod lab_place;
mod node_image;
mod nodes;
mod outside;
mod pods;
mod scene;
mod script;
mod wrapper;

use crate::cluster::Runtime;
use crate::scene::Scene;

/// Kubernetes 1.20, since later ones do not speak to Docker: not for every run, as its build takes ten
/// minutes. `scripts/test.sh --test kubernetes -- --ignored` makes it and runs this.
#[test]
#[ignore = "Kubernetes 1.20 has to be built first"]
fn pods_live_and_die_on_kubelet_with_docker() {
    let Some(scene) = Scene::start(Runtime::Docker) else {
        return;
    };
    pods::of_two_containers(&scene);
    deaths::of_kubelet_during_add(&scene);
    pods::of_many(&scene);
    conflist::on_a_node(&scene);
    scene.end();
}

#[test]
fn pods_live_and_die_on_kubelet_with_containerd() {
    let Some(scene) = Scene::start(Runtime::Containerd) else {
        return;
    };
    pods::of_two_containers(&scene);
    deaths::of_kubelet_during_add(&scene);
    pods::of_many(&scene);
    scene.end();
}
