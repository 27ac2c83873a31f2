//! Network namespaces with a name: each is bound to a file, as by `ip netns`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::name::PodName;
use crate::{Error, OnPath, Result};
use pausenet::kernel::netns::Netns;
use pausenet::kernel::syscalls::enter_new_network_namespace;

/// The folder of these files.
const DIR: &str = "/run/pausenet/netns";

/// What exists under a pod's name.
#[derive(Debug)]
pub enum NamedNetns {
    Absent,
    Namespace(Netns),
    /// A file without a namespace bound to it: being created, or left by a crash. A caller that
    /// holds the pod's lock knows that it is the latter.
    Empty,
}

/// The file of a pod.
pub fn path(pod: &PodName) -> PathBuf {
    Path::new(DIR).join(pod.as_str())
}

/// The pod of a file that holds a namespace; None if the file is not ours.
pub fn pod_of_ours(file: &Path) -> Option<PodName> {
    let name = file.strip_prefix(DIR).ok()?;
    PodName::parse(name.to_str()?).ok()
}

/// Looks a pod up.
pub fn look_up(pod: &PodName) -> Result<NamedNetns> {
    let path = path(pod);
    match fs::symlink_metadata(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(NamedNetns::Absent),
        Err(err) => Err(Error::io("cannot look at", &path, err)),
        Ok(_) => Ok(Netns::open(&path).map_or(NamedNetns::Empty, NamedNetns::Namespace)),
    }
}

/// Lists the names of all pods.
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

/// Creates a namespace, binds it to the pod's file, and runs `inside` in it on a separate thread.
/// If `inside` fails, the namespace is removed again.
///
/// # Errors
/// The file exists already, the kernel refuses the namespace or the mount, or `inside` fails.
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

/// Removes a pod's name; its namespace ends with the last process in it. Succeeds if there is
/// nothing to remove.
pub fn remove(pod: &PodName) -> Result<()> {
    let path = path(pod);
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match unmount(&path, flags) {
            Ok(()) => {} // once more: two may lie on one another
            // Not a mount, or no such file.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(err) => {
                return Err(Error::new(format!(
                    "unmount {}: the kernel says: {err}",
                    path.display()
                )));
            }
        }
    }
    // This also detaches the mount's copies in other mount namespaces.
    match fs::remove_file(&path) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(Error::io("cannot remove", &path, err))
        }
        _ => Ok(()),
    }
}
