//! What the tests of all clients share. Each test that changes the kernel's network starts with a
//! [`World`]: fresh network and mount namespaces for the test's thread, so that the machine stays as
//! it is. That takes root; `scripts/test.sh` provides it, in a user namespace if the caller is not
//! root.
//!
//! - the host under test: [`World`], [`Container`], and what is on it: [`NetState`], [`Snapshot`],
//!   [`store_files`], [`nftables`]
//! - calls of the plugin: [`Call`], with the configuration [`podnet`]
//! - the built [`programs`], and the real clients from the [`lab`]
//! - what packets do: [`traffic`], [`pings`], and behind a firewall that drops: [`firewall`]

mod call;
mod commands;
mod config;
pub mod daemon;
pub mod docker;
pub mod firewall;
pub mod lab;
pub mod nftables;
pub mod pings;
pub mod processes;
pub mod programs;
pub mod screen;
mod state;
mod store;
pub mod traffic;
pub mod wait;
mod world;

pub use call::{Call, PluginOutput, added, call};
pub use commands::{ip, run, set_sysctl, sysctl};
pub use config::{GROUP, HOST_END, podnet, with};
pub use state::{NetState, Snapshot};
pub use store::{STORES, allocated, allocated_in, run_files, store_files};
pub use world::{Container, World, outside_host};
