//! Pause processes, the network namespaces they hold, and the members of those.
//!
//! A pod here is a network namespace with a name: [`named_netns`] binds it to a file under
//! /run/pausenet/netns, so that it can be found and outlives all processes in it. [`pause`] is its
//! anchor process, and [`processes`] finds the other processes inside. All of this is read from the
//! kernel each time; nothing is stored that could go out of date.
//!
//! Calls to CNI plugins are in [`crate::runtime`].

pub mod advice;
pub mod cgroup;
pub mod container;
pub mod death;
pub mod interfaces;
mod members;
mod name;
pub mod named_netns;
mod netns_mounts;
pub mod origin;
pub mod pause;
pub mod processes;
pub mod registration;
pub mod sandbox;
pub mod scan;
mod supervisor;
pub mod text;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use name::PodName;
pub use named_netns::pod_of_ours;

use crate::{During, Result};
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::lock::{Lock, TOOL_LIMIT};
use pausenet::kernel::{RouteSocket, link};
use pausenet::plan::Ownership;

/// The folder of the pods' lock files.
pub const LOCKS: &str = "/run/pausenet/lock/pods";

/// Locks the pod; waits while another process creates or removes it.
pub fn lock(pod: &PodName) -> Result<Lock> {
    Ok(Lock::take_within(Path::new(LOCKS), pod, TOOL_LIMIT)?)
}

/// The host ends whose alias names the pod as their container.
///
/// # Errors
/// When the kernel refuses.
pub fn attachments(socket: &mut RouteSocket, pod: &PodName) -> Result<Vec<(Link, Attachment)>> {
    let mut links = links(socket, pod)?;
    links.retain(|(link, _)| link.kind == "veth");
    Ok(links)
}

/// Every link on the host whose alias names the pod as its container: host ends and IFBs.
///
/// # Errors
/// When the kernel refuses.
pub fn links(socket: &mut RouteSocket, pod: &PodName) -> Result<Vec<(Link, Attachment)>> {
    let links = link::list(socket).during("list the host's links")?;
    let ours = |link: Link| {
        let attachment = Ownership::of(&link).attachment()?;
        (attachment.container == pod.container_id()).then_some((link, attachment))
    };
    Ok(links.into_iter().filter_map(ours).collect())
}
