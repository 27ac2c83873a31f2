//! The plugin in the folder of plugins: put there by the running daemon, before there is an API
//! server, and taken away again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use crate::site::{Node, kubeconfig_of_nobody, make_bridge};
use common::World;
use common::daemon::stripped;
use common::programs;
use common::wait::wait_until;

/// A plugin of somebody else's.
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
fn what_is_missing_comes_and_what_is_another_s_stays() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    put(&bin.join("loopback"), "#!/bin/sh\n");
    put(&bin.join("bridge"), "#!/bin/sh\n");
    let daemon = node.start(&kubeconfig_of_nobody());
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

    // Somebody removes one: it comes back with the slow timer.
    drop(daemon);
    let mut command = node.command(&kubeconfig_of_nobody());
    command.args(["--interval", "1"]);
    let daemon = node.start_as(command);
    daemon.await_log("pausenetd 0.");
    fs::remove_file(bin.join("portmap")).unwrap();
    wait_until("portmap is back", || is_ours(&bin.join("portmap")));
}

#[test]
fn told_to_it_takes_their_place_and_uninstall_brings_them_back() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    put(&bin.join("loopback"), "#!/bin/sh\n");
    let mut command = node.command(&kubeconfig_of_nobody());
    command.args(["--replace-plugins", "--plugins", "loopback,bridge"]);
    let daemon = node.start_as(command);
    wait_until("all are ours", || {
        ["pausenet", "loopback", "bridge"]
            .iter()
            .all(|name| is_ours(&bin.join(name)))
    });
    assert!(!bin.join("portmap").exists());
    assert_eq!(daemon.stop(), Some(0));

    let mut command = node.command(&kubeconfig_of_nobody());
    let output = command.arg("--uninstall").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fs::read_to_string(bin.join("loopback")).unwrap(),
        "#!/bin/sh\n"
    );
    let left: Vec<_> = fs::read_dir(&bin).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Kubespray's belongs to a user kube, an unpacked archive's to who packed it.
#[test]
fn a_folder_that_is_not_root_s_is_written_to_and_dac_override_is_what_that_takes() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bin = node.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    if chown(&bin, Some(997), Some(997)).is_err() {
        // Root of a user namespace knows nobody else; here the kernel asks for the same.
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let daemon = node.start_as(node.command_that_may(&kubeconfig_of_nobody(), "+net_admin"));
    daemon.await_log("Permission denied");
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 0);
    assert_eq!(daemon.stop(), Some(0));

    let _daemon = node.start(&kubeconfig_of_nobody());
    wait_until("all are ours", || {
        ["pausenet", "loopback", "portmap"]
            .iter()
            .all(|name| is_ours(&bin.join(name)))
    });
}

/// The tests' daemons may do what the manifest's may.
#[test]
fn the_manifest_has_the_capabilities_that_are_tested() {
    for manifest in [
        include_str!("../../conf/kubernetes/pausenet.yaml"),
        include_str!("../../conf/kubernetes/uninstall.yaml"),
    ] {
        assert!(manifest.contains("drop: [ALL]\n              add: [NET_ADMIN, DAC_OVERRIDE]\n"));
    }
}

#[test]
fn a_plugin_that_does_not_run_here_replaces_none_that_does() {
    let world = World::new();
    make_bridge();
    let node = Node::new(&world, "node1", 1);
    let bad = node.dir.join("bad");
    put(&bad, "not a program");
    let mut command = node.command(&kubeconfig_of_nobody());
    command.arg("--plugin").arg(&bad);
    let daemon = node.start_as(command);
    daemon.await_log("the plugin does not work");
    assert!(!node.dir.join("bin/pausenet").exists());
    let (status, why) = node.get("/readyz").unwrap();
    assert_eq!(status, 503, "{why}");
    assert_eq!(node.get("/healthz").unwrap().0, 200);
}
