//! Network namespaces with a name: each bound to a file, as `ip netns` does it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::name::PodName;
use crate::{Error, OnPath, Result};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::syscalls::enter_new_network_namespace;

/// Where the files are.
const DIR: &str = "/run/pausenet/netns";

/// What there is under a pod's name.
#[derive(Debug)]
pub enum Pin {
    Absent,
    Namespace(Netns),
    /// A file with no namespace bound to it: in the making, or left by a crash. Whoever holds
    /// the pod's lock knows which.
    Empty,
}

/// The file of a pod.
pub fn path(pod: &PodName) -> PathBuf {
    Path::new(DIR).join(pod.as_str())
}

/// The pod that a file holding a namespace stands for, if it is one of ours.
pub fn pod_of_ours(file: &Path) -> Option<PodName> {
    let name = file.strip_prefix(DIR).ok()?;
    PodName::parse(name.to_str()?).ok()
}

/// Looks a pod up.
pub fn look_up(pod: &PodName) -> Result<Pin> {
    let path = path(pod);
    match fs::symlink_metadata(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Pin::Absent),
        Err(err) => Err(Error::io("cannot look at", &path, err)),
        Ok(_) => Ok(Netns::open(&path).map_or(Pin::Empty, Pin::Namespace)),
    }
}

/// Every pod, by name.
pub fn list() -> Result<Vec<PodName>> {
    let dir = Path::new(DIR);
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.on_path("cannot list", dir)?,
    };
    let mut pods = Vec::new();
    for entry in entries {
        let name = entry.on_path("cannot list", dir)?.file_name();
        pods.extend(name.to_str().and_then(|name| PodName::parse(name).ok()));
    }
    pods.sort();
    Ok(pods)
}

/// Makes a new namespace, bound to the pod's file, and runs `inside` there, on a thread that
/// does nothing else. Undone when `inside` fails.
///
/// # Errors
/// When there is such a file; 101 when the kernel refuses; `inside`'s own.
pub fn create<T: Send>(pod: &PodName, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = path(pod);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(DIR)
        .on_path("cannot make the folder", Path::new(DIR))?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)
        .on_path("cannot make", &path)?;
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            bind_new_namespace(&path)?;
            inside()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::new("the thread in the new namespace panicked")))
    });
    if outcome.is_err() {
        let _ = remove(pod); // what failed first is what the reader needs
    }
    outcome
}

fn bind_new_namespace(path: &Path) -> Result<()> {
    let refused = |attempt: String, err: rustix::io::Errno| {
        let hint = match err {
            rustix::io::Errno::PERM => "it needs CAP_SYS_ADMIN",
            rustix::io::Errno::NOSPC => {
                "the limit of namespaces is reached: see sysctl user.max_net_namespaces"
            }
            _ => "",
        };
        let msg = format!("{attempt}: the kernel says: {err}");
        Error::new(msg).hint(hint)
    };
    enter_new_network_namespace().map_err(|err| refused("make a network namespace".into(), err))?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(|err| {
        refused(
            format!("bind the network namespace to {}", path.display()),
            err,
        )
    })
}

/// Takes a pod's name away; its namespace ends with the last process in it. Nothing to remove
/// is success.
pub fn remove(pod: &PodName) -> Result<()> {
    let path = path(pod);
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match unmount(&path, flags) {
            Ok(()) => {} // once more: two may lie on one another
            // No mount, or no file.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(err) => {
                return Err(Error::new(format!(
                    "unmount {}: the kernel says: {err}",
                    path.display()
                )));
            }
        }
    }
    // This also takes it from mount namespaces that have a copy of the mount.
    match fs::remove_file(&path) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(Error::io("cannot remove", &path, err))
        }
        _ => Ok(()),
    }
}
