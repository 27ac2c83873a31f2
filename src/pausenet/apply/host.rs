//! The host as one request sees it: its namespace, a socket, and the attachment's lock.

use std::path::Path;
use std::time::Duration;

use crate::cni::request::Attachment;
use crate::cni::{During, IfName, Result};
use crate::kernel::RouteSocket;
use crate::kernel::lock::Lock;
use crate::kernel::netns::Netns;
use crate::plan::host_end_name;

/// The folder of the attachments' locks.
pub const LOCKS: &str = "/run/pausenet/lock";

/// How long to wait for the kernel's asynchronous work: the host end's carrier after both ends are
/// switched on, and the activation of an IPv6 address. Both take well under a millisecond; the
/// limit only makes sure that a failure ends in an error and not in the runtime's time-out.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Takes the lock of an attachment if it is free.
///
/// # Errors
/// Code 5, naming the path.
pub fn try_lock(host_end: &IfName) -> Result<Option<Lock>> {
    Lock::try_take(Path::new(LOCKS), host_end)
}

/// Whether an ADD or DEL under way holds the attachment's lock. True when that is unknown.
pub fn is_locked(attachment: &Attachment) -> bool {
    !matches!(try_lock(&host_end_name(attachment)), Ok(Some(_)))
}

/// The kernel as one request sees it: the host's side, opened once, and the attachment's lock.
pub struct Host {
    pub(crate) netns: Netns,
    pub(crate) socket: RouteSocket,
    _lock: Lock,
}

impl Host {
    /// Opens the host's side and waits for the lock of the attachment with this host end.
    pub fn open(host_end: &IfName) -> Result<Self> {
        let lock = Lock::take(Path::new(LOCKS), host_end)?;
        let socket = Self::open_socket()?;
        let netns = Netns::own_by(&socket)?;
        Ok(Self {
            netns,
            socket,
            _lock: lock,
        })
    }

    /// Opens a socket on the host's side for work on a whole network, without a lock.
    pub fn open_socket() -> Result<RouteSocket> {
        RouteSocket::open().during("open a netlink socket on the host")
    }
}
