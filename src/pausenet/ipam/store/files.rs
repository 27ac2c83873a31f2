//! Reads and writes the store's files, by name, relative to the open folder.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::folder::Store;
use super::holder::Holder;
use crate::kernel::file::too_long;

/// Other programs may have left anything under a file's name: a FIFO must not make us wait, a
/// symbolic link not lead us elsewhere.
const SAFELY: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A longer file names no holder: a holder is a container's ID and an interface's name.
const MAX_CONTENT: usize = 64 * 1024;

impl Store {
    /// Creates an address file atomically, so that a kill leaves no empty file: it writes an
    /// unnamed file, then links it to its name, which fails if the name exists.
    pub(super) fn publish(&self, name: &str, holder: &Holder) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&self.folder, ".", flags, Mode::from(0o600)) else {
            // Not every filesystem supports O_TMPFILE; any other error will occur again below.
            return self.publish_in_place(name, holder);
        };
        let mut file = File::from(file);
        file.write_all(holder.content().as_bytes())?;
        match rustix::fs::linkat(&file, "", &self.folder, name, AtFlags::EMPTY_PATH) {
            // Before Linux 6.10 this needs CAP_DAC_READ_SEARCH; linking through /proc does not.
            Err(rustix::io::Errno::NOENT) => {
                let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                Ok(rustix::fs::linkat(
                    CWD,
                    unnamed,
                    &self.folder,
                    name,
                    follow,
                )?)
            }
            linked => Ok(linked?),
        }
    }

    /// Creates the file as the reference does, where the filesystem has no unnamed files.
    fn publish_in_place(&self, name: &str, holder: &Holder) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::from(0o600))?;
        File::from(file)
            .write_all(holder.content().as_bytes())
            .inspect_err(|_| {
                let _ = self.remove_file(name);
            })
    }

    /// Uses the reference's mode: readable by root alone, like the address files. It overwrites the
    /// file and truncates it only if it was longer: truncating first would make the filesystem free
    /// the block and allocate one again. (A kill in between leaves a wrong cursor, which is
    /// harmless.)
    pub(super) fn write_cursor(&self, cursor: &str, address: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | SAFELY;
        let open = || rustix::fs::openat(&self.folder, cursor, flags, Mode::from(0o600));
        let file = match open() {
            // A symbolic link, or a FIFO that nobody reads.
            Err(Errno::LOOP | Errno::NXIO) => {
                self.remove_file(cursor)?;
                open()?
            }
            // An empty one says nothing.
            Err(Errno::ISDIR) => {
                self.remove_folder(cursor)?;
                open()?
            }
            file => file?,
        };
        let mut file = File::from(file);
        file.write_all(address.as_bytes())?;
        let length = address.len() as u64;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(())
    }

    pub(super) fn content(&self, ip: IpAddr) -> io::Result<String> {
        self.read(&ip.to_string())
    }

    /// Does not ask for kind and length first: the files are small, and a store has many. What is
    /// not such a file ends in an error, or in an empty text (a FIFO).
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | SAFELY;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::empty())?;
        let (mut text, mut part) = (Vec::new(), [0; 256]);
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut part))? {
                0 => break,
                _ if text.len() > MAX_CONTENT => return Err(too_long(MAX_CONTENT as u64)),
                length => text.extend_from_slice(&part[..length]),
            }
        }
        String::from_utf8(text).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
    }

    pub(super) fn remove_folder(&self, name: &str) -> io::Result<()> {
        let folder = AtFlags::REMOVEDIR;
        Ok(rustix::fs::unlinkat(&self.folder, name, folder)?)
    }

    pub(super) fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }
}
