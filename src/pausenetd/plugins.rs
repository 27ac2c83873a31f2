//! The plugin in the folder where container runtimes look for it: under its own name, and under
//! names of the reference's plugins that are missing there. How files change places without a
//! moment in between is `pausectl install`'s, which also can take them away again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::options::Options;
use pausenet::cni::{Code, Error, Result};
use pausenet_host::install::file::{Digest, refusal};
use pausenet_host::install::place::{Place, Put, Record, Wanted};
use pausenet_host::install::{names, try_out};

/// The plugin's own name, under which it is put in the place of whatever is there.
const OWN: &str = "pausenet";

/// What became of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub file: PathBuf,
    pub put: Put,
}

/// What is to be done under one name (pure): somebody else's plugin stays, unless it is in the
/// place of ours or the user says so.
pub fn is_wanted(name: &str, put: Put, replace: bool) -> bool {
    match put {
        Put::Nothing { .. } => false,
        Put::New | Put::Renew => true,
        Put::Replace => replace || name == OWN,
    }
}

/// The files that an earlier look has found to be right, by what changes with their content. To read
/// all of them each time would be work for nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<Option<Stamp>>);

/// Device, inode, size, and the time of the last change of either: seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Seen {
    fn of(files: &[PathBuf]) -> Self {
        let stamp = |file: &PathBuf| {
            let meta = std::fs::symlink_metadata(file).ok()?;
            let changed = (meta.ctime(), meta.ctime_nsec());
            Some((meta.dev(), meta.ino(), meta.len(), changed.0, changed.1))
        };
        Self(files.iter().map(stamp).collect())
    }
}

/// Has the plugin there, by all its names. Gives back what was changed.
///
/// # Errors
/// Code 5, or 7 for a plugin that does not run here; what stood there then still does.
pub fn ensure(options: &Options, seen: &mut Seen) -> Result<Vec<Done>> {
    let source = source(options)?;
    let place = Place::new(options.bin_dir.clone());
    let names = names(&options.plugins, &place)?;
    let targets = names.iter().map(|name| place.path(name));
    let files: Vec<_> = std::iter::once(source.clone()).chain(targets).collect();
    if Seen::of(&files) == *seen {
        return Ok(Vec::new());
    }
    let done = put_there(options, &source, &place, names)?;
    *seen = Seen::of(&files);
    Ok(done)
}

fn put_there(
    options: &Options,
    source: &Path,
    place: &Place,
    names: Vec<String>,
) -> Result<Vec<Done>> {
    let content = std::fs::read(source).map_err(|err| {
        refusal("cannot read the plugin", source, &err)
            .hint("--plugin FILE says where it is; by default it lies beside pausenetd")
    })?;
    let digest = Digest::of(&content);
    let wanted: Vec<_> = names
        .into_iter()
        .map(|name| Wanted {
            name,
            content: &content,
            digest: digest.clone(),
            mode: 0o755,
        })
        .collect();
    let open = |record: &Record| -> Result<Vec<&Wanted>> {
        let mut open = Vec::new();
        for one in &wanted {
            if is_wanted(&one.name, place.plan(one, record)?, options.replace_plugins) {
                open.push(one);
            }
        }
        Ok(open)
    };
    if open(&place.record()?)?.is_empty() {
        return Ok(Vec::new());
    }
    let held = place.hold()?;
    // What was found before the hold may be another's doing since.
    let mut record = place.record()?;
    let mut done = Vec::new();
    let mut like: Option<PathBuf> = None;
    for one in open(&record)? {
        let put = place.put(one, like.as_deref(), &mut record, &held, examine)?;
        like = Some(place.path(&one.name));
        done.push(Done {
            file: place.path(&one.name),
            put,
        });
    }
    Ok(done)
}

fn examine(program: &Path) -> Result<()> {
    try_out(program).map_err(|err| {
        err.hint("is --plugin pausenet, and built for this machine (uname -m)? A filesystem mounted noexec runs no plugins")
    })
}

fn source(options: &Options) -> Result<PathBuf> {
    if let Some(file) = &options.plugin {
        return Ok(file.clone());
    }
    let beside = std::env::current_exe().ok();
    let beside = beside.and_then(|own| Some(own.parent()?.join(OWN)));
    beside.ok_or_else(|| {
        Error::new(Code::Internal, "cannot tell where pausenetd itself is")
            .hint("--plugin FILE says where the plugin is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_else_s_plugin_stays_unless_it_is_said_otherwise() {
        assert!(!is_wanted("loopback", Put::Replace, false));
        assert!(is_wanted("loopback", Put::Replace, true));
        assert!(is_wanted("loopback", Put::New, false));
        assert!(is_wanted("loopback", Put::Renew, false));
        assert!(!is_wanted("loopback", Put::Nothing { ours: true }, true));
    }

    #[test]
    fn our_own_name_is_ours() {
        assert!(is_wanted(OWN, Put::Replace, false));
    }
}
