//! One lock for each attachment, so that its ADD, DEL and CHECK never run at the same time, and a
//! half-made link whose lock is free is known to be debris of a crash.
//!
//! A lock is a file under /run/pausenet/lock, named like the host end and held by flock(2): the
//! kernel releases it when the process ends, for whatever reason. The file exists only while a
//! process holds the lock, or after one was killed while holding it. (`pausectl` uses the same kind
//! of lock for its pods, in another folder.)

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::cni::OnPath;
use crate::cni::Result;
use crate::cni::error::io as io_error;

/// A held lock. Dropping it removes the file and releases the lock.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for the lock of this name. The name becomes a file name, so it must have been checked.
    pub fn take(dir: &Path, name: &impl std::fmt::Display) -> Result<Self> {
        let path = dir.join(name.to_string());
        let file = loop {
            let file = open(&path).on_path("cannot open the lock", &path)?;
            let held = rustix::io::retry_on_intr(|| {
                rustix::fs::flock(&file, FlockOperation::LockExclusive)
            });
            held.on_path("cannot take the lock", &path)?;
            if is_current(&file, &path) {
                break file;
            }
            // The previous holder has removed the file: our lock is on a file that no other process
            // can find.
        };
        Ok(Self { path, _file: file })
    }

    /// Takes the lock if it is free.
    pub fn try_take(dir: &Path, name: &impl std::fmt::Display) -> Result<Option<Self>> {
        let path = dir.join(name.to_string());
        let file = open(&path).on_path("cannot open the lock", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Its holder removed the file in between: another process is at work.
            Ok(()) if !is_current(&file, &path) => Ok(None),
            Ok(()) => Ok(Some(Self { path, _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
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
        let Ok(file) = File::open(&path) else {
            continue; // released in between
        };
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && is_current(&file, &path) {
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

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::from(0o600));
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

fn is_current(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (rustix::fs::fstat(file), rustix::fs::stat(path)) else {
        return false;
    };
    (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
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
}
