//! The containers for which a CNI plugin is running now, found in the environment of all processes.
//!
//! A runtime names the container in `CNI_CONTAINERID`, which every program that the plugin starts
//! inherits, and the kernel shows it for as long as the process lives. So while an ADD or a DEL of
//! any plugin is under way, there is a process that names the container.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

const CONTAINER: &[u8] = b"CNI_CONTAINERID=";

/// The initial PID namespace, which sees all others: PID_NS_INIT_INO of the kernel.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The containers named in the environment of a running process.
#[derive(Debug, Default)]
pub struct RunningPlugins(HashSet<Vec<u8>>);

impl RunningPlugins {
    /// Reads the environment of every process. None if /proc may hide some processes.
    pub fn list() -> Option<Self> {
        if !sees_all_processes() {
            return None;
        }
        let mut containers = HashSet::new();
        let mut sees_init = false;
        for entry in fs::read_dir("/proc").ok()? {
            let entry = entry.ok()?;
            let name = entry.file_name();
            if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            if name == "1" {
                // PID 1 is not a plugin, and some hosts hide its environment even from root. If it
                // is not listed, /proc hides other processes too (hidepid).
                sees_init = true;
                continue;
            }
            match fs::read(entry.path().join("environ")) {
                Ok(environment) => {
                    containers.extend(container_ids(&environment).map(<[u8]>::to_vec))
                }
                Err(err) if has_ended(&err) => {}
                Err(_) => return None,
            }
        }
        sees_init.then_some(Self(containers))
    }

    /// Whether a plugin is running for this container.
    pub(crate) fn serve(&self, container: &str) -> bool {
        self.0.contains(container.as_bytes())
    }
}

/// A plugin runs in its runtime's PID namespace, so it sees the runtime's other plugins; another
/// program may run in a PID namespace without the runtime.
fn sees_all_processes() -> bool {
    let is_called = std::env::var_os("CNI_COMMAND").is_some();
    let sees_caller = rustix::process::getppid().is_some();
    is_called && sees_caller
        || fs::read_link("/proc/self/ns/pid")
            .is_ok_and(|namespace| namespace == Path::new(INITIAL_PID_NAMESPACE))
}

fn container_ids(environment: &[u8]) -> impl Iterator<Item = &[u8]> {
    let variables = environment.split(|byte| *byte == 0);
    variables.filter_map(|variable| variable.strip_prefix(CONTAINER))
}

fn has_ended(err: &io::Error) -> bool {
    matches!(Errno::from_io_error(err), Some(Errno::NOENT | Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_container_is_named_by_its_variable_alone() {
        let ids_in = |text: &str| {
            let names = container_ids(text.as_bytes()).map(|name| String::from_utf8(name.to_vec()));
            names.collect::<Result<Vec<_>, _>>().unwrap()
        };
        assert_eq!(ids_in("A=1\0CNI_CONTAINERID=web\0B=2\0"), ["web"]);
        assert_eq!(ids_in("CNI_CONTAINERID=web"), ["web"]);
        assert!(ids_in("X_CNI_CONTAINERID=web\0CNI_IFNAME=CNI_CONTAINERID=web\0").is_empty());
        assert!(ids_in("").is_empty());
    }

    #[test]
    fn a_process_names_its_container_until_it_ends() {
        let name = format!("callers-{}", std::process::id());
        let mut sleep = Command::new("sleep");
        let mut child = sleep
            .arg("1000")
            .env("CNI_CONTAINERID", &name)
            .spawn()
            .unwrap();
        let environ = format!("/proc/{}/environ", child.id());
        // `spawn` may return before the kernel has set up the new program's memory.
        let during = loop {
            match fs::read(&environ).unwrap() {
                nothing if nothing.is_empty() => std::thread::yield_now(),
                environment => break environment,
            }
        };
        // If processes can be inspected here, so can others.
        let listed = RunningPlugins::list();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            container_ids(&during).collect::<Vec<_>>(),
            [name.as_bytes()]
        );
        assert!(listed.is_none_or(|listed| listed.serve(&name)));
        assert!(has_ended(&fs::read(&environ).unwrap_err()));
        assert!(RunningPlugins::list().is_none_or(|listed| !listed.serve(&name)));
    }
}
