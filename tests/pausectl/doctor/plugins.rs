//! The programs that runtimes would call.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::DoctorHost;
use common::run;

/// Another program in the place of our pausenet, made by another process: see `PodHost::plugin`.
fn replace(doctor: &DoctorHost, mode: &str, text: &str) {
    let file = doctor.plugins().join("pausenet");
    let source = doctor.plugins().join("source");
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
    let doctor = DoctorHost::new();
    replace(
        &doctor,
        "755",
        "#!/bin/sh\necho 'pausenet 9.8.7, a CNI plugin'\n",
    );
    let report = doctor.check(&["plugins"]);
    report.problem(&[
        "pausenet 9.8.7",
        env!("CARGO_PKG_VERSION"),
        "pausectl install",
    ]);
    // Another's plugin under our name is another's affair.
    replace(
        &doctor,
        "755",
        "#!/bin/sh\necho 'CNI bridge plugin v1.1.1' >&2\n",
    );
    assert!(doctor.check(&["plugins"]).findings.is_empty());
}

#[test]
fn a_plugin_that_cannot_be_run_is_reported_and_left_alone() {
    let doctor = DoctorHost::new();
    for (mode, text, words) in [
        ("644", "#!/bin/sh\n", "Permission denied"),
        ("755", "\x7fELF but only by name", "Exec format error"),
    ] {
        replace(&doctor, mode, text);
        let report = doctor.fix(&["plugins"]);
        report.problem(&[doctor.plugins().join("pausenet").to_str().unwrap(), words]);
        assert_eq!(report.outcomes(), ["not safe"]);
    }
    let file = doctor.plugins().join("pausenet");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let report = doctor.check(&["networks"]);
    report.problem(&["podnet", "pausenet"]);
}

#[test]
fn a_runtime_socket_without_listener_is_noted() {
    let doctor = DoctorHost::new();
    let listener = UnixListener::bind("/run/docker.sock").unwrap();
    assert!(doctor.check(&["plugins"]).findings.is_empty());
    drop(listener);
    doctor
        .check(&["plugins"])
        .note(&["/run/docker.sock", "nothing listens"]);
}
