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

use super::Parameters;
use super::conflist::NetworkList;
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
struct Wire {
    kind: String,
    container_id: String,
    #[serde(with = "base64")]
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
        let wire = Wire {
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
        let text = serde_json::to_vec(&wire)
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
        let wire: Wire = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        let attachment = Attachment {
            network: NetworkName::parse(&wire.network_name).ok()?,
            container: ContainerId::parse(&wire.container_id).ok()?,
            ifname: IfName::parse(&wire.if_name).ok()?,
        };
        Some(Self {
            list: NetworkList::parse(&wire.config).ok()?,
            parameters: Parameters {
                attachment,
                netns: wire.netns,
                args: wire.cni_args,
                capabilities: wire.capability_args,
            },
            result: wire.result,
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
mod base64 {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        decode(&text).ok_or_else(|| D::Error::custom("not base 64"))
    }

    pub fn encode(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let bits = (0..3).fold(0, |bits, at| {
                bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0))
            });
            for at in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
                text.push(if at <= chunk.len() {
                    digit as char
                } else {
                    '='
                });
            }
        }
        text
    }

    pub fn decode(text: &str) -> Option<Vec<u8>> {
        let digits = text.trim_end_matches('=').as_bytes();
        if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
            return None;
        }
        let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
        for chunk in digits.chunks(4) {
            let mut bits = 0;
            for at in 0..4 {
                let value = match chunk.get(at) {
                    Some(digit) => DIGITS.iter().position(|known| known == digit)?,
                    None => 0,
                };
                bits = bits << 6 | value as u32;
            }
            bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base_64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64::encode(bytes.as_bytes()), text);
        }
        for bad in ["Zg=", "Z===", "Zm9v=", "Z!==", "===="] {
            assert_eq!(base64::decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn base_64_reads_back(bytes: Vec<u8>) {
            prop_assert_eq!(base64::decode(&base64::encode(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in "[A-Za-z0-9+/=!]{0,12}") {
            let _ = base64::decode(&text);
        }
    }
}
