//! Records which reservations a store had when it was first used after a boot. After a real boot,
//! the processes that made them are gone.
//!
//! A store under /var survives a reboot, but no runtime sends a DEL for the containers of before.
//! So the first pausenet process that reads a store without a list under /run writes one:
//!
//! ```text
//! /run/pausenet/earlier/<device>-<inode of the folder>
//!     <format> <boot ID> <seconds of the monotonic clock>
//!     <address> <inode> <ctime>
//!     ...
//! ```
//!
//! /run is emptied when the host boots, and when a container that serves as a node (kind) restarts,
//! which does not change the boot ID. Reservations made later, by any plugin, are not in the list;
//! an address that is reserved again has another file with another ctime. The list is written
//! atomically, under the store's lock. If it is lost, it is written again and then lists more
//! files.
//!
//! So the list can contain too much: when /run was emptied by hand, or when pausenet is new on a
//! host where other plugins already run, it includes addresses they reserved a moment ago. An entry
//! does not prove that an address is free; it only limits what has to be checked: see
//! `apply::reclaim`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::time::{ClockId, clock_gettime};

use super::folder::Store;
use super::holder::StaleReservation;
use crate::cni::Result;
use crate::kernel::boot::boot_id;
use crate::kernel::file::{self, Symlinks};
use crate::kernel::folder_stamp::FolderStamp;
use crate::kernel::lock::make_dir;

/// Changes with the format.
const FORMAT: u32 = 1;

/// A longer list is not ours: this is a line for each address of an IPv4 /12.
const MAX_LIST: u64 = 128 * 1024 * 1024;

/// The origin of an address file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// When it was written, by the wall clock.
    pub made: SystemTime,
    /// How long ago the store was first used after the boot; None if the file is newer than that.
    pub earlier: Option<Duration>,
    /// It is a file without content.
    pub empty: bool,
}

/// Identifies a file, to notice when another has taken its name.
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
struct EarlierFiles {
    /// When it was written, by the monotonic clock.
    noted: Duration,
    files: HashMap<IpAddr, FileIdentity>,
}

impl Store {
    /// Frees the reservations that `choose` returns, and returns how many it freed. `choose` gets
    /// all reservations, and the origins of their files. The store stays locked meanwhile.
    ///
    /// # Errors
    /// Code 5, after freeing as many as possible; the errors of `choose`.
    pub(in crate::ipam) fn reclaim(
        &mut self,
        choose: impl FnOnce(Vec<StaleReservation>, &Origins) -> Result<Vec<StaleReservation>>,
    ) -> Result<usize> {
        let (held, taken) = self.held()?;
        let dead = choose(held, &self.origins(&taken))?;
        self.free(dead)
    }

    /// The origins of the address files. If the list can be neither read nor written, no file
    /// counts as earlier.
    pub fn origins(&self, taken: &[IpAddr]) -> Origins<'_> {
        let list = self.indexes.as_deref().and_then(|indexes| {
            let place = place(indexes, self.folder.as_fd()).ok()?;
            let boot = boot_id().ok()?;
            let list = file::read_text(&place, MAX_LIST, Symlinks::Refuse)
                .ok()
                .and_then(|text| EarlierFiles::parse(&text, boot.trim()));
            // No list, or one of an earlier boot on a persistent /run: this is the first use.
            list.or_else(|| write(&place, boot.trim(), self, taken).ok())
        });
        Origins {
            store: self,
            list: list.unwrap_or_default(),
            now: now(),
        }
    }

    /// Writes the list unless it exists. When it does, this costs two system calls.
    pub(super) fn record_present_at_boot(&self, taken: &[IpAddr]) {
        let Some(indexes) = &self.indexes else {
            return;
        };
        // Without a list, stale addresses are freed later; none is freed wrongly.
        let _ = place(indexes, self.folder.as_fd()).and_then(|place| {
            match rustix::fs::access(&place, rustix::fs::Access::EXISTS) {
                Err(rustix::io::Errno::NOENT) => {
                    write(&place, boot_id()?.trim(), self, taken).map(drop)
                }
                _ => Ok(()),
            }
        });
    }

    /// The list of a store whose index is in this folder, if it was written since the boot: then an ADD or a
    /// DEL of pausenet has used the store.
    pub fn earlier_list(&self, indexes: &Path) -> Option<PathBuf> {
        let list = place(indexes, self.folder.as_fd()).ok()?;
        list.exists().then_some(list)
    }

    fn stat(&self, ip: IpAddr) -> io::Result<Stat> {
        let follow = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::statat(&self.folder, ip.to_string(), follow)?)
    }
}

/// The origins of a store's address files.
pub struct Origins<'a> {
    store: &'a Store,
    list: EarlierFiles,
    now: Duration,
}

impl Origins<'_> {
    /// The origin of an address file. None when it is gone.
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
            empty: stat.st_size == 0
                && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        })
    }
}

impl EarlierFiles {
    /// None when it is incomplete or of another boot.
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

/// Writes the list for a store with these addresses.
fn write(place: &Path, boot: &str, store: &Store, taken: &[IpAddr]) -> io::Result<EarlierFiles> {
    let mut list = EarlierFiles {
        noted: now(),
        files: HashMap::with_capacity(taken.len()),
    };
    for ip in taken {
        list.files.insert(*ip, FileIdentity::of(&store.stat(*ip)?));
    }
    // No other process uses this name: we hold the store's lock.
    let draft = place.with_extension("new");
    let text = list.text(boot);
    let create = || {
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true);
        let file = options.custom_flags(flags as i32).open(&draft);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
    };
    let written = match create() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            make_dir(place.parent().unwrap_or(place))?;
            create()
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

/// The path of the list, beside the folder of the indexes.
fn place(indexes: &Path, folder: BorrowedFd) -> io::Result<PathBuf> {
    let (device, inode) = FolderStamp::read(folder)?.folder();
    let name = format!("{device:x}-{inode:x}");
    Ok(indexes.with_file_name("earlier").join(name))
}

/// Monotonic time. It cannot be set, and does not advance while the host is suspended.
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

        /// Writes an address file as another plugin does.
        fn put(&self, ip: &str) {
            fs::write(self.dir().join(ip), "c\r\neth0").unwrap();
        }

        /// Empties /run, as a boot does.
        fn start_again(&self) {
            fs::remove_dir_all(self.0.path().join("run")).unwrap();
        }

        /// The addresses that count as earlier after pausenet has used the store.
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
    fn a_new_reservation_of_an_address_is_not_the_earlier_one() {
        let place = Place::new();
        place.put("10.1.0.2");
        assert_eq!(place.earlier(), ["10.1.0.2"]);
        let file = place.dir().join("10.1.0.2");
        let ctime = |file: &Path| FileIdentity::of(&rustix::fs::stat(file).unwrap()).ctime;
        let before = ctime(&file);
        // The inode may be reused at once; then only the ctime differs, and the clock has to tick.
        while ctime(&file) == before {
            fs::remove_file(&file).unwrap();
            place.put("10.1.0.2");
        }
        assert!(place.earlier().is_empty());
    }

    #[test]
    fn a_list_from_another_boot_or_a_truncated_one_is_ignored() {
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
