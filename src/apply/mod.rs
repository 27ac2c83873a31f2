//! Makes a plan so, undoes it, and compares it with what is there.
//!
//! The only rooms that know both the plan and the kernel. What is shared by attachments (the
//! bridge, forwarding) is made when missing and never undone; what belongs to one attachment is
//! its veth pair, and goes with it.

mod bridge;
mod container;
mod verify;
mod veth;

use std::path::Path;
use std::time::Duration;

pub use verify::verify;
pub use veth::{clear_debris, ensure_name_is_free, host_end, remove};

use crate::cni::{Code, Error, IfName, Result};
use crate::kernel::link::Link;
use crate::kernel::lock::Lock;
use crate::kernel::netns::Netns;
use crate::kernel::{Refusal, RouteSocket, link};
use crate::plan::Plan;

/// Where the locks of attachments are.
const LOCKS: &str = "/run/pausenet/lock";

/// How long the kernel may take for what it does by itself: a host end that comes up once both
/// ends are switched on, an IPv6 address that is taken into use. It does either in well under a
/// millisecond; the limit is there to end in an error and not in a time-out of the runtime.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// The kernel as one request sees it: the host's side, opened once, and the attachment's lock.
pub struct Host {
    pub netns: Netns,
    pub socket: RouteSocket,
    lock: Lock,
}

impl Host {
    /// Opens the host's side and waits for the lock of the attachment with this host end.
    ///
    /// # Errors
    /// Codes 5 and 101.
    pub fn open(host_end: &IfName) -> Result<Self> {
        let lock = Lock::take(Path::new(LOCKS), host_end)?;
        let netns = Netns::own()?;
        let socket = RouteSocket::open()
            .map_err(|err| Refusal::from(err).during("open a netlink socket on the host"))?;
        Ok(Self {
            netns,
            socket,
            lock,
        })
    }

    /// The attachment is gone, and so is its lock.
    pub fn forget(self) {
        self.lock.remove();
    }
}

/// What an attachment came to look like, for the result.
#[derive(Debug)]
pub struct Attached {
    pub bridge: Link,
    pub host_end: Link,
    pub container_mac: crate::cni::MacAddr,
}

/// Makes the plan so. On failure everything that belongs to this attachment is undone.
///
/// # Errors
/// Code 100 when the interface or the attachment exists; 7 when the bridge is none or has
/// another address; 5 and 101 when the kernel refuses something.
pub fn attach(host: &mut Host, netns: &Netns, plan: &Plan) -> Result<Attached> {
    let bridge = bridge::ensure(&mut host.socket, &plan.bridge)?;
    let (host_end, container_mac) = veth::create(host, netns, plan, &bridge)?;
    match wire(host, netns, plan, &bridge, &host_end) {
        Ok(host_end) => Ok(Attached {
            bridge,
            host_end,
            container_mac,
        }),
        Err(err) => {
            // A failure here adds nothing that the reader could use: what is left has no
            // alias, so the next ADD or DEL takes it for the debris that it is.
            let _ = link::delete(&mut host.socket, host_end.index);
            Err(err)
        }
    }
}

/// Configures both ends of a new pair. The last change is the alias, which makes it whole.
fn wire(
    host: &mut Host,
    netns: &Netns,
    plan: &Plan,
    bridge: &Link,
    host_end: &Link,
) -> Result<Link> {
    let container_index = host_end.peer.ok_or_else(|| {
        Error::new(
            Code::Internal,
            format!("the kernel gave {} no peer", host_end.name),
        )
    })?;
    let inside = container::configure(host, netns, plan, container_index)?;
    let host_end = veth::finish(&mut host.socket, plan, bridge, host_end)?;
    container::settle(host, netns, plan, inside)?;
    Ok(host_end)
}
