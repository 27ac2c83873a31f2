//! After a reboot: the store has reservations from before, which no DEL will free.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use common::programs;
use common::wait::wait_until;
use common::{Call, Container, PluginOutput, STORES, World, allocated, ip, lab, podnet, run, with};

const HOUR: Duration = Duration::from_secs(3600);

/// A network with addresses from .2 to .`last` to give.
fn network(last: u8) -> Value {
    let end = format!("10.1.0.{last}");
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": end});
    with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": [[range]]}}),
    )
}

fn add(network: &Value, container: &Container) -> Call {
    Call::new("ADD", network)
        .id(container.name())
        .netns(container)
}

/// Runs the call as the child of a runtime (a shell) in a PID namespace of their own, so the plugin sees
/// every process that could own an attachment. `beside`: shell commands that start other processes.
fn call_in_pid_namespace(call: &Call, beside: &str) -> PluginOutput {
    let plugin = programs::pausenet();
    run_in_pid_namespace(call, &format!("{beside}\n{plugin}; exit $?"))
}

fn run_in_pid_namespace(call: &Call, script: &str) -> PluginOutput {
    let mut command = call.clone().program("unshare").command();
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", script]);
    call.run_as(command)
}

/// A world, if PID namespaces can be made: only in one of its own can a call see all processes, and
/// only then are addresses freed at once.
fn world_with_pid_namespaces() -> Option<World> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "true"]);
    let can = unshare.stderr(Stdio::null()).status().unwrap().success();
    if !can {
        lab::skip("PID namespaces cannot be made here");
    }
    can.then(World::new)
}

/// What a reboot does: processes and namespaces are gone, and /run is empty.
fn reboot(world: &World, containers: Vec<Container>) {
    for container in containers {
        container.destroy();
    }
    wait_until("their links are gone", || {
        world.links().iter().all(|link| link.kind != "veth")
    });
    ip("link del cni0");
    empty_run();
}

fn empty_run() {
    run("umount", ["--lazy", "/run"]);
    run("mount", ["-t", "tmpfs", "tmpfs", "/run"]);
    fs::create_dir_all("/run/netns").unwrap();
}

/// Removes everything of pausenet that is not on a disk.
fn remove_run_folder() {
    let _ = fs::remove_dir_all("/run/pausenet");
}

fn file(ip: &str) -> PathBuf {
    Path::new(STORES).join("podnet").join(ip)
}

/// Sets when an address was reserved, according to the clock of that time.
fn set_reservation_time(ip: &str, time: SystemTime) {
    let file = File::options().write(true).open(file(ip)).unwrap();
    file.set_modified(time).unwrap();
}

/// Sets when every address was reserved.
fn set_all_reservation_times(time: SystemTime) {
    for ip in allocated("podnet") {
        set_reservation_time(&ip, time);
    }
}

/// Reserves an address as another plugin does.
fn reserve(ip: &str, container: &str) {
    fs::write(file(ip), format!("{container}\r\neth0")).unwrap();
}

#[track_caller]
fn assert_holds(ip: &str, container: &str) {
    let holder = fs::read_to_string(file(ip)).unwrap();
    assert_eq!(holder, format!("{container}\r\neth0"), "{ip}");
}

/// Fills a network of two addresses, and reboots the host.
fn fill_and_reboot(world: &World, network: &Value) {
    let containers = ["a", "b"].map(|name| world.container(name));
    for container in &containers {
        add(network, container).run().ok();
    }
    reboot(world, containers.into());
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
}

#[test]
fn reservations_from_before_the_boot_are_freed_whatever_the_clock_says() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(3);
    let now = SystemTime::now();
    for (round, clock) in [None, Some(now + HOUR), Some(SystemTime::UNIX_EPOCH)]
        .into_iter()
        .enumerate()
    {
        fill_and_reboot(&world, &network);
        if let Some(time) = clock {
            set_all_reservation_times(time);
        }
        let new = ["x", "y", "z"].map(|name| world.container(&format!("{name}{round}")));
        let [x, y, z] = &new;
        for (at, container) in [x, y].into_iter().enumerate() {
            let answer = call_in_pid_namespace(&add(&network, container), "");
            assert!(answer.0.status.success(), "{clock:?}, {at}: {answer:?}");
        }
        // Those are in use now.
        call_in_pid_namespace(&add(&network, z), "").err_code(11);
        for container in [x, y] {
            let del = Call::new("DEL", &network).id(container.name());
            del.netns(container).run().ok();
        }
        reboot(&world, new.into());
    }
}

#[test]
fn status_succeeds_immediately_after_boot() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(3);
    fill_and_reboot(&world, &network);
    let status = call_in_pid_namespace(&Call::new("STATUS", &network), "");
    status.ok();
    assert!(allocated("podnet").is_empty());
}

/// The first call after the start leaves word of what was there; what comes later is not of it.
#[test]
fn reservations_by_another_plugin_after_the_first_call_are_kept() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(4);
    fill_and_reboot(&world, &network);
    let [x, y, z] = ["x", "y", "z"].map(|name| world.container(name));
    set_all_reservation_times(SystemTime::now() + HOUR);
    call_in_pid_namespace(&add(&network, &x), "").ok();
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3", "10.1.0.4"]);
    // Another plugin frees one of the old reservations and reserves it again.
    fs::remove_file(file("10.1.0.2")).unwrap();
    reserve("10.1.0.2", "late");
    set_reservation_time("10.1.0.2", SystemTime::now() + HOUR);

    call_in_pid_namespace(&add(&network, &y), "").ok();
    call_in_pid_namespace(&add(&network, &z), "").err_code(11);
    assert_holds("10.1.0.2", "late");
    assert_holds("10.1.0.3", "y");
    assert_holds("10.1.0.4", "x");
}

/// So does another plugin that was at work before us, since the same start.
#[test]
fn reservations_by_another_plugin_before_the_first_call_are_kept() {
    let world = World::new();
    let network = network(3);
    fill_and_reboot(&world, &network);
    for ip in allocated("podnet") {
        fs::remove_file(file(&ip)).unwrap();
        reserve(&ip, "early");
    }
    let x = world.container("x");
    for _ in 0..2 {
        add(&network, &x).run().err_code(11);
    }
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
}

/// As on a host where pausenet is new: another plugin's ADD has taken an address, and its interface
/// is not there yet.
#[test]
fn reservations_of_a_running_plugin_are_kept() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(3);
    fill_and_reboot(&world, &network);
    let x = world.container("x");
    // A child has its environment once it has become `sleep`.
    let at_work = "for name in a b; do \
         CNI_CONTAINERID=$name sleep 1000 & \
         until grep -qz \"^CNI_CONTAINERID=$name\" /proc/[0-9]*/environ; do :; done; done";
    let now = SystemTime::now();
    for time in [SystemTime::UNIX_EPOCH, now, now + HOUR] {
        set_all_reservation_times(time);
        remove_run_folder();
        call_in_pid_namespace(&add(&network, &x), at_work).err_code(11);
    }
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
    call_in_pid_namespace(&add(&network, &x), "").ok();
}

/// The plugin is PID 1 of its own PID namespace: its caller is outside.
#[test]
fn nothing_is_freed_where_the_runtime_s_processes_are_invisible() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(3);
    fill_and_reboot(&world, &network);
    let x = world.container("x");
    let plugin = programs::pausenet();
    run_in_pid_namespace(&add(&network, &x), &format!("exec {plugin}")).err_code(11);
    call_in_pid_namespace(&add(&network, &x), "").ok();
}

/// /run was emptied by hand: there was no reboot.
#[test]
fn addresses_on_interfaces_are_kept_when_run_is_empty() {
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = network(3);
    let [a, b, x] = ["a", "b", "x"].map(|name| world.container(name));
    for container in [&a, &b] {
        add(&network, container).run().ok();
    }
    for time in [SystemTime::UNIX_EPOCH, SystemTime::now() + HOUR] {
        set_all_reservation_times(time);
        remove_run_folder();
        call_in_pid_namespace(&add(&network, &x), "").err_code(11);
    }
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
}

#[test]
fn concurrent_adds_share_the_reservations_from_before_the_boot() {
    const PODS: u8 = 8;
    let Some(world) = world_with_pid_namespaces() else {
        return;
    };
    let network = &network(1 + PODS);
    let pods = |name: &str| -> Vec<_> {
        (0..PODS)
            .map(|n| world.container(&format!("{name}{n}")))
            .collect()
    };
    let old = pods("old");
    for container in &old {
        add(network, container).run().ok();
    }
    reboot(&world, old);
    set_all_reservation_times(SystemTime::now() + HOUR);
    let new = pods("new");
    let mut given: Vec<String> = std::thread::scope(|scope| {
        let start = |container| {
            scope.spawn(move || call_in_pid_namespace(&add(network, container), "").ok())
        };
        let all: Vec<_> = new.iter().map(start).collect();
        let address = |result: Value| result["ips"][0]["address"].as_str().unwrap().to_owned();
        all.into_iter()
            .map(|one| address(one.join().unwrap()))
            .collect()
    });
    given.sort();
    let all = (2..2 + PODS).map(|n| format!("10.1.0.{n}/24"));
    assert_eq!(given, all.collect::<Vec<_>>());
    for container in &new {
        let own = container.addresses("eth0");
        assert!(own.len() == 1 && given.contains(&own[0]), "{own:?}");
    }
}
