//! Which attachments have elements in nftables: a file for each, under /run, with their number.
//!
//! An element is found by the address or port that is its key. An attachment that ended without DEL
//! and begins again, with another address, would have to search all elements of the host for those
//! of its earlier life. The file tells it whether there may be any. DEL, whose config may have
//! changed, sees from the number whether it has found all. The file can be lost without harm: the
//! elements then stay until their address has its next holder.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::cni::request::Attachment;
use crate::kernel::file::{self, Symlinks};
use crate::kernel::lock::make_dir;
use crate::plan::{Mapper, host_end_name};

const FOLDER: &str = "/run/pausenet/elements";

fn path(attachment: &Attachment, mapper: Mapper) -> PathBuf {
    let name = format!("{}.{}", host_end_name(attachment), mapper.mark());
    Path::new(FOLDER).join(name)
}

/// Records an attachment with the number of its elements, if that is known. True when it was recorded
/// already; then the number stays.
pub(crate) fn create(attachment: &Attachment, mapper: Mapper, elements: Option<usize>) -> bool {
    let path = path(attachment, mapper);
    let number = elements.map_or_else(String::new, |number| number.to_string());
    let create = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all(number.as_bytes())
    };
    let outcome = match create() {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            make_dir(Path::new(FOLDER)).and_then(|()| create())
        }
        outcome => outcome,
    };
    outcome.is_err_and(|err| err.kind() == ErrorKind::AlreadyExists)
}

/// True when an attachment is recorded.
pub(crate) fn exists(attachment: &Attachment, mapper: Mapper) -> bool {
    path(attachment, mapper).exists()
}

/// Whether an attachment may have been given more or fewer elements than were found. False where their
/// number is not recorded.
pub(crate) fn has_others(attachment: &Attachment, mapper: Mapper, found: usize) -> bool {
    match file::read_text(&path(attachment, mapper), 64, Symlinks::Refuse) {
        Ok(text) => text.parse::<usize>().is_ok_and(|made| made != found),
        // One that cannot be read now may say anything.
        Err(err) => err.kind() != ErrorKind::NotFound,
    }
}

/// Removes the record of an attachment. True when there was one.
pub(crate) fn remove(attachment: &Attachment, mapper: Mapper) -> bool {
    fs::remove_file(path(attachment, mapper)).is_ok()
}
