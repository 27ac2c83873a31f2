//! Pause processes, the network namespaces that they hold, and who lives in them.
//!
//! A pod here is a network namespace with a name: [`pin`] binds it to a file under
//! /run/pausenet/netns, so that it can be found, and outlives everybody in it. [`pause`] is the
//! process that stands for it, and [`processes`] tells who else is inside. What these tell is read
//! from the kernel each time; nothing is written down that could become untrue.
//!
//! CNI is not spoken here: [`crate::runtime`] does.

pub mod advice;
pub mod cgroup;
pub mod container;
pub mod death;
pub mod interfaces;
mod name;
pub mod netns_mounts;
pub mod origin;
pub mod pause;
pub mod pin;
pub mod processes;
pub mod registration;
pub mod sandbox;
pub mod scan;
pub mod supervisor;
pub mod text;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use name::PodName;
pub use pin::pod_of_ours;

use crate::{During, Result};
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::lock::Lock;
use pausenet::kernel::{RouteSocket, link};
use pausenet::plan::Ownership;

/// Where the locks of pods are.
pub const LOCKS: &str = "/run/pausenet/lock/pods";

/// Waits until nobody else makes or removes the pod.
pub fn lock(pod: &PodName) -> Result<Lock> {
    Ok(Lock::take(Path::new(LOCKS), pod)?)
}

/// The host ends on this host whose alias names the pod as container.
///
/// # Errors
/// When the kernel refuses.
pub fn attachments(socket: &mut RouteSocket, pod: &PodName) -> Result<Vec<(Link, Attachment)>> {
    let mut links = links(socket, pod)?;
    links.retain(|(link, _)| link.kind == "veth");
    Ok(links)
}

/// Every link on this host whose alias names the pod as container: host ends, and IFBs.
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
