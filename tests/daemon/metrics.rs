//! What a running daemon reclaims by itself, and the metrics about it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::api::{Api, Tools};
use crate::misbehaving::Scene;
use common::wait::wait_until;
use common::{lab, run};

#[test]
fn leftovers_of_a_dead_pod_are_reclaimed_and_counted_in_the_metrics() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let (api, node, kubeconfig) = Api::for_one_node(&tools);
    api.create_node(&node, json!({}));
    let mut command = node.command(&kubeconfig);
    command.args(["--interval", "1"]);
    let daemon = node.start_as(command);
    node.await_ready();
    let range = format!("{{range=\"{}\"}}", api.pod_cidr("node1"));
    let used = format!("pausenet_addresses_used{range}");
    let free = format!("pausenet_addresses_free{range}");
    let await_metric = |name: &str, value: f64| {
        wait_until(&format!("{name} is {value}"), || {
            node.metric(name) == Some(value)
        });
    };

    let [alive, dead] = ["alive", "dead"].map(|name| api.world.container(name));
    let at_alive = node.add(&tools.cnitool, &alive)[0];
    let at_dead = node.add_with_port(&tools.cnitool, &dead, 8080);
    await_metric("pausenet_attachments", 2.0);
    await_metric(&used, 2.0);
    await_metric(&free, 251.0);
    await_metric("pausenet_stale_attachments", 0.0);
    let reclaimed = |kind: &str| format!("pausenet_reclaimed_total{{kind=\"{kind}\"}}");
    assert_eq!(node.metric(&reclaimed("address")), Some(0.0));

    // Its namespace ends, without a DEL.
    dead.destroy();
    await_metric("pausenet_attachments", 1.0);
    await_metric(&reclaimed("attachment"), 1.0);
    let ruleset = || node.host.enter(|| run("nft", ["list", "ruleset"]));
    assert!(!ruleset().contains("8080"), "{}", ruleset());
    // Its address is too young to be reclaimed.
    await_metric("pausenet_stale_attachments", 1.0);
    await_metric(&used, 2.0);
    assert_eq!(node.taken().len(), 2);
    assert_eq!(node.metric(&reclaimed("address")), Some(0.0));

    let file = node.dir.join("ipam/pausenet").join(at_dead.to_string());
    let hour = Duration::from_secs(3600);
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - hour).unwrap();
    await_metric(&reclaimed("address"), 1.0);
    assert_eq!(node.taken(), [at_alive.to_string()]);
    await_metric("pausenet_stale_attachments", 0.0);
    await_metric(&used, 1.0);
    await_metric(&free, 252.0);
    await_metric("pausenet_attachments", 1.0);
    daemon.await_log("reclaimed what no pod owned: 0 attachments and 1 addresses");
    // An address released by DEL does not count as reclaimed.
    node.cnitool(&tools.cnitool, "del", &alive);
    await_metric(&used, 0.0);
    assert_eq!(node.metric(&reclaimed("address")), Some(1.0));
    assert_eq!(node.metric(&reclaimed("attachment")), Some(1.0));
}

/// Passes on the timer are half a minute apart.
#[test]
fn attachments_are_counted_as_they_come_and_go() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let scene = Scene::start();
    let await_count = |count: f64| {
        let start = std::time::Instant::now();
        wait_until(&format!("{count} attachments are counted"), || {
            scene.watching.node.metric("pausenet_attachments") == Some(count)
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    };
    await_count(0.0);
    let pods = ["web", "db"].map(|name| scene.watching.world.container(name));
    for (pod, count) in pods.iter().zip([1.0, 2.0]) {
        scene.watching.node.add(&cnitool, pod);
        await_count(count);
    }
    scene.watching.node.cnitool(&cnitool, "del", &pods[0]);
    await_count(1.0);
    let [_, db] = pods;
    db.destroy();
    await_count(0.0);
}
