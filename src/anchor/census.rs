//! Who lives in a network namespace: /proc, walked once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::pause;
use crate::cni::Result;
use crate::cni::error::io as io_error;
use crate::kernel::netns::NetnsId;

/// A process in a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// The kernel's short name of it.
    pub name: String,
    /// It runs a program called pause.
    pub is_pause: bool,
    /// When it started, in the kernel's ticks since boot.
    started: u64,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.pid, self.name.escape_debug())
    }
}

/// The processes of one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Residents {
    /// The process that stands for the pod: of those that run a pause, the oldest.
    pub anchor: Option<Process>,
    pub members: Vec<Process>,
}

/// Counts the processes of some namespaces. A process counts where its first thread lives; a
/// zombie, which has left its namespaces, nowhere.
///
/// # Errors
/// Code 5 when /proc cannot be read.
pub fn take(namespaces: &[NetnsId]) -> Result<HashMap<NetnsId, Residents>> {
    let mut found: HashMap<NetnsId, Vec<Process>> = HashMap::new();
    let proc = Path::new("/proc");
    for entry in fs::read_dir(proc).map_err(|err| io_error("cannot list", proc, err))? {
        let Some(pid) = entry
            .ok()
            .and_then(|entry| entry.file_name().to_str()?.parse().ok())
        else {
            continue;
        };
        let netns = NetnsId::of_process(pid).filter(|netns| namespaces.contains(netns));
        if let Some((netns, process)) = netns.and_then(|netns| Some((netns, read(pid)?))) {
            found.entry(netns).or_default().push(process);
        }
    }
    Ok(found
        .into_iter()
        .map(|(netns, processes)| (netns, Residents::of(processes)))
        .collect())
}

impl Residents {
    fn of(mut processes: Vec<Process>) -> Self {
        processes.sort_by_key(|process| (process.started, process.pid));
        let at = processes.iter().position(|process| process.is_pause);
        Self {
            anchor: at.map(|at| processes.remove(at)),
            members: processes,
        }
    }
}

/// None when the process is gone.
fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, started) = name_and_start(&stat)?;
    Some(Process {
        pid,
        name: name.to_owned(),
        is_pause: pause::is_pause(pid),
        started,
    })
}

/// Fields 2 and 22 of /proc/PID/stat. The name is in parentheses and may contain some.
fn name_and_start(stat: &str) -> Option<(&str, u64)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    Some((name, rest.split_whitespace().nth(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, is_pause: bool, started: u64) -> Process {
        Process {
            pid,
            name: "x".into(),
            is_pause,
            started,
        }
    }

    #[test]
    fn of_two_pauses_the_older_is_the_anchor() {
        let residents = Residents::of(vec![
            process(3, true, 30),
            process(9, true, 20),
            process(5, false, 10),
        ]);
        assert_eq!(residents.anchor.map(|anchor| anchor.pid), Some(9));
        let members: Vec<_> = residents.members.iter().map(|member| member.pid).collect();
        assert_eq!(members, [5, 3]);
    }

    #[test]
    fn a_name_may_look_like_the_line_s_other_fields() {
        let stat = "7 (a) R (1 2) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n";
        assert_eq!(name_and_start(stat), Some(("a) R (1 2", 4711)));
        assert_eq!(name_and_start("7 (cut"), None);
    }

    #[test]
    fn this_process_lives_in_its_own_namespace() {
        let own = NetnsId::of_process(std::process::id()).unwrap();
        let residents = take(&[own]).unwrap().remove(&own).unwrap();
        let me = |process: &Process| process.pid == std::process::id();
        assert!(residents.members.iter().any(me));
    }
}
