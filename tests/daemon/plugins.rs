//! The running daemon installs the plugin, even before it reaches an API server, and uninstall removes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::nodes::{Node, make_bridge, unreachable_kubeconfig};
use common::daemon::stripped;
use common::programs;
use common::wait::wait_until;
use common::{GROUP, World};
use pausenet::cni::NetworkName;
use pausenet::cni::request::Attachment;
use pausenet::plan::{alias, host_end_name};

/// Writes a foreign plugin.
fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_ours(path: &Path) -> bool {
    let ours = fs::read(stripped(programs::pausenet())).unwrap();
    fs::read(path).is_ok_and(|there| there == ours)
}

#[test]
fn missing_plugins_are_installed_and_foreign_ones_stay() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    put(&bin.join("loopback"), "#!/bin/sh\n");
    put(&bin.join("bridge"), "#!/bin/sh\n");
    let daemon = node.start(&unreachable_kubeconfig());
    wait_until("portmap is there", || is_ours(&bin.join("portmap")));
    assert!(is_ours(&bin.join("pausenet")));
    assert_eq!(
        fs::read_to_string(bin.join("loopback")).unwrap(),
        "#!/bin/sh\n"
    );
    assert_eq!(
        fs::read_to_string(bin.join("bridge")).unwrap(),
        "#!/bin/sh\n"
    );

    // One that somebody removes is restored by the timer.
    drop(daemon);
    let mut command = node.command(&unreachable_kubeconfig());
    command.args(["--interval", "1"]);
    let daemon = node.start_as(command);
    daemon.await_log("pausenetd 0.");
    fs::remove_file(bin.join("portmap")).unwrap();
    wait_until("portmap is back", || is_ours(&bin.join("portmap")));
}

#[test]
fn replace_plugins_replaces_foreign_plugins_and_uninstall_restores_them() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    put(&bin.join("loopback"), "#!/bin/sh\n");
    let mut command = node.command(&unreachable_kubeconfig());
    command.args(["--replace-plugins", "--plugins", "loopback,bridge"]);
    let daemon = node.start_as(command);
    wait_until("all are ours", || {
        ["pausenet", "loopback", "bridge"]
            .iter()
            .all(|name| is_ours(&bin.join(name)))
    });
    assert!(!bin.join("portmap").exists());
    assert_eq!(daemon.stop(), Some(0));

    let mut command = node.command(&unreachable_kubeconfig());
    let output = command.arg("--uninstall").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fs::read_to_string(bin.join("loopback")).unwrap(),
        "#!/bin/sh\n"
    );
    let left: Vec<_> = fs::read_dir(&bin).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Without the network's configuration, containerd could not call the pods' DEL.
#[test]
fn uninstall_keeps_everything_while_a_pod_is_attached_and_says_what_it_waits_for() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    let daemon = node.start(&unreachable_kubeconfig());
    wait_until("the plugin is there", || is_ours(&bin.join("pausenet")));
    assert_eq!(daemon.stop(), Some(0));
    fs::create_dir_all(node.conflist().parent().unwrap()).unwrap();
    fs::write(node.conflist(), "{}").unwrap();
    let network = NetworkName::parse("pausenet").unwrap();
    let web = Attachment::of_network(&network, "web", "eth0").unwrap();
    let end = host_end_name(&web).to_string();
    // As ADD leaves it.
    node.host.ip(&format!(
        "link add {end} group {GROUP} type veth peer name inside"
    ));
    let alias = alias(&web);
    let args = ["link", "set", &end, "alias", &alias];
    node.host.enter(|| common::run("ip", args));
    let uninstall = |wait: &str| {
        let mut command = node.command(&unreachable_kubeconfig());
        command.args(["--uninstall", "--uninstall-wait", wait]);
        command
    };

    let output = uninstall("1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["1 pods", "container web", "nothing was removed", "drain"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(node.conflist().exists() && bin.join("pausenet").exists());

    let waiting = node.start_as(uninstall("120"));
    waiting.await_log("waiting until no pod is attached, for");
    node.host.ip(&format!("link delete {end}"));
    assert_eq!(waiting.end(), Some(0));
    assert!(!node.conflist().exists() && !bin.join("pausenet").exists());
}

/// Kubespray's folder belongs to a user kube, one from an archive to the user who packed it.
#[test]
fn writing_to_a_folder_of_another_user_takes_dac_override() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    if chown(&bin, Some(997), Some(997)).is_err() {
        // In a user namespace there may be no other user; a read-only folder needs the same capability.
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let daemon = node.start_as(node.command_that_may(&unreachable_kubeconfig(), "+net_admin"));
    daemon.await_log("Permission denied");
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 0);
    assert_eq!(daemon.stop(), Some(0));

    let _daemon = node.start(&unreachable_kubeconfig());
    wait_until("all are ours", || {
        ["pausenet", "loopback", "portmap"]
            .iter()
            .all(|name| is_ours(&bin.join(name)))
    });
}

/// The daemons of the tests run with the capabilities of the manifest.
#[test]
fn the_manifests_have_the_tested_capabilities() {
    for manifest in [
        include_str!("../../conf/kubernetes/pausenet.yaml"),
        include_str!("../../conf/kubernetes/uninstall.yaml"),
    ] {
        assert!(manifest.contains("drop: [ALL]\n              add: [NET_ADMIN, DAC_OVERRIDE]\n"));
    }
}

#[test]
fn a_plugin_that_does_not_run_is_not_installed() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bad = node.dir.join("bad");
    put(&bad, "not a program");
    let mut command = node.command(&unreachable_kubeconfig());
    command.arg("--plugin").arg(&bad);
    let daemon = node.start_as(command);
    daemon.await_log("the plugin does not work");
    assert!(!node.dir.join("bin/pausenet").exists());
    let (status, why) = node.get("/readyz").unwrap();
    assert_eq!(status, 503, "{why}");
    assert_eq!(node.get("/healthz").unwrap().0, 200);
}
