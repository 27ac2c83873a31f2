//! Looks up containers, their records, and where their networks are.

use super::attachment::TargetNetns;
use super::network_location::{Namespaces, NetworkLocation};
use super::record::{self, Record};
use crate::docker_api::{Container, ContainerFilter, ContainerRef, Docker, ErrorKind};
use crate::published_ports::PublishedPort;
use crate::published_ports::in_use::TakenPorts;
use pausenet::apply::Host;
use pausenet::cni::ContainerId;
use pausenet::kernel::RouteSocket;
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

/// Refuses published ports that anything else than the container of this identity has.
///
/// # Errors
/// Names the port and who has it.
pub(crate) async fn refuse_taken_ports(
    docker: Option<&Docker>,
    ports: &[PublishedPort],
    own: &ContainerId,
) -> Result<(), Error> {
    if ports.is_empty() {
        return Ok(());
    }
    let by_docker = match docker {
        Some(docker) => docker.published_ports().await?,
        None => Vec::new(),
    };
    let records = record::load_all().into_iter();
    let names = records
        .map(|record| (record.identity, record.name))
        .collect();
    let taken = TakenPorts::read()?.with_docker(by_docker, names);
    taken.refuse(ports, Some(own))
}

/// Where a record's network is now, and all containers.
pub(super) async fn observe(
    docker: &Docker,
    record: &Record,
) -> Result<(NetworkLocation, Vec<Container>), Error> {
    let containers = docker.list(ContainerFilter::All).await?;
    Ok((locate(record)?, containers))
}

/// Where a record's networks are now, which are all in one namespace. The cache may still hold
/// another attachment of the same identity: a record is written before the old network is taken
/// down.
pub(crate) fn locate(record: &Record) -> Result<NetworkLocation, Error> {
    locate_among(record, &Namespaces::read()?, &mut Host::open_socket()?)
}

/// The same, with these namespaces.
pub(super) fn locate_among(
    record: &Record,
    namespaces: &Namespaces,
    socket: &mut RouteSocket,
) -> Result<NetworkLocation, Error> {
    let remembered = cache::of_container(&record.identity)?;
    let recorded = record.networks.iter();
    let mut attachments: Vec<_> = recorded.map(|network| record.attachment(network)).collect();
    for entry in &remembered {
        let attachment = &entry.parameters.attachment;
        if !attachments.contains(attachment) {
            attachments.push(attachment.clone());
        }
    }
    let mut found = NetworkLocation::Gone;
    for attachment in &attachments {
        let is_this = |entry: &&Entry| entry.parameters.attachment == *attachment;
        let entry = remembered.iter().find(is_this);
        match namespaces.locate(socket, attachment, entry)? {
            occupied @ NetworkLocation::Occupied { .. } => return Ok(occupied),
            NetworkLocation::Unoccupied => found = NetworkLocation::Unoccupied,
            NetworkLocation::Gone => {}
        }
    }
    Ok(found)
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
