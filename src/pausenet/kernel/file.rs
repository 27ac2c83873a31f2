//! Reads small files that others write: without waiting, and not more than a limit.
//!
//! A FIFO would make a reader wait for a writer, and a device may never end. So a file is opened
//! without waiting, and must be a regular one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// The most bytes of a configuration or result that another program wrote.
pub const LARGE: u64 = 16 * 1024 * 1024;

/// Whether the path may be a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// For files that people set up, such as /etc/resolv.conf.
    Follow,
    /// For files that only plugins write.
    Refuse,
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// The kernel's, and an error that says so for a file of another kind and for a longer one.
pub fn read(path: &Path, limit: u64, symlinks: Symlinks) -> io::Result<Vec<u8>> {
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if symlinks == Symlinks::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        // A socket, or a device without a driver.
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => return Err(not_regular()),
        file => File::from(file?),
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_regular());
    }
    let expected = u64::try_from(stat.st_size).unwrap_or_default().min(limit);
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or_default() + 1);
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(too_long(limit));
    }
    Ok(content)
}

/// Like [`read`], for text.
///
/// # Errors
/// Those of [`read`], and an error for what is not UTF-8.
pub fn read_text(path: &Path, limit: u64, symlinks: Symlinks) -> io::Result<String> {
    String::from_utf8(read(path, limit, symlinks)?)
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
}

pub(crate) fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")
}

pub(crate) fn too_long(limit: u64) -> io::Error {
    let what = format!("it is longer than {limit} bytes");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mknodat};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_regular_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5, Symlinks::Refuse).unwrap(), b"12345");
        let err = read(&path, 4, Symlinks::Refuse).unwrap_err();
        assert!(err.to_string().contains("longer than 4 bytes"), "{err}");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, 4, Symlinks::Refuse).is_err());
    }

    #[test]
    fn a_symbolic_link_is_followed_only_where_it_may_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("x"), dir.path().join("link"));
        std::fs::write(&file, "here").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read_text(&link, 9, Symlinks::Follow).unwrap(), "here");
        assert!(read_text(&link, 9, Symlinks::Refuse).is_err());
    }

    /// Each of these would be waited for, or read without end.
    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let link = dir.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&fifo, Path::new("/dev/zero"), &link, &socket, dir.path()] {
            let err = read(path, 9, Symlinks::Follow).unwrap_err();
            assert_eq!(err.to_string(), "it is not a regular file", "{path:?}");
        }
    }
}
