//! The thin layer: what the kernel is asked and told, in its own words.
//!
//! Every function here is one idea over [`netlink`] or a file under /proc/sys; none decides
//! anything. Handles are opened once, at the top, and handed down.
//!
//! Netlink here is synchronous on purpose. The kernel works through a request while it is being
//! sent, so the answer is there when `send` returns: an event loop would add system calls
//! (epoll, an eventfd, a wake-up for each answer) and could never overlap anything.

pub mod address;
pub mod boot;
pub mod conntrack;
pub mod error;
pub mod folder_stamp;
pub mod forwarding;
pub mod iptables_legacy;
pub mod link;
pub mod lock;
pub mod monitor;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod owned_route;
pub mod reply;
pub mod route;
pub mod running_plugins;
pub mod syscalls;
pub mod sysctl;
pub mod traffic_control;
pub mod vlan;

pub use error::{BatchError, KernelError};
pub use netlink::RouteSocket;
