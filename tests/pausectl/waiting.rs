//! What takes long is said on stderr: a lock that another has, a Docker that does not answer.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use crate::host::PodHost;
use common::programs;

/// A lock that another process of pausectl seems to have.
fn hold(path: &str) -> File {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = if path.is_dir() {
        File::open(path)
    } else {
        File::create(path)
    };
    let file = file.unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

fn start(mut command: Command) -> (Child, impl FnMut() -> String) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let line = move || {
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        line
    };
    (child, line)
}

#[test]
fn what_is_waited_for_is_said() {
    let host = PodHost::new();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(path("bin/.pausenet-replaced")).unwrap();
    let locks = [
        hold("/run/pausenet/lock/pods/web"),
        hold(&path("bin/.pausenet-replaced")),
    ];
    let silent = UnixListener::bind(path("docker.sock")).unwrap();

    let (mut create, mut of_create) =
        start(host.command(&["pod", "create", "web", "--network", "podnet"]));
    let install = [
        "install",
        "--dir",
        &path("bin"),
        "--from",
        programs::pausenet(),
    ];
    let (mut install, mut of_install) = start(host.command(&install));
    let socket = format!("unix://{}", path("docker.sock"));
    let up = [
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "--docker",
        &socket,
    ];
    let (mut up, mut of_up) = start(host.command(&up));
    for (line, expected) in [
        (
            &mut of_create as &mut dyn FnMut() -> String,
            "another process that works on pod web",
        ),
        (
            &mut of_install,
            "another install or uninstall in this folder",
        ),
        (&mut of_up, "Docker to answer"),
    ] {
        assert_eq!(line(), format!("waiting: {expected}\n"));
    }
    // The locks become free, and Docker is gone.
    drop(locks);
    drop(silent);
    assert!(create.wait().unwrap().success());
    assert!(install.wait().unwrap().success());
    assert_eq!(up.wait().unwrap().code(), Some(1));
    host.ok(&["pod", "rm", "web"]);
    host.assert_nothing_is_left();
}
