//! The programs that runtimes would call.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::Ward;
use common::run;

/// Another program in the place of our pausenet, made by another process: see `Site::plugin`.
fn replace(ward: &Ward, mode: &str, text: &str) {
    let file = ward.plugins().join("pausenet");
    let source = ward.plugins().join("source");
    fs::remove_file(&file).unwrap();
    fs::write(&source, text).unwrap();
    run(
        "install",
        ["-m", mode, source.to_str().unwrap(), file.to_str().unwrap()],
    );
    fs::remove_file(source).unwrap();
}

#[test]
fn a_plugin_of_another_version_is_reported() {
    let ward = Ward::new();
    replace(
        &ward,
        "755",
        "#!/bin/sh\necho 'pausenet 9.8.7, a CNI plugin'\n",
    );
    let seen = ward.look(&["plugins"]);
    seen.problem(&[
        "pausenet 9.8.7",
        env!("CARGO_PKG_VERSION"),
        "pausectl install",
    ]);
    // Another's plugin under our name is another's affair.
    replace(
        &ward,
        "755",
        "#!/bin/sh\necho 'CNI bridge plugin v1.1.1' >&2\n",
    );
    assert!(ward.look(&["plugins"]).findings.is_empty());
}

#[test]
fn a_plugin_that_cannot_be_run_is_reported_and_left_alone() {
    let ward = Ward::new();
    for (mode, text, words) in [
        ("644", "#!/bin/sh\n", "Permission denied"),
        ("755", "\x7fELF but only by name", "Exec format error"),
    ] {
        replace(&ward, mode, text);
        let seen = ward.fix(&["plugins"]);
        seen.problem(&[ward.plugins().join("pausenet").to_str().unwrap(), words]);
        assert_eq!(seen.outcomes(), ["not safe"]);
    }
    let file = ward.plugins().join("pausenet");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let seen = ward.look(&["networks"]);
    seen.problem(&["podnet", "pausenet"]);
}

#[test]
fn a_runtime_socket_without_listener_is_noted() {
    let ward = Ward::new();
    let listener = UnixListener::bind("/run/docker.sock").unwrap();
    assert!(ward.look(&["plugins"]).findings.is_empty());
    drop(listener);
    ward.look(&["plugins"])
        .note(&["/run/docker.sock", "nobody listens"]);
}
