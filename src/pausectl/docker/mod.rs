//! `pausectl docker`: containers whose network is ours and not Docker's.
//!
//! One file for each command, on these: [`record`] remembers what each container was given,
//! [`network_location`] finds where a network is and who lives there, [`attachment`] makes and removes it.

mod attach;
pub(super) mod attachment;
mod detach;
mod etc_hosts;
mod members;
pub(super) mod network_location;
mod publish;
mod reanchor;
pub(super) mod record;
mod restart_members;
mod up;
mod watch;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::attachment_settings::Wishes;
use super::{Output, Result, Stop, need_root};
use crate::docker_api::{Container, ContainerFilter, ContainerRef, Docker, ErrorKind};
use attachment::Place;
use network_location::Home;
use pausenet::apply::Host;
use pausenet::cni::ContainerId;
use pausenet::cni::result::AddResult;
use pausenet_host::Error;
use pausenet_host::runtime::Interrupt;
use pausenet_host::runtime::cache::{self, Entry};
use record::Record;

const EXAMPLES: &str = "\
Examples:
  pausectl docker up web --network podnet --publish 8080:80
  docker run -d --net=container:web nginx
  pausectl docker publish web 8443:443
  pausectl docker reanchor web

An anchor is a container of the pause image that holds a network namespace; its
network is made by CNI plugins, so Docker does not take it down with a container.";

/// Containers in Docker with a network of CNI plugins: anchors, and what joins them
#[derive(Debug, clap::Subcommand)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub enum Command {
    Up(up::Up),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Publish(publish::Publish),
    Unpublish(publish::Unpublish),
    Reanchor(reanchor::Reanchor),
    Watch(watch::Watch),
}

/// Serves a command.
///
/// # Errors
/// The command's.
pub fn run(command: &Command, output: Output) -> Result<()> {
    need_root()?;
    match command {
        Command::Up(options) => up::up(options, output),
        Command::Attach(options) => attach::attach(options, output),
        Command::Detach(options) => detach::detach(options, output),
        Command::Publish(options) => publish::publish(options, output),
        Command::Unpublish(options) => publish::unpublish(options, output),
        Command::Reanchor(options) => reanchor::reanchor(options, output),
        Command::Watch(options) => watch::watch(options, output),
    }
}

/// Wrong usage, said of an argument.
pub(super) fn usage(why: impl Into<String>) -> Stop {
    Stop::Usage(Error::new(why))
}

pub(super) fn listen() -> Result<Interrupt, Error> {
    Interrupt::listen().map_err(|err| Error::new(format!("cannot listen for signals: {err}")))
}

/// A container by what a person calls it; None when there is none.
pub(super) async fn find(docker: &Docker, name: &ContainerRef) -> Result<Option<Container>, Error> {
    match docker.inspect(name).await {
        Ok(container) => Ok(Some(container)),
        Err(failure) if failure.kind == ErrorKind::NotFound => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// A container that has to run, and its process.
pub(super) async fn find_running(
    docker: &Docker,
    name: &ContainerRef,
) -> Result<(Container, u32), Error> {
    let container = docker.inspect(name).await?;
    match container.pid {
        Some(pid) => Ok((container, pid)),
        None => Err(Error::new(format!(
            "container {container} does not run: it is {}",
            container.state
        ))
        .hint(format!("docker start {container}"))),
    }
}

/// The record that a name means: a container's, or that of one which is gone.
pub(super) fn record_of(
    name: &ContainerRef,
    container: Option<&Container>,
) -> Result<Option<Record>, Error> {
    if let Some(container) = container {
        let own = record::of(&record::identity_of(container)?);
        // A rescued container, and one that has got its label from elsewhere.
        let by_id = || record::of(&ContainerId::parse(container.id.as_str()).ok()?);
        return Ok(own.or_else(by_id));
    }
    let called = |record: &Record| {
        record.name == name.as_str()
            || record.container.as_ref().is_some_and(|id| {
                name.as_str().len() >= 12 && id.as_str().starts_with(name.as_str())
            })
    };
    Ok(record::all().into_iter().find(called))
}

/// Where a record's network is now, and the containers that there are.
pub(super) async fn look(
    docker: &Docker,
    record: &Record,
) -> Result<(Home, Vec<Container>), Error> {
    let containers = docker.list(ContainerFilter::All).await?;
    Ok((home(record)?, containers))
}

/// The same without Docker. An identity has one network; but the record may be of another than
/// the one that it has yet.
pub(super) fn home(record: &Record) -> Result<Home, Error> {
    let namespaces = network_location::Namespaces::read()?;
    let mut socket = Host::open_socket()?;
    let own = record.attachment();
    let remembered = cache::of_container(&record.identity)?;
    let is_own = |entry: &&Entry| entry.parameters.attachment == own;
    let home = namespaces.home(&mut socket, &own, remembered.iter().find(is_own))?;
    for entry in remembered.iter().filter(|entry| !is_own(entry)) {
        let other = namespaces.home(&mut socket, &entry.parameters.attachment, Some(entry))?;
        if home.netns().is_none() && other.netns().is_some() {
            return Ok(other);
        }
    }
    Ok(home)
}

/// `api, db`; processes that are no container's by their numbers.
pub(super) fn who(home: &Home, containers: &[Container]) -> String {
    let names: Vec<_> = home
        .containers(containers)
        .iter()
        .map(|container| container.name.to_string())
        .collect();
    match (home, names.as_slice()) {
        (Home::Lived { pids, .. }, []) => {
            let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
            format!("process {}", pids.join(", "))
        }
        (_, names) => names.join(", "),
    }
}

/// A network that lives on with others is not taken from them.
pub(super) fn refuse_survivors(
    record: &Record,
    place: Option<&Place>,
    home: &Home,
    containers: &[Container],
) -> Result<(), Error> {
    let own = place.and_then(|place| place.netns().id().ok());
    if home.netns().is_none_or(|home| Some(home) == own) {
        return Ok(());
    }
    let name = &record.name;
    Err(Error::new(format!(
        "the network of {name} lives on in an earlier namespace, with {}",
        who(home, containers)
    ))
    .hint(format!(
        "give them a new anchor, and keep it: pausectl docker reanchor {name}; or take it from \
         them: pausectl docker detach --force {name}"
    )))
}

/// What was made, in a line for each thing that a person may want to know.
pub(super) fn made(record: &Record, result: &AddResult) -> String {
    let addresses: Vec<_> = result
        .ips
        .iter()
        .map(|ip| ip.address)
        .map(|address: IpNetwork| address.to_string())
        .collect();
    let addresses = match addresses.as_slice() {
        [] => "no address".to_owned(),
        addresses => addresses.join(", "),
    };
    let mut text = format!(
        "{}: {addresses} on {} (network {})\n",
        record.name, record.ifname, record.list.name
    );
    text.push_str(&published(&record.name, &record.wishes));
    text
}

/// A line for each port.
fn published(name: &str, wishes: &Wishes) -> String {
    wishes
        .ports
        .iter()
        .map(|port| {
            format!(
                "{name}: port {} of the host leads to {}\n",
                port.place(),
                port.container_port
            )
        })
        .collect()
}

pub(super) fn made_json(record: &Record, result: &AddResult) -> Value {
    json!({
        "name": record.name,
        "container": record.container.as_ref().map(|id| id.as_str()),
        "containerId": record.identity.as_str(),
        "network": record.list.name.as_str(),
        "ifname": record.ifname.as_str(),
        "addresses": result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(),
        "ports": record.wishes.ports,
    })
}
