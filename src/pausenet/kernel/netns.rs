//! Network namespaces: opened once by path, checked, and then used by file descriptor, so that it
//! does not matter if the path later leads elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rustix::fs::{FsWord, Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::KernelError;
use super::reply::Message;
use super::route_socket::RouteSocket;
use super::syscalls;
use crate::cni::{Code, Error, Result};

/// The filesystem of namespace files (NSFS_MAGIC in linux/magic.h).
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// The identity of a network namespace, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId(u64, u64);

impl NetnsId {
    /// The namespace of a process's main thread; None when the process is gone or may not be
    /// inspected.
    pub fn of_process(pid: u32) -> Option<Self> {
        Self::of_file(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The identity of the namespace behind a file. The caller must know that the file is a network
    /// namespace, such as one under /proc; [`Netns::open`] checks it.
    pub fn of_file(path: &Path) -> Option<Self> {
        let stat = rustix::fs::stat(path).ok()?;
        Some(Self(stat.st_dev, stat.st_ino))
    }

    /// The number that `readlink /proc/PID/ns/net` and `lsns` show.
    pub fn number(self) -> u64 {
        self.1
    }
}

impl Netns {
    /// Opens the calling thread's own namespace.
    pub fn own() -> Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// Opens the calling thread's own namespace through a socket that was opened there, which is
    /// faster than through /proc.
    pub(crate) fn own_by(socket: &RouteSocket) -> Result<Self> {
        match syscalls::namespace_of_socket(socket) {
            Ok(file) => Ok(Self {
                file: file.into(),
                path: OWN.into(),
            }),
            Err(_) => Self::own(),
        }
    }

    /// Opens a network namespace by path. Checks that the file is on nsfs and that the kernel
    /// reports it as a network namespace.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(Code::InvalidNetns, format!("{} {why}", path.display()))
                .hint("CNI_NETNS has to be the path of a network namespace, such as /run/netns/NAME or /proc/PID/ns/net")
        };
        // NONBLOCK: a FIFO must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Err(invalid("does not exist")),
            Err(err) => {
                let mut refused = invalid(&format!("cannot be opened: {err}"));
                refused.code = Code::of_failure(&err.into(), refused.code);
                return Err(refused);
            }
        };
        let on_nsfs = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == NSFS_MAGIC);
        if !on_nsfs {
            return Err(invalid("is not a network namespace"));
        }
        if syscalls::namespace_kind(&file) != Ok(syscalls::NETWORK) {
            return Err(invalid("is a namespace, but not a network namespace"));
        }
        Ok(Self {
            file: file.into(),
            path: path.to_owned(),
        })
    }

    /// The path by which it was opened, for results and messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when both are the same namespace.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        Ok(self.id()? == other.id()?)
    }

    /// The identity of this namespace among all that exist at the same time.
    pub fn id(&self) -> io::Result<NetnsId> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(NetnsId(stat.st_dev, stat.st_ino))
    }

    /// The ID of this namespace in the socket's namespace (netnsid); None when it has none.
    pub fn number(&self, socket: &mut RouteSocket) -> Result<Option<i32>, KernelError> {
        let mut request = NsidMessage::default();
        let file = self.file.as_raw_fd();
        let file = u32::try_from(file).map_err(io::Error::other)?;
        request.attributes = vec![NsidAttribute::Fd(file)];
        let reply = socket.request(RouteNetlinkMessage::GetNsId(request), 0)?;
        let ids = reply.into_iter().flat_map(|message| match message {
            Message::Other(RouteNetlinkMessage::NewNsId(message)) => message.attributes,
            _ => Vec::new(),
        });
        Ok(ids.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        }))
    }

    /// Runs `work` inside this namespace, on the calling thread, and returns to `home`. Sockets and
    /// files under /proc/sys/net that `work` opens stay bound to the namespace.
    ///
    /// # Errors
    /// Code 8 when the namespace cannot be entered; `work`'s own.
    pub fn enter<T>(&self, home: &Self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let go = |to: &Self| {
            move_into_link_name_space(to.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                |err| {
                    Error::new(
                        Code::of_failure(&err.into(), Code::InvalidNetns),
                        format!(
                            "cannot enter network namespace {}: {err}",
                            to.path.display()
                        ),
                    )
                    .hint("entering needs CAP_SYS_ADMIN")
                },
            )
        };
        go(self)?;
        let outcome = work();
        // Whoever stays does all that follows in the wrong namespace, undoing included, so a failure that may
        // pass (no memory) is tried once more.
        go(home).or_else(|_| go(home))?;
        outcome
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
