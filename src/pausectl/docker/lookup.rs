//! Looks up containers, their records, and where their networks are.

use super::attachment::TargetNetns;
use super::network_location::{Namespaces, NetworkLocation};
use super::record::{self, Record};
use crate::docker_api::{Container, ContainerFilter, ContainerRef, Docker, ErrorKind};
use pausenet::apply::Host;
use pausenet::cni::ContainerId;
use pausenet_host::Error;
use pausenet_host::runtime::cache::{self, Entry};

/// A container; None if Docker has none of this name or ID.
pub(super) async fn find(docker: &Docker, name: &ContainerRef) -> Result<Option<Container>, Error> {
    match docker.inspect(name).await {
        Ok(container) => Ok(Some(container)),
        Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// A container that must be running, and its PID.
pub(crate) async fn find_running(
    docker: &Docker,
    name: &ContainerRef,
) -> Result<(Container, u32), Error> {
    let container = docker.inspect(name).await?;
    match container.pid {
        Some(pid) => Ok((container, pid)),
        None => Err(Error::new(format!(
            "container {container} is not running: it is {}",
            container.state
        ))
        .hint(format!("start it: docker start {container}"))),
    }
}

/// The record of a container, or, by name or ID, that of one which is gone.
pub(super) fn find_record(
    name: &ContainerRef,
    container: Option<&Container>,
) -> Result<Option<Record>, Error> {
    if let Some(container) = container {
        let own = record::load(&record::identity_of(container)?);
        // A rescued container is recorded by its ID, even if it has a label with an identity.
        let by_id = || record::load(&ContainerId::parse(container.id.as_str()).ok()?);
        return Ok(own.or_else(by_id));
    }
    let called = |record: &Record| {
        record.name == name.as_str()
            || record.container.as_ref().is_some_and(|id| {
                name.as_str().len() >= 12 && id.as_str().starts_with(name.as_str())
            })
    };
    Ok(record::load_all().into_iter().find(called))
}

/// Where a record's network is now, and all containers.
pub(super) async fn observe(
    docker: &Docker,
    record: &Record,
) -> Result<(NetworkLocation, Vec<Container>), Error> {
    let containers = docker.list(ContainerFilter::All).await?;
    Ok((locate(record)?, containers))
}

/// Where a record's network is now. The cache may still hold another attachment of the same
/// identity: a record is written before the old network is taken down.
pub(crate) fn locate(record: &Record) -> Result<NetworkLocation, Error> {
    let namespaces = Namespaces::read()?;
    let mut socket = Host::open_socket()?;
    let own = record.attachment();
    let remembered = cache::of_container(&record.identity)?;
    let is_own = |entry: &&Entry| entry.parameters.attachment == own;
    let location = namespaces.locate(&mut socket, &own, remembered.iter().find(is_own))?;
    for entry in remembered.iter().filter(|entry| !is_own(entry)) {
        let other = namespaces.locate(&mut socket, &entry.parameters.attachment, Some(entry))?;
        if location.netns().is_none() && other.netns().is_some() {
            return Ok(other);
        }
    }
    Ok(location)
}

/// The containers in a namespace, as `api, db`; without any, the PIDs of its processes.
pub(super) fn member_names(location: &NetworkLocation, containers: &[Container]) -> String {
    let names: Vec<_> = location
        .containers(containers)
        .iter()
        .map(|container| container.name.to_string())
        .collect();
    match (location, names.as_slice()) {
        (NetworkLocation::Occupied { pids, .. }, []) => {
            let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
            format!("process {}", pids.join(", "))
        }
        (_, names) => names.join(", "),
    }
}

/// An error when the network is still in use in another namespace than `target_netns`.
pub(crate) fn refuse_if_members_remain(
    record: &Record,
    target_netns: Option<&TargetNetns>,
    location: &NetworkLocation,
    containers: &[Container],
) -> Result<(), Error> {
    let own = target_netns.and_then(|target_netns| target_netns.netns().id().ok());
    if location
        .netns()
        .is_none_or(|location| Some(location) == own)
    {
        return Ok(());
    }
    let name = &record.name;
    Err(Error::new(format!(
        "the network of {name} is still in use in an earlier namespace, by {}",
        member_names(location, containers)
    ))
    .hint(format!(
        "to keep it and give it a new anchor: pausectl docker reanchor {name}; to take it down: \
         pausectl docker detach --force {name}"
    )))
}
