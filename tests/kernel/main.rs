//! The built plugin against the real kernel, each test in namespaces of its own.

#[path = "../common/mod.rs"]
mod common;

mod add;
mod bad_input;
mod bandwidth;
mod check;
mod concurrency;
mod debris;
mod del;
mod invocation;
mod reclaim;
mod traffic;
mod versions;
mod vlan;
mod waiting;
