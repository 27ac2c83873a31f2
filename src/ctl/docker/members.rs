//! Who has joined an anchor, as Docker remembers it: by the anchor's ID.

use super::survey::netns_of;
use crate::docker::{Container, ContainerName, NetworkMode, RestartPolicy};
use crate::kernel::netns::NetnsId;

/// Who joins an anchor and lives elsewhere than it, the oldest first; and who joins those.
pub fn left_behind<'a>(
    anchor: &str,
    netns: Option<NetnsId>,
    containers: &'a [Container],
) -> Vec<&'a Container> {
    let mut owners = vec![anchor.to_owned()];
    let mut found: Vec<&Container> = Vec::new();
    while let Some(owner) = owners.pop() {
        let joins = NetworkMode::Container(owner);
        let mut next: Vec<_> = containers
            .iter()
            .filter(|container| container.network == joins && container.pid.is_some())
            .filter(|container| netns_of(container) != netns)
            .filter(|container| !found.iter().any(|other| other.id == container.id))
            .collect();
        next.sort_by(|one, other| one.created.cmp(&other.created));
        owners.extend(next.iter().map(|container| container.id.to_string()));
        found.extend(next);
    }
    found
}

/// True when a container joins one that Docker does not have (any more).
pub fn is_orphan(member: &Container, containers: &[Container], gone: Option<&Container>) -> bool {
    let NetworkMode::Container(owner) = &member.network else {
        return false;
    };
    let mut there = containers
        .iter()
        .filter(|other| gone.is_none_or(|gone| gone.id != other.id));
    !there.any(|other| other.id.as_str() == owner)
}

/// The command that makes a member anew. What it was run with, besides, its owner knows.
pub fn repair(member: &Container, anchor: &ContainerName) -> String {
    let label = |name: &str| member.labels.get(&format!("com.docker.compose.{name}"));
    match (label("project"), label("service")) {
        (Some(project), Some(service)) => {
            format!("docker compose -p {project} up -d --force-recreate --no-deps {service}")
        }
        _ => {
            let restart = match member.restart {
                RestartPolicy::No => String::new(),
                policy => format!(" --restart {policy}"),
            };
            format!(
                "docker rm -f {member}; docker run -d --name {member} --net=container:{anchor}{restart} {}",
                member.image
            )
        }
    }
}
