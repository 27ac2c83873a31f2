//! `pausectl` against the real kernel and real plugins, each test in namespaces of its own.

#[path = "../common/mod.rs"]
mod common;

mod create;
mod exec;
mod failures;
mod install;
mod ls;
mod rm;
mod site;
