//! `explain`, of what needs no container runtime. The screens are read as they are, but for
//! numbers that the kernel gives out.

use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::host::{PodHost, kill, seen};
use common::screen::Screen;
use common::wait::wait_until;
use common::{ip, run};

fn explain(host: &PodHost, target: &str) -> Value {
    serde_json::from_str(&host.ok(&["explain", target, "--output", "json"])).unwrap()
}

#[test]
fn a_pod_is_explained_by_its_name_its_processes_and_its_file() {
    let host = PodHost::new();
    let made = host.create("web");
    let member = host.member("web");
    let pause = made["pause"].to_string();
    let screen = Screen::default()
        .hide(&pause, "PAUSE")
        .hide(&member.pid().to_string(), "SLEEP")
        .hide_netns("/run/pausenet/netns/web")
        .hide_interface(&made);
    let page = host.ok(&["explain", "web"]);
    insta::assert_snapshot!(screen.show(&page), @r"
    PAUSE (pause) is the anchor of pod web; SLEEP (sleep) shares its network.

    Network namespace NETNS: running

    Owner
      PAUSE (pause)  a process in no container
            it is the pod's anchor

    Shared by
      SLEEP (sleep)  a process in no container

    Interfaces
      eth0  10.1.0.2/24  MAC
            network podnet, made by pausenet
            host end veth76sittls6tf, a port of cni0

    What happens when one of them ends
      PAUSE (pause)  eth0 stays with SLEEP (sleep): the address is kept, and connections survive
      SLEEP (sleep)  nothing for the others
    ");
    for target in [
        &pause,
        &format!("pid:{pause}"),
        "pod:web",
        "/run/pausenet/netns/web",
        &format!("/proc/{}/ns/net", member.pid()),
    ] {
        let explained = explain(&host, target);
        assert_eq!(explained["title"], "web", "{target}");
        assert_eq!(explained["owner"]["reason"], "pod", "{target}");
    }
    let page = host.ok(&["explain", &member.pid().to_string()]);
    let first = page.lines().next().unwrap();
    insta::assert_snapshot!(screen.show(first), @r"SLEEP (sleep) shares the network of PAUSE (pause).");
}

#[test]
fn a_pod_without_its_pause_process_is_orphaned() {
    let host = PodHost::new();
    let made = host.create("web");
    let member = host.member("web");
    kill(made["pause"].as_u64().unwrap() as u32);
    let screen = Screen::default()
        .hide(&member.pid().to_string(), "SLEEP")
        .hide_netns("/run/pausenet/netns/web")
        .hide_interface(&made);
    let page = host.ok(&["explain", "web"]);
    insta::assert_snapshot!(screen.show(&page), @r"
    Pod web has lost its pause process; SLEEP (sleep) still uses its network.

    Network namespace NETNS: orphaned

    Owner
      /run/pausenet/netns/web  the namespace is bound to this file

    Members
      SLEEP (sleep)  a process in no container

    Interfaces
      eth0  10.1.0.2/24  MAC
            network podnet, made by pausenet
            host end veth76sittls6tf, a port of cni0

    What happens when one of them ends
      SLEEP (sleep)  the namespace stays: it is bound to /run/pausenet/netns/web
    ");
    member.kill();
    let explained = explain(&host, "web");
    assert_eq!(explained["state"], "empty");
    assert_eq!(explained["members"], Value::Array(Vec::new()));
}

#[test]
fn a_namespace_made_by_hand_is_explained_too() {
    let host = PodHost::new();
    let blue = host.world.container("blue");
    ip("link add hostside type veth peer name inside netns blue");
    ip("-n blue address add 10.9.0.2/24 dev inside");
    let mac = blue.link("inside").unwrap().mac.unwrap().to_string();
    let screen = Screen::default()
        .hide_netns("/run/netns/blue")
        .hide(&mac, "MAC");
    let page = host.ok(&["explain", "/run/netns/blue"]);
    insta::assert_snapshot!(screen.show(&page), @r"
    This network has no members; its namespace is bound to /run/netns/blue.

    Network namespace NETNS: empty

    Owner
      /run/netns/blue  the namespace is bound to this file

    Interfaces
      inside  10.9.0.2/24  MAC  down
            made by hand or by an unknown program
            host end hostside, on no bridge
    ");
}

#[test]
fn the_network_is_named_from_the_runtime_s_result_cache() {
    let host = PodHost::new();
    let blue = host.world.container("blue");
    ip("link add hostside type veth peer name eth0 netns blue");
    let mac = blue.link("eth0").unwrap().mac.unwrap().to_string();
    // As libcni writes it: bridge and portmap of network "theirs".
    let config = r#"{"cniVersion": "1.0.0", "name": "theirs",
                     "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
    let kept = serde_json::json!({
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": base64(config),
        "ifName": "eth0",
        "networkName": "theirs",
        "netns": "/run/netns/blue",
        "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": mac}]},
    });
    std::fs::create_dir_all("/var/lib/cni/results").unwrap();
    let file = "/var/lib/cni/results/theirs-c1-eth0";
    std::fs::write(file, kept.to_string()).unwrap();
    let explained = explain(&host, "/run/netns/blue");
    assert_eq!(explained["interfaces"][0]["network"], "theirs");
    assert_eq!(explained["interfaces"][0]["madeBy"], "cni");
    let page = host.ok(&["explain", "/run/netns/blue"]);
    assert!(
        page.contains("network theirs, made by CNI's bridge and portmap"),
        "{page}"
    );
    // A later interface of that name is not the one that was kept.
    ip("-n blue link set eth0 address 02:00:00:00:00:09");
    let explained = explain(&host, "/run/netns/blue");
    assert_eq!(explained["interfaces"][0]["madeBy"], "unknown");
}

#[test]
fn control_characters_in_foreign_names_are_escaped() {
    let host = PodHost::new();
    let _blue = host.world.container("blue");
    ip("link add hostside type veth peer name inside netns blue");
    let hostile = "e\u{1b}[2Jx\u{7}";
    run(
        "ip",
        ["-n", "blue", "link", "set", "inside", "name", hostile],
    );
    run("ip", ["link", "add", "b\u{1b}[31m", "type", "bridge"]);
    run("ip", ["link", "set", "hostside", "master", "b\u{1b}[31m"]);
    for args in [
        &["explain", "/run/netns/blue"][..],
        &["ls", "--all"],
        &["graph"],
        &["graph", "--format", "dot"],
        &["graph", "--format", "svg"],
    ] {
        let shown = seen(&host, args);
        let is_bad = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(is_bad), "{args:?}: {shown:?}");
        // Graphviz reads two backslashes as one.
        let shown = shown.replace("\\\\", "\\");
        assert!(shown.contains("x\\u{7}"), "{args:?}: {shown:?}");
    }
    // Programs get the names as they are.
    let explained = explain(&host, "/run/netns/blue");
    assert_eq!(explained["interfaces"][0]["name"], hostile);
    let stderr = host.fails(1, &["explain", "no\u{1b}[2Jbody"]);
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
}

#[test]
fn an_invalid_target_is_refused_with_the_reason() {
    let host = PodHost::new();
    std::fs::write("/run/plain", "").unwrap();
    // Highest possible: no process has it.
    for (target, status, reason) in [
        ("nobody", 1, "there is no nobody here"),
        ("4194304", 1, "there is no process 4194304"),
        ("pid:4194304", 1, "there is no process 4194304"),
        ("/run/plain", 1, "is not a network namespace"),
        ("/proc/self/ns/mnt", 1, "not a network namespace"),
        ("/proc/4194304/ns/net", 1, "does not exist"),
        ("/run/nothing", 1, "does not exist"),
        ("pid:x", 2, "is not a process ID"),
        ("", 2, "is not a target"),
    ] {
        let stderr = host.fails(status, &["explain", target]);
        assert!(stderr.contains(reason), "{target}: {stderr}");
        assert!(
            stderr.contains("hint: ") || status == 2,
            "{target}: {stderr}"
        );
    }
    let explained = host.ok(&["explain", "/proc/self/ns/net"]);
    assert!(
        explained.contains("on the host's own network"),
        "{explained}"
    );
    let stderr = host.fails(2, &["explain", "x", "--docker", "docker.sock"]);
    assert!(stderr.contains("--docker"), "{stderr}");
}

/// Docker's own tools reach such a daemon, so people have these in their environment.
#[test]
fn a_docker_host_elsewhere_is_said_and_the_rest_is_shown() {
    let host = PodHost::new();
    host.create("web");
    for address in ["ssh://me@far", "tcp://10.0.0.1:2375"] {
        for command in ["explain", "ls", "graph"] {
            let args = if command == "explain" {
                vec![command, "web"]
            } else {
                vec![command]
            };
            let output = host
                .command(&args)
                .env("DOCKER_HOST", address)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {stderr}");
            assert!(
                stderr.contains("going on without Docker") && stderr.contains(address),
                "{stderr}"
            );
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(
                stdout.contains("web") && stdout.contains("10.1.0.2"),
                "{args:?}: {stdout}"
            );
        }
    }
}

/// A containerd shim with a container's process, on the host's network.
struct OnHost(std::process::Child);

impl OnHost {
    fn start(bundles: &Path, id: &str, annotations: &Value) -> Self {
        let bundle = bundles.join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        let spec = json!({"annotations": annotations, "linux": {"namespaces": [{"type": "pid"}]}});
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let script = bundles.join("script");
        std::fs::write(&script, "#!/bin/sh\nsleep 600 &\nwait\n").unwrap();
        // Copied by another process: see `PodHost::plugin`.
        let shim = bundles.join("containerd-shim-runc-v2");
        let paths = [script.to_str().unwrap(), shim.to_str().unwrap()];
        run("install", ["-m", "755", paths[0], paths[1]]);
        let child = std::process::Command::new(&shim)
            .args(["-namespace", "k8s.io", "-id", id, "-address", "/nowhere"])
            .current_dir(&bundle)
            .process_group(0)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        wait_until("the container's process runs", || {
            let pid = std::fs::read_to_string(&children).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim()));
            name.is_ok_and(|name| name == "sleep\n")
        });
        Self(child)
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A pod with hostNetwork, as containerd's bundles describe it.
#[test]
fn a_pod_on_the_host_s_network_is_found_by_its_names_and_ids() {
    let host = PodHost::new();
    let bundles = tempfile::tempdir().unwrap();
    let [sandbox, container] = ["1a", "2b"].map(|start| start.repeat(32));
    let cri = |key: &str| format!("io.kubernetes.cri.{key}");
    let of = |kind: &str| {
        json!({
            cri("container-type"): kind,
            cri("container-name"): "proxy",
            cri("sandbox-name"): "on-host",
            cri("sandbox-namespace"): "kube-system",
        })
    };
    let _sandbox = OnHost::start(bundles.path(), &sandbox, &of("sandbox"));
    let _container = OnHost::start(bundles.path(), &container, &of("container"));
    for (target, words) in [
        ("on-host", "pod kube-system/on-host"),
        ("kube-system/on-host", "pod kube-system/on-host"),
        ("pod:on-host", "pod kube-system/on-host"),
        (sandbox.as_str(), "the sandbox of pod kube-system/on-host"),
        (&sandbox[..12], "the sandbox of pod kube-system/on-host"),
        (
            container.as_str(),
            "container proxy of pod kube-system/on-host",
        ),
        (
            format!("container:{}", &container[..12]).as_str(),
            "container proxy of pod kube-system/on-host",
        ),
    ] {
        let explained = host.ok(&["explain", target]);
        let expected = format!("{words} is on the host's own network");
        assert!(explained.starts_with(&expected), "{target}: {explained}");
    }
    let said = explain(&host, "on-host");
    assert_eq!(said["state"], "host");
    assert_eq!(said["name"], "pod kube-system/on-host");
}

/// Bytes as libcni writes them.
fn base64(text: &str) -> String {
    let mut child = std::process::Command::new("base64")
        .arg("--wrap=0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    crate::host::feed(&mut child, text);
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}
