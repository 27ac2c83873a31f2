//! A stamp on a folder that shows later whether a file in it was added or removed.
//!
//! Each such change sets the folder's mtime and ctime, but from a clock that may advance only every
//! 10 ms: two changes can leave the same time. So a stamp is an mtime that no clock sets: it keeps
//! the second and gets a random fraction. Any change replaces it. A tool that restores a folder's
//! mtime from a backup (`rsync -a`, `tar x`) cannot restore the ctime.
//!
//! A stamp does not show that a file was written in place.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Stat, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};

/// Identifies a folder and its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderStamp {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FolderStamp {
    /// Reads the folder's current stamp.
    pub(crate) fn read(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(folder)?))
    }

    /// Gives the folder a new stamp.
    ///
    /// # Errors
    /// The kernel's, and an error if the filesystem does not store fractions of a second.
    pub(crate) fn renew(folder: impl AsFd) -> io::Result<Self> {
        let now = Self::read(&folder)?;
        let mut lot = [0; 4];
        rustix::rand::getrandom(&mut lot, rustix::rand::GetRandomFlags::empty())?;
        let mtime = (
            now.mtime.0,
            i64::from(u32::from_ne_bytes(lot) % 1_000_000_000),
        );
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: mtime.0,
                tv_nsec: mtime.1,
            },
        };
        rustix::fs::futimens(&folder, &times)?;
        let new = Self::read(&folder)?;
        // The ctime comes from the clock: if the two are equal, a change right now would set this
        // mtime again.
        if new.mtime != mtime || new.mtime == new.ctime {
            return Err(io::Error::other(
                "two changes of the folder can have the same mtime",
            ));
        }
        Ok(new)
    }

    /// Device and inode: the same for as long as the folder lives.
    pub(crate) fn folder(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    /// Changes faster than the clock that stamps files.
    #[test]
    fn every_change_in_the_folder_shows_however_quick_it_comes() {
        for dir in [
            tempfile::tempdir().unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        ] {
            let folder = File::open(dir.path()).unwrap();
            let file = dir.path().join("x");
            for round in 0..500 {
                let stamp = FolderStamp::renew(&folder).unwrap();
                assert_eq!(FolderStamp::read(&folder).unwrap(), stamp);
                if round % 2 == 0 {
                    fs::write(&file, "").unwrap();
                } else {
                    fs::remove_file(&file).unwrap();
                }
                assert_ne!(FolderStamp::read(&folder).unwrap(), stamp, "round {round}");
            }
        }
    }

    #[test]
    fn a_folder_that_was_put_back_as_it_was_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        let stamp = FolderStamp::renew(&folder).unwrap();
        let before = folder.metadata().unwrap().modified().unwrap();
        // Until the clock advances, within a tick.
        loop {
            fs::write(dir.path().join("x"), "").unwrap();
            fs::remove_file(dir.path().join("x")).unwrap();
            folder.set_modified(before).unwrap();
            let now = FolderStamp::read(&folder).unwrap();
            assert_eq!(now.mtime, stamp.mtime);
            if now.ctime != stamp.ctime {
                break;
            }
        }
    }
}
