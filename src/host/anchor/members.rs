//! Which processes of a namespace are one member, and the container of each.

use std::collections::{HashMap, HashSet};

use super::container::Container;
use super::processes::Process;
use super::sandbox::Member;
use super::supervisor::Supervisor;

/// Groups the processes of one namespace into members: by container, and outside of containers by
/// family (a process and its descendants). A pause is a member of its own.
pub(super) fn group(
    processes: Vec<Process>,
    supervisors: &mut HashMap<u32, Option<Supervisor>>,
) -> Vec<Member> {
    let here: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut members: Vec<Member> = Vec::new();
    for process in processes {
        let container = container_of(&process, &here, supervisors);
        let at = members
            .iter()
            .position(|member| match (&member.container, &container) {
                (Some(one), Some(other)) => one.id == other.id,
                (None, None) => {
                    let parent = member
                        .processes
                        .iter()
                        .any(|other| other.pid == process.parent);
                    parent && !process.is_pause
                }
                _ => false,
            });
        match at {
            Some(at) => members[at].processes.push(process),
            None => members.push(Member {
                container,
                processes: vec![process],
            }),
        }
    }
    members
}

fn container_of(
    process: &Process,
    here: &HashSet<u32>,
    supervisors: &mut HashMap<u32, Option<Supervisor>>,
) -> Option<Container> {
    let named = process.container.as_ref();
    let supervisor = (!here.contains(&process.parent))
        .then(|| {
            let parent = process.parent;
            let found = supervisors
                .entry(parent)
                .or_insert_with(|| Supervisor::read(parent));
            found.as_ref()
        })
        .flatten();
    let mut container = match (supervisor, named) {
        (Some(supervisor), named) => supervisor.container(named.map(|named| named.id.as_str())),
        (None, Some(named)) => Container::new(&named.id),
        (None, None) => return None,
    };
    container.engine = named.and_then(|named| named.engine).or(container.engine);
    Some(container)
}

/// The container of a process on the host's network, where supervisors and runtimes are too.
pub(super) fn container_on_host(
    process: &Process,
    supervisors: &mut HashMap<u32, Option<Supervisor>>,
) -> Option<Container> {
    const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];
    let is_runtime = RUNTIMES.iter().any(|name| process.name.starts_with(name));
    if is_runtime || Supervisor::is_called(&process.name) {
        return None;
    }
    container_of(process, &HashSet::new(), supervisors)
}
