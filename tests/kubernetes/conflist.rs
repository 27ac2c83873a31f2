//! The conflist of the node daemon, as runtimes read it.

use std::path::Path;

use ipnetwork::IpNetwork;
use pausenetd::conflist::render;
use pausenetd::options::Options;
use serde_json::Value;

use crate::cluster::pod_ip;
use crate::scene::{Scene, container_of, install, manifest};
use common::allocated_in;
use common::wait::wait_until;

/// The network's name in it.
pub(crate) const NETWORK: &str = "pausenet";

/// What the daemon writes for a node with these pods.
pub(crate) fn of_the_daemon(pods: IpNetwork) -> Value {
    use clap::Parser;
    let options = Options::try_parse_from(["pausenetd"]).unwrap();
    serde_json::from_str(&render(&options.settings(), &[pods], None)).unwrap()
}

/// The addresses in use on the network.
pub(crate) fn addresses() -> Vec<String> {
    allocated_in(&Path::new("/run/pausenet/ipam").join(NETWORK))
}

/// The life of a pod on a node whose network is replaced by this one.
pub(crate) fn on_a_node(scene: &Scene) {
    let script = &scene.node.script;
    let pods = scene.node.pods(&scene.cluster);
    install(&scene.node, &of_the_daemon(pods));
    // A restart makes kubelet read the conflist at once.
    script.kill("kubelet");
    scene.cluster.wait("condition=Ready", "node/node1");
    scene.cluster.apply(&manifest("lone"));
    scene.cluster.wait("condition=Ready", "pod/lone");

    let address = pod_ip(&scene.pod("lone")).expect("a pod with an address");
    assert!(pods.contains(address), "{address} of {pods}");
    let pause = scene.running("lone").remove("POD").unwrap();
    let own = format!("{address}/{}", pods.prefix());
    assert_eq!(container_of(pause.pid).addresses("eth0"), [own]);
    let alias = format!("pausenet {NETWORK} {} eth0", pause.id);
    let [host_end] = &scene.host_ends()[..] else {
        panic!("{:?}", scene.host_ends());
    };
    assert_eq!(host_end.alias.as_deref(), Some(&*alias));
    assert_eq!(host_end.controller, None, "routed");
    assert_eq!(script.inside(addresses), [address.to_string()]);

    scene.cluster.kubectl("delete pod lone");
    scene.assert_nothing_left();
    wait_until("its address is free", || {
        script.inside(addresses).is_empty()
    });
    scene.note("a pod has lived on the daemon's network");
}
