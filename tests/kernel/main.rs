//! The built plugin against the real kernel, each test in namespaces of its own.

#[path = "../common/mod.rs"]
mod common;

mod add;
