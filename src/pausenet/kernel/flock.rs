//! flock(2) with a time limit, and who holds it.
//!
//! The kernel knows no time limit for it. A lock that is free costs one system call, as without a
//! limit. For one that is not, a second thread waits in the kernel, so that waiters are served in
//! their order and without a pause, and this one waits for that thread. (A timer's signal would need
//! a handler, and can arrive before the wait begins; trying again and again is neither fair nor
//! quick.) At the limit, the thread is left behind: the lock that it may still get is released at
//! once, or with the process.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;

/// What the waiting thread needs is little.
const STACK: usize = 64 * 1024;

/// Waits for an exclusive lock on an open file, and returns the file, which holds it.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::TimedOut`] at the limit, naming the holder if it can be known.
pub fn flock_within<F: AsFd + Send + 'static>(file: F, limit: Duration) -> io::Result<F> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(file),
        Err(Errno::WOULDBLOCK) => {}
        Err(err) => return Err(err.into()),
    }
    let stat = rustix::fs::fstat(&file)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let wait = move || {
        let lock = || rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let taken = rustix::io::retry_on_intr(lock);
        // If nobody waits any more, the file is closed here.
        let _ = sender.send(taken.map(|()| file));
    };
    std::thread::Builder::new().stack_size(STACK).spawn(wait)?;
    match receiver.recv_timeout(limit) {
        Ok(taken) => Ok(taken?),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} has held it for {limit:.0?}", holder(&stat)),
        )),
    }
}

/// The process that holds a lock on a file, for messages.
fn holder(file: &Stat) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let candidates: Vec<_> = holders_of_inode(&locks, file.st_ino).collect();
    // The device in the list is not always the one of stat (btrfs, overlayfs).
    let device = format!(
        "{:02x}:{:02x}",
        rustix::fs::major(file.st_dev),
        rustix::fs::minor(file.st_dev)
    );
    let exact = candidates.iter().find(|(on, _)| *on == device);
    let found = exact.or_else(|| candidates.iter().find(|(_, pid)| has_open(*pid, file)));
    match found {
        Some((_, pid)) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            match name.trim() {
                // The lock is held by a file that a process has inherited.
                "" => format!("a process that process {pid} has left behind"),
                name => format!("process {pid} ({name})"),
            }
        }
        // A process of another PID namespace is not listed.
        None => "another process".into(),
    }
}

/// The device and the process of every flock on an inode of this number that is held, not awaited.
fn holders_of_inode(locks: &str, inode: u64) -> impl Iterator<Item = (&str, u32)> {
    locks.lines().filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != "FLOCK" {
            return None;
        }
        let pid = words.nth(2)?.parse().ok()?;
        let (device, number) = words.next()?.rsplit_once(':')?;
        (number.parse() == Ok(inode)).then_some((device, pid))
    })
}

fn has_open(pid: u32, file: &Stat) -> bool {
    let is_file = |path: &Path| {
        rustix::fs::stat(path)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (file.st_dev, file.st_ino))
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    open.is_ok_and(|open| open.flatten().any(|entry| is_file(&entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Instant;

    #[test]
    fn a_lock_that_is_released_is_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = flock_within(File::create(&path).unwrap(), Duration::ZERO).unwrap();
        let start = Instant::now();
        let waiter = std::thread::spawn(move || {
            flock_within(File::open(path).unwrap(), Duration::from_secs(60)).unwrap();
        });
        drop(held);
        waiter.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn who_waits_too_long_does_not_keep_the_lock_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = flock_within(File::create(&path).unwrap(), Duration::ZERO).unwrap();
        let limit = Duration::from_millis(10);
        let late = flock_within(File::open(&path).unwrap(), limit).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(held);
        flock_within(File::open(&path).unwrap(), Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn the_holder_is_told_from_those_that_wait_and_from_other_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 08:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 14 08:01:78 0 EOF\n\
                     4: OFDLCK ADVISORY  READ  -1 08:01:77 0 0\n5: FLOCK";
        let found: Vec<_> = holders_of_inode(locks, 77).collect();
        assert_eq!(found, [("08:01", 12)]);
    }
}
