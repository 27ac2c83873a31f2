//! A stamp on a folder that shows later whether anybody has added or removed a file in it.
//!
//! Whoever does so sets the folder's mtime and ctime, but to a clock that may stand still for
//! 10 ms: two changes can leave the same time behind. So a stamp is an mtime that no clock gave:
//! the second stays as it was, its fraction is drawn by lot. Any change replaces it. A tool that
//! gives a folder the mtime that it had in a backup (`rsync -a`, `tar x`) cannot give it the
//! ctime.
//!
//! What a stamp does not show: a file that is written to in place.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Stat, Timespec, Timestamps, UTIME_OMIT};
use serde::{Deserialize, Serialize};

/// Which folder it is, and when it last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderStamp {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FolderStamp {
    /// Reads the folder's present stamp.
    pub fn read(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(folder)?))
    }

    /// Gives the folder a new stamp.
    ///
    /// # Errors
    /// The kernel's; and when the filesystem keeps no fractions of a second.
    pub fn renew(folder: impl AsFd) -> io::Result<Self> {
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
        // The ctime is the clock's: a change that follows at once would leave this mtime, too.
        if new.mtime != mtime || new.mtime == new.ctime {
            return Err(io::Error::other(
                "the folder's mtime cannot be told from others",
            ));
        }
        Ok(new)
    }

    /// Device and inode: the same for as long as the folder lives.
    pub fn folder(&self) -> (u64, u64) {
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

    /// Far quicker than any clock that the kernel stamps files with.
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
        // Until the clock goes on: it does within a tick.
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
