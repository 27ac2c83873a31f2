//! The index beside a store: finds a holder's addresses and the next free address without reading
//! the store. Only large stores have one: reading a small store is faster.
//!
//! The store's files are authoritative, and the index is derived from them. It is used only while
//! it is provably up to date:
//!
//! * Each update puts a [`FolderStamp`] on the store's folder and the same stamp in the index.
//!   Another program that writes to the store, a restored backup, another folder at the same path,
//!   or a pausenet process killed between writing a file and the index: each leaves a folder with
//!   another stamp.
//! * It carries this boot's ID. /run may be on a disk, and a crash may leave a half-written index.
//! * Each page has a checksum that is salted per index.
//! * Before an address is freed, its file is read. An address is reserved by creating its file.
//!
//! If any of this fails, the store is read and the index rebuilt.
//!
//! Two changes go undetected at first: a file overwritten in place, which no plugin does; and a
//! change by a program that ignores the lock, between one of our changes and its stamp. They are
//! detected when that file is used, when the range is exhausted, at the next GC, and at the next
//! change by another program. Until then, an address may stay reserved, or one of an attachment's
//! addresses be unknown; no address is ever allocated twice or taken from its holder.
//!
//! # The file
//!
//! `/run/pausenet/index/<device>-<inode of the folder>`: outside the store, where the reference
//! would take it for an address. It is read and written under the store's lock. It consists of
//! pages of 544 bytes ([`page`]):
//!
//! ```text
//! 0             header: JSON, and zeros
//! 1 ..= h       holders, each in the page that its hash gives, or the next ones
//! h+1 ..= h+n   neighbours, likewise
//! ```

mod page;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use page::{BODY, NEIGHBOURS, Page, Place, SIZE, SLOTS, hash};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::range::{address, number};
use crate::kernel::boot::boot_id;
use crate::kernel::folder_stamp::FolderStamp;
use crate::kernel::lock::make_dir;

/// The number of addresses from which an index is faster than reading the store.
pub(super) const WORTHWHILE: usize = 8;

/// Changes with the format.
const FORMAT: u32 = 1;

/// How many pages a search for a holder may visit; if more are needed, the index is rebuilt.
const MAX_PROBES: u64 = 16;

/// Addresses that need more pages than this are too scattered for this kind of index.
const MAX_PAGES: u64 = 65_536;

/// The index is inconsistent, unreadable or full: the caller has to read the store.
#[derive(Debug)]
pub(super) struct Inconsistent;

/// The index of one store.
pub(super) struct Index {
    path: PathBuf,
    /// None when it has just been made.
    file: Option<File>,
    header: Header,
    /// The pages read or created so far, and whether they have to be written.
    pages: BTreeMap<u64, Box<(Page, bool)>>,
    changed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    format: u32,
    stamp: FolderStamp,
    boot: String,
    /// Salts the checksums of this index.
    salt: u64,
    holder_pages: u64,
    neighbour_pages: u64,
    /// Slots in use.
    holders: u64,
    /// Pages in use.
    neighbours: u64,
    taken: u64,
    /// The index agreed with the folder's listing and has not changed since.
    compared: bool,
}

impl Index {
    /// Opens the index of a folder; None when there is no valid one.
    pub(super) fn open(root: &Path, folder: BorrowedFd) -> Option<Self> {
        let stamp = FolderStamp::read(folder).ok()?;
        let path = place(root, &stamp);
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).ok()?);
        let mut page = read(&file, 0, 0).ok()?;
        let text = page.body().split(|byte| *byte == 0).next()?;
        let header: Header = serde_json::from_slice(text).ok()?;
        let is_of_now = header.format == FORMAT && header.stamp == stamp;
        (is_of_now && header.boot == boot_id().ok()?).then(|| Self {
            path,
            file: Some(file),
            header,
            pages: BTreeMap::new(),
            changed: false,
        })
    }

    /// An empty index with room for twice these addresses. None when they are too scattered, or the
    /// folder's stamp or the boot ID cannot be read.
    pub(super) fn new(root: &Path, folder: BorrowedFd, addresses: &[IpAddr]) -> Option<Self> {
        let stamp = FolderStamp::read(folder).ok()?;
        let neighbours: BTreeSet<_> = addresses
            .iter()
            .copied()
            .map(Place::of_neighbours)
            .collect();
        let header = Header {
            format: FORMAT,
            stamp,
            boot: boot_id().ok()?,
            salt: salt().ok()?,
            holder_pages: (2 * addresses.len() / SLOTS) as u64 + 8,
            neighbour_pages: 2 * neighbours.len() as u64 + 8,
            holders: 0,
            neighbours: 0,
            taken: 0,
            compared: false,
        };
        let pages = header.holder_pages + header.neighbour_pages;
        (pages <= MAX_PAGES).then(|| Self {
            path: place(root, &stamp),
            file: None,
            pages: (1..=pages)
                .map(|at| (at, Box::new((Page::blank(), true))))
                .collect(),
            header,
            changed: true,
        })
    }

    /// Writes the changed pages and puts a new stamp on the folder: the stamp first and the header
    /// last, so that a half-written index has an old stamp. An index that cannot be written, or
    /// that has become too small to be useful, is removed.
    pub(super) fn commit(mut self, folder: BorrowedFd) {
        if !self.changed {
            return;
        }
        let pays = self.header.taken >= WORTHWHILE as u64 / 2;
        if !pays || self.write(folder).is_err() {
            self.discard();
        }
    }

    /// Removes an inconsistent index.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    fn write(&mut self, folder: BorrowedFd) -> io::Result<()> {
        self.header.stamp = FolderStamp::renew(folder)?;
        let file = match self.file.take() {
            Some(file) => file,
            None => create(&self.path)?,
        };
        for (at, slot) in &mut self.pages {
            let (page, changed) = &mut **slot;
            if *changed {
                file.write_all_at(
                    page.sealed(self.header.salt.wrapping_add(*at)),
                    at * SIZE as u64,
                )?;
            }
        }
        let text = serde_json::to_vec(&self.header)?;
        let mut page = Page::blank();
        let room = page.body().get_mut(..text.len().min(BODY - 1));
        room.filter(|room| room.len() == text.len())
            .ok_or_else(|| io::Error::other("the header is too long"))?
            .copy_from_slice(&text);
        file.write_all_at(page.sealed(0), 0)
    }

    /// The addresses whose files have this content.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub(super) fn addresses_of(&mut self, content: &str) -> Result<Vec<IpAddr>, Inconsistent> {
        let hash = hash(0, content.as_bytes());
        let mut found = Vec::new();
        for at in self.holder_pages(hash) {
            let page = self.page(at)?;
            found.extend(page.addresses(hash));
            if !page.has_overflowed() {
                return Ok(found);
            }
        }
        Err(Inconsistent)
    }

    /// Marks an address as taken by a file with this content. Empty content names no holder.
    ///
    /// # Errors
    /// [`Inconsistent`], also when there is no room.
    pub(super) fn add(&mut self, ip: IpAddr, content: &str) -> Result<(), Inconsistent> {
        self.set_taken(ip, true)?;
        if content.is_empty() {
            return Ok(());
        }
        if self.header.holders * 4 >= self.header.holder_pages * SLOTS as u64 * 3 {
            return Err(Inconsistent);
        }
        let hash = hash(0, content.as_bytes());
        for at in self.holder_pages(hash) {
            let page = self.change(at)?;
            if page.put(hash, ip) {
                self.header.holders += 1;
                return Ok(());
            }
            page.set_overflowed();
        }
        Err(Inconsistent)
    }

    /// Marks an address as free whose file had this content.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub(super) fn remove(&mut self, ip: IpAddr, content: &str) -> Result<(), Inconsistent> {
        self.set_taken(ip, false)?;
        if content.is_empty() {
            return Ok(());
        }
        let hash = hash(0, content.as_bytes());
        for at in self.holder_pages(hash) {
            let page = self.change(at)?;
            if page.take(hash, ip) {
                self.header.holders = self.header.holders.checked_sub(1).ok_or(Inconsistent)?;
                return Ok(());
            }
            if !page.has_overflowed() {
                break;
            }
        }
        Err(Inconsistent)
    }

    /// The first free address from `from` to `to`, both included and of one family.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub(super) fn next_free(
        &mut self,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<Option<IpAddr>, Inconsistent> {
        let mut from = from;
        loop {
            let found = match self.neighbours(from)? {
                (_, None) => Some(from),
                (_, Some(page)) => page.next_free(from),
            };
            if let Some(found) = found {
                return Ok(Some(found).filter(|found| *found <= to));
            }
            let next = number(from) / NEIGHBOURS + 1;
            match next
                .checked_mul(NEIGHBOURS)
                .filter(|next| *next <= number(to))
            {
                Some(next) => from = address(next, to.into()),
                None => return Ok(None),
            }
        }
    }

    /// How many addresses are taken from `from` to `to`, both included and of one family.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub(super) fn count(&mut self, from: IpAddr, to: IpAddr) -> Result<u128, Inconsistent> {
        let mut count = 0;
        for at in 0..self.header.neighbour_pages {
            let page = self.page(1 + self.header.holder_pages + at)?;
            let Some(first) = page.neighbours().and_then(Place::ip) else {
                continue;
            };
            let first = Some(first).filter(|first| first.is_ipv4() == from.is_ipv4());
            let Some(first) = first.map(number) else {
                continue;
            };
            let start = number(from).saturating_sub(first).min(NEIGHBOURS);
            let last = number(to).checked_sub(first);
            let end = last.map_or(0, |last| last.min(NEIGHBOURS - 1) + 1);
            count += page.count(start as usize..end as usize);
        }
        Ok(count)
    }

    /// Whether an address is taken.
    ///
    /// # Errors
    /// [`Inconsistent`].
    pub(super) fn is_taken(&mut self, ip: IpAddr) -> Result<bool, Inconsistent> {
        let (_, page) = self.neighbours(ip)?;
        Ok(page.is_some_and(|page| page.is_taken(ip)))
    }

    /// Compares with the number of addresses listed in the folder.
    ///
    /// # Errors
    /// [`Inconsistent`] when the numbers differ.
    pub(super) fn compare(&mut self, listed: usize) -> Result<(), Inconsistent> {
        if self.header.taken != listed as u64 {
            return Err(Inconsistent);
        }
        (self.header.compared, self.changed) = (true, true);
        Ok(())
    }

    /// Whether the index has not changed since [`Index::compare`] succeeded.
    pub(super) fn is_compared(&self) -> bool {
        self.header.compared
    }

    fn set_taken(&mut self, ip: IpAddr, taken: bool) -> Result<(), Inconsistent> {
        self.header.compared = false;
        let (at, page) = self.neighbours(ip)?;
        if page.is_none() {
            if self.header.neighbours * 4 >= self.header.neighbour_pages * 3 {
                return Err(Inconsistent);
            }
            self.header.neighbours += 1;
            self.change(at)?.assign(Place::of_neighbours(ip));
        }
        let page = self.change(at)?;
        if page.is_taken(ip) == taken {
            return Err(Inconsistent);
        }
        page.set_taken(ip, taken);
        let sum = match taken {
            true => self.header.taken.checked_add(1),
            false => self.header.taken.checked_sub(1),
        };
        self.header.taken = sum.ok_or(Inconsistent)?;
        Ok(())
    }

    /// The number and the page of an address and its neighbours. No page while none is assigned:
    /// the number is then that of the page to assign.
    fn neighbours(&mut self, ip: IpAddr) -> Result<(u64, Option<&Page>), Inconsistent> {
        let place = Place::of_neighbours(ip);
        let pages = self.header.neighbour_pages;
        for at in pages_from(self.header.holder_pages + 1, pages, place.hash(), pages) {
            match self.page(at)?.neighbours() {
                None => return Ok((at, None)),
                Some(found) if found == place => return Ok((at, Some(self.page(at)?))),
                Some(_) => {}
            }
        }
        Err(Inconsistent)
    }

    fn holder_pages(&self, hash: u64) -> impl Iterator<Item = u64> + use<> {
        pages_from(1, self.header.holder_pages, hash, MAX_PROBES)
    }

    fn page(&mut self, at: u64) -> Result<&Page, Inconsistent> {
        Ok(&self.load(at)?.0)
    }

    fn change(&mut self, at: u64) -> Result<&mut Page, Inconsistent> {
        self.changed = true;
        let (page, changed) = self.load(at)?;
        *changed = true;
        Ok(page)
    }

    fn load(&mut self, at: u64) -> Result<&mut (Page, bool), Inconsistent> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(at) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let file = self.file.as_ref().ok_or(Inconsistent)?;
                let page = read(file, at, self.header.salt).map_err(|_| Inconsistent)?;
                Ok(place.insert(Box::new((page, false))))
            }
        }
    }
}

/// The pages of a table in the order in which they are probed for a hash, at most `most`.
fn pages_from(first: u64, pages: u64, hash: u64, most: u64) -> impl Iterator<Item = u64> {
    (0..most.min(pages)).map(move |step| first + (hash % pages + step) % pages)
}

fn place(root: &Path, stamp: &FolderStamp) -> PathBuf {
    let (device, inode) = stamp.folder();
    root.join(format!("{device:x}-{inode:x}"))
}

fn salt() -> io::Result<u64> {
    let mut salt = [0; 8];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(salt))
}

fn read(file: &File, at: u64, salt: u64) -> io::Result<Page> {
    let mut bytes = [0; SIZE];
    file.read_exact_at(&mut bytes, at * SIZE as u64)?;
    Page::unsealed(bytes, salt.wrapping_add(at))
        .ok_or_else(|| io::Error::other("not as it was written"))
}

/// Creates an empty file, or empties the one that is there.
fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::NONBLOCK
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC;
    let open = || rustix::fs::open(path, flags, Mode::from(0o600));
    let file = match open() {
        Err(rustix::io::Errno::NOENT) => {
            make_dir(path.parent().unwrap_or(path))?;
            open()?
        }
        other => other?,
    };
    Ok(file.into())
}
