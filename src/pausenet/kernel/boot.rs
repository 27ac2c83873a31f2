//! When the host booted, and the kernel's ID for this boot.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::time::{ClockId, clock_gettime};

/// The kernel's boot ID: different after every boot.
///
/// # Errors
/// When /proc cannot be read.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

/// When the host booted, or the container that serves as a node started, by the wall clock: the age
/// of PID 1 or of /run. None if neither is known.
pub(crate) fn started_at(now: SystemTime) -> Option<SystemTime> {
    let first = age_of_init().and_then(|age| now.checked_sub(age));
    let run = birth_time("/run").filter(|born| *born <= now);
    first.max(run)
}

fn age_of_init() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    // The second field is a name in parentheses; this is the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    now.checked_sub(since_boot)
}

/// When a folder was created, if the filesystem records it (tmpfs since Linux 5.18).
fn birth_time(path: &str) -> Option<SystemTime> {
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

    #[test]
    fn the_start_was_before_now_and_not_before_pid_1() {
        let now = SystemTime::now();
        let start = started_at(now).unwrap();
        assert!(start <= now);
        let age = now.duration_since(start).unwrap();
        assert!(age <= age_of_init().unwrap() + Duration::from_secs(1));
    }
}
