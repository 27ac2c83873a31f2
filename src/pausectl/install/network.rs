//! A network configuration, read and checked before it is installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::command::{Result, Stop, warn};
use pausenet_host::Error;
use pausenet_host::install::file::Digest;
use pausenet_host::install::managed_folder::{ManagedFolder, NewFile};
use pausenet_host::runtime::conflist::{self, NetworkList};

/// A network configuration to install.
pub(super) struct Network {
    list: NetworkList,
    name: String,
    digest: Digest,
}

impl Network {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let list = NetworkList::read(file)?;
        let usage = |why: &str, hint: &str| {
            let msg = format!("--conf {}: {why}", file.display());
            Stop::Usage(Error::new(msg).hint(hint))
        };
        let name = file.file_name().and_then(OsStr::to_str);
        let name = name.filter(|name| !name.starts_with('.')).ok_or_else(|| {
            usage(
                "a runtime would not find a file of this name",
                "use a name such as 10-podnet.conflist",
            )
        })?;
        let ending = Path::new(name).extension().and_then(OsStr::to_str);
        match (list.is_list, ending) {
            (true, Some("conflist")) | (false, Some("conf" | "json")) => {}
            (true, _) => {
                let why = "runtimes read a list of plugins only from a file that ends in .conflist";
                return Err(usage(why, "rename the file"));
            }
            (false, _) => {
                let why =
                    "runtimes read a single plugin only from a file that ends in .conf or .json";
                return Err(usage(
                    why,
                    "rename the file, or make it a list: {\"plugins\": [...]}",
                ));
            }
        }
        let digest = Digest::of(&list.text);
        Ok(Self {
            name: name.to_owned(),
            digest,
            list,
        })
    }

    pub(super) fn wanted(&self) -> NewFile<'_> {
        NewFile {
            name: self.name.clone(),
            content: &self.list.text,
            digest: self.digest.clone(),
            mode: 0o644,
        }
    }

    /// Its file in the folder, for the doctor.
    pub(super) fn planned(&self, place: &ManagedFolder) -> (PathBuf, Vec<u8>) {
        (place.path(&self.name), self.list.text.clone())
    }

    pub(super) fn warn_of_an_earlier_file(&self, conf_dir: &Path) {
        let files = conflist::files(conf_dir).unwrap_or_default();
        let first = files.first().and_then(|file| file.file_name());
        if let Some(first) = first.filter(|first| *first < OsStr::new(&self.name)) {
            let msg = format!(
                "{} comes before {} in {}",
                first.display(),
                self.name,
                conf_dir.display()
            );
            warn(
                &Error::new(msg)
                    .hint("the runtime uses the first file, so pods stay on that network"),
            );
        }
    }
}
