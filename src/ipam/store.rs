//! The store on disk, in the format of the reference's `host-local`, so that both can use one
//! store at the same time:
//!
//! ```text
//! <dataDir>/<network>/10.1.0.5             a file for each address: "<container>\r\n<interface>"
//! <dataDir>/<network>/last_reserved_ip.0   where the search of range set 0 left off
//! <dataDir>/<network>/lock                 flock(2), exclusive, around every operation
//! ```

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};

use crate::cni::error::io as io_error;
use crate::cni::request::Attachment;
use crate::cni::{ContainerId, IfName, Result};

/// The store of one network, locked for as long as this lives.
pub struct Store {
    dir: PathBuf,
    /// Closing it drops the lock.
    _lock: File,
}

/// Who holds an address, as its file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// The content that an attachment's address files have.
    pub fn new(container: &ContainerId, ifname: &IfName) -> Self {
        Self(format!("{container}\r\n{ifname}"))
    }

    /// The same of an attachment.
    pub fn of(attachment: &Attachment) -> Self {
        Self::new(&attachment.container, &attachment.ifname)
    }

    /// Old versions of the reference wrote the container alone.
    fn matches_old_form(&self, content: &str) -> bool {
        self.0.split("\r\n").next() == Some(content)
    }
}

/// An address that nobody valid holds, and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub ip: IpAddr,
    pub container: String,
    /// Empty in files of the old form.
    pub ifname: String,
}

impl Store {
    /// Opens a network's store, made if it is not there, and waits for its lock.
    ///
    /// # Errors
    /// Code 5, naming the path.
    pub fn open(dir: &Path) -> Result<Self> {
        match Self::lock(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)
                    .map_err(|err| io_error("cannot make the address store", dir, err))?;
                Self::lock(dir)
            }
            other => other,
        }
        .map_err(|err| io_error("cannot lock the address store", dir, err))
    }

    /// Like [`Store::open`], but None when there is no store.
    ///
    /// # Errors
    /// Code 5, naming the path.
    pub fn open_existing(dir: &Path) -> Result<Option<Self>> {
        match Self::lock(dir) {
            Ok(store) => Ok(Some(store)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(io_error("cannot lock the address store", dir, err)),
        }
    }

    fn lock(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC;
        // The reference's mode: who cannot open it cannot hold it, and block every ADD.
        let lock = rustix::fs::open(dir.join("lock"), flags, Mode::from(0o750))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock.into(),
        })
    }

    /// The folder, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes an address for a holder and moves the cursor of its range set there. False when
    /// it is taken already.
    ///
    /// # Errors
    /// Code 5; the address is then not taken.
    pub fn reserve(&self, ip: IpAddr, holder: &Holder, set: usize) -> Result<bool> {
        let path = self.dir.join(ip.to_string());
        match self.publish(&path, holder) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(err) => return Err(io_error("cannot reserve", &path, err)),
        }
        let cursor = self.cursor(set);
        if let Err(err) = write_cursor(&cursor, ip) {
            let _ = fs::remove_file(&path);
            return Err(io_error("cannot write", &cursor, err));
        }
        Ok(true)
    }

    /// Makes an address file appear with its content, so that a kill in between leaves none:
    /// written without a name first, then linked to it, which fails where one exists.
    fn publish(&self, path: &Path, holder: &Holder) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&self.dir, flags, Mode::from(0o600)) else {
            // Not every filesystem knows O_TMPFILE; what is really wrong will show again.
            return publish_in_place(path, holder);
        };
        let mut file = File::from(file);
        file.write_all(holder.0.as_bytes())?;
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// The address that was last taken from a range set.
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        // Unreadable or half-written, it costs the round robin once: not worth an error.
        fs::read_to_string(self.cursor(set))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn cursor(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }

    /// Every address that a holder has, files of the old form included.
    ///
    /// # Errors
    /// Code 5, naming the path.
    pub fn held_by(&self, holder: &Holder) -> Result<Vec<IpAddr>> {
        let (exact, old) = self.find(holder)?;
        Ok(exact.into_iter().chain(old).collect())
    }

    /// Frees every address that a holder has. Files of the old form, which name only a
    /// container, count when there is none of the new, as in the reference.
    ///
    /// # Errors
    /// Code 5, after having freed what could be.
    pub fn release(&self, holder: &Holder) -> Result<()> {
        let (exact, old) = self.find(holder)?;
        let mut outcome = Ok(());
        for ip in if exact.is_empty() { old } else { exact } {
            let path = self.dir.join(ip.to_string());
            match fs::remove_file(&path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    outcome = Err(io_error("cannot free", &path, err));
                }
                _ => {}
            }
        }
        outcome
    }

    /// Every address whose file tells a container and an interface that `keep` does not want
    /// kept, with both. What tells no holder is kept: it may be an ADD of the reference in the
    /// making.
    ///
    /// # Errors
    /// Code 5, naming the path.
    pub fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<Stale>> {
        let held = self
            .taken()?
            .into_iter()
            .filter_map(|ip| self.holder_of(ip));
        Ok(held
            .filter(|held| !keep(&held.container, &held.ifname))
            .collect())
    }

    fn holder_of(&self, ip: IpAddr) -> Option<Stale> {
        let content = fs::read_to_string(self.dir.join(ip.to_string())).ok()?;
        let content = content.trim();
        let (container, ifname) = content.split_once("\r\n").unwrap_or((content, ""));
        (!container.is_empty()).then(|| Stale {
            ip,
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        })
    }

    /// Frees every address that [`Store::stale`] tells.
    ///
    /// # Errors
    /// Code 5, after having freed what could be.
    pub fn release_others(&self, keep: impl Fn(&str, &str) -> bool) -> Result<()> {
        self.free(self.stale(keep)?.into_iter().map(|stale| stale.ip))
            .map(drop)
    }

    /// Frees every address that `is_dead` says so of: address, container, interface, and when
    /// its file was made. True when there was one.
    ///
    /// # Errors
    /// Code 5, after having freed what could be.
    pub fn reclaim(
        &self,
        is_dead: impl Fn(IpAddr, &str, &str, SystemTime) -> bool,
    ) -> Result<bool> {
        let is_dead = |held: &Stale| {
            let file = fs::metadata(self.dir.join(held.ip.to_string()));
            file.and_then(|file| file.modified())
                .is_ok_and(|made| is_dead(held.ip, &held.container, &held.ifname, made))
        };
        let dead = self.stale(|_, _| false)?.into_iter().filter(is_dead);
        self.free(dead.map(|dead| dead.ip).collect::<Vec<_>>())
    }

    fn free(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<bool> {
        let mut outcome = Ok(false);
        for ip in addresses {
            let path = self.dir.join(ip.to_string());
            outcome = match fs::remove_file(&path) {
                Err(err) => Err(io_error("cannot free", &path, err)),
                Ok(()) => outcome.map(|_| true),
            };
        }
        outcome
    }

    /// Whether an address file could be made.
    ///
    /// # Errors
    /// Code 5, naming the folder.
    pub fn probe(&self) -> Result<()> {
        rustix::fs::access(&self.dir, rustix::fs::Access::WRITE_OK)
            .map_err(|err| io_error("cannot write to the address store", &self.dir, err))
    }

    /// True when the holder has this address.
    pub fn holds(&self, ip: IpAddr, holder: &Holder) -> bool {
        fs::read_to_string(self.dir.join(ip.to_string())).is_ok_and(|content| {
            let content = content.trim();
            content == holder.0 || holder.matches_old_form(content)
        })
    }

    /// Every address that is taken.
    ///
    /// # Errors
    /// Code 5, naming the path.
    pub fn taken(&self) -> Result<Vec<IpAddr>> {
        let unreadable = |err| io_error("cannot list", &self.dir, err);
        let mut taken = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(unreadable)? {
            taken.extend(parse_name(&entry.map_err(unreadable)?.file_name()));
        }
        Ok(taken)
    }

    /// The holder's addresses by files of the new form and of the old.
    fn find(&self, holder: &Holder) -> Result<(Vec<IpAddr>, Vec<IpAddr>)> {
        let (mut exact, mut old) = (Vec::new(), Vec::new());
        for ip in self.taken()? {
            let path = self.dir.join(ip.to_string());
            let content = match fs::read_to_string(&path) {
                Ok(content) => content,
                Err(err) if is_shortage(&err) => return Err(io_error("cannot read", &path, err)),
                // It is somebody's, but not provably this holder's.
                Err(_) => continue,
            };
            let content = content.trim();
            if content == holder.0 {
                exact.push(ip);
            } else if holder.matches_old_form(content) {
                old.push(ip);
            }
        }
        Ok((exact, old))
    }
}

/// True for what ails this process or this moment and not the file: a holder's address must not
/// pass for somebody else's because of that.
fn is_shortage(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(err).is_some_and(|errno| shortages.contains(&errno))
}

/// The reference's way, where files without a name are not to be had.
fn publish_in_place(path: &Path, holder: &Holder) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::from(0o600))?);
    file.write_all(holder.0.as_bytes()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// With the reference's mode: it is for root alone, as the address files are.
fn write_cursor(path: &Path, ip: IpAddr) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::from(0o600))?);
    file.write_all(ip.to_string().as_bytes())
}

/// An address file's name; None for the lock, the cursors and anything else. Only the form in
/// which the address is written counts, or two names could mean one address.
fn parse_name(name: &OsStr) -> Option<IpAddr> {
    let text = name.to_str()?;
    text.parse::<IpAddr>()
        .ok()
        .filter(|ip| ip.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(container: &str) -> Holder {
        Holder::new(
            &ContainerId::parse(container).unwrap(),
            &IfName::parse("eth0").unwrap(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn files_are_those_of_the_reference() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("podnet");
        let store = Store::open(&dir).unwrap();
        assert!(store.reserve(ip("fd00::5"), &holder("c1"), 1).unwrap());
        assert_eq!(fs::read(dir.join("fd00::5")).unwrap(), b"c1\r\neth0");
        assert_eq!(
            fs::read(dir.join("last_reserved_ip.1")).unwrap(),
            b"fd00::5"
        );
        assert!(dir.join("lock").exists());
    }

    #[test]
    fn an_address_is_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(store.reserve(ip("10.0.0.2"), &holder("c1"), 0).unwrap());
        assert!(!store.reserve(ip("10.0.0.2"), &holder("c2"), 0).unwrap());
        assert!(store.holds(ip("10.0.0.2"), &holder("c1")));
        assert!(!store.holds(ip("10.0.0.2"), &holder("c2")));
    }

    #[test]
    fn release_frees_the_holder_s_addresses_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        for (address, container) in [("10.0.0.2", "c1"), ("fd00::2", "c1"), ("10.0.0.3", "c2")] {
            store.reserve(ip(address), &holder(container), 0).unwrap();
        }
        store.release(&holder("c1")).unwrap();
        assert_eq!(store.taken().unwrap(), [ip("10.0.0.3")]);
        store.release(&holder("c1")).unwrap();
    }

    #[test]
    fn files_with_the_container_alone_are_understood() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        fs::write(root.path().join("10.0.0.9"), "c1").unwrap();
        fs::write(root.path().join("10.0.0.8"), "c1\r\n").unwrap();
        assert_eq!(store.held_by(&holder("c1")).unwrap().len(), 2);
        store.release(&holder("c1")).unwrap();
        assert!(store.taken().unwrap().is_empty());
    }

    #[test]
    fn foreign_files_in_the_folder_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        for name in [
            "README",
            "10.0.0",
            "010.0.0.1",
            "fd00:0::5",
            "last_reserved_ip.0",
        ] {
            fs::write(root.path().join(name), "c1\r\neth0").unwrap();
        }
        fs::create_dir(root.path().join("10.0.0.7")).unwrap();
        assert!(store.held_by(&holder("c1")).unwrap().is_empty());
        store.release(&holder("c1")).unwrap();
        assert!(root.path().join("README").exists());
    }

    #[test]
    fn a_cursor_cut_short_is_no_cursor() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        fs::write(root.path().join("last_reserved_ip.0"), "10.0.").unwrap();
        assert_eq!(store.last_reserved(0), None);
    }

    #[test]
    fn no_store_is_nothing_to_free() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            Store::open_existing(&root.path().join("gone"))
                .unwrap()
                .is_none()
        );
        assert!(!root.path().join("gone").exists());
    }
}
