//! What container runtimes call beside the networks' plugins.

use std::fs;
use std::os::unix::net::UnixListener;

use super::folders::InstallFolders;
use common::World;

fn socket(path: &str) -> UnixListener {
    let path = std::path::Path::new(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    UnixListener::bind(path).unwrap()
}

#[test]
fn loopback_is_put_in_place_where_a_runtime_needs_it_and_has_none() {
    for path in ["/run/containerd/containerd.sock", "/run/crio/crio.sock"] {
        let _world = World::new();
        let folders = InstallFolders::new();
        let before = folders.files();
        folders.ok(&["v1"]);
        assert!(
            !folders.bin().join("loopback").exists(),
            "no runtime is here"
        );
        folders.ok(&["--uninstall"]);
        let _runtime = socket(path);
        let installed = folders.actions(&["v1"]);
        assert!(
            installed.contains(&("loopback".into(), "install".into())),
            "{installed:?}"
        );
        assert_eq!(folders.read("loopback"), folders.version("v1"));
        let renewed = folders.actions(&["v2"]);
        assert!(
            renewed.contains(&("loopback".into(), "renew".into())),
            "{renewed:?}"
        );
        folders.ok(&["--uninstall"]);
        assert_eq!(folders.files(), before);

        // Another's stays as it is.
        fs::write(folders.bin().join("loopback"), "theirs").unwrap();
        let before = folders.files();
        folders.ok(&["v1"]);
        assert_eq!(folders.read("loopback"), b"theirs");
        folders.ok(&["--uninstall"]);
        assert_eq!(folders.files(), before);
    }
}

#[test]
fn a_named_runtime_gets_what_it_calls() {
    let _world = World::new();
    let folders = InstallFolders::new();
    let before = folders.files();
    folders.ok(&["v1", "--runtime", "containerd"]);
    assert!(folders.bin().join("loopback").exists());
    folders.ok(&["--uninstall"]);
    folders.ok(&["v1", "--runtime", "nerdctl"]);
    for name in [
        "loopback",
        "bridge",
        "host-local",
        "portmap",
        "firewall",
        "tuning",
    ] {
        assert!(folders.bin().join(name).exists(), "{name}");
    }
    folders.ok(&["--uninstall"]);
    assert_eq!(folders.files(), before);
}
