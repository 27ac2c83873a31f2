//! A thin layer over the kernel's interfaces, in the kernel's own terms.
//!
//! Each function wraps one operation on [`netlink`] or a file under /proc or /sys; policy belongs
//! elsewhere. Sockets and namespaces are opened once, at the top, and handed down.
//!
//! Netlink here is synchronous on purpose. The kernel processes a request while it is being sent,
//! so the reply is there when `send` returns: an event loop would add system calls (epoll, an
//! eventfd, a wake-up per reply) and have nothing to overlap.

pub mod address;
pub(crate) mod boot;
pub mod conntrack;
pub(crate) mod departure;
mod error;
pub mod file;
pub mod flock;
pub(crate) mod folder_stamp;
pub mod forwarding;
pub mod iptables_legacy;
pub mod link;
pub mod lock;
pub mod monitor;
mod netlink;
pub mod netns;
pub mod nft;
pub mod owned_route;
mod reply;
mod request;
pub mod route;
mod route_socket;
pub mod running_plugins;
pub mod syscalls;
pub mod sysctl;
pub mod traffic_control;
pub(crate) mod vlan;
mod wait;

pub(crate) use error::KernelPart;
pub use error::{BatchError, KernelError};
pub use request::Request;
pub use route_socket::{Group, RouteSocket};
