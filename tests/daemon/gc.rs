//! Garbage collection of what the real plugin left behind after crashes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use pausenet::kernel::RouteSocket;
use pausenet::kernel::nft::Nft;
use pausenetd::conflist::render;
use pausenetd::gc::{GcReport, collect};
use pausenetd::options::Options;
use serde_json::{Value, json};

use common::wait::wait_until;
use common::{Call, World, ip, run, with};

const STORE: &str = "/run/store";
const PODS: &str = "10.244.1.0/24";

fn config() -> String {
    use clap::Parser;
    let options = Options::try_parse_from(["pausenetd", "--store-dir", STORE]).unwrap();
    render(&options.settings(), &[PODS.parse().unwrap()], None)
}

/// The plugin's config, as libcni passes it.
fn plugin(runtime: Value) -> Value {
    let list: Value = serde_json::from_str(&config()).unwrap();
    let more = json!({"name": list["name"], "cniVersion": "1.1.0", "runtimeConfig": runtime});
    with(list["plugins"][0].clone(), more)
}

fn with_port_and_limit() -> Value {
    plugin(json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000,
            "egressRate": 8_000_000, "egressBurst": 8_000_000},
    }))
}

fn collect_garbage() -> GcReport {
    let pods = [PODS.parse().unwrap()];
    let (mut socket, mut nft) = (RouteSocket::open().unwrap(), Nft::open().unwrap());
    let kernel = (&mut socket, &mut nft);
    collect(
        kernel,
        &config(),
        &pods,
        Path::new(STORE),
        SystemTime::now(),
    )
    .unwrap()
}

fn file(ip: &str) -> PathBuf {
    Path::new(STORE).join("pausenet").join(ip)
}

fn make_old(ip: &str) {
    let file = File::options().write(true).open(file(ip)).unwrap();
    let hour = Duration::from_secs(3600);
    file.set_modified(SystemTime::now() - hour).unwrap();
}

#[test]
fn a_running_pod_loses_nothing_and_is_counted() {
    let world = World::new();
    let pod = world.container("pod");
    let add = Call::new("ADD", &with_port_and_limit()).netns(&pod);
    let result = add.run().ok();
    make_old("10.244.1.2");
    let rules = run("nft", ["list", "ruleset"]);
    let links = world.links().len();
    let report = collect_garbage();
    assert_eq!((report.attachments, report.stale), (1, 0));
    assert_eq!((report.reclaimed, report.freed), (0, 0));
    assert_eq!(report.usage[PODS], (1, 253));
    assert_eq!(run("nft", ["list", "ruleset"]), rules);
    assert_eq!(world.links().len(), links);
    let check = with(with_port_and_limit(), json!({"prevResult": result}));
    Call::new("CHECK", &check).netns(&pod).run().ok();
}

#[test]
fn everything_of_a_pod_without_namespace_is_reclaimed_and_its_address_once_it_is_old() {
    let world = World::new();
    let (dead, alive) = (world.container("dead"), world.container("alive"));
    let config = with_port_and_limit();
    Call::new("ADD", &config)
        .id("killed")
        .netns(&dead)
        .run()
        .ok();
    Call::new("ADD", &plugin(json!({})))
        .id("alive")
        .netns(&alive)
        .run()
        .ok();
    let ifbs = |world: &World| {
        world
            .links()
            .iter()
            .filter(|link| link.kind == "ifb")
            .count()
    };
    assert_eq!(ifbs(&world), 1);
    dead.destroy();
    wait_until("its link is gone", || {
        world
            .links()
            .iter()
            .filter(|link| link.kind == "veth")
            .count()
            == 1
    });

    let report = collect_garbage();
    assert_eq!((report.attachments, report.reclaimed), (1, 1));
    // Its file is young: it could belong to an ADD of a plugin without our locks.
    assert_eq!((report.freed, report.stale), (0, 1));
    assert_eq!(ifbs(&world), 0);
    assert!(!run("nft", ["list", "ruleset"]).contains("killed"));

    make_old("10.244.1.2");
    make_old("10.244.1.3");
    let report = collect_garbage();
    assert_eq!((report.freed, report.stale), (1, 0));
    assert!(!file("10.244.1.2").exists() && file("10.244.1.3").exists());
    assert_eq!(collect_garbage().reclaimed, 0);
}

#[test]
fn addresses_released_by_del_are_not_counted_as_reclaimed() {
    let world = World::new();
    let pods = ["a", "b"].map(|name| world.container(name));
    let over = AtomicBool::new(false);
    let freed = std::thread::scope(|scope| {
        let churn = pods.iter().map(|pod| {
            scope.spawn(|| {
                for verb in ["ADD", "DEL"].repeat(40) {
                    let call = Call::new(verb, &plugin(json!({}))).id(pod.name());
                    call.netns(pod).run().ok();
                }
            })
        });
        let churn: Vec<_> = churn.collect();
        scope.spawn(|| {
            churn.into_iter().for_each(|one| one.join().unwrap());
            over.store(true, SeqCst);
        });
        let mut freed = 0;
        while !over.load(SeqCst) {
            freed += collect_garbage().freed;
        }
        freed
    });
    assert_eq!(freed, 0);
}

#[test]
fn debris_of_a_killed_add_is_removed() {
    let world = World::new();
    // The state of the kernel between the first and the last message of an ADD.
    ip(&format!(
        "link add vethkqtm6rbkqlw group {} type veth peer name x",
        common::GROUP
    ));
    assert_eq!(collect_garbage().reclaimed, 1);
    assert!(world.link("vethkqtm6rbkqlw").is_none());
}

#[test]
fn elements_of_other_networks_are_not_reclaimed() {
    let world = World::new();
    let pod = world.container("pod");
    let other = with(with_port_and_limit(), json!({"name": "other"}));
    Call::new("ADD", &other).id("other").netns(&pod).run().ok();
    pod.destroy();
    wait_until("its link is gone", || {
        world.links().iter().all(|link| link.kind != "veth")
    });
    assert_eq!(collect_garbage().reclaimed, 0);
    assert!(run("nft", ["list", "ruleset"]).contains("pausenet other other eth0"));
}

#[test]
fn an_add_in_progress_is_left_alone() {
    let world = World::new();
    let pod = world.container("pod");
    // A container ID of its own: locks are shared by all tests.
    Call::new("ADD", &with_port_and_limit())
        .id("under-way")
        .netns(&pod)
        .run()
        .ok();
    pod.destroy();
    wait_until("its link is gone", || {
        world.links().iter().all(|link| link.kind != "veth")
    });
    make_old("10.244.1.2");
    // Hold the attachment's lock, as an ADD does.
    let attachment = pausenet::cni::request::Attachment::of_network(
        &pausenet::cni::NetworkName::parse("pausenet").unwrap(),
        "under-way",
        "eth0",
    );
    let name = pausenet::plan::host_end_name(&attachment.unwrap());
    let lock = pausenet::apply::try_lock(&name).unwrap();
    let report = collect_garbage();
    assert_eq!((report.reclaimed, report.freed, report.stale), (0, 0, 1));
    drop(lock);
    let report = collect_garbage();
    assert_eq!((report.reclaimed, report.freed, report.stale), (1, 1, 0));
    assert!(fs::read_dir("/run/pausenet/lock").unwrap().next().is_none());
}
