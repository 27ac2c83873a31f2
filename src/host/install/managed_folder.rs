//! A folder in which files of ours take the places of others, which come back later.
//!
//! Beside them, in a folder that no runtime looks into, is all that this needs to know:
//!
//! ```text
//! <dir>/NAME                              ours, or somebody else's
//! <dir>/.pausenet-replaced/NAME           the one that stood there before ours
//! <dir>/.pausenet-replaced/.record        what we put where: the SHA-256 of each file
//! <dir>/.pausenet-replaced/.older/NAME.1  replaced earlier, when somebody put one over ours
//! <dir>/.pausenet-replaced/.new           a file on its way
//! ```
//!
//! A file is ours if the record has its content under its name; nothing is executed or guessed
//! to find out. The steps that put a file in place come in such an order that a process killed
//! between any two of them has lost nothing:
//!
//! 1. ours is written as `.new`, down to the disk;
//! 2. the other's gets a second name in `.pausenet-replaced`: a hard link, so that it is still
//!    in its place;
//! 3. the record gets the digest of ours;
//! 4. `.new` is renamed over the name.
//!
//! Killed before 4, what stands there is not what the record says, so it is not ours, and the
//! one in `.pausenet-replaced` is the same file: it replaces nothing. All of it is on one
//! filesystem; one process at a time works on it, holding flock(2) on `.pausenet-replaced`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::file::{self, Digest, Found, refusal};
use crate::{Error, Result};

const KEPT: &str = ".pausenet-replaced";

/// The folder.
#[derive(Debug)]
pub struct ManagedFolder {
    dir: PathBuf,
}

/// What was put there.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// By name: the content that is ours, and while it is being renewed, that of before too.
    files: BTreeMap<String, BTreeSet<Digest>>,
    /// Folders of network configurations that were installed along with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub conf_dirs: BTreeSet<PathBuf>,
}

/// A file that is to be there.
#[derive(Debug)]
pub struct NewFile<'a> {
    pub name: String,
    pub content: &'a [u8],
    pub digest: Digest,
    pub mode: u32,
}

/// What it takes to have it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutAction {
    /// Nothing: it is there. If it is not ours, it stays when ours go.
    Nothing { ours: bool },
    /// Nothing is in its place.
    New,
    /// Ours is, with other content.
    Renew,
    /// Somebody else's is, which is kept.
    Replace,
}

/// What it takes to have ours gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveAction {
    /// The one that stood there before comes back.
    Restore,
    /// There was none before.
    Remove,
    /// It is gone already, and there is none to come back.
    Nothing,
    /// What stands there is what stood there before; the second name is given up.
    Untouched,
    /// What stands there is not ours, so it stays; so does what ours had replaced, if anything.
    Leave { keeps: Option<PathBuf> },
}

/// Held while a place is being changed; ends with the process, however that ends.
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

    /// Where the one that stood under this name is kept.
    pub fn kept(&self, name: &str) -> PathBuf {
        self.dir.join(KEPT).join(name)
    }

    /// Waits until nobody else is changing it. The folder is made if it is not there.
    pub fn hold(&self) -> Result<FolderLock> {
        make_folder(&self.dir)?;
        loop {
            make_folder(&self.dir.join(KEPT))?;
            if let Some(held) = self.hold_existing()? {
                return Ok(held);
            }
        }
    }

    /// The same, but None when nothing has been put there.
    pub fn hold_existing(&self) -> Result<Option<FolderLock>> {
        let path = self.dir.join(KEPT);
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        loop {
            let folder = match File::open(&path) {
                Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
                other => other.map_err(|err| refusal("cannot open", &path, &err))?,
            };
            let lock = || rustix::fs::flock(&folder, FlockOperation::LockExclusive);
            rustix::io::retry_on_intr(lock)
                .map_err(|err| refusal("cannot lock", &path, &err.into()))?;
            let held = folder.metadata().map(id);
            // The one we waited for may have removed it: what we hold is then nobody's.
            if held.is_ok_and(|held| fs::metadata(&path).is_ok_and(|named| id(named) == held)) {
                return Ok(Some(FolderLock { _folder: folder }));
            }
        }
    }

    /// What was put there; nothing, if there is no record.
    ///
    /// # Errors
    /// When it cannot be read, or is not a record.
    pub fn record(&self) -> Result<Record> {
        let path = self.kept(".record");
        let text = match fs::read(&path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Record::default()),
            other => other.map_err(|err| refusal("cannot read", &path, &err))?,
        };
        serde_json::from_slice(&text).map_err(|err| {
            Error::new(format!("cannot make out {}: {err}", path.display())).hint(
                "it tells which files are pausenet's; to go on without it, remove it: what was \
                 replaced lies beside it, and has to be moved back by hand",
            )
        })
    }

    /// Writes the record anew.
    ///
    /// # Errors
    /// The kernel's; the old one is then still there.
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

    /// Has a file there, made by `like` (a file of ours with the same content) if possible.
    /// `examine` sees it before it is put in place, and may refuse.
    ///
    /// # Errors
    /// The kernel's, and those of `examine`; what stood there then still does.
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
            file::rename(&new, &target)
        };
        put_in_place().inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })?;
        Ok(put)
    }

    /// Gives somebody else's file a second name, by which it stays.
    fn keep(&self, name: &str) -> Result<()> {
        let (path, kept) = (self.path(name), self.kept(name));
        let earlier = Found::at(&kept)?;
        if earlier.is_there() {
            if earlier.is_same_as(&Found::at(&path)?) {
                return Ok(());
            }
            self.put_by(name)?;
        }
        file::keep(&path, &kept, &self.kept(".draft"))?;
        file::sync_folder_of(&kept)
    }

    /// Makes room for another one to be kept: this is from before somebody put theirs over ours.
    fn put_by(&self, name: &str) -> Result<()> {
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

    /// The names that [`ManagedFolder::take`] is for.
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
        // A link count of two: killed before ours came.
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

    /// Takes ours away, and brings back what it had replaced.
    ///
    /// # Errors
    /// The kernel's; what stood there then still does.
    pub fn take(&self, name: &str, record: &Record, _held: &FolderLock) -> Result<RemoveAction> {
        let take = self.plan_take(name, record)?;
        match take {
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

    /// Lets go of a place to which nothing was done.
    pub fn leave(&self, held: FolderLock) -> Result<()> {
        if self.record()? == Record::default() && self.names(&Record::default())?.is_empty() {
            self.forget(held)?;
        }
        Ok(())
    }

    /// Nothing here is ours any more: removes the record, and the folder if nothing is kept.
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

    /// Files that were replaced, and that nothing will bring back by itself.
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
    /// Whether what stands under a name is ours.
    pub fn has(&self, name: &str, found: &Found) -> bool {
        match found {
            Found::File { digest, .. } => self
                .files
                .get(name)
                .is_some_and(|digests| digests.contains(digest)),
            Found::Nothing | Found::Link { .. } => false,
        }
    }

    /// Names of the files that were put there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file is about to be put there, perhaps in the place of another that is ours.
    fn add(&mut self, name: &str, digest: &Digest, now: &Found) {
        let mut digests = BTreeSet::from([digest.clone()]);
        if let (true, Found::File { digest, .. }) = (self.has(name, now), now) {
            digests.insert(digest.clone());
        }
        self.files.insert(name.to_owned(), digests);
    }
}

/// Makes a folder and those above it.
fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|err| refusal("cannot make the folder", path, &err))
}
