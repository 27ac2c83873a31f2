//! One lock for each attachment, so that its ADD, DEL and CHECK never run at the same time, and a
//! half-made link whose lock is free is known to be debris of a crash.
//!
//! A lock is a file under /run/pausenet/lock, named like the host end and held by flock(2): the
//! kernel releases it when the process ends, for whatever reason. The file exists only while a
//! process holds the lock, or after one was killed while holding it. (`pausectl` uses the same kind
//! of lock for its pods, in another folder.)

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};

use super::file::not_regular;
use super::flock::flock_within;
use crate::cni::OnPath;
use crate::cni::Result;
use crate::cni::error::io as io_error;

/// How long a plugin's call waits for a lock. Its holder works for milliseconds, unless it waits for
/// a plugin that it delegates to.
pub const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// The same for tools: whoever works on a pod may be calling plugins.
pub const TOOL_LIMIT: Duration = Duration::from_secs(120);

/// A held lock. Dropping it removes the file and releases the lock.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for the lock of this name, up to [`LOCK_LIMIT`]. The name becomes a file name, so it
    /// must have been checked.
    ///
    /// # Errors
    /// Code 11 at the limit, naming the process that holds the lock; 5 when it cannot be opened.
    pub fn take(dir: &Path, name: &impl std::fmt::Display) -> Result<Self> {
        Self::take_within(dir, name, LOCK_LIMIT)
    }

    /// Like [`Lock::take`], with another limit.
    pub fn take_within(dir: &Path, name: &impl std::fmt::Display, limit: Duration) -> Result<Self> {
        let path = dir.join(name.to_string());
        let deadline = Instant::now() + limit;
        loop {
            let file = open(&path).on_path("cannot open the lock", &path)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let file = flock_within(file, left).on_path("cannot take the lock", &path)?;
            if is_current(&file, &path).on_path("cannot take the lock", &path)? {
                return Ok(Self { path, _file: file });
            }
            // The previous holder has removed the file: our lock is on a file that no other process
            // can find.
        }
    }

    /// Takes the lock if it is free.
    pub fn try_take(dir: &Path, name: &impl std::fmt::Display) -> Result<Option<Self>> {
        let path = dir.join(name.to_string());
        let file = open(&path).on_path("cannot open the lock", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_current(&file, &path).on_path("cannot take the lock", &path)? => {
                Ok(Some(Self { path, _file: file }))
            }
            // Its holder removed the file in between: another process is at work.
            Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(err) => Err(io_error("cannot take the lock", &path, err)),
        }
    }
}

/// The names of the locks in a folder that no process holds. Their holders were killed.
pub fn abandoned(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.on_path("cannot list", dir)?,
    };
    let mut names = Vec::new();
    for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
        let path = entry.path();
        let Ok(file) = rustix::fs::open(&path, FLAGS, Mode::empty()) else {
            continue; // released in between
        };
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && is_current(&file, &path).is_ok_and(|current| current) {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Remove it while the lock is held; a waiting process notices and creates a new file.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A FIFO or a device in a lock's place must not make us wait.
pub(crate) const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open(path: &Path) -> io::Result<File> {
    let open = || rustix::fs::open(path, FLAGS | OFlags::CREATE, Mode::from(0o600));
    match open() {
        Err(rustix::io::Errno::NOENT) => {
            make_dir(path.parent().unwrap_or(path))?;
            Ok(open()?.into())
        }
        other => Ok(other?.into()),
    }
}

/// Creates a folder and its parents, writable for the owner alone whatever the umask.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
}

/// Whether the path still leads to the file.
///
/// # Errors
/// The file is not a regular one: it was not made as a lock.
fn is_current(file: impl AsFd, path: &Path) -> io::Result<bool> {
    let held = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(held.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    let named = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    Ok(named.is_ok_and(|named| (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::IfName;

    #[test]
    fn one_holder_at_a_time_though_the_file_is_removed_by_each() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("lock");
        let name = IfName::parse("vethx").unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::take(&dir, &name).unwrap();
                        use std::sync::atomic::Ordering::SeqCst;
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        inside.fetch_sub(1, SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn a_lock_that_stays_held_ends_in_code_11_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _held = Lock::take(dir.path(), &"vethx").unwrap();
        let limit = Duration::from_millis(50);
        let err = Lock::take_within(dir.path(), &"vethx", limit).unwrap_err();
        assert_eq!(err.code, crate::cni::Code::TryAgainLater);
        let holder = format!("process {} ", std::process::id());
        assert!(err.msg.contains(&holder), "{err}");
        assert!(err.msg.contains("vethx"), "{err}");
    }

    #[test]
    fn what_is_not_a_regular_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("link")).unwrap();
        for name in ["fifo", "folder", "link"] {
            let err = Lock::take(dir.path(), &name).unwrap_err();
            assert_eq!(err.code, crate::cni::Code::Io);
            assert!(err.msg.contains(name), "{err}");
            assert!(Lock::try_take(dir.path(), &name).is_err());
        }
    }
}
