//! The result cache: what an attachment was made with, kept for its DEL, in libcni's folder and
//! format: `/var/lib/cni/results/<network>-<container>-<interface>`.
//!
//! An entry is written before the ADD, without a result, so that the attachment can be deleted even
//! if the process is killed during the ADD; and again after the ADD. It says how to delete an
//! attachment, not whether one exists: that is read from the kernel.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conflist::NetworkList;
use super::parameters::Parameters;
use crate::{Error, OnPath, Result};
use pausenet::cni::json::Json;
use pausenet::cni::request::Attachment;
use pausenet::cni::{ContainerId, IfName, NetworkName};
use pausenet::kernel::file::{self, LARGE, Symlinks};

/// libcni's folder.
const DIR: &str = "/var/lib/cni/results";

/// The folder that kubelet configured, while it still called CNI plugins itself.
const OLD_DIR: &str = "/var/lib/cni/cache/results";

/// The value of `kind` in libcni's files.
const KIND: &str = "cniCacheV1";

/// The cache entry of one attachment.
#[derive(Debug, Clone)]
pub struct Entry {
    pub list: NetworkList,
    pub parameters: Parameters,
    /// None if its ADD has not succeeded.
    pub result: Option<Value>,
    file: PathBuf,
}

/// An entry in libcni's format.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CacheFile {
    kind: String,
    container_id: String,
    #[serde(with = "base64_bytes")]
    config: Vec<u8>,
    if_name: String,
    network_name: String,
    #[serde(default, rename = "netns", skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<[String; 2]>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl Entry {
    /// A new entry, not written yet.
    pub fn new(list: NetworkList, parameters: Parameters) -> Self {
        Self {
            file: Path::new(DIR).join(file_name(&parameters.attachment)),
            list,
            parameters,
            result: None,
        }
    }

    /// Writes the entry atomically.
    ///
    /// # Errors
    /// The file cannot be written; the message names it.
    pub fn write(&self) -> Result<()> {
        let form = CacheFile {
            kind: KIND.into(),
            container_id: self.parameters.attachment.container.as_given().to_owned(),
            config: self.list.text.clone(),
            if_name: self.parameters.attachment.ifname.to_string(),
            network_name: self.parameters.attachment.network.to_string(),
            netns: self.parameters.netns.clone(),
            cni_args: self.parameters.args.clone(),
            capability_args: self.parameters.capabilities.clone(),
            result: self.result.clone(),
        };
        let text = serde_json::to_vec(&form)
            .map_err(|err| Error::new(format!("a cache entry is no JSON: {err}")))?;
        replace(&self.file, &text).on_path("cannot write", &self.file)
    }

    /// Removes the entry of an attachment that is gone. Succeeds if there is none.
    ///
    /// # Errors
    /// The file cannot be removed; the message names it.
    pub fn forget(&self) -> Result<()> {
        remove(&self.file).on_path("cannot remove", &self.file)
    }

    fn read(file: PathBuf) -> Option<Self> {
        let text = file::read(&file, LARGE, Symlinks::Follow).ok()?;
        let form: CacheFile = Json::parse("cache entry", &text).ok()?.read().ok()?;
        let attachment = Attachment {
            network: NetworkName::parse(&form.network_name).ok()?,
            container: ContainerId::parse(&form.container_id).ok()?,
            ifname: IfName::parse(&form.if_name).ok()?,
        };
        Some(Self {
            list: NetworkList::parse(&form.config).ok()?,
            parameters: Parameters {
                attachment,
                netns: form.netns,
                args: form.cni_args,
                capabilities: form.capability_args,
            },
            result: form.result,
            file,
        })
    }
}

fn file_name(attachment: &Attachment) -> String {
    let Attachment {
        network,
        container,
        ifname,
    } = attachment;
    format!("{network}-{container}-{ifname}")
}

/// The entry of one attachment. None if it does not exist or cannot be read.
pub fn of(attachment: &Attachment) -> Option<Entry> {
    let name = file_name(attachment);
    let entries = [DIR, OLD_DIR].map(|dir| Entry::read(Path::new(dir).join(&name)));
    let mut entries = entries.into_iter().flatten();
    entries.find(|entry| entry.parameters.attachment == *attachment)
}

/// All entries, of any runtime, except unreadable ones.
///
/// # Errors
/// A folder cannot be read.
pub fn list() -> Result<Vec<Entry>> {
    Ok(files(|_| true)?
        .into_iter()
        .filter_map(Entry::read)
        .collect())
}

/// The entries of a container's attachments, except unreadable ones.
///
/// # Errors
/// A folder cannot be read.
pub fn of_container(container: &ContainerId) -> Result<Vec<Entry>> {
    let part = format!("-{container}-");
    let files = files(|name| name.contains(&part))?;
    Ok(files
        .into_iter()
        .filter_map(Entry::read)
        .filter(|entry| entry.parameters.attachment.container == *container)
        .collect())
}

fn files(wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in [DIR, OLD_DIR].map(Path::new) {
        let entries = match fs::read_dir(dir) {
            Err(err) if err.kind() == ErrorKind::NotFound => continue,
            entries => entries.on_path("cannot list", dir)?,
        };
        let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
        files.extend(found.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            wanted(&name) && !name.starts_with('.')
        }));
    }
    files.sort();
    Ok(files)
}

/// Writes a file atomically; creates its folder if needed. Only one process may write the same file
/// at a time: the caller holds a lock on the object that the file describes.
///
/// # Errors
/// The folder or file cannot be written; the old file is unchanged then.
pub fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let dir = file.parent().unwrap_or(file);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = draft(file);
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600);
    let write = |mut to: File| to.write_all(text);
    let outcome = open.open(&new).and_then(write);
    outcome
        .and_then(|()| fs::rename(&new, file))
        .inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
}

/// Removes a file, and what a killed [`replace`] of it left. Succeeds if there is none.
///
/// # Errors
/// The file cannot be removed.
pub fn remove(file: &Path) -> io::Result<()> {
    for file in [&draft(file), file] {
        match fs::remove_file(file) {
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    Ok(())
}

fn draft(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new"))
}

/// Bytes as Go's encoding/json writes them: standard base64 with padding (RFC 4648).
mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
