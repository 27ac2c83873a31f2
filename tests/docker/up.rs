//! `pausectl docker up`, `attach` and `detach`.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::connected_container::ConnectedContainer;
use common::docker::{Docker, NO_BRIDGE};
use common::processes::with_default_signals;
use common::programs;
use common::wait::wait_until;
use common::{allocated, podnet, with};

/// The gateway of network podnet, which is the host.
const HOST: &str = "10.1.0.1";

#[test]
fn members_of_an_anchor_die_in_any_order_and_the_others_keep_their_connections() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    for (round, order) in [[0, 1, 2], [1, 2, 0], [2, 0, 1]].into_iter().enumerate() {
        let start = |name: &str| {
            let name = format!("{name}{round}");
            Some(ConnectedContainer::start(
                &docker,
                &name,
                "container:web",
                HOST,
            ))
        };
        let mut clients = ["api", "db", "log"].map(start);
        for dies in order {
            let dead = clients[dies].take().unwrap();
            let pid = Pid::from_raw(docker.pid(&dead.name) as i32).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
            dead.ends();
            clients
                .iter_mut()
                .flatten()
                .for_each(ConnectedContainer::answers);
        }
    }
    assert_eq!(docker.view("web").addresses("eth0"), ["10.1.0.2/24"]);
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn an_anchor_has_and_reports_the_requested_settings() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let up = [
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "--ip",
        "10.1.0.77",
        "--mac",
        "02:00:00:00:00:77",
        "--publish",
        "8080:80",
        "--publish",
        "127.0.0.1:8053:53/udp",
        "--dns",
        "10.1.0.53",
        "--dns-search",
        "example.org",
        "--hostname",
        "front",
        "--restart",
        "on-failure:3",
        "--output",
        "json",
    ];
    let said: Value = serde_json::from_str(&docker.pausectl_ok(&up)).unwrap();
    assert_eq!(
        said,
        json!({
            "name": "web",
            "container": docker.inspect("web", ".Id"),
            "containerId": "docker-web",
            "network": "podnet",
            "ifname": "eth0",
            "addresses": ["10.1.0.77/24"],
            "ports": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8053, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
            ],
        })
    );
    assert_eq!(docker.inspect("web", ".HostConfig.NetworkMode"), "none");
    assert_eq!(
        docker.inspect("web", ".HostConfig.RestartPolicy.Name"),
        "on-failure"
    );
    assert_eq!(
        docker.inspect("web", "index .Config.Labels \"pausenet.anchor\""),
        "docker-web"
    );
    let link = docker.view("web").link("eth0").unwrap();
    assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:77");

    docker.run(&["run", "-d", "--net=container:web", "--name", "app", "nginx"]);
    let inside = |file| docker.run(&["exec", "app", "cat", file]);
    assert_eq!(
        resolver(&inside("/etc/resolv.conf")),
        ["nameserver 10.1.0.53", "search example.org"]
    );
    assert_eq!(inside("/etc/hostname"), "front");
    wait_until("nginx answers by the host's port", || {
        let wget = docker
            .command("wget")
            .args(["-q", "-O", "-", "127.0.0.1:8080"])
            .output();
        String::from_utf8_lossy(&wget.unwrap().stdout).contains("Welcome to nginx!")
    });

    let others = docker.pausectl_fails(1, &["docker", "detach", "web"]);
    assert!(
        others.contains("in use by app; nothing was changed"),
        "{others}"
    );
    docker.pausectl_ok(&["docker", "detach", "--force", "web"]);
    docker.assert_host_is_as_before();
    docker.pausectl_ok(&["docker", "attach", "web"]);
    assert_eq!(docker.view("app").addresses("eth0"), ["10.1.0.77/24"]);
    docker.run(&["rm", "-f", "web", "app"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn nameservers_come_from_the_network_s_configuration() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let dns = json!({"nameservers": ["10.1.0.9"], "domain": "pods.example"});
    docker.network(&with(podnet(), json!({"name": "told", "dns": dns})));
    let file = docker.home().join("resolv.conf");
    fs::write(&file, "nameserver 10.1.0.8\noptions ndots:3\n").unwrap();
    let ipam = with(podnet()["ipam"].clone(), json!({"resolvConf": file}));
    docker.network(&with(podnet(), json!({"name": "read", "ipam": ipam})));
    for (network, expected) in [
        ("told", ["nameserver 10.1.0.9", "search pods.example"]),
        ("read", ["nameserver 10.1.0.8", "options ndots:3"]),
    ] {
        docker.pausectl_ok(&["docker", "up", network, "--network", network]);
        let join = format!("--net=container:{network}");
        let said = docker.run(&["run", "--rm", &join, "busybox", "cat", "/etc/resolv.conf"]);
        assert_eq!(resolver(&said), expected);
    }
    docker.stop();
}

#[test]
fn a_member_resolves_its_own_name_and_the_added_hosts() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    let up = ["docker", "up", "web", "--network", "podnet"];
    let with = [
        "--hostname",
        "front.example.org",
        "--add-host",
        "db:10.1.0.9",
        "--add-host",
        "db:fd00::9",
        "--dns",
        "10.1.0.53",
    ];
    docker.pausectl_ok(&[&up[..], &with].concat());
    docker.sleeper("app", "container:web");
    let inside = |command: &[&str]| docker.run(&[&["exec", "app"], command].concat());
    let own = |address: &str| format!("{address}\tfront.example.org front # pausenet");
    let hosts = || inside(&["cat", "/etc/hosts"]);
    assert_eq!(inside(&["hostname", "-i"]), "10.1.0.2");
    let front = inside(&["getent", "ahostsv4", "front"]);
    assert!(front.starts_with("10.1.0.2 "), "{front}");
    assert!(hosts().contains("127.0.0.1\tlocalhost"), "{}", hosts());
    for line in ["10.1.0.9\tdb", "fd00::9\tdb", &own("10.1.0.2")] {
        assert!(hosts().lines().any(|found| found == line), "{}", hosts());
    }
    let file = inside(&["cat", "/etc/resolv.conf"]);
    assert_eq!(resolver(&file), ["nameserver 10.1.0.53"]);

    // Taken away under it, and given again: another address, in the file that it has open.
    docker.pausectl_ok(&["docker", "detach", "--force", "web"]);
    assert!(!hosts().contains("front"), "{}", hosts());
    docker.pausectl_ok(&[
        "docker",
        "attach",
        "web",
        "--network",
        "podnet",
        "--ip",
        "10.1.0.40",
    ]);
    assert_eq!(hosts().matches("front.example.org").count(), 1);
    assert!(hosts().ends_with(&own("10.1.0.40")), "{}", hosts());

    // Docker rewrites the file with its own entries; the watcher adds the rest.
    docker.run(&["rm", "-f", "app"]);
    docker.run(&["restart", "-t", "0", "web"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.sleeper("app", "container:web");
    assert_eq!(inside(&["hostname", "-i"]), "10.1.0.40");
    assert!(hosts().contains("10.1.0.9\tdb"), "{}", hosts());
    docker.run(&["rm", "-f", "web", "app"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn a_failed_up_leaves_nothing() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    docker.network(&with(podnet(), json!({"name": "portless"})));
    docker.network(&with(podnet(), json!({"name": "broken", "bridge": "lo"})));
    let served = std::net::TcpListener::bind("0.0.0.0:7777").unwrap();
    let up = |args: &[&str]| docker.pausectl_fails(1, &[&["docker", "up", "web"], args].concat());
    for (args, reason) in [
        (
            &["--network", "podnet", "--ip", "10.9.9.9"][..],
            "10.9.9.9 is in no range",
        ),
        (&["--network", "nonet"], "no network \"nonet\""),
        (&["--network", "broken"], "lo"),
        (
            &["--network", "portless", "-p", "80:80"],
            "does not support published ports",
        ),
        (
            &["--network", "podnet", "-p", "7777:80"],
            "already listens on port 7777/tcp",
        ),
        (
            &["--network", "podnet", "--image", "no/image"],
            "Docker has no image no/image",
        ),
        (
            &["--network", "podnet", "--docker", "/not/there"],
            "Docker is not running",
        ),
        (&["--conf", "/not/there"], "cannot read /not/there"),
    ] {
        let said = up(args);
        assert!(said.contains(reason), "{args:?}: {said}");
        assert_eq!(docker.run(&["ps", "-aq"]), "", "{args:?}");
        docker.assert_nothing_is_left();
    }
    drop(served);
    for args in [
        &["docker", "up", "a"][..],
        &["docker", "up", "../web"],
        &["docker", "up", "web", "--ip", "10.1.0"],
        &["docker", "up", "web", "-p", "80"],
        &["docker", "up", "web", "-p", "80:80", "-p", "80:81"],
        &["docker", "up", "web", "--dns", "example.org"],
        &["docker", "up", "web", "--add-host", "db"],
        &["docker", "up", "web", "--add-host", "db:example.org"],
        &["docker", "up", "web", "--restart", "sometimes"],
        &["docker", "up", "web", "--ifname", "a/b"],
        &["docker", "up", "web", "--docker", "tcp://10.0.0.1:2375"],
        &["docker", "attach", "a b"],
        &["docker", "detach", "$(reboot)"],
    ] {
        docker.pausectl_fails(2, args);
    }
    docker.stop_with_nothing_left();
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    // A plugin that hangs, behind ours.
    let plugins = docker.home().join("plugins");
    fs::create_dir(&plugins).unwrap();
    let mark = docker.home().join("hangs");
    let script = format!(
        "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\ntouch {}\nsleep 60\n",
        mark.display()
    );
    let source = docker.home().join("hang.sh");
    fs::write(&source, script).unwrap();
    let target = plugins.join("hang");
    common::run(
        "install",
        [
            "-m",
            "755",
            source.to_str().unwrap(),
            target.to_str().unwrap(),
        ],
    );
    let ours = Path::new(programs::pausenet()).parent().unwrap();
    let path = std::env::join_paths([ours, &plugins]).unwrap();
    let list = [
        with(podnet(), json!({"name": null, "cniVersion": null})),
        json!({"type": "hang"}),
    ];
    docker.network(&json!({"cniVersion": "1.0.0", "name": "slow", "plugins": list}));

    let mut command = docker.pausectl(&["docker", "up", "web", "--network", "slow"]);
    let child = with_default_signals(command.env("CNI_PATH", path))
        .spawn()
        .unwrap();
    wait_until("the plugin hangs", || mark.exists());
    assert_eq!(allocated("slow").len(), 1);
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(docker.run(&["ps", "-aq"]), "");
    docker.stop_with_nothing_left();
}

#[test]
fn only_containers_without_a_network_are_attached() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    docker.run(&["run", "-d", "--net=none", "--name", "job", "pausenet/pause"]);
    docker.run(&[
        "run",
        "-d",
        "--net=container:job",
        "--name",
        "member",
        "pausenet/pause",
    ]);
    docker.run(&[
        "run",
        "-d",
        "--net=host",
        "--name",
        "host",
        "pausenet/pause",
    ]);
    docker.run(&["create", "--net=none", "--name", "made", "pausenet/pause"]);
    let id = docker.inspect("job", ".Id");
    let said = docker.pausectl_ok(&["docker", "attach", &id[..12], "--network", "podnet"]);
    assert_eq!(said, "job: 10.1.0.2/24 on eth0 (network podnet)\n");
    for (name, reason) in [
        ("job", "job already has an interface eth0"),
        ("member", "it shares that of job"),
        ("host", "uses the host's network"),
        ("made", "is not running: it is created"),
        ("nobody", "No such container: nobody"),
    ] {
        let said = docker.pausectl_fails(1, &["docker", "attach", name, "--network", "podnet"]);
        assert!(said.contains(reason), "{name}: {said}");
    }
    let said = docker.pausectl_fails(1, &["docker", "detach", "host"]);
    assert!(
        said.contains("pausectl did not attach host to a network"),
        "{said}"
    );

    // It is known by its name when it is gone.
    docker.run(&["rm", "-f", "member", "job"]);
    docker.pausectl_ok(&["docker", "detach", "job"]);
    docker.stop_with_nothing_left();
}

#[test]
fn twenty_anchors_come_up_at_once() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    let names: Vec<_> = (0..20).map(|at| format!("anchor{at}")).collect();
    let start = |name: &String| {
        let mut command = docker.pausectl(&["docker", "up", name, "--network", "podnet"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = names.iter().map(start).collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let mut addresses: Vec<_> = names
        .iter()
        .flat_map(|name| docker.view(name).addresses("eth0"))
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    docker.run(&[&["rm", "-f"], &names[..]].concat());
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left();
}

/// What a resolv.conf says. Their order differs between versions of Docker, and so do the comments.
fn resolver(file: &str) -> Vec<&str> {
    let mut lines: Vec<_> = file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    lines.sort_unstable();
    lines
}
