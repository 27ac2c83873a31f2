//! The thin layer: what the kernel is asked and told, in its own words.
//!
//! Every function here is one idea over [`netlink`] or a file under /proc/sys; none decides
//! anything. Handles are opened once, at the top, and handed down.
//!
//! Netlink here is synchronous on purpose. The kernel works through a request while it is being
//! sent, so the answer is there when `send` returns: an event loop would add system calls
//! (epoll, an eventfd, a wake-up for each answer) and could never overlap anything.

pub mod address;
pub mod answer;
pub mod callers;
pub mod conntrack;
pub mod error;
pub mod forwarding;
pub mod legacy;
pub mod link;
pub mod lock;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod owned_route;
pub mod route;
pub mod shaping;
pub mod stamp;
pub mod sysctl;
pub mod unsafe_calls;
pub mod vlan;
pub mod watch;

pub use error::{BatchError, KernelError};
pub use netlink::RouteSocket;
