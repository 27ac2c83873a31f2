//! `pausectl docker attach`: a network for a container that has none.

use super::attachment::{self, Place};
use super::etc_hosts;
use super::network_location::Home;
use super::record::{self, Kind, NETWORK_LABEL, Record, Template};
use super::{
    find, find_running, listen, look, made, made_json, record_of, refuse_survivors, usage,
};
use crate::attachment_settings::{WishOptions, Wishes};
use crate::docker_api::{Container, ContainerRef, Docker, NetworkMode};
use crate::options::{DockerOptions, NetworkOptions, PluginOptions};
use crate::published_ports::Port;
use crate::{Output, Result, print, print_json};
use pausenet::cni::result::AddResult;
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::conflist::NetworkList;

const EXAMPLES: &str = "\
Examples:
  docker run -d --net=none --name job IMAGE
  pausectl docker attach job --network podnet
  pausectl docker attach job --network podnet --publish 8080:80

The container has to run, and to have been made with --net=none: then Docker has no
say in its network. A restart gives it a new, empty namespace: attach it again, or let
pausectl docker watch do so.";

/// Attach a running container that was made with --net=none to a network
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Attach {
    /// The container: its name, its ID, or the beginning of that
    container: String,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    wishes: WishOptions,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Attaches a container, or changes nothing.
///
/// # Errors
/// What stood in the way, after everything was undone.
pub fn attach(options: &Attach, output: Output) -> Result<()> {
    let name = ContainerRef::parse(&options.container).map_err(usage)?;
    let (ifname, mut wishes) = options.wishes.parse().map_err(usage)?;
    let runtime = options.plugins.runtime();
    let (record, result) = block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen()?;
        let container = docker.inspect(&name).await?;
        let pid = running_alone(&docker, &container).await?;
        let known = record_of(&name, Some(&container))?;
        let list = network(options, &container, known.as_ref())?;
        let mut addresses = Vec::new();
        if wishes == Wishes::default()
            && let Some(known) = known.as_ref().filter(|known| known.list.name == list.name)
        {
            wishes.clone_from(&known.wishes);
            addresses.clone_from(&known.addresses);
        }
        let mut record = Record {
            identity: record::identity_of(&container)?,
            kind: known.as_ref().map_or(Kind::Attached, |known| known.kind),
            container: Some(container.id.clone()),
            name: container.name.to_string(),
            wanted: true,
            ifname,
            list,
            wishes,
            addresses,
            template: known
                .and_then(|known| known.template)
                .or_else(|| Some(Template::of(&container))),
        };
        let _lock = record::lock(&record.identity)?;
        let (home, containers) = look(&docker, &record).await?;
        let place = Place::of_process(pid)?;
        refuse_survivors(&record, Some(&place), &home, &containers)?;
        if home == Home::Gone {
            let mut ports = record.wishes.ports.iter();
            ports.try_for_each(Port::refuse_served)?;
        }
        let result =
            attachment::attach_again(&runtime, &mut record, &place, &mut interrupt).await?;
        etc_hosts::name_addresses(&docker, &record).await;
        Result::<(Record, AddResult)>::Ok((record, result))
    })?;
    match output {
        Output::Json => print_json(&made_json(&record, &result)),
        Output::Text => print(&made(&record, &result)),
    }
}

/// The process of a container whose network nobody else sees to.
///
/// # Errors
/// An error that names what it has, and what to do instead.
async fn running_alone(docker: &Docker, container: &Container) -> Result<u32, Error> {
    let refuse = |why: String, hint: String| {
        Err(Error::new(format!("container {container} {why}")).hint(hint))
    };
    match &container.network {
        NetworkMode::None => {}
        NetworkMode::Host => {
            return refuse(
                "has the host's network".into(),
                "make it with --net=none".into(),
            );
        }
        NetworkMode::Container(owner) => {
            let owner = match ContainerRef::parse(owner) {
                Ok(id) => find(docker, &id).await?,
                Err(_) => None,
            };
            return match owner {
                Some(owner) => refuse(
                    format!("has no network of its own: it shares that of {owner}"),
                    format!("attach that one: pausectl docker attach {owner}"),
                ),
                None => refuse(
                    "shares the network of a container that was removed".into(),
                    format!("if its interface is gone: pausectl rescue {container}"),
                ),
            };
        }
        NetworkMode::Docker(name) => {
            return refuse(
                format!("has a network of Docker's ({name})"),
                format!(
                    "make it with --net=none; if its interface has vanished: pausectl rescue {container}"
                ),
            );
        }
    }
    Ok(find_running(docker, &container.by_id()).await?.1)
}

/// The network that was named; else what the container had, what its label says, or the first.
fn network(
    options: &Attach,
    container: &Container,
    known: Option<&Record>,
) -> Result<NetworkList, Error> {
    let network = &options.network;
    if network.conf.is_some() || network.network.is_some() {
        return network.load();
    }
    match (known, container.labels.get(NETWORK_LABEL)) {
        (Some(known), _) => Ok(known.list.clone()),
        (None, Some(label)) => NetworkList::find(&network.conf_dir, Some(label)),
        (None, None) => network.load(),
    }
}
