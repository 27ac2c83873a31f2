//! What an attachment was made with, remembered for its DEL in libcni's own place and form:
//! `/var/lib/cni/results/<network>-<container>-<interface>`.
//!
//! It is written before the ADD, without a result, so that even an ADD which nobody lived to
//! undo can be; and again behind it. It says how to undo an attachment, never whether there is
//! one: that the kernel says.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conflist::NetworkList;
use super::parameters::Parameters;
use crate::{Error, OnPath, Result};
use pausenet::cni::request::Attachment;
use pausenet::cni::{ContainerId, IfName, NetworkName};

/// libcni's folder.
const DIR: &str = "/var/lib/cni/results";

/// Where kubelet had it keep them, as long as that spoke CNI itself.
const OLD_DIR: &str = "/var/lib/cni/cache/results";

/// The first field of libcni's files.
const KIND: &str = "cniCacheV1";

/// One attachment.
#[derive(Debug, Clone)]
pub struct Entry {
    pub list: NetworkList,
    pub parameters: Parameters,
    /// None: its ADD has not succeeded.
    pub result: Option<Value>,
    file: PathBuf,
}

/// libcni's form of it.
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
    /// An entry that is not written yet.
    pub fn new(list: NetworkList, parameters: Parameters) -> Self {
        Self {
            file: Path::new(DIR).join(file_name(&parameters.attachment)),
            list,
            parameters,
            result: None,
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// An error that names the file.
    pub fn write(&self) -> Result<()> {
        let form = CacheFile {
            kind: KIND.into(),
            container_id: self.parameters.attachment.container.to_string(),
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

    /// The attachment is gone. Nothing to forget is success.
    ///
    /// # Errors
    /// An error that names the file.
    pub fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                Err(Error::io("cannot remove", &self.file, err))
            }
            _ => Ok(()),
        }
    }

    fn read(file: PathBuf) -> Option<Self> {
        let form: CacheFile = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
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

/// What is remembered of one attachment. None too when it cannot be read.
pub fn of(attachment: &Attachment) -> Option<Entry> {
    let name = file_name(attachment);
    let entries = [DIR, OLD_DIR].map(|dir| Entry::read(Path::new(dir).join(&name)));
    let mut entries = entries.into_iter().flatten();
    entries.find(|entry| entry.parameters.attachment == *attachment)
}

/// Every attachment that anybody remembers; what cannot be read is not.
///
/// # Errors
/// When the folder cannot be read.
pub fn list() -> Result<Vec<Entry>> {
    Ok(files(|_| true)?
        .into_iter()
        .filter_map(Entry::read)
        .collect())
}

/// The attachments of a container, as far as they are remembered. What cannot be read is not.
///
/// # Errors
/// When the folder cannot be read.
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

/// Writes a file and its folder, whole or not at all. Only one process writes a file at a time:
/// it holds a lock on what the file is about.
///
/// # Errors
/// The kernel's.
pub fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let dir = file.parent().unwrap_or(file);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = dir.join(format!(".{name}.new"));
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

/// Bytes as Go's encoding/json writes them: RFC 4648's base 64, padded.
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
