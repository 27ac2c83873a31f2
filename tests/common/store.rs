//! The files that the plugin keeps: host-local's address store, and its own under /run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where the plugin keeps addresses when the config says nothing else.
pub const STORES: &str = "/var/lib/cni/networks";

/// Every file below a folder, with its content. A file that disappears meanwhile is left out.
pub fn store_files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let content = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    content => content.unwrap(),
                };
                let below = path.strip_prefix(root).unwrap().to_owned();
                files.insert(below, content);
            }
        }
    }
    files
}

/// The plugin's files under /run for attachments, finished or in progress. Its record of what was
/// reserved before the boot is not among them.
pub fn run_files() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = store_files(Path::new("/run/pausenet"));
    files.retain(|path, _| !path.starts_with("earlier"));
    files
}

/// Names of the address files of a network's store, sorted.
pub fn allocated(network: &str) -> Vec<String> {
    allocated_in(&Path::new(STORES).join(network))
}

/// The same of a store that lies elsewhere.
pub fn allocated_in(store: &Path) -> Vec<String> {
    store_files(store)
        .into_keys()
        .filter_map(|path| path.to_str().map(str::to_owned))
        .filter(|name| name.parse::<IpAddr>().is_ok())
        .collect()
}
