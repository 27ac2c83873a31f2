//! A folder in which our files replace others, which can be restored later.
//!
//! Its state is in a subfolder that runtimes ignore:
//!
//! ```text
//! <dir>/NAME                              our file, or a foreign one
//! <dir>/.pausenet-replaced/NAME           the file that ours replaced
//! <dir>/.pausenet-replaced/.record        the SHA-256 of each file of ours, by name
//! <dir>/.pausenet-replaced/.older/NAME.1  replaced earlier, before a foreign file replaced ours
//! <dir>/.pausenet-replaced/.new           our next file, until it is renamed to NAME
//! ```
//!
//! A file is ours if the record has the digest of its content under its name; no file is executed
//! to find out. The steps to put a file in place are ordered so that a process killed between any
//! two of them loses nothing:
//!
//! 1. our file is written to `.new` and synced to disk;
//! 2. the foreign file gets a second name in `.pausenet-replaced`: a hard link, so that it also
//!    stays in place;
//! 3. the digest of our file is added to the record;
//! 4. `.new` is renamed to `.NAME.new` beside the name, and that to the name: see
//!    [`file::move_in`].
//!
//! After a crash before step 4, the file under the name does not match the record, so it is not
//! ours, and its second name in `.pausenet-replaced` is the same inode: nothing was replaced.
//! Everything is on one filesystem. Only one process at a time changes it, holding flock(2) on
//! `.pausenet-replaced`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::{self, Digest, Found, refusal};
use crate::{Error, Result};
use pausenet::kernel::flock::flock_within;
use pausenet::kernel::lock::TOOL_LIMIT;

const KEPT: &str = ".pausenet-replaced";

/// The folder.
#[derive(Debug)]
pub struct ManagedFolder {
    dir: PathBuf,
}

/// The record of the files that were put there.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// By name: the digest of our file, and of the previous one while it is being replaced.
    files: BTreeMap<String, BTreeSet<Digest>>,
    /// Folders of the network configurations that were installed together with these files.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub conf_dirs: BTreeSet<PathBuf>,
    /// Of a folder of network configurations: by name, the folders of plugins it was installed for. Missing
    /// in the records of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<String, BTreeSet<PathBuf>>,
}

/// A file to put in place.
#[derive(Debug)]
pub struct NewFile<'a> {
    pub name: String,
    pub content: &'a [u8],
    pub digest: Digest,
    pub mode: u32,
}

/// What has to be done to put a file in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAction {
    /// Nothing: it is there already. If it is not ours, uninstall leaves it.
    Nothing { ours: bool },
    /// No file has this name yet.
    New,
    /// Replace our own file, which has other content.
    Renew,
    /// Replace a foreign file, which is kept.
    Replace,
}

/// What has to be done to remove our file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveAction {
    /// Restore the file that ours replaced.
    Restore,
    /// Remove it; it replaced no file.
    Remove,
    /// Nothing: it is gone already, and it replaced no file.
    Nothing,
    /// Remove the second name only: the file that ours replaced, or should have, is in place.
    Untouched,
    /// Leave the file, which is not ours, and the file that ours had replaced, if any.
    Leave { keeps: Option<PathBuf> },
}

/// The lock on a folder that is being changed. The kernel releases it when the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _folder: File,
}

impl ManagedFolder {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The path where the replaced file of this name is kept.
    pub fn kept(&self, name: &str) -> PathBuf {
        self.dir.join(KEPT).join(name)
    }

    /// Locks the folder; waits while another process changes it. Creates a missing folder.
    pub fn hold(&self) -> Result<FolderLock> {
        make_folder(&self.dir)?;
        loop {
            make_folder(&self.dir.join(KEPT))?;
            if let Some(held) = self.hold_existing()? {
                return Ok(held);
            }
        }
    }

    /// The same, but returns None if nothing has been put there.
    pub fn hold_existing(&self) -> Result<Option<FolderLock>> {
        let path = self.dir.join(KEPT);
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        loop {
            let folder = match File::open(&path) {
                Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
                other => other.map_err(|err| refusal("cannot open", &path, &err))?,
            };
            let folder = flock_within(folder, TOOL_LIMIT)
                .map_err(|err| refusal("cannot lock", &path, &err))?;
            let held = folder.metadata().map(id);
            // The previous holder may have removed the folder: our lock is on a deleted one then.
            if held.is_ok_and(|held| fs::metadata(&path).is_ok_and(|named| id(named) == held)) {
                return Ok(Some(FolderLock { _folder: folder }));
            }
        }
    }

    /// Reads the record; it is empty if there is no file.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn record(&self) -> Result<Record> {
        let path = self.kept(".record");
        let text = match fs::read(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Record::default()),
            other => other.map_err(|err| refusal("cannot read", &path, &err))?,
        };
        serde_json::from_slice(&text).map_err(|err| {
            Error::new(format!("cannot parse {}: {err}", path.display())).hint(
                "it lists pausenet's files; to go on without it, remove it: what was \
                 replaced lies beside it, and has to be moved back by hand",
            )
        })
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// The file cannot be written; the old record is unchanged then.
    pub fn save(&self, record: &Record, _held: &FolderLock) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|err| Error::new(format!("the record is no JSON: {err}")))?;
        let draft = self.kept(".record.new");
        file::write(&draft, &text, 0o644)?;
        file::rename(&draft, &self.kept(".record"))
    }

    /// What [`ManagedFolder::put`] would do.
    pub fn plan(&self, wanted: &NewFile, record: &Record) -> Result<PutAction> {
        let now = Found::at(&self.path(&wanted.name))?;
        let ours = record.has(&wanted.name, &now);
        Ok(match &now {
            Found::Nothing => PutAction::New,
            Found::File { digest, mode, .. }
                if *digest == wanted.digest && *mode == wanted.mode =>
            {
                PutAction::Nothing { ours }
            }
            _ if ours => PutAction::Renew,
            _ => PutAction::Replace,
        })
    }

    /// Puts a file in place, as a hard link to `like` (one of our files with the same content) if
    /// possible. `examine` checks it before it is put in place, and may refuse it.
    ///
    /// # Errors
    /// A file cannot be written, or `examine` fails; the file that was there is unchanged then.
    pub fn put(
        &self,
        wanted: &NewFile,
        like: Option<&Path>,
        record: &mut Record,
        held: &FolderLock,
        examine: impl Fn(&Path) -> Result<()>,
    ) -> Result<PutAction> {
        let put = self.plan(wanted, record)?;
        if let PutAction::Nothing { .. } = put {
            return Ok(put);
        }
        let new = self.kept(".new");
        let target = self.path(&wanted.name);
        let linked = match like {
            Some(like) => file::link(like, &new)?,
            None => false,
        };
        if !linked {
            file::write(&new, wanted.content, wanted.mode)?;
        }
        let mut put_in_place = || {
            examine(&new)?;
            if put == PutAction::Replace {
                self.keep(&wanted.name)?;
            }
            record.add(&wanted.name, &wanted.digest, &Found::at(&target)?);
            self.save(record, held)?;
            file::move_in(&new, &target)
        };
        put_in_place().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        Ok(put)
    }

    /// Keeps a foreign file by giving it a second name.
    fn keep(&self, name: &str) -> Result<()> {
        let (path, kept) = (self.path(name), self.kept(name));
        let earlier = Found::at(&kept)?;
        if earlier.is_there() {
            if earlier.is_same_as(&Found::at(&path)?) {
                return Ok(());
            }
            self.move_older_aside(name)?;
        }
        file::keep(&path, &kept, &self.kept(".draft"))?;
        file::sync_folder_of(&kept)
    }

    /// Moves an earlier kept file away to keep another one: a foreign file has replaced ours since.
    fn move_older_aside(&self, name: &str) -> Result<()> {
        let older = self.dir.join(KEPT).join(".older");
        make_folder(&older)?;
        let mut nth = 1;
        let free = loop {
            let path = older.join(format!("{name}.{nth}"));
            if !Found::at(&path)?.is_there() {
                break path;
            }
            nth += 1;
        };
        file::rename(&self.kept(name), &free)
    }

    /// The names that [`ManagedFolder::take`] applies to: those in the record, and of kept files.
    pub fn names(&self, record: &Record) -> Result<BTreeSet<String>> {
        let path = self.dir.join(KEPT);
        let cannot = |err: std::io::Error| refusal("cannot list", &path, &err);
        let mut names: BTreeSet<_> = record.files.keys().cloned().collect();
        let entries = match fs::read_dir(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(names),
            other => other.map_err(cannot)?,
        };
        for entry in entries {
            let name = entry.map_err(cannot)?.file_name();
            if let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    /// What [`ManagedFolder::take`] would do.
    pub fn plan_take(&self, name: &str, record: &Record) -> Result<RemoveAction> {
        let now = Found::at(&self.path(name))?;
        let kept = Found::at(&self.kept(name))?;
        let has_kept = kept.is_there();
        let leave = || RemoveAction::Leave {
            keeps: has_kept.then(|| self.kept(name)),
        };
        // Both names are the same inode: an install was killed before it put our file in place.
        if has_kept && kept.inode() == now.inode() {
            return Ok(RemoveAction::Untouched);
        }
        Ok(match (&now, record.files.contains_key(name)) {
            (Found::Nothing, true) if has_kept => RemoveAction::Restore,
            (Found::Nothing, true) => RemoveAction::Nothing,
            _ if record.has(name, &now) && has_kept => RemoveAction::Restore,
            _ if record.has(name, &now) => RemoveAction::Remove,
            _ if has_kept && kept.is_same_as(&now) => RemoveAction::Untouched,
            _ => leave(),
        })
    }

    /// Removes our file, and restores the one it replaced.
    ///
    /// # Errors
    /// A file cannot be read or changed; what was there is unchanged then.
    pub fn take(&self, name: &str, record: &Record, _held: &FolderLock) -> Result<RemoveAction> {
        let take = self.plan_take(name, record)?;
        // Ours, of a process that was killed while it moved it in.
        file::remove(&file::passing_name(&self.path(name)))?;
        match take {
            // In one step: nothing else holds the user's file.
            RemoveAction::Restore => file::rename(&self.kept(name), &self.path(name))?,
            RemoveAction::Remove => {
                file::remove(&self.path(name))?;
                file::sync_folder_of(&self.path(name))?;
            }
            RemoveAction::Untouched => file::remove(&self.kept(name))?,
            RemoveAction::Nothing | RemoveAction::Leave { .. } => {}
        }
        Ok(take)
    }

    /// Unlocks a folder; removes its state if that is empty.
    pub fn leave(&self, held: FolderLock) -> Result<()> {
        if self.record()? == Record::default() && self.names(&Record::default())?.is_empty() {
            self.forget(held)?;
        }
        Ok(())
    }

    /// Removes the record, because no file is ours any more, and the subfolder if no file is kept.
    pub fn forget(&self, _held: FolderLock) -> Result<()> {
        for own in [".new", ".draft", ".record.new", ".record"] {
            file::remove(&self.kept(own))?;
        }
        for folder in [self.dir.join(KEPT).join(".older"), self.dir.join(KEPT)] {
            match fs::remove_dir(&folder) {
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => return Ok(()),
                other => other.map_err(|err| refusal("cannot remove", &folder, &err))?,
            }
        }
        Ok(())
    }

    /// Replaced files that uninstall does not restore.
    pub fn older(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.kept(".older"));
        let mut files: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
    }
}

impl Record {
    /// Whether the file found under a name is ours.
    pub(super) fn has(&self, name: &str, found: &Found) -> bool {
        match found {
            Found::File { digest, .. } => self
                .files
                .get(name)
                .is_some_and(|digests| digests.contains(digest)),
            Found::Nothing | Found::Link { .. } => false,
        }
    }

    /// The names of the files that were put there.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Adds the folder of plugins that a file is installed for. False if it was known.
    pub fn add_user(&mut self, name: &str, dir: &Path) -> bool {
        let users = self.users.entry(name.to_owned()).or_default();
        users.insert(dir.to_owned())
    }

    /// Takes a folder of plugins away from a file, and returns those that it is also installed for.
    pub fn remove_user(&mut self, name: &str, dir: &Path) -> BTreeSet<PathBuf> {
        let mut users = self.users.remove(name).unwrap_or_default();
        users.remove(dir);
        if !users.is_empty() {
            self.users.insert(name.to_owned(), users.clone());
        }
        users
    }

    /// Adds a file that is about to be put there, perhaps in place of another one of ours.
    fn add(&mut self, name: &str, digest: &Digest, now: &Found) {
        let mut digests = BTreeSet::from([digest.clone()]);
        if let (true, Found::File { digest, .. }) = (self.has(name, now), now) {
            digests.insert(digest.clone());
        }
        self.files.insert(name.to_owned(), digests);
    }
}

/// Creates a folder and its parents.
fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|err| refusal("cannot make the folder", path, &err))
}
