//! What `pausectl` and `pausenetd` share.
//!
//! * [`runtime`]: the runtime's side of CNI: runs a network's plugins for a pod.
//! * [`anchor`]: pause processes, the namespaces they hold, and the members of those.
//! * [`install`]: puts files in place atomically, and removes them again.
//! * [`table`]: plain text tables for output.

pub mod anchor;
mod error;
pub mod install;
pub mod runtime;
pub mod table;
mod wait;

pub use error::{During, Error, OnPath, Result};
pub use wait::block_on;
