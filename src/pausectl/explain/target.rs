//! The argument TARGET: parsed, then looked up among namespaces, processes and containers.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::candidate::{Candidate, Found, is_id_prefix};
use super::gone;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet_host::anchor::container::{Container, NetworkFrom, Role, RunState};
use pausenet_host::anchor::interfaces::Host;
use pausenet_host::anchor::pod_of_ours;
use pausenet_host::anchor::sandbox::Member;
use pausenet_host::anchor::scan::{EngineFacts, NamespaceScan};
use pausenet_host::anchor::text::plain;
use pausenet_host::{Error, Result};

/// A parsed TARGET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    File(PathBuf),
    Process(u32),
    Pod(String),
    Container(String),
    /// Any of them.
    Name(String),
}

impl Target {
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{text:?} is not a target"));
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::File(text.into()));
        }
        Ok(match text.split_once(':') {
            Some(("pid", pid)) => Self::Process(
                parse_pid(pid).ok_or_else(|| format!("{:?} is not a process ID", plain(pid)))?,
            ),
            Some(("pod", name)) => Self::Pod(name.to_owned()),
            Some(("container", name)) => Self::Container(name.to_owned()),
            _ => Self::Name(text.to_owned()),
        })
    }

    /// Looks it up. A namespace that a file leads to is added to `scan`.
    ///
    /// # Errors
    /// Nothing or several things match, or a file is not a network namespace.
    pub(super) fn find(
        &self,
        scan: &mut NamespaceScan,
        facts: &EngineFacts,
        host: &mut Host,
    ) -> Result<Found> {
        let text = match self {
            Self::File(path) => return file(path, scan),
            Self::Process(pid) => {
                return process(*pid, scan).ok_or_else(|| no_process(*pid));
            }
            Self::Pod(name) | Self::Container(name) | Self::Name(name) => name,
        };
        let on_host = scan.on_host(facts)?;
        let mut candidates = match self {
            Self::Pod(name) => pods(name, scan, &on_host),
            Self::Container(name) => containers(name, scan, &on_host, facts),
            _ => {
                let name = text;
                let mut all = pods(name, scan, &on_host);
                all.extend(containers(name, scan, &on_host, facts));
                all.extend(parse_pid(name).and_then(|pid| {
                    Some(Candidate {
                        target: format!("pid:{pid}"),
                        what: "a process".to_owned(),
                        found: process(pid, scan)?,
                    })
                }));
                all
            }
        };
        let is_pod = matches!(self, Self::Pod(_));
        if candidates.is_empty() && !is_pod {
            candidates = gone::candidates(text, scan, facts, host)?;
        }
        match (self, candidates.is_empty(), parse_pid(text)) {
            (Self::Name(_), true, Some(pid)) => Err(no_process(pid)),
            _ => only(text, candidates, facts),
        }
    }
}

fn parse_pid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|pid| plain && *pid != 0)
}

fn file(path: &Path, scan: &mut NamespaceScan) -> Result<Found> {
    let netns = Netns::open(path).map_err(|err| {
        Error::new(err.msg).hint(
            "a target that begins with / or . is the path of a network namespace, such as \
                  /run/netns/NAME or /proc/PID/ns/net; if it was that of a process, the process \
                  is gone",
        )
    })?;
    let id = netns
        .id()
        .map_err(|err| Error::new(format!("{}: {err}", path.display())))?;
    if id == scan.host() {
        return Ok(Found::Host(path.display().to_string()));
    }
    scan.add(id, path);
    let pid = path.to_str().and_then(|path| {
        let rest = path.strip_prefix("/proc/")?;
        parse_pid(rest.strip_suffix("/ns/net")?)
    });
    let member = pid.and_then(|pid| member_with(pid, scan.members(id)));
    Ok(Found::Namespace(id, member))
}

fn process(pid: u32, scan: &NamespaceScan) -> Option<Found> {
    let netns = NetnsId::of_process(pid)?;
    if netns == scan.host() {
        return Some(Found::Host(format!("process {pid}")));
    }
    let member = member_with(pid, scan.members(netns));
    Some(Found::Namespace(netns, member))
}

fn no_process(pid: u32) -> Error {
    if Path::new(&format!("/proc/{pid}")).exists() {
        let msg = format!("the network namespace of process {pid} cannot be seen");
        return Error::new(msg)
            .hint("a zombie has none, and a process of another user does not show it");
    }
    Error::new(format!("there is no process {pid}"))
        .hint("it may have ended; a namespace that it shared is still used by its other members")
}

fn member_with(pid: u32, members: &[Member]) -> Option<usize> {
    members.iter().position(|member| {
        let mut processes = member.processes.iter();
        processes.any(|process| process.pid == pid)
    })
}

/// Pods of pausectl and of Kubernetes.
fn pods(name: &str, scan: &NamespaceScan, on_host: &[Container]) -> Vec<Candidate> {
    let mut found: Vec<_> = pods_on_host(name, on_host).collect();
    let mut kube = Vec::new();
    for netns in scan.namespaces() {
        let mut files = scan.bound_to(netns).iter();
        if files.any(|file| pod_of_ours(file).is_some_and(|pod| pod.as_str() == name)) {
            found.push(Candidate {
                target: format!("pod:{name}"),
                what: "a pod of pausectl".to_owned(),
                found: Found::Namespace(netns, None),
            });
        }
        let mut members = scan.members(netns).iter();
        kube.extend(members.find_map(|member| {
            let pod = member.container.as_ref()?.pod.as_ref()?;
            let whole = format!("{}/{}", pod.namespace, pod.name);
            let is_meant = pod.name == name || whole == name;
            is_meant.then(|| (whole, member.first().pid, netns))
        }));
    }
    let names: Vec<_> = kube
        .iter()
        .map(|(whole, pid, _)| (whole.as_str(), *pid))
        .collect();
    let targets = unambiguous_targets(&names);
    found.extend(
        targets
            .into_iter()
            .zip(&kube)
            .map(|(target, (_, _, netns))| Candidate {
                target,
                what: "a pod of Kubernetes".to_owned(),
                found: Found::Namespace(*netns, None),
            }),
    );
    found
}

/// Pods of Kubernetes with hostNetwork, each once.
fn pods_on_host(name: &str, on_host: &[Container]) -> impl Iterator<Item = Candidate> {
    let whole = on_host.iter().filter_map(|container| {
        let pod = container.pod.as_ref()?;
        let whole = format!("{}/{}", pod.namespace, pod.name);
        (pod.name == name || whole == name).then_some(whole)
    });
    let pods: BTreeSet<_> = whole.collect();
    pods.into_iter().map(|whole| Candidate {
        target: format!("pod:{whole}"),
        what: "a pod of Kubernetes on the host's network".to_owned(),
        found: Found::Host(format!("pod {whole}")),
    })
}

/// For each pod of Kubernetes, the TARGET that means it and no other. If nodes of several clusters
/// are on one host, names are not enough, but processes are.
fn unambiguous_targets(pods: &[(&str, u32)]) -> Vec<String> {
    let is_unique = |name: &str| pods.iter().filter(|(other, _)| *other == name).count() == 1;
    pods.iter()
        .map(|(name, pid)| match is_unique(name) {
            true => format!("pod:{name}"),
            false => format!("pid:{pid}"),
        })
        .collect()
}

/// Containers by name or ID, or else by the beginning of an ID.
fn containers(
    name: &str,
    scan: &NamespaceScan,
    on_host: &[Container],
    facts: &EngineFacts,
) -> Vec<Candidate> {
    let all = all_containers(scan, on_host, facts);
    let of = |wanted: &dyn Fn(&Container) -> bool| -> Vec<Candidate> {
        let wanted = all.iter().filter(|(container, _)| wanted(container));
        wanted
            .map(|(container, found)| candidate(container, found))
            .collect()
    };
    let exact = of(&|container| container.name.as_deref() == Some(name) || container.id == name);
    if !exact.is_empty() {
        return exact;
    }
    of(&|container| is_id_prefix(name, &container.id))
}

fn candidate(container: &Container, found: &Found) -> Candidate {
    let engine = container
        .engine
        .map_or("a container", |engine| engine.as_str());
    Candidate {
        target: format!("container:{}", container.short_id()),
        what: format!("{} ({engine})", plain(container.title())),
        found: found.clone(),
    }
}

/// The containers with processes, and the others that an engine knows.
fn all_containers<'a>(
    scan: &'a NamespaceScan,
    on_host: &'a [Container],
    facts: &'a EngineFacts,
) -> Vec<(&'a Container, Found)> {
    let mut all: Vec<_> = on_host
        .iter()
        .map(|container| (container, Found::Host(name_on_host(container))))
        .collect();
    for netns in scan.namespaces() {
        for (at, member) in scan.members(netns).iter().enumerate() {
            if let Some(container) = &member.container {
                all.push((container, Found::Namespace(netns, Some(at))));
            }
        }
    }
    let running: HashSet<_> = all.iter().map(|(found, _)| found.id.as_str()).collect();
    let others = facts.containers.iter().chain(scan.ended());
    let others = others.filter(|known| !running.contains(known.id.as_str()));
    let others: Vec<_> = others
        .map(|container| {
            let runs = container.run_state == RunState::Running;
            let found = match container.network {
                NetworkFrom::Host if runs => Found::Host(name_on_host(container)),
                _ => Found::Stopped(container.clone()),
            };
            (container, found)
        })
        .collect();
    all.extend(others);
    all
}

/// What to call a container on the host's network.
fn name_on_host(container: &Container) -> String {
    let own = container.title();
    match &container.pod {
        None => own.to_owned(),
        Some(pod) => {
            let what = match container.role {
                Role::Sandbox => "the sandbox".to_owned(),
                Role::Application | Role::Any => format!("container {own}"),
            };
            format!("{what} of pod {}/{}", pod.namespace, pod.name)
        }
    }
}

/// The only candidate. Several that lead to the same thing count as one.
fn only(text: &str, candidates: Vec<Candidate>, facts: &EngineFacts) -> Result<Found> {
    let same = |one: &Found, other: &Found| match (one, other) {
        (Found::Namespace(one, _), Found::Namespace(other, _)) => one == other,
        (one, other) => one == other,
    };
    let mut candidates = candidates.into_iter();
    let Some(first) = candidates.next() else {
        return Err(unknown(&plain(text), facts));
    };
    let others: Vec<_> = candidates
        .filter(|other| !same(&first.found, &other.found))
        .collect();
    if others.is_empty() {
        return Ok(first.found);
    }
    let all = std::iter::once(&first).chain(&others);
    let all: Vec<_> = all
        .map(|one| format!("{} is {}", one.target, one.what))
        .collect();
    let msg = format!("{} means {} things", plain(text), all.len());
    Err(Error::new(msg).hint(format!("choose one: {}", all.join(", "))))
}

fn unknown(text: &str, facts: &EngineFacts) -> Error {
    let hint = match facts.docker_answered {
        true => {
            "a target is a container's name or ID, a process ID, the path of a network namespace, \
             or a pod"
        }
        false => {
            "Docker did not answer, so its containers are known by ID only; name its socket \
             with --docker. A target is a container's name or ID, a process ID, the path of a \
             network namespace, or a pod"
        }
    };
    Error::new(format!("there is no {text} here")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_are_parsed_by_their_form() {
        for (text, target) in [
            ("/run/netns/x", Target::File("/run/netns/x".into())),
            ("./x", Target::File("./x".into())),
            ("pid:7", Target::Process(7)),
            ("pod:default/web", Target::Pod("default/web".into())),
            ("container:7", Target::Container("7".into())),
            ("7", Target::Name("7".into())),
            ("web", Target::Name("web".into())),
        ] {
            assert_eq!(Target::parse(text).unwrap(), target);
        }
        for bad in [
            "",
            "a\0b",
            "pid:",
            "pid:0",
            "pid:+1",
            "pid:x",
            "pid:99999999999",
        ] {
            Target::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn pods_with_one_name_are_named_by_their_processes() {
        let pods = [("default/web", 1), ("default/db", 2), ("default/web", 3)];
        assert_eq!(
            unambiguous_targets(&pods),
            ["pid:1", "pod:default/db", "pid:3"]
        );
    }

    #[test]
    fn candidates_that_lead_to_different_things_are_ambiguous() {
        let candidate = |target: &str, found| Candidate {
            target: target.to_owned(),
            what: "x".to_owned(),
            found,
        };
        let here = NetnsId::of_process(std::process::id()).unwrap();
        let pod = || candidate("pod:web", Found::Namespace(here, None));
        let member = candidate("container:web", Found::Namespace(here, Some(1)));
        let facts = EngineFacts::default();
        let found = only("web", vec![pod(), member], &facts).unwrap();
        assert_eq!(found, Found::Namespace(here, None));
        let stopped = candidate("container:0a", Found::Stopped(Container::new("0a")));
        let err = only("web", vec![pod(), stopped], &facts).unwrap_err();
        assert_eq!(err.message, "web means 2 things");
        assert_eq!(err.hint, "choose one: pod:web is x, container:0a is x");
        assert!(
            only("web", Vec::new(), &facts)
                .unwrap_err()
                .message
                .contains("there is no web")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_refused_in_one_line(text in "\\PC{0,12}") {
            if let Err(why) = Target::parse(&text) {
                prop_assert!(!why.contains(char::is_control));
            }
        }
    }
}
