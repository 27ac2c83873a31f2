//! The store's files, each by its name in the folder that is open.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::folder::Store;
use super::holder::Holder;

impl Store {
    /// Makes an address file appear with its content, so that a kill in between leaves none:
    /// written without a name first, then linked to it, which fails where one exists.
    pub(super) fn publish(&self, name: &str, holder: &Holder) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&self.folder, ".", flags, Mode::from(0o600)) else {
            // Not every filesystem knows O_TMPFILE; what is really wrong will show again.
            return self.publish_in_place(name, holder);
        };
        let mut file = File::from(file);
        file.write_all(holder.content().as_bytes())?;
        match rustix::fs::linkat(&file, "", &self.folder, name, AtFlags::EMPTY_PATH) {
            // Not without CAP_DAC_READ_SEARCH, before Linux 6.10. There is a longer way.
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

    /// The reference's way, where files without a name are not to be had.
    fn publish_in_place(&self, name: &str, holder: &Holder) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::from(0o600))?;
        File::from(file)
            .write_all(holder.content().as_bytes())
            .inspect_err(|_| {
                let _ = self.remove_file(name);
            })
    }

    /// With the reference's mode: it is for root alone, as the address files are. Written over, and
    /// cut only where it was longer: to empty it first would have the filesystem give back its place
    /// and look for one again. (A kill in between leaves a cursor that is wrong, which does no harm.)
    pub(super) fn write_cursor(&self, cursor: &str, address: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, cursor, flags, Mode::from(0o600))?;
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

    /// Without asking for the length first: a store is full of small files.
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, name, flags, Mode::empty())?;
        let (mut text, mut part) = (Vec::new(), [0; 256]);
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut part))? {
                0 => break,
                length => text.extend_from_slice(&part[..length]),
            }
        }
        String::from_utf8(text).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
    }

    pub(super) fn remove_file(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }
}
