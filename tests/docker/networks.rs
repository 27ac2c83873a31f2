//! A container with several networks.

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE};
use common::{allocated, podnet, run, with};

/// A daemon with more networks than podnet.
fn start() -> Option<Docker> {
    let docker = Docker::start_with_applications(NO_BRIDGE)?;
    add_networks(&docker);
    Some(docker)
}

/// A second and a third network beside podnet. Only podnet is a default gateway.
pub(crate) fn add_networks(docker: &Docker) {
    for (name, bridge, subnet) in [
        ("storage", "store0", "10.2.0.0/24"),
        ("backup", "back0", "10.3.0.0/24"),
    ] {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]});
        let more = json!({
            "name": name, "bridge": bridge, "ipam": ipam,
            "isDefaultGateway": false, "isGateway": true,
            "capabilities": {"ips": true, "portMappings": true},
        });
        docker.network(&with(podnet(), more));
    }
}

/// The addresses of a container's interfaces.
fn addresses(docker: &Docker, container: &str) -> Vec<String> {
    let view = docker.view(container);
    let names = ["eth0", "eth1", "eth2", "net1"].into_iter();
    let there = names.filter(|name| view.link(name).is_some());
    let shown = there.map(|name| format!("{name} {}", view.addresses(name).join(" ")));
    shown.collect()
}

const BOTH: [&str; 2] = ["eth0 10.1.0.2/24", "eth1 10.2.0.2/24"];

#[test]
fn a_second_network_leaves_the_first_and_each_can_be_detached() {
    let Some(docker) = start() else {
        return;
    };
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    docker.sleeper("app", "container:web");
    let attach = ["docker", "attach", "web", "--network"];
    let said = docker.pausectl_ok(&[&attach[..], &["storage"]].concat());
    assert_eq!(said, "web: 10.2.0.2/24 on eth1 (network storage)\n");
    let named = [&attach[..], &["backup", "--ifname", "net1"]].concat();
    let said = docker.pausectl_ok(&named);
    assert_eq!(said, "web: 10.3.0.2/24 on net1 (network backup)\n");
    let all = [BOTH[0], BOTH[1], "net1 10.3.0.2/24"];
    assert_eq!(addresses(&docker, "app"), all);
    let hosts = docker.run(&["exec", "app", "cat", "/etc/hosts"]);
    for address in ["10.1.0.2\tweb", "10.2.0.2\tweb", "10.3.0.2\tweb"] {
        assert!(hosts.contains(address), "{hosts}");
    }

    // What is there already is refused, and nothing changes.
    for (args, reason) in [
        (
            &["storage"][..],
            "web already has an interface eth1, of network storage",
        ),
        (
            &["storage", "--ifname", "eth0"],
            "web already has an interface eth0",
        ),
        (&["nonet"], "no network \"nonet\""),
    ] {
        let said = docker.pausectl_fails(1, &[&attach[..], args].concat());
        assert!(said.contains(reason), "{said}");
    }
    let said = docker.pausectl_fails(1, &["docker", "attach", "web"]);
    assert!(said.contains("web already has an interface eth0"), "{said}");
    assert_eq!(addresses(&docker, "app"), all);

    // A second interface in the same network, if its name is given.
    docker.pausectl_ok(&[&attach[..], &["storage", "--ifname", "eth2"]].concat());
    assert_eq!(allocated("storage"), ["10.2.0.2", "10.2.0.3"]);
    docker.run(&["rm", "-f", "app"]);
    docker.pausectl_ok(&["docker", "detach", "web", "--ifname", "eth2"]);
    let said = docker.pausectl_ok(&["docker", "detach", "web", "--network", "backup"]);
    assert_eq!(said, "web: detached from network backup\n");
    assert_eq!(addresses(&docker, "web"), BOTH);
    for unknown in [["--network", "nonet"], ["--ifname", "eth7"]] {
        let said = docker.pausectl_fails(1, &[&["docker", "detach", "web"], &unknown[..]].concat());
        assert!(
            said.contains("it has podnet on eth0, storage on eth1"),
            "{said}"
        );
    }
    let said = docker.pausectl_ok(&["docker", "detach", "web"]);
    let both = "web: detached from network podnet\nweb: detached from network storage\n";
    assert!(said.contains(both), "{said}");
    assert_eq!(addresses(&docker, "web"), [""; 0]);
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left();
}

#[test]
fn a_failed_attach_leaves_the_other_networks() {
    let Some(docker) = start() else {
        return;
    };
    docker.network(&with(podnet(), json!({"name": "broken", "bridge": "lo"})));
    docker.pausectl_ok(&["docker", "up", "web", "--network", "podnet"]);
    docker.pausectl_fails(1, &["docker", "attach", "web", "--network", "broken"]);
    assert_eq!(addresses(&docker, "web"), BOTH[..1]);
    docker.run(&["restart", "-t", "0", "web"]);
    let said = docker.pausectl_ok(&["docker", "attach", "web"]);
    assert_eq!(said, "web: 10.1.0.2/24 on eth0 (network podnet)\n");
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn up_attaches_to_several_networks_and_a_restart_gets_all_back() {
    let Some(docker) = start() else {
        return;
    };
    let networks = ["--network", "podnet", "--network", "storage"];
    let ports = ["-p", "8080:80"];
    let up = [&["docker", "up", "web"], &networks[..], &ports].concat();
    let json = [&up[..], &["--output", "json"]].concat();
    let said: Value = serde_json::from_str(&docker.pausectl_ok(&json)).unwrap();
    assert_eq!(said["ifname"], "eth0");
    assert_eq!(said["more"][0]["ifname"], "eth1");
    assert_eq!(said["more"][0]["addresses"], json!(["10.2.0.2/24"]));
    assert_eq!(addresses(&docker, "web"), BOTH);
    let both = "web: 10.1.0.2/24 on eth0 (network podnet)\n\
                web: host port 8080/tcp forwards to port 80\n\
                web: 10.2.0.2/24 on eth1 (network storage)\n";
    docker.run(&["restart", "-t", "0", "web"]);
    assert_eq!(docker.pausectl_ok(&["docker", "attach", "web"]), both);
    docker.run(&["restart", "-t", "0", "web"]);
    let said = docker.pausectl_ok(&["docker", "watch", "--once"]);
    assert_eq!(
        said,
        "web: attached to network podnet: 10.1.0.2/24 on eth0\n\
         web: attached to network storage: 10.2.0.2/24 on eth1\n"
    );
    // One more, and the restart's others with it.
    docker.run(&["restart", "-t", "0", "web"]);
    docker.pausectl_ok(&["docker", "attach", "web", "--network", "backup"]);
    let all = [BOTH[0], BOTH[1], "eth2 10.3.0.2/24"];
    assert_eq!(addresses(&docker, "web"), all);

    for option in [
        ["--ip", "10.1.0.9"],
        ["--mac", "02:00:00:00:00:01"],
        ["--ifname", "x"],
    ] {
        let up = [&["docker", "up", "db"], &networks[..], &option].concat();
        let said = docker.pausectl_fails(2, &up);
        assert!(said.contains(option[0]), "{said}");
    }
    docker.network(&with(podnet(), json!({"name": "broken", "bridge": "lo"})));
    docker.pausectl_fails(
        1,
        &[
            "docker",
            "up",
            "db",
            "--network",
            "storage",
            "--network",
            "broken",
        ],
    );
    assert_eq!(docker.run(&["ps", "-a", "--format", "{{.Names}}"]), "web");
    assert_eq!(allocated("storage"), ["10.2.0.2"]);

    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left();
}

#[test]
fn the_watcher_attaches_to_all_labelled_networks_and_completes_what_is_missing() {
    let Some(docker) = start() else {
        return;
    };
    let labels = [
        "--label",
        "pausenet.network=podnet,storage",
        "--label",
        "pausenet.ip=10.1.0.9",
        "--label",
        "pausenet.publish=8080:80",
    ];
    let run = ["run", "-d", "--net=none", "--name", "job"];
    docker.run(&[&run[..], &labels, &["pausenet/pause"]].concat());
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    let both = ["eth0 10.1.0.9/24", "eth1 10.2.0.2/24"];
    assert_eq!(addresses(&docker, "job"), both);
    // One goes, and comes back.
    let pid = docker.pid("job").to_string();
    common::run(
        "nsenter",
        ["-n", "-t", &pid, "ip", "link", "delete", "eth1"],
    );
    let said = docker.pausectl_ok(&["docker", "watch", "--once"]);
    assert_eq!(
        said,
        "job: attached to network storage: 10.2.0.2/24 on eth1\n"
    );
    assert_eq!(addresses(&docker, "job"), both);
    // One that the user took away stays away.
    docker.pausectl_ok(&["docker", "detach", "job", "--network", "storage"]);
    assert_eq!(docker.pausectl_ok(&["docker", "watch", "--once"]), "");
    docker.run(&["restart", "-t", "0", "job"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    assert_eq!(addresses(&docker, "job"), both[..1]);
    docker.run(&["rm", "-f", "job"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left();
}

#[test]
fn both_networks_outlive_the_anchor_and_follow_it() {
    let Some(docker) = start() else {
        return;
    };
    let networks = ["--network", "podnet", "--network", "storage"];
    docker.pausectl_ok(&[&["docker", "up", "web"], &networks[..]].concat());
    docker.sleeper("app", "container:web");
    let (pid, ls) = (docker.pid("app"), docker.pausectl_ok(&["ls"]));
    assert_eq!(ls.matches(" web ").count(), 2, "{ls}");
    let explained = docker.pausectl_ok(&["explain", "app"]);
    for line in [
        "eth0  10.1.0.2/24",
        "eth1  10.2.0.2/24",
        "network podnet",
        "network storage",
    ] {
        assert!(explained.contains(line), "{explained}");
    }
    let graph = docker.pausectl_ok(&["graph"]);
    for line in ["eth0 10.1.0.2/24 (podnet)", "eth1 10.2.0.2/24 (storage)"] {
        assert!(graph.contains(line), "{graph}");
    }

    docker.run(&["rm", "-f", "web"]);
    let said = docker.pausectl_fails(1, &[&["docker", "up", "web"], &networks[..]].concat());
    assert!(
        said.contains("still in use in an earlier namespace, by app"),
        "{said}"
    );
    docker.pausectl_ok(&["docker", "reanchor", "web"]);
    assert_eq!(docker.pid("app"), pid);
    for name in ["web", "app"] {
        assert_eq!(addresses(&docker, name), BOTH, "{name}");
    }
    docker.run(&["rm", "-f", "web", "app"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.assert_nothing_is_left();

    docker.pausectl_ok(&[&["docker", "up", "web"], &networks[..]].concat());
    docker.sleeper("app", "container:web");
    docker.run(&["restart", "-t", "0", "web"]);
    let said = docker.pausectl_ok(&["docker", "reanchor", "web", "--restart-members"]);
    assert_eq!(
        said,
        "web: has its network again (10.1.0.3 on eth0, 10.2.0.3 on eth1)\n\
         app: restarted into the network of web\n"
    );
    for name in ["web", "app"] {
        assert_eq!(
            addresses(&docker, name),
            ["eth0 10.1.0.3/24", "eth1 10.2.0.3/24"]
        );
    }
    docker.run(&["rm", "-f", "web", "app"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn a_rescue_gives_several_networks_and_takes_all_back() {
    let Some(docker) = start() else {
        return;
    };
    docker.run(&[
        "run",
        "-d",
        "--net=none",
        "--name",
        "bare",
        "pausenet/pause",
    ]);
    let pid = docker.pid("bare").to_string();
    docker.pausectl_ok(&["rescue", &pid, "--network", "podnet"]);
    let said = docker.pausectl_ok(&["rescue", &pid, "--network", "storage"]);
    assert!(
        said.contains("10.2.0.2/24 on eth1 (network storage)"),
        "{said}"
    );
    assert_eq!(addresses(&docker, "bare"), BOTH);
    for again in [
        &["rescue", &pid, "--network", "storage"][..],
        &["rescue", &pid, "--network", "backup", "--ifname", "eth1"],
    ] {
        let said = docker.pausectl_fails(1, again);
        assert!(
            said.contains("has an interface eth1: nothing to rescue"),
            "{said}"
        );
    }
    docker.pausectl_ok(&["rescue", &pid, "--undo"]);
    docker.assert_nothing_is_left();
    let both = [
        "rescue",
        &pid,
        "--network",
        "podnet",
        "--network",
        "storage",
    ];
    docker.pausectl_ok(&both);
    assert_eq!(addresses(&docker, "bare").len(), 2);
    docker.pausectl_ok(&["rescue", &pid, "--undo"]);
    docker.stop_with_nothing_left();
}

#[test]
fn ports_are_published_on_the_first_network_that_maps_ports_or_on_the_named_one() {
    let Some(docker) = start() else {
        return;
    };
    docker.network(&with(podnet(), json!({"name": "portless"})));
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "portless",
        "--network",
        "storage",
    ]);
    docker.pausectl_ok(&["docker", "publish", "web", "8080:80"]);
    docker.pausectl_ok(&["docker", "attach", "web", "--network", "backup"]);
    docker.pausectl_ok(&["docker", "publish", "web", "8081:80", "--network", "backup"]);
    let rules = || run("nft", ["list", "ruleset"]);
    for element in [
        "tcp . 8080 comment \"pausenet storage docker-web eth1\"",
        "tcp . 8081 comment \"pausenet backup docker-web eth2\"",
    ] {
        assert!(rules().contains(element), "{}", rules());
    }
    let taken = ["docker", "publish", "web", "8080:81", "--network", "backup"];
    let said = docker.pausectl_fails(1, &taken);
    assert!(
        said.contains("host port 8080/tcp already forwards to port 80 of web"),
        "{said}"
    );
    let unknown = ["docker", "publish", "web", "1:1", "--network", "podnet"];
    let said = docker.pausectl_fails(1, &unknown);
    assert!(
        said.contains("web is not attached to network podnet"),
        "{said}"
    );
    docker.pausectl_ok(&["docker", "unpublish", "web", "8080", "8081"]);
    assert!(!rules().contains("tcp . 808"), "{}", rules());
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    assert_eq!(allocated("portless"), [""; 0]);
    docker.stop_with_nothing_left();
}
