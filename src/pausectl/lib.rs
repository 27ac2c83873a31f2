//! The commands of `pausectl`, a module for each; [`cli`] selects one.
//!
//! Anchors in Docker, from the problem to the clean-up: [`with_docker`]. What the commands print:
//! [`screens`].

mod attachment_settings;
mod cli;
mod command;
mod docker;
pub mod docker_api;
mod docker_inventory;
mod doctor;
mod explain;
mod graph;
mod install;
mod leftovers;
mod ls;
mod network;
mod options;
mod pod;
mod published_ports;
mod rescue;
mod sandboxes;
#[doc = include_str!("../docs/screens.md")]
pub mod screens {}
mod shell;
#[doc = include_str!("../docs/docker.md")]
pub mod with_docker {}

pub use cli::main;
