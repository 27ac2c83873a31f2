//! The built plugin against the real kernel, each test in namespaces of its own.

#[path = "../common/mod.rs"]
mod common;

mod add;
mod bad_input;
mod check;
mod concurrency;
mod debris;
mod del;
mod invocation;
mod masquerade;
mod ports;
mod traffic;
mod versions;
mod waiting;
mod wire;
