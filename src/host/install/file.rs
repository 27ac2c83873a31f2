//! Single files: what exists under a name, and the few atomic ways to change it. Which files are
//! ours is the business of [`super::managed_folder`].

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// The SHA-256 of a file's content, in hexadecimal digits as printed by `sha256sum`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    pub fn of(content: &[u8]) -> Self {
        let bytes = Sha256::digest(content);
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What exists under a name.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Nothing,
    File {
        digest: Digest,
        mode: u32,
        inode: Inode,
    },
    /// A symbolic link, which is not followed.
    Link {
        target: PathBuf,
        inode: Inode,
    },
}

/// The identity of a file: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Found {
    /// Reads what is at a path, without following links.
    ///
    /// # Errors
    /// It is not readable, or it is a folder or a device.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let cannot = |err| refusal("cannot read", path, &err);
        let meta = match fs::symlink_metadata(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            other => other.map_err(cannot)?,
        };
        let inode = Inode {
            device: meta.dev(),
            number: meta.ino(),
        };
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(cannot)?;
            return Ok(Self::Link { target, inode });
        }
        if !meta.is_file() {
            let what = if meta.is_dir() { "a folder" } else { "no file" };
            return Err(Error::io("cannot replace", path, format!("it is {what}"))
                .hint("move it out of the way, or choose another folder"));
        }
        Ok(Self::File {
            digest: Digest::of(&fs::read(path).map_err(cannot)?),
            mode: meta.mode() & 0o7777,
            inode,
        })
    }

    /// Whether both are the same file, or equal in content and mode.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { digest, mode, .. },
                Self::File {
                    digest: of_other,
                    mode: its_mode,
                    ..
                },
            ) => digest == of_other && mode == its_mode,
            (Self::Link { target, .. }, Self::Link { target: other, .. }) => target == other,
            _ => false,
        }
    }

    pub(super) fn inode(&self) -> Option<Inode> {
        match self {
            Self::Nothing => None,
            Self::File { inode, .. } | Self::Link { inode, .. } => Some(*inode),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// Writes a file that no other program uses yet, and syncs it to disk.
///
/// # Errors
/// The file cannot be written; the unfinished one is removed.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    remove(path)?;
    let write = || -> io::Result<()> {
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        // The requested mode, regardless of the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|err| {
        let _ = fs::remove_file(path);
        refusal("cannot write", path, &err)
    })
}

/// Gives a file a second name, `to`, that is not in use. A hard link keeps the file itself, with
/// its owner, mode and times. On a filesystem without hard links the file is copied instead, to
/// `draft` first.
pub(super) fn keep(from: &Path, to: &Path, draft: &Path) -> Result<()> {
    let Err(err) = fs::hard_link(from, to) else {
        return Ok(());
    };
    if !has_no_links(&err) {
        return Err(refusal("cannot keep", to, &err));
    }
    let cannot = |err| refusal("cannot keep", to, &err);
    let meta = fs::symlink_metadata(from).map_err(cannot)?;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(cannot)?;
        return std::os::unix::fs::symlink(target, to).map_err(cannot);
    }
    let content = fs::read(from).map_err(cannot)?;
    write(draft, &content, meta.mode() & 0o7777)?;
    // The owner first: changing it clears the set-id bits.
    std::os::unix::fs::chown(draft, Some(meta.uid()), Some(meta.gid()))
        .and_then(|()| fs::set_permissions(draft, meta.permissions()))
        .and_then(|()| File::open(draft)?.set_modified(meta.modified()?))
        .map_err(cannot)?;
    rename(draft, to)
}

/// Hard-links one of our files to `to`. False if the filesystem does not allow it.
pub(super) fn link(from: &Path, to: &Path) -> Result<bool> {
    remove(to)?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(err) if has_no_links(&err) => Ok(false),
        Err(err) => Err(refusal("cannot link", to, &err)),
    }
}

/// Whether link(2) failed because the filesystem has no hard links, or allows no more of them.
fn has_no_links(err: &io::Error) -> bool {
    let none = [Errno::PERM, Errno::MLINK, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(err).is_some_and(|errno| none.contains(&errno))
}

/// Atomically replaces `to` by `from`.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|err| refusal("cannot put in place", to, &err))?;
    sync_folder_of(to)
}

/// Moves a file in from another folder, atomically replacing `to`, so that whoever watches the folder of `to`
/// notices. A file that is moved in is "created" for inotify, and containerd passes over that, since a new
/// file has still to be written; it reads the folder again when a file in it gets another name.
pub fn move_in(from: &Path, to: &Path) -> Result<()> {
    let passing = passing_name(to);
    fs::rename(from, &passing).map_err(|err| refusal("cannot put in place", to, &err))?;
    rename(&passing, to).inspect_err(|_| {
        // Back to where the caller knows it.
        let _ = fs::rename(&passing, from);
    })
}

/// The name that a file has for a moment in [`move_in`]; no runtime reads files of such a name.
pub fn passing_name(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.new"))
}

/// Removes a file, if it exists.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|err| refusal("cannot remove", path, &err)),
    }
}

/// Syncs a file's folder to disk, so that changes of its names survive a power failure, in order.
pub(super) fn sync_folder_of(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    match synced {
        // Some filesystems cannot sync folders.
        Err(err) if err.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other.map_err(|err| refusal("cannot sync", dir, &err)),
    }
}

/// The error for a failed operation on a file, with a hint for common causes.
pub fn refusal(action: &str, path: &Path, err: &io::Error) -> Error {
    let hint = match Errno::from_io_error(err) {
        Some(Errno::ACCESS | Errno::PERM) => {
            "sudo, or name a folder that is yours; as root: check with lsattr whether it is immutable"
        }
        Some(Errno::ROFS) => {
            "the filesystem is read-only: mount -o remount,rw, or name another folder in which \
             the runtime looks as well (bin_dir and conf_dir in its configuration)"
        }
        Some(Errno::NOTDIR | Errno::EXIST) => {
            "a part of this path is a file, where a folder should be"
        }
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "make room (df -h, df -i), and run it again: it goes on where it was"
        }
        Some(Errno::BUSY) => "something is mounted there: findmnt shows it; umount it first",
        Some(Errno::XDEV) => "something is mounted within the folder: findmnt shows it",
        _ => "",
    };
    Error::io(action, path, err).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_sha256sum() {
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    /// containerd reads its networks again when a file in the folder is written, renamed or removed,
    /// and passes over one that is created or moved in.
    #[test]
    fn who_watches_the_folder_is_told_once_the_file_is_there_and_not_before() {
        use rustix::fs::inotify;
        let dir = tempfile::tempdir().unwrap();
        let (watched, below) = (dir.path(), dir.path().join("below"));
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, watched, inotify::WatchFlags::ALL_EVENTS).unwrap();

        fs::create_dir(&below).unwrap();
        write(&below.join("a.conflist"), b"{}", 0o644).unwrap();
        move_in(&below.join("a.conflist"), &watched.join("a.conflist")).unwrap();
        fs::remove_dir(&below).unwrap();

        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut space);
        let mut told = Vec::new();
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let heard = inotify::ReadFlags::MODIFY
                | inotify::ReadFlags::MOVED_FROM
                | inotify::ReadFlags::DELETE;
            if event.events().intersects(heard) {
                told.push(name.unwrap_or_default());
            }
        }
        assert_eq!(told, [".a.conflist.new", "below"]);
        assert_eq!(fs::read(watched.join("a.conflist")).unwrap(), b"{}");
    }

    #[test]
    fn a_folder_is_not_taken_for_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let err = Found::at(dir.path()).unwrap_err();
        assert!(err.message.ends_with("it is a folder"), "{err}");
        assert!(!Found::at(&dir.path().join("x")).unwrap().is_there());
    }

    #[test]
    fn a_link_is_looked_at_and_not_through() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, other] = ["file", "link", "other"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let [of_file, of_link] = [&file, &link].map(|path| Found::at(path).unwrap());
        assert!(!of_file.is_same_as(&of_link));
        keep(&link, &other, &dir.path().join("draft")).unwrap();
        assert!(Found::at(&other).unwrap().is_same_as(&of_link));
    }
}
