//! What both `pausectl` and `pausenetd` need of a host.
//!
//! * [`runtime`]: the other side of the protocol: a network's plugins, run on a pod.
//! * [`anchor`]: pause processes, the namespaces they hold, and who lives in those.
//! * [`install`]: files put in place without a moment in between, and taken away again.
//! * [`table`]: plain text tables for output.

pub mod anchor;
mod error;
pub mod install;
pub mod runtime;
pub mod table;
mod wait;

pub use error::{During, Error, OnPath, Result};
pub use wait::block_on;
