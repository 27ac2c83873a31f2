//! `pausectl network`: networks as a whole.

mod rm;

pub(crate) use rm::{Remove, rm};
