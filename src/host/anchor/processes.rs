//! The processes in each network namespace, from one walk over /proc.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::cgroup::{self, Named};
use crate::{OnPath, Result};
use pausenet::kernel::netns::NetnsId;

/// A process in a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Its name in /proc/PID/stat (comm).
    pub name: String,
    /// It runs a program called pause.
    pub is_pause: bool,
    pub parent: u32,
    /// The container that its control group names.
    pub container: Option<Named>,
    /// When it started, in the kernel's ticks since boot.
    started: u64,
}

#[cfg(test)]
impl Process {
    /// A process outside of containers.
    pub(super) fn for_test(pid: u32, name: &str) -> Self {
        Self {
            pid,
            name: name.to_owned(),
            is_pause: false,
            parent: 1,
            container: None,
            started: 0,
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.pid, self.name.escape_debug())
    }
}

/// The processes of one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PodProcesses {
    /// The pod's anchor: the oldest process that runs a pause.
    pub anchor: Option<Process>,
    pub members: Vec<Process>,
}

/// The processes in some namespaces. A process counts in the namespace of its first thread; a
/// zombie has left its namespaces and counts in none.
///
/// # Errors
/// When /proc cannot be read.
pub fn processes_in(namespaces: &[NetnsId]) -> Result<HashMap<NetnsId, PodProcesses>> {
    let found = by_namespace(|netns| namespaces.contains(&netns))?;
    Ok(found
        .into_iter()
        .map(|(netns, processes)| (netns, PodProcesses::of(processes)))
        .collect())
}

/// The processes in each namespace that `wanted` accepts, the oldest first.
///
/// # Errors
/// When /proc cannot be read.
pub fn by_namespace(wanted: impl Fn(NetnsId) -> bool) -> Result<HashMap<NetnsId, Vec<Process>>> {
    let mut found: HashMap<NetnsId, Vec<Process>> = HashMap::new();
    let proc = Path::new("/proc");
    for entry in fs::read_dir(proc).on_path("cannot list", proc)? {
        let Some(pid) = entry
            .ok()
            .and_then(|entry| entry.file_name().to_str()?.parse().ok())
        else {
            continue;
        };
        let netns = NetnsId::of_process(pid).filter(|netns| wanted(*netns));
        if let Some((netns, process)) = netns.and_then(|netns| Some((netns, read(pid)?))) {
            found.entry(netns).or_default().push(process);
        }
    }
    for processes in found.values_mut() {
        processes.sort_by_key(|process| (process.started, process.pid));
    }
    Ok(found)
}

impl PodProcesses {
    /// Takes the processes in order from the oldest to the youngest.
    fn of(mut processes: Vec<Process>) -> Self {
        let at = processes.iter().position(|process| process.is_pause);
        Self {
            anchor: at.map(|at| processes.remove(at)),
            members: processes,
        }
    }
}

/// The file name by which a pause program is recognized in /proc.
pub const PROGRAM: &str = "pause";

/// Whether the process runs a program called pause, even if its file has been deleted.
fn is_pause(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|exe| {
        let name = exe.file_name().unwrap_or_default().to_string_lossy();
        name.strip_suffix(" (deleted)").unwrap_or(&name) == PROGRAM
    })
}

/// None when the process is gone.
fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, parent, started) = fields(&stat)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    Some(Process {
        pid,
        name: name.to_owned(),
        is_pause: is_pause(pid),
        parent,
        container: cgroup::container(&groups),
        started,
    })
}

/// Fields 2 (comm), 4 (ppid) and 22 (starttime) of /proc/PID/stat. The comm is in parentheses and
/// may contain parentheses itself.
fn fields(stat: &str) -> Option<(&str, u32, u64)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let mut rest = rest.split_whitespace().skip(1);
    let parent = rest.next()?.parse().ok()?;
    Some((name, parent, rest.nth(17)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, is_pause: bool, started: u64) -> Process {
        Process {
            is_pause,
            started,
            ..Process::for_test(pid, "x")
        }
    }

    #[test]
    fn of_two_pauses_the_older_is_the_anchor() {
        let processes = PodProcesses::of(vec![
            process(5, false, 10),
            process(9, true, 20),
            process(3, true, 30),
        ]);
        assert_eq!(processes.anchor.map(|anchor| anchor.pid), Some(9));
        let members: Vec<_> = processes.members.iter().map(|member| member.pid).collect();
        assert_eq!(members, [5, 3]);
    }

    #[test]
    fn a_name_may_look_like_the_line_s_other_fields() {
        let stat = "7 (a) R (1 2) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        assert_eq!(fields(stat), Some(("a) R (1 2", 1, 4711)));
        assert_eq!(fields("7 (cut"), None);
    }

    #[test]
    fn this_process_lives_in_its_own_namespace() {
        let own = NetnsId::of_process(std::process::id()).unwrap();
        let processes = processes_in(&[own]).unwrap().remove(&own).unwrap();
        let me = |process: &Process| process.pid == std::process::id();
        assert!(processes.members.iter().any(me));
    }
}
