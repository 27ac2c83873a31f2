//! What is left of networks in files when their attachments and configurations are gone: stores of addresses,
//! and empty folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::options::shown;
use pausenet::cni::NetworkName;
use pausenet::ipam::host_local::INDEXES;
use pausenet::ipam::store::Store;
use pausenet_host::{Error, OnPath};

/// The folders that only pausenet uses.
const OWN: [&str; 2] = ["/run/pausenet", "/var/lib/pausenet"];

/// Stores without an address, of networks that are not known, which pausenet has used since the boot. Others
/// may be another plugin's.
pub(crate) fn unused_stores(
    data_dir: &Path,
    is_known: impl Fn(&str) -> bool,
) -> Vec<(NetworkName, PathBuf)> {
    let is_unused = |dir: &Path| {
        let store = Store::open_existing(dir).ok().flatten();
        store.is_some_and(|store| {
            store.earlier_list(Path::new(INDEXES)).is_some()
                && store.taken().is_ok_and(|taken| taken.is_empty())
        })
    };
    let mut unused = Vec::new();
    for entry in fs::read_dir(data_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let name = NetworkName::parse(&name).ok();
        let Some(name) = name.filter(|name| entry.path().is_dir() && !is_known(name.as_str()))
        else {
            continue;
        };
        if is_unused(&entry.path()) {
            unused.push((name, entry.path()));
        }
    }
    unused.sort();
    unused
}

/// Removes a store without addresses. True when there was one.
///
/// # Errors
/// It has addresses, or cannot be removed.
pub(crate) fn remove_store(dir: &Path, name: &NetworkName) -> Result<bool, Error> {
    let Some(store) = Store::open_existing(dir)? else {
        return Ok(false);
    };
    let taken = store.taken()?;
    if let Some(address) = taken.first() {
        let what = format!(
            "{} addresses are still reserved in {}, such as {address}",
            taken.len(),
            shown(dir)
        );
        return Err(Error::new(what).hint("see: pausectl doctor --check store"));
    }
    let index = PathBuf::from(INDEXES).join(name.as_str());
    let list = store.earlier_list(Path::new(INDEXES));
    for path in [Some(dir), Some(&*index), list.as_deref()]
        .into_iter()
        .flatten()
    {
        match fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(found) if found.is_dir() => {
                fs::remove_dir_all(path).on_path("cannot remove", path)?
            }
            Ok(_) => fs::remove_file(path).on_path("cannot remove", path)?,
        }
    }
    Ok(true)
}

/// Removes pausenet's own folders as far as there is no file in them.
pub(crate) fn remove_empty_folders() {
    for folder in OWN {
        remove_if_empty(Path::new(folder));
    }
}

/// A folder with a file in it stays: the kernel refuses to remove it.
fn remove_if_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_if_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
