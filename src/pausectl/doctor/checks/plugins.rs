//! The plugins that runtimes would call, and the runtimes themselves.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::doctor::check::Check;
use crate::doctor::finding::Finding;
use crate::doctor::programs::{Program, Programs};
use crate::doctor::snapshot::{Snapshot, shown};
use pausenet::cni::Plugin;

pub(super) const CHECK: Check = Check {
    name: "plugins",
    about: "the plugins that runtimes would call, and the runtimes' sockets",
    all_is_well: "every plugin can be run, and ours have this version",
    run,
};

/// Of pausectl and of the plugin built with it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The sockets of runtimes: from them come the names of containers.
const SOCKETS: [(&str, &str); 3] = [
    ("Docker", "/run/docker.sock"),
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
];

fn run(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = programs(&snapshot.programs);
    findings.extend(SOCKETS.iter().filter_map(|(name, path)| socket(name, path)));
    findings
}

fn programs(programs: &Programs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in Plugin::ALL.iter().map(|plugin| plugin.name()) {
        let Some((file, program)) = programs.get(name) else {
            continue;
        };
        let file = shown(file);
        findings.push(match program {
            Program::Another => Finding::ok(file, "another plugin"),
            Program::Ours(version) if version == VERSION => {
                Finding::ok(file, format!("pausenet {version}"))
            }
            Program::Ours(version) => Finding::problem(
                file,
                format!("it is pausenet {version}, but this pausectl is {VERSION}"),
            )
            .means("this pausectl may report on it wrongly")
            .how("run pausectl install of the newer one"),
            Program::Broken(why) => Finding::problem(&file, format!("it cannot be run: {why}"))
                .means(format!("every network that uses the plugin {name} fails"))
                .how(format!("chmod 755 {file}, or: pausectl install")),
        });
    }
    findings
}

fn socket(runtime: &str, path: &str) -> Option<Finding> {
    let unseen = |why: String| {
        Finding::note(path, why).means(format!("{runtime}'s names of containers are not known"))
    };
    match UnixStream::connect(Path::new(path)) {
        Ok(_) => Some(Finding::ok(path, format!("{runtime} answers"))),
        Err(err) => match err.kind() {
            ErrorKind::NotFound => None,
            ErrorKind::ConnectionRefused => Some(
                unseen(format!(
                    "{runtime}'s socket exists, but nothing listens on it"
                ))
                .how(format!("start {runtime}, if it should run")),
            ),
            _ => Some(unseen(format!("{runtime} does not answer: {err}"))),
        },
    }
}
