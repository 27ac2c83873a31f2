//! `pausectl pod`: pods without a container runtime.

mod create;
mod exec;
mod ls;
mod name;
mod ports;
mod rm;

pub(crate) use create::{Create, create};
pub(crate) use exec::{Exec, exec};
pub(crate) use ls::{List, ls};
pub(crate) use ports::{Ports, ports};
pub(crate) use rm::{Remove, rm};
