//! Many calls at once, as on a node that boots.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use common::{Call, Container, PluginOutput, STORES, World, allocated, podnet, with};

const MANY: usize = 40;

fn containers(world: &World, count: usize) -> Vec<Container> {
    (0..count)
        .map(|n| world.container(&format!("x{n}")))
        .collect()
}

/// One call for each container, all at once.
fn all_at_once(verb: &str, config: &Value, containers: &[Container]) -> Vec<PluginOutput> {
    std::thread::scope(|scope| {
        let calls: Vec<_> = containers
            .iter()
            .map(|container| {
                let call = Call::new(verb, config)
                    .netns(container)
                    .id(container.name());
                scope.spawn(move || call.run())
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

fn dual_stack() -> Value {
    with(
        podnet(),
        json!({"ipam": {"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}}),
    )
}

#[test]
fn forty_concurrent_adds_succeed_and_forty_dels_leave_nothing() {
    let world = World::new();
    let containers = containers(&world, MANY);
    let before = world.snapshot().addresses_only();

    let answers = all_at_once("ADD", &dual_stack(), &containers);

    let mut addresses = BTreeSet::new();
    for (answer, container) in answers.iter().zip(&containers) {
        let result = answer.ok();
        let reported: Vec<_> = result["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["address"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(container.addresses("eth0"), reported);
        assert_eq!(
            container.routes(),
            ["0.0.0.0/0 via 10.1.0.1", "::/0 via fd00::1"]
        );
        let checked = with(dual_stack(), json!({"prevResult": result}));
        Call::new("CHECK", &checked)
            .netns(container)
            .id(container.name())
            .run()
            .ok();
        addresses.extend(reported);
    }
    assert_eq!(addresses.len(), 2 * MANY, "each its own");
    assert_eq!(allocated("podnet").len(), 2 * MANY);
    let bridge = world.link("cni0").unwrap();
    let ports = world
        .links()
        .into_iter()
        .filter(|link| link.controller == Some(bridge.index));
    assert_eq!(ports.count(), MANY);
    assert_eq!(world.addresses("cni0"), ["10.1.0.1/24", "fd00::1/64"]);

    for answer in all_at_once("DEL", &dual_stack(), &containers) {
        answer.ok();
    }

    assert_eq!(
        world.snapshot().addresses_only().without_bridge("cni0"),
        before
    );
    for container in &containers {
        assert!(container.link("eth0").is_none());
    }
}

/// ADD and DEL of many containers, and several calls for each at the same time.
#[test]
fn after_churn_the_state_is_that_of_the_last_call() {
    const ROUNDS: usize = 5;
    let world = World::new();
    let containers = containers(&world, 12);
    std::thread::scope(|scope| {
        for (n, container) in containers.iter().enumerate() {
            let call = move |verb: &str| {
                Call::new(verb, &podnet())
                    .netns(container)
                    .id(container.name())
                    .run()
            };
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    call("ADD").ok();
                    call("DEL").ok();
                }
                if n % 2 == 0 {
                    call("ADD").ok();
                }
            });
        }
    });

    let mut reported = BTreeSet::new();
    for (n, container) in containers.iter().enumerate() {
        let addresses = container.addresses("eth0");
        assert_eq!(addresses.len(), usize::from(n % 2 == 0), "container {n}");
        reported.extend(addresses);
    }
    let held: BTreeSet<_> = allocated("podnet")
        .iter()
        .map(|ip| format!("{ip}/24"))
        .collect();
    assert_eq!(held, reported);
    let aliased = world
        .links()
        .into_iter()
        .filter(|link| link.alias.is_some());
    assert_eq!(aliased.count(), reported.len());
}

/// A runtime that lost track calls the same ADD again while the first still runs.
#[test]
fn of_two_concurrent_adds_of_one_attachment_one_wins_and_the_other_changes_nothing() {
    let world = World::new();
    let container = world.container("x");
    let call = Call::new("ADD", &podnet()).netns(&container);
    let answers: Vec<PluginOutput> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| call.run())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });

    let (won, lost): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.0.status.success());
    assert_eq!(won.len(), 1);
    for answer in lost {
        answer.err_code(100);
    }
    let address = won[0].ok()["ips"][0]["address"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(container.addresses("eth0"), [address]);
    assert_eq!(allocated("podnet").len(), 1);
}

/// More containers than addresses: the surplus fails, and each success is a complete attachment.
#[test]
fn a_range_is_exhausted_exactly_at_its_end() {
    let world = World::new();
    let containers = containers(&world, 12);
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/29"}}),
    );

    let answers = all_at_once("ADD", &config, &containers);

    let (won, lost): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.0.status.success());
    assert_eq!((won.len(), lost.len()), (5, 7), "10.1.0.2 to 10.1.0.6");
    for answer in lost {
        answer.err_code(11);
    }
    assert_eq!(allocated("podnet").len(), 5);
    let aliased = world
        .links()
        .into_iter()
        .filter(|link| link.alias.is_some());
    assert_eq!(aliased.count(), 5);
}

/// The reference's host-local and ours may work on one store at the same time.
#[test]
fn a_locked_store_is_waited_for() {
    let world = World::new();
    let container = world.container("x");
    let store = Path::new(STORES).join("podnet");
    fs::create_dir_all(&store).unwrap();
    let lock = File::create(store.join("lock")).unwrap();
    // Shared, so that only a caller that wants it exclusively has to wait.
    flock(&lock, FlockOperation::LockShared).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| Call::new("ADD", &podnet()).netns(&container).run());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!call.is_finished());
        assert!(allocated("podnet").is_empty());

        flock(&lock, FlockOperation::Unlock).unwrap();
        call.join().unwrap().ok();
    });
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}
