//! The running daemon installs the plugin, even before it reaches an API server, and uninstall removes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::nodes::{Node, make_bridge, unreachable_kubeconfig};
use common::World;
use common::daemon::stripped;
use common::programs;
use common::wait::wait_until;

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
