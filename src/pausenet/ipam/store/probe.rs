//! Whether the next address file can be written, for STATUS.

use std::fs::File;
use std::io::Write;

use rustix::fs::{Access, AtFlags, Mode, OFlags, StatVfs};
use rustix::io::Errno;

use super::folder::Store;
use crate::cni::{OnPath, Result};

/// With less room than this, the probe writes a file: what is left may be reserved for others.
const PLENTY: u64 = 64;

impl Store {
    /// Checks that an address file could be created. Writes nothing where there is room.
    ///
    /// # Errors
    /// Code 5, naming the folder, or the file that cannot be written.
    pub(in crate::ipam) fn probe(&self) -> Result<()> {
        let dir = self.dir();
        rustix::fs::access(dir, Access::WRITE_OK)
            .on_path("cannot write to the address store", dir)?;
        let room = rustix::fs::fstatvfs(&self.folder).on_path("cannot ask for room in", dir)?;
        if !has_plenty(&room) {
            self.try_write()
                .on_path("no room for an address file in the address store", dir)?;
        }
        Ok(())
    }

    /// Writes as much as an ADD, into a file without a name.
    fn try_write(&self) -> std::io::Result<()> {
        const NAME: &str = "probe";
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = flags | OFlags::TMPFILE;
        let mode = Mode::from(0o600);
        let (file, named) = match rustix::fs::openat(&self.folder, ".", unnamed, mode) {
            Ok(file) => (file, false),
            // Not every filesystem supports it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let named = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let file = rustix::fs::openat(&self.folder, NAME, named, mode)?;
                (file, true)
            }
            Err(err) => return Err(err.into()),
        };
        let mut file = File::from(file);
        let written = file.write_all(b"probe").and_then(|()| file.sync_data());
        if named {
            rustix::fs::unlinkat(&self.folder, NAME, AtFlags::empty())?;
        }
        written
    }
}

/// Some filesystems count no blocks or no files: zero of zero.
fn has_plenty(room: &StatVfs) -> bool {
    room.f_bavail >= PLENTY && (room.f_files == 0 || room.f_favail >= PLENTY)
}
