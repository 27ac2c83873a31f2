//! What a store held already when it was first used since the start of the host: by processes that
//! are gone, if it was a start.
//!
//! A store under /var outlives a reboot, and nobody will give back what was held before. So the
//! first of us who reads a store while there is no list of it under /run leaves one:
//!
//! ```text
//! /run/pausenet/earlier/<device>-<inode of the folder>
//!     <format> <boot ID> <seconds of the monotonic clock>
//!     <address> <inode> <ctime>
//!     ...
//! ```
//!
//! /run is emptied by a start of the host, and by one of the container that is a node (kind), which
//! keeps its boot ID. What comes later, from whomever, is not in the list; what is taken anew has
//! another file, with another ctime. The list appears at once, whole, under the store's lock; a
//! lost one is made anew and then has more in it.
//!
//! So it can have too much in it: when /run was emptied by hand, or when pausenet is new on a host
//! that other plugins have been at work on, then also what one of those has taken a moment ago.
//! Being in the list is no proof that an address is free, but it bounds what there is to prove: see
//! `apply::reclaim`.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Stat};
use rustix::time::{ClockId, clock_gettime};

use super::folder::Store;
use super::holder::StaleReservation;
use crate::cni::Result;
use crate::kernel::boot::boot_id;
use crate::kernel::folder_stamp::FolderStamp;
use crate::kernel::lock::make_dir;

/// A new number for each change of the format.
const FORMAT: u32 = 1;

/// Where an address file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// When it was written, by a clock that people set.
    pub made: SystemTime,
    /// It was there when the store was first used since the host's start: how long ago that was.
    pub earlier: Option<Duration>,
}

/// A file that nobody has put another in the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    inode: u64,
    ctime: (i64, i64),
}

impl FileIdentity {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// The list of a store.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct EarlierFiles {
    /// When it was made, by the monotonic clock.
    noted: Duration,
    files: HashMap<IpAddr, FileIdentity>,
}

impl Store {
    /// Frees those of the held addresses that `choose` leaves: it is given all that tell a holder,
    /// and where their files come from. Nobody takes one meanwhile. How many those were.
    ///
    /// # Errors
    /// Code 5, after having freed what could be; those of `choose`.
    pub fn reclaim(
        &mut self,
        choose: impl FnOnce(Vec<StaleReservation>, &Origins) -> Result<Vec<StaleReservation>>,
    ) -> Result<usize> {
        let (held, taken) = self.held()?;
        let dead = choose(held, &self.origins(&taken))?;
        self.free(dead)
    }

    /// Where the address files come from. Nothing is known to be of earlier when there can be no
    /// list.
    pub fn origins(&self, taken: &[IpAddr]) -> Origins<'_> {
        let list = self.indexes.as_deref().and_then(|indexes| {
            let place = place(indexes, self.folder.as_fd()).ok()?;
            let boot = boot_id().ok()?;
            let list = fs::read_to_string(&place)
                .ok()
                .and_then(|text| EarlierFiles::parse(&text, boot.trim()));
            // None, or one that has outlived a start on a /run that does: now is the first use.
            list.or_else(|| write(&place, boot.trim(), self, taken).ok())
        });
        Origins {
            store: self,
            list: list.unwrap_or_default(),
            now: now(),
        }
    }

    /// Leaves the list, unless there is one. It costs two looks when there is.
    pub(super) fn record_present_at_boot(&self, taken: &[IpAddr]) {
        let Some(indexes) = &self.indexes else {
            return;
        };
        // Without one, what is dead comes back later, and not wrongly.
        let _ = place(indexes, self.folder.as_fd()).and_then(|place| {
            match rustix::fs::access(&place, rustix::fs::Access::EXISTS) {
                Err(rustix::io::Errno::NOENT) => {
                    write(&place, boot_id()?.trim(), self, taken).map(drop)
                }
                _ => Ok(()),
            }
        });
    }

    fn stat(&self, ip: IpAddr) -> io::Result<Stat> {
        let follow = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::statat(&self.folder, ip.to_string(), follow)?)
    }
}

/// Where the address files of a store come from.
pub struct Origins<'a> {
    store: &'a Store,
    list: EarlierFiles,
    now: Duration,
}

impl Origins<'_> {
    /// That of one. None when there is no file any more.
    pub fn of(&self, ip: IpAddr) -> Option<Origin> {
        let stat = self.store.stat(ip).ok()?;
        let made = match u64::try_from(stat.st_mtime) {
            Ok(seconds) => {
                SystemTime::UNIX_EPOCH + Duration::new(seconds, stat.st_mtime_nsec as u32)
            }
            Err(_) => SystemTime::UNIX_EPOCH,
        };
        let is_of_earlier = self.list.files.get(&ip) == Some(&FileIdentity::of(&stat));
        let since = self.now.saturating_sub(self.list.noted);
        Some(Origin {
            made,
            earlier: is_of_earlier.then_some(since),
        })
    }
}

impl EarlierFiles {
    /// None when it is not whole, or of another boot.
    fn parse(text: &str, boot: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.lines();
        let mut head = lines.next()?.split(' ');
        let is_ours = head.next()?.parse() == Ok(FORMAT) && head.next()? == boot;
        let noted = Duration::from_secs(head.next()?.parse().ok()?);
        let file = |line: &str| {
            let mut words = line.split(' ');
            let ip = words.next()?.parse().ok()?;
            let inode = words.next()?.parse().ok()?;
            let (seconds, nanoseconds) = words.next()?.split_once('.')?;
            let ctime = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
            Some((ip, FileIdentity { inode, ctime }))
        };
        let files = lines.map(file).collect::<Option<_>>()?;
        is_ours.then_some(Self { noted, files })
    }

    fn text(&self, boot: &str) -> String {
        let mut text = format!("{FORMAT} {boot} {}\n", self.noted.as_secs());
        for (ip, FileIdentity { inode, ctime }) in &self.files {
            let _ = writeln!(text, "{ip} {inode} {}.{}", ctime.0, ctime.1);
        }
        text
    }
}

/// Makes the list of a store with these addresses.
fn write(place: &Path, boot: &str, store: &Store, taken: &[IpAddr]) -> io::Result<EarlierFiles> {
    let mut list = EarlierFiles {
        noted: now(),
        files: HashMap::with_capacity(taken.len()),
    };
    for ip in taken {
        list.files.insert(*ip, FileIdentity::of(&store.stat(*ip)?));
    }
    // Nobody else has this name: we have the store's lock.
    let draft = place.with_extension("new");
    let text = list.text(boot);
    let written = match fs::write(&draft, &text) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            make_dir(place.parent().unwrap_or(place))?;
            fs::write(&draft, &text)
        }
        written => written,
    };
    written
        .and_then(|()| fs::rename(&draft, place))
        .inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })?;
    Ok(list)
}

/// Beside the folder of the indexes.
fn place(indexes: &Path, folder: BorrowedFd) -> io::Result<PathBuf> {
    let (device, inode) = FolderStamp::read(folder)?.folder();
    let name = format!("{device:x}-{inode:x}");
    Ok(indexes.with_file_name("earlier").join(name))
}

/// The time that nobody sets, and that stands still while the host sleeps.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{ContainerId, IfName};
    use crate::ipam::store::Holder;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.dir()).unwrap();
            place
        }

        fn dir(&self) -> PathBuf {
            self.0.path().join("podnet")
        }

        fn lists(&self) -> PathBuf {
            self.0.path().join("run/earlier")
        }

        fn store(&self) -> Store {
            let indexes = self.0.path().join("run/index");
            Store::open(&self.dir()).unwrap().with_index(&indexes)
        }

        /// As a foreign plugin does it.
        fn put(&self, ip: &str) {
            fs::write(self.dir().join(ip), "c\r\neth0").unwrap();
        }

        /// /run is emptied.
        fn start_again(&self) {
            fs::remove_dir_all(self.0.path().join("run")).unwrap();
        }

        /// Which addresses are of earlier, once one of us has used the store.
        fn earlier(&self) -> Vec<String> {
            let mut store = self.store();
            let holder = Holder::new(
                &ContainerId::parse("x").unwrap(),
                &IfName::parse("eth0").unwrap(),
            );
            store.held_by(&holder).unwrap();
            self.listed(&store)
        }

        fn listed(&self, store: &Store) -> Vec<String> {
            let mut taken = store.taken().unwrap();
            taken.sort();
            let origins = store.origins(&taken);
            taken.retain(|ip| origins.of(*ip).unwrap().earlier.is_some());
            taken.iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn files_present_at_the_first_use_are_of_the_earlier_boot() {
        let place = Place::new();
        place.put("10.1.0.2");
        place.put("fd00::2");
        assert_eq!(place.earlier(), ["10.1.0.2", "fd00::2"]);
        place.put("10.1.0.3");
        assert_eq!(place.earlier(), ["10.1.0.2", "fd00::2"]);
        place.start_again();
        assert_eq!(place.earlier(), ["10.1.0.2", "10.1.0.3", "fd00::2"]);
    }

    #[test]
    fn an_empty_store_was_used_too() {
        let place = Place::new();
        assert!(place.earlier().is_empty());
        place.put("10.1.0.2");
        assert!(place.earlier().is_empty());
    }

    #[test]
    fn what_is_taken_anew_is_not_what_was_there() {
        let place = Place::new();
        place.put("10.1.0.2");
        assert_eq!(place.earlier(), ["10.1.0.2"]);
        let file = place.dir().join("10.1.0.2");
        let ctime = |file: &Path| FileIdentity::of(&rustix::fs::stat(file).unwrap()).ctime;
        let before = ctime(&file);
        // A quick inode may be the same; the clock that stamps files has to go on.
        while ctime(&file) == before {
            fs::remove_file(&file).unwrap();
            place.put("10.1.0.2");
        }
        assert!(place.earlier().is_empty());
    }

    #[test]
    fn a_list_of_another_boot_or_half_a_list_is_none() {
        let place = Place::new();
        place.put("10.1.0.2");
        place.earlier();
        let lists = fs::read_dir(place.lists()).unwrap().flatten();
        let [path] = &lists.map(|list| list.path()).collect::<Vec<_>>()[..] else {
            panic!("not one list");
        };
        let whole = fs::read_to_string(path).unwrap();
        place.put("10.1.0.3");
        assert_eq!(place.earlier(), ["10.1.0.2"]);
        let boot = boot_id().unwrap();
        let other = whole.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
        for wrong in [&other, "", &whole[..whole.len() - 1], "2 x 7\n", "1\n"] {
            fs::write(path, wrong).unwrap();
            assert_eq!(place.earlier(), ["10.1.0.2", "10.1.0.3"], "{wrong:?}");
        }
    }

    #[test]
    fn where_nothing_can_be_left_nothing_is_of_earlier() {
        let place = Place::new();
        fs::write(place.0.path().join("run"), "").unwrap();
        place.put("10.1.0.2");
        assert!(place.earlier().is_empty());
        let without_place = Store::open(&place.dir()).unwrap();
        assert!(place.listed(&without_place).is_empty());
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let same = |inode| FileIdentity {
            inode,
            ctime: (1_700_000_000, 7),
        };
        let list = EarlierFiles {
            noted: Duration::from_secs(4711),
            files: [("10.1.0.2", 1), ("fd00::2", u64::MAX)]
                .map(|(ip, inode)| (ip.parse().unwrap(), same(inode)))
                .into(),
        };
        assert_eq!(
            EarlierFiles::parse(&list.text("boot"), "boot"),
            Some(list.clone())
        );
        assert_eq!(EarlierFiles::parse(&list.text("boot"), "reboot"), None);
    }
}
