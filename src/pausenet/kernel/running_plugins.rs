//! Whom plugins are being called for, as the processes show.
//!
//! A runtime tells a plugin its container in the environment, which every program that the plugin
//! starts has as well, and the kernel shows it for as long as the process lives. So while an ADD or
//! a DEL of whatever plugin is under way, there is a process that names the container.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

const CONTAINER: &[u8] = b"CNI_CONTAINERID=";

/// The first namespace of processes, which sees all others: PID_NS_INIT_INO of the kernel.
const FIRST: &str = "pid:[4026531836]";

/// The containers that some process names.
#[derive(Debug, Default)]
pub struct Callers(HashSet<Vec<u8>>);

impl Callers {
    /// Looks at every process. None when some may not be seen.
    pub fn list() -> Option<Self> {
        if !sees_everybody() {
            return None;
        }
        let mut containers = HashSet::new();
        let mut sees_first = false;
        for entry in fs::read_dir("/proc").ok()? {
            let entry = entry.ok()?;
            let name = entry.file_name();
            if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            if name == "1" {
                // No plugin, and on some hosts it hides its environment from everybody. Where it
                // is not listed, /proc hides others as well.
                sees_first = true;
                continue;
            }
            match fs::read(entry.path().join("environ")) {
                Ok(environment) => containers.extend(named(&environment).map(<[u8]>::to_vec)),
                Err(err) if has_ended(&err) => {}
                Err(_) => return None,
            }
        }
        sees_first.then_some(Self(containers))
    }

    /// Whether a plugin is being called for this container.
    pub fn name(&self, container: &str) -> bool {
        self.0.contains(container.as_bytes())
    }
}

/// A plugin sees whomever its runtime calls beside it; anybody else may have been started in a
/// namespace of processes that the runtime is not in.
fn sees_everybody() -> bool {
    let is_called = std::env::var_os("CNI_COMMAND").is_some();
    let sees_caller = rustix::process::getppid().is_some();
    is_called && sees_caller
        || fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new(FIRST))
}

fn named(environment: &[u8]) -> impl Iterator<Item = &[u8]> {
    let variables = environment.split(|byte| *byte == 0);
    variables.filter_map(|variable| variable.strip_prefix(CONTAINER))
}

fn has_ended(err: &io::Error) -> bool {
    matches!(Errno::from_io_error(err), Some(Errno::NOENT | Errno::SRCH))
}

/// When the host was started, or the container that is a node, in the time of the clock as it is
/// set now: the first process, and /run, are no older. None when neither can be told.
pub fn start(now: SystemTime) -> Option<SystemTime> {
    let first = age_of_first_process().and_then(|age| now.checked_sub(age));
    let run = made("/run").filter(|made| *made <= now);
    first.max(run)
}

fn age_of_first_process() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    // The second field is a name in parentheses; this is the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    now.checked_sub(since_boot)
}

/// When a folder was made, where the filesystem knows (tmpfs since Linux 5.18).
fn made(path: &str) -> Option<SystemTime> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BTIME).ok()?;
    if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return None;
    }
    let seconds = stat.stx_btime.tv_sec.try_into().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, stat.stx_btime.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_container_is_named_by_its_variable_alone() {
        let named = |text: &str| {
            let names = named(text.as_bytes()).map(|name| String::from_utf8(name.to_vec()));
            names.collect::<Result<Vec<_>, _>>().unwrap()
        };
        assert_eq!(named("A=1\0CNI_CONTAINERID=web\0B=2\0"), ["web"]);
        assert_eq!(named("CNI_CONTAINERID=web"), ["web"]);
        assert!(named("X_CNI_CONTAINERID=web\0CNI_IFNAME=CNI_CONTAINERID=web\0").is_empty());
        assert!(named("").is_empty());
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
        // The child goes on its own way before the kernel has all of its new program's memory.
        let during = loop {
            match fs::read(&environ).unwrap() {
                nothing if nothing.is_empty() => std::thread::yield_now(),
                environment => break environment,
            }
        };
        // Where it can be looked at others, too.
        let listed = Callers::list();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(named(&during).collect::<Vec<_>>(), [name.as_bytes()]);
        assert!(listed.is_none_or(|listed| listed.name(&name)));
        assert!(has_ended(&fs::read(&environ).unwrap_err()));
        assert!(Callers::list().is_none_or(|listed| !listed.name(&name)));
    }

    #[test]
    fn the_start_was_before_now_and_not_before_the_first_process() {
        let now = SystemTime::now();
        let start = start(now).unwrap();
        assert!(start <= now);
        let age = now.duration_since(start).unwrap();
        assert!(age <= age_of_first_process().unwrap() + Duration::from_secs(1));
    }
}
