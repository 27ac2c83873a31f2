//! [`Store`]: a locked store and all operations on its reservations.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use super::holder::{Holder, StaleReservation};
use crate::cni::error::io as io_error;
use crate::cni::{OnPath, Result};
use crate::ipam::index::{Inconsistent, Index, WORTHWHILE};
use crate::ipam::range::{Range, RangeSet};
use crate::kernel::flock::flock_within;
use crate::kernel::lock;

/// The store of one network, locked until it is dropped.
pub struct Store {
    dir: PathBuf,
    pub(super) folder: OwnedFd,
    /// The folder of the indexes; None to work without one.
    pub(super) indexes: Option<PathBuf>,
    index: IndexState,
    /// Closing it drops the lock.
    _lock: OwnedFd,
}

/// Whether the store's index has been opened.
enum IndexState {
    NotLookedFor,
    /// No index, or one that failed validation.
    Absent,
    Present(Box<Index>),
}

/// What the index knows about a range set.
#[derive(Debug, PartialEq, Eq)]
pub enum SearchResult<'a> {
    /// The next free address.
    Free(IpAddr, &'a Range),
    /// No address is free; this many are in use.
    Exhausted(u128),
}

impl Store {
    /// Opens a network's store, creating it if necessary, and waits for its lock.
    ///
    /// # Errors
    /// Code 11 when another process holds the lock for longer than
    /// [`LOCK_LIMIT`](crate::kernel::lock::LOCK_LIMIT); 5 when the store cannot be used.
    pub fn open(dir: &Path) -> Result<Self> {
        if let Some(store) = Self::open_existing(dir)? {
            return Ok(store);
        }
        fs::create_dir_all(dir).on_path("cannot make the address store", dir)?;
        Self::open_existing(dir)?.ok_or_else(|| {
            let missing = rustix::io::Errno::NOENT;
            io_error("cannot open the address store", dir, missing)
        })
    }

    /// Like [`Store::open`], but returns None when there is no store.
    pub fn open_existing(dir: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(dir, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            folder => folder.on_path("cannot open the address store", dir)?,
        };
        // The reference's mode. An unprivileged process cannot open the file, so it cannot hold the
        // lock and block every ADD.
        let flags = lock::FLAGS | OFlags::CREATE;
        let lock = match rustix::fs::openat(&folder, "lock", flags, Mode::from(0o750)) {
            // The folder was removed in between.
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            lock => lock,
        };
        let lock = lock
            .map_err(io::Error::from)
            .and_then(|lock| flock_within(lock, lock::LOCK_LIMIT))
            .on_path("cannot lock the address store with", &dir.join("lock"))?;
        Ok(Some(Self {
            dir: dir.to_owned(),
            folder,
            indexes: None,
            index: IndexState::NotLookedFor,
            _lock: lock,
        }))
    }

    /// Uses an index in this folder once the store is large enough for one.
    pub fn with_index(mut self, indexes: &Path) -> Self {
        self.indexes = Some(indexes.to_owned());
        self
    }

    /// The store's path, for messages.
    pub(in crate::ipam) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reserves an address for a holder and moves the range set's cursor there. False when it is
    /// taken.
    ///
    /// # Errors
    /// Code 5; then the address is not reserved.
    pub(in crate::ipam) fn reserve(
        &mut self,
        ip: IpAddr,
        holder: &Holder,
        set: usize,
    ) -> Result<bool> {
        let name = ip.to_string();
        match self.publish(&name, holder) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                self.ask(|index| index.is_taken(ip)?.then_some(()).ok_or(Inconsistent));
                return Ok(false);
            }
            Err(err) => return Err(io_error("cannot reserve", &self.dir.join(name), err)),
        }
        let cursor = cursor(set);
        if let Err(err) = self.write_cursor(&cursor, &name) {
            let _ = self.remove_file(&name);
            return Err(io_error("cannot write", &self.dir.join(cursor), err));
        }
        self.ask(|index| index.add(ip, holder.content()));
        Ok(true)
    }

    /// The address last reserved from a range set.
    pub(in crate::ipam) fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        // If it is unreadable or half-written, round robin starts over once: not worth an error.
        self.read(&cursor(set)).ok()?.trim().parse().ok()
    }

    /// Every address of a holder, files of the old form included.
    pub fn held_by(&mut self, holder: &Holder) -> Result<Vec<IpAddr>> {
        let (exact, old) = self.find(holder)?;
        Ok(exact.into_iter().chain(old).collect())
    }

    /// Frees every address of a holder. As in the reference, files of the old form, which name only
    /// a container, count only when there are no files of the new form.
    ///
    /// # Errors
    /// Code 5, after freeing as many as possible.
    pub(in crate::ipam) fn release(&mut self, holder: &Holder) -> Result<()> {
        let (exact, old) = self.find(holder)?;
        let (addresses, content) = match exact.is_empty() {
            false => (exact, holder.content()),
            true => (old, holder.old_form()),
        };
        let mut outcome = Ok(());
        for ip in addresses {
            match self.remove_file(&ip.to_string()) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    outcome = Err(self.io_error("free", ip, err));
                }
                _ => {
                    self.ask(|index| index.remove(ip, content));
                }
            }
        }
        outcome
    }

    /// The reservations for which `keep` (container, interface) is false, without those whose files
    /// name no holder.
    pub fn stale(&self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<StaleReservation>> {
        let content = |ip: IpAddr| StaleReservation::of(ip, self.content(ip).ok()?.trim());
        let held = self.taken()?.into_iter().filter_map(content);
        Ok(held
            .filter(|held| !keep(&held.container, &held.ifname))
            .collect())
    }

    /// Frees every reservation that [`Store::stale`] returns. Returns whether there are files that
    /// name no holder.
    ///
    /// # Errors
    /// Code 5, after freeing as many as possible.
    pub(in crate::ipam) fn release_others(
        &mut self,
        keep: impl Fn(&str, &str) -> bool,
    ) -> Result<bool> {
        let (mut held, _) = self.held()?;
        let has_damaged = held.iter().any(StaleReservation::is_damaged);
        held.retain(|held| !held.is_damaged() && !keep(&held.container, &held.ifname));
        self.free(held).map(|_| has_damaged)
    }

    /// All reservations except those whose files cannot be read now, and all taken addresses.
    pub(super) fn held(&mut self) -> Result<(Vec<StaleReservation>, Vec<IpAddr>)> {
        let (mut held, mut taken) = (Vec::new(), Vec::new());
        self.read_all(|ip, content| {
            held.extend(content.map(|content| {
                StaleReservation::of(ip, content).unwrap_or(StaleReservation::damaged(ip))
            }));
            taken.push(ip);
        })?;
        Ok((held, taken))
    }

    /// A folder in an address file's place is removed if it is empty, and left otherwise.
    pub(super) fn free(&mut self, all: Vec<StaleReservation>) -> Result<usize> {
        let mut outcome = Ok(0);
        for held in all {
            let name = held.ip.to_string();
            let removed = match self.remove_file(&name) {
                Err(err) if err.kind() == io::ErrorKind::IsADirectory => {
                    match self.remove_folder(&name) {
                        Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
                        removed => removed,
                    }
                }
                removed => removed,
            };
            outcome = match removed {
                Err(err) => Err(self.io_error("free", held.ip, err)),
                Ok(()) => {
                    self.ask(|index| index.remove(held.ip, &held.content()));
                    outcome.map(|freed| freed + 1)
                }
            };
        }
        outcome
    }

    /// True when the holder holds this address.
    ///
    /// # Errors
    /// Code 5 when the file cannot be read: it may be the holder's.
    pub(in crate::ipam) fn holds(&self, ip: IpAddr, holder: &Holder) -> Result<bool> {
        let Some(content) = self.known_content(ip)? else {
            return Ok(false);
        };
        let content = content.trim();
        Ok(content == holder.content() || content == holder.old_form())
    }

    /// Checks that every address file can be read.
    ///
    /// # Errors
    /// Code 5 for the first that cannot.
    pub(in crate::ipam) fn require_readable(&self) -> Result<()> {
        for ip in self.taken()? {
            self.known_content(ip)?;
        }
        Ok(())
    }

    /// What an address file says; None when it is not there, or is not text and so names nobody.
    fn known_content(&self, ip: IpAddr) -> Result<Option<String>> {
        use io::ErrorKind::{InvalidData, NotFound};
        match self.content(ip) {
            Ok(content) => Ok(Some(content)),
            Err(err) if matches!(err.kind(), NotFound | InvalidData) => Ok(None),
            Err(err) => Err(self.io_error("read", ip, err)),
        }
    }

    /// Every taken address.
    pub fn taken(&self) -> Result<Vec<IpAddr>> {
        let unreadable = |err: rustix::io::Errno| io_error("cannot list", &self.dir, err);
        let mut taken = Vec::new();
        // Rewind the folder's descriptor: it saves opening a second one.
        rustix::fs::seek(&self.folder, SeekFrom::Start(0)).map_err(unreadable)?;
        let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
        let mut entries = RawDir::new(&self.folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(unreadable)?;
            taken.extend(parse_name(OsStr::from_bytes(entry.file_name().to_bytes())));
        }
        Ok(taken)
    }

    /// How many addresses of a range set are in use.
    pub fn in_use(&mut self, set: &RangeSet) -> Result<u128> {
        match self.ask(|index| set.count_by(|from, to| index.count(from, to))) {
            Some(in_use) => Ok(in_use),
            None => Ok(set.count(&self.taken()?)),
        }
    }

    /// Searches the index for the next free address of a range set after `last`. None when the
    /// index cannot answer: then the caller has to read the folder.
    pub fn search<'a>(
        &mut self,
        set: &'a RangeSet,
        last: Option<IpAddr>,
    ) -> Option<SearchResult<'a>> {
        let found = self.ask(|index| {
            let free = set.first_free(last, |from, to| index.next_free(from, to))?;
            Ok(match free {
                Some((ip, range)) => Some(SearchResult::Free(ip, range)),
                // Only the folder may prove that a range is exhausted.
                None if !index.is_compared() => None,
                None => Some(SearchResult::Exhausted(
                    set.count_by(|from, to| index.count(from, to))?,
                )),
            })
        });
        found.flatten()
    }

    /// Compares the index with the number of addresses listed in the folder.
    pub(in crate::ipam) fn compare(&mut self, listed: usize) {
        self.ask(|index| index.compare(listed));
    }

    /// The holder's addresses: those in files of the new form, then those of the old.
    fn find(&mut self, holder: &Holder) -> Result<(Vec<IpAddr>, Vec<IpAddr>)> {
        if let Some(found) = self.find_in_index(holder)? {
            return Ok(found);
        }
        let (mut exact, mut old) = (Vec::new(), Vec::new());
        self.read_all(|ip, content| match content {
            Some(content) if content == holder.content() => exact.push(ip),
            Some(content) if content == holder.old_form() => old.push(ip),
            _ => {}
        })?;
        exact.sort();
        old.sort();
        Ok((exact, old))
    }

    /// The same from the index, provided that each file agrees. None otherwise.
    fn find_in_index(&mut self, holder: &Holder) -> Result<Option<(Vec<IpAddr>, Vec<IpAddr>)>> {
        let mut found = [Vec::new(), Vec::new()];
        for (content, found) in [holder.content(), holder.old_form()]
            .into_iter()
            .zip(&mut found)
        {
            let Some(mut addresses) = self.ask(|index| index.addresses_of(content)) else {
                return Ok(None);
            };
            for ip in &addresses {
                match self.content(*ip) {
                    Ok(read) if read.trim() == content => {}
                    Err(err) if is_shortage(&err) => return Err(self.io_error("read", *ip, err)),
                    _ => {
                        self.ask(|_| Err::<(), _>(Inconsistent));
                        return Ok(None);
                    }
                }
            }
            addresses.sort();
            *found = addresses;
        }
        Ok(Some(found.into()))
    }

    /// Reads every address file and calls `visit` with the address and the trimmed content. That of a
    /// file that is no text is empty; None if it cannot be read now: the address is taken, but its
    /// holder is unknown.
    ///
    /// It also rebuilds the index. The first process to get here after a boot finds no index and
    /// records which files are there.
    fn read_all(&mut self, mut visit: impl FnMut(IpAddr, Option<&str>)) -> Result<()> {
        let taken = self.taken()?;
        self.record_present_at_boot(&taken);
        let mut index = match &self.indexes {
            Some(root) if taken.len() >= WORTHWHILE => {
                Index::new(root, self.folder.as_fd(), &taken)
            }
            _ => None,
        };
        for ip in &taken {
            let content = match self.content(*ip) {
                Ok(content) => content,
                Err(err) if is_shortage(&err) => return Err(self.io_error("read", *ip, err)),
                Err(err) if is_garbage(&err) => String::new(),
                Err(_) => {
                    // It may be readable next time, and then the index would have to know its
                    // holder.
                    index = None;
                    visit(*ip, None);
                    continue;
                }
            };
            let content = content.trim();
            visit(*ip, Some(content));
            index = index.and_then(|mut index| index.add(*ip, content).is_ok().then_some(index));
        }
        let index = index.and_then(|mut index| index.compare(taken.len()).is_ok().then_some(index));
        self.index = match index {
            Some(index) => IndexState::Present(Box::new(index)),
            None => IndexState::Absent,
        };
        Ok(())
    }

    /// Runs `question` on the index, opening it first. None when there is no valid index, or it
    /// turns out inconsistent: then it is discarded.
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Index) -> Result<T, Inconsistent>,
    ) -> Option<T> {
        if let (IndexState::NotLookedFor, Some(root)) = (&self.index, &self.indexes) {
            self.index = match Index::open(root, self.folder.as_fd()) {
                Some(index) => IndexState::Present(Box::new(index)),
                None => IndexState::Absent,
            };
        }
        let IndexState::Present(index) = &mut self.index else {
            return None;
        };
        let answer = question(index).ok();
        if answer.is_none()
            && let IndexState::Present(wrong) =
                std::mem::replace(&mut self.index, IndexState::Absent)
        {
            wrong.discard();
        }
        answer
    }

    fn io_error(&self, what: &str, ip: IpAddr, err: io::Error) -> crate::cni::Error {
        io_error(
            &format!("cannot {what}"),
            &self.dir.join(ip.to_string()),
            err,
        )
    }
}

impl Drop for Store {
    /// Writes the index while the lock is still held.
    fn drop(&mut self) {
        if let IndexState::Present(index) = std::mem::replace(&mut self.index, IndexState::Absent) {
            index.commit(self.folder.as_fd());
        }
    }
}

/// True when the process or the host is short of resources and the file itself is fine: then an
/// unreadable file must not count as one without a holder.
fn is_shortage(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(err).is_some_and(|errno| shortages.contains(&errno))
}

/// True when the file is no text, so that reading it again cannot help: binary data, a folder, a
/// symbolic link, a socket.
fn is_garbage(err: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory};
    use rustix::io::Errno;
    matches!(err.kind(), InvalidData | IsADirectory)
        || matches!(
            Errno::from_io_error(err),
            Some(Errno::LOOP | Errno::NXIO | Errno::NODEV)
        )
}

fn cursor(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

/// The address in a file's name; None for the lock, the cursors and anything else. Only the
/// canonical form counts, or two names could mean one address.
fn parse_name(name: &OsStr) -> Option<IpAddr> {
    let text = name.to_str()?;
    text.parse::<IpAddr>()
        .ok()
        .filter(|ip| ip.to_string() == text)
}
