//! The CNI protocol: a runtime's input to a plugin, and the plugin's output.
//!
//! Nothing here touches the kernel or the disk. Data passes through these files in this order:
//! [`mod@env`] (the `CNI_*` variables), [`config`] (the JSON on stdin, as written), [`request`]
//! (both together, validated), [`call`] (with the verb), and on the way out [`result`] or
//! [`error`].
//!
//! Source of every rule: the CNI specification, version 1.1.0.

pub mod args;
pub mod bandwidth;
pub(crate) mod call;
pub(crate) mod calls;
mod child;
pub mod config;
pub(crate) mod delegate;
pub mod env;
pub mod error;
mod family;
pub mod firewall;
pub mod json;
pub mod link;
mod names;
mod plugin;
pub mod ports;
pub mod request;
pub mod result;
pub mod spelling;
pub mod tuning;
mod version;
mod wiring;

pub(crate) use error::warn;
pub use error::{Code, During, Error, OnPath, Result};
pub use family::Family;
pub use names::{ContainerId, IfName, MacAddr, NetworkName};
pub use plugin::Plugin;
pub use version::SpecVersion;
pub(crate) use wiring::Chained;
