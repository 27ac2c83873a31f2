//! A small client of the Docker Engine API: it inspects containers, and creates, starts, stops,
//! renames and removes them.
//!
//! This is the only code that talks to the Docker daemon, and no type of the client library is
//! visible outside. An answer is as old as the call that returned it: a container may be gone by
//! the next line.

mod client;
mod container;
mod error;
mod events;
mod names;
mod run_command;
mod summary;

pub use client::{ContainerFilter, Dns, Docker, NewContainer, Slow, Version};
pub use container::{Container, NetworkMode, RestartPolicy, State};
pub use error::{ApiError, ErrorKind, Result};
pub use events::{Action, Event, Events};
pub use names::{ContainerName, ContainerRef, DockerId, Socket};
pub(crate) use run_command::RunCommand;
pub(crate) use summary::{ContainerSummary, RemovedContainer};
