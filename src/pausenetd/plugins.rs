//! Installs the plugin in the folder where container runtimes look for it: under its own name, and under
//! those names of reference plugins that are missing there. It uses the same mechanism as
//! `pausectl install`: files are replaced atomically, and uninstall restores what was there before.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::options::Options;
use pausenet_host::install::file::{Digest, refusal};
use pausenet_host::install::managed_folder::{ManagedFolder, NewFile, PutAction, Record};
use pausenet_host::install::{names, try_out};
use pausenet_host::{Error, Result};

/// The plugin's own name. Whatever file has it is replaced.
const OWN_NAME: &str = "pausenet";

/// A file that was installed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) file: PathBuf,
    pub(crate) put: PutAction,
}

/// Whether to install under this name (pure): a foreign plugin stays, unless it has our own name or
/// the user asks for its replacement.
fn should_install(name: &str, put: PutAction, replace: bool) -> bool {
    match put {
        PutAction::Nothing { .. } => false,
        PutAction::New | PutAction::Renew => true,
        PutAction::Replace => replace || name == OWN_NAME,
    }
}

/// The metadata of the files when they were last found up to date. While it stays the same, they are
/// not read again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<Option<Stamp>>);

/// Device, inode, size, and the time of the last change of either: seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Fingerprint {
    fn of(files: &[PathBuf]) -> Self {
        let stamp = |file: &PathBuf| {
            let meta = std::fs::symlink_metadata(file).ok()?;
            let changed = (meta.ctime(), meta.ctime_nsec());
            Some((meta.dev(), meta.ino(), meta.len(), changed.0, changed.1))
        };
        Self(files.iter().map(stamp).collect())
    }
}

/// Makes sure that the plugin is installed under all its names. Returns what was changed.
///
/// # Errors
/// A file cannot be read or written, or the plugin does not run on this host; the file that was there
/// stays then.
pub(crate) fn ensure(options: &Options, last_seen: &mut Fingerprint) -> Result<Vec<Installed>> {
    let source = source(options)?;
    let place = ManagedFolder::new(options.bin_dir.clone());
    let names = names(&options.plugins, &place)?;
    let targets = names.iter().map(|name| place.path(name));
    let files: Vec<_> = std::iter::once(source.clone()).chain(targets).collect();
    if Fingerprint::of(&files) == *last_seen {
        return Ok(Vec::new());
    }
    let installed = install(options, &source, &place, names)?;
    *last_seen = Fingerprint::of(&files);
    Ok(installed)
}

fn install(
    options: &Options,
    source: &Path,
    place: &ManagedFolder,
    names: Vec<String>,
) -> Result<Vec<Installed>> {
    let content = std::fs::read(source).map_err(|err| {
        refusal("cannot read the plugin", source, &err)
            .hint("set --plugin FILE; the default is the file pausenet beside pausenetd")
    })?;
    let digest = Digest::of(&content);
    let wanted: Vec<_> = names
        .into_iter()
        .map(|name| NewFile {
            name,
            content: &content,
            digest: digest.clone(),
            mode: 0o755,
        })
        .collect();
    let open = |record: &Record| -> Result<Vec<&NewFile>> {
        let mut open = Vec::new();
        for one in &wanted {
            if should_install(&one.name, place.plan(one, record)?, options.replace_plugins) {
                open.push(one);
            }
        }
        Ok(open)
    };
    if open(&place.record()?)?.is_empty() {
        return Ok(Vec::new());
    }
    let held = place.hold()?;
    // Read again: another process may have changed it before we held the lock.
    let mut record = place.record()?;
    let mut installed = Vec::new();
    let mut template: Option<PathBuf> = None;
    for one in open(&record)? {
        let put = place.put(one, template.as_deref(), &mut record, &held, check_runs)?;
        template = Some(place.path(&one.name));
        installed.push(Installed {
            file: place.path(&one.name),
            put,
        });
    }
    Ok(installed)
}

fn check_runs(program: &Path) -> Result<()> {
    try_out(program).map_err(|err| {
        err.hint("is --plugin the pausenet plugin, built for this machine (uname -m)? Is the filesystem mounted noexec?")
    })
}

fn source(options: &Options) -> Result<PathBuf> {
    if let Some(file) = &options.plugin {
        return Ok(file.clone());
    }
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|own| Some(own.parent()?.join(OWN_NAME)));
    beside.ok_or_else(|| {
        Error::new("cannot find the folder of pausenetd itself").hint("set --plugin FILE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_plugin_stays_unless_the_user_says_otherwise() {
        assert!(!should_install("loopback", PutAction::Replace, false));
        assert!(should_install("loopback", PutAction::Replace, true));
        assert!(should_install("loopback", PutAction::New, false));
        assert!(should_install("loopback", PutAction::Renew, false));
        assert!(!should_install(
            "loopback",
            PutAction::Nothing { ours: true },
            true
        ));
    }

    #[test]
    fn a_file_under_our_own_name_is_always_replaced() {
        assert!(should_install(OWN_NAME, PutAction::Replace, false));
    }
}
