//! The programs that runtimes would call, and the runtimes themselves.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::doctor::finding::{Check, Finding};
use crate::doctor::programs::{NAMES, Program, Programs};
use crate::doctor::snapshot::{Scene, shown};

/// What pausectl and the plugin are built as.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runtimes by the socket where they answer; theirs are the names that people know containers by.
const SOCKETS: [(&str, &str); 3] = [
    ("Docker", "/run/docker.sock"),
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
];

pub fn check(scene: &Scene) -> Vec<Finding> {
    let mut findings = programs(&scene.programs);
    findings.extend(SOCKETS.iter().filter_map(|(name, path)| socket(name, path)));
    findings
}

fn programs(programs: &Programs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in NAMES {
        let Some((file, program)) = programs.get(name) else {
            continue;
        };
        let file = shown(file);
        findings.push(match program {
            Program::Another => Finding::ok(Check::Plugins, file, "a plugin of somebody else's"),
            Program::Ours(version) if version == VERSION => {
                Finding::ok(Check::Plugins, file, format!("pausenet {version}"))
            }
            Program::Ours(version) => Finding::problem(
                Check::Plugins,
                file,
                format!("it is pausenet {version}, and this pausectl is {VERSION}"),
            )
            .means("what this pausectl says of it may be wrong")
            .how("pausectl install, with the newer of the two"),
            Program::Broken(why) => {
                Finding::problem(Check::Plugins, &file, format!("it cannot be run: {why}"))
                    .means(format!("every network with the plugin {name} fails"))
                    .how(format!("chmod 755 {file}, or: pausectl install"))
            }
        });
    }
    findings
}

fn socket(runtime: &str, path: &str) -> Option<Finding> {
    let unseen = |why: String| {
        Finding::note(Check::Plugins, path, why).means(format!(
            "the names that {runtime} gives containers are not known"
        ))
    };
    match UnixStream::connect(Path::new(path)) {
        Ok(_) => Some(Finding::ok(
            Check::Plugins,
            path,
            format!("{runtime} answers"),
        )),
        Err(err) => match err.kind() {
            ErrorKind::NotFound => None,
            ErrorKind::ConnectionRefused => Some(
                unseen(format!("{runtime}'s socket is there, and nobody listens"))
                    .how(format!("is {runtime} to run? Then start it")),
            ),
            _ => Some(unseen(format!("{runtime} does not answer: {err}"))),
        },
    }
}
