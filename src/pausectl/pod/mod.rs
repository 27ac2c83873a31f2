//! `pausectl pod`: pods without a container runtime.

mod create;
mod exec;
mod ls;
mod name;
mod rm;

pub use create::{Create, create};
pub use exec::{Exec, exec};
pub use ls::{List, ls};
pub use rm::{Remove, rm};
