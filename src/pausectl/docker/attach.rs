//! `pausectl docker attach`: a network for a container that has none.

use super::attachment::{self, TargetNetns};
use super::etc_hosts;
use super::lookup::{find, find_record, find_running, observe, refuse_if_members_remain};
use super::network_location::NetworkLocation;
use super::record::{self, Kind, NETWORK_LABEL, Record, Template};
use super::report::{attached_json, attached_text};
use crate::attachment_settings::{AttachmentOptions, AttachmentSettings};
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json};
use crate::docker_api::{Container, ContainerRef, Docker, NetworkMode};
use crate::options::{DockerOptions, NetworkOptions, PluginOptions};
use crate::published_ports::PublishedPort;
use pausenet::cni::result::AddResult;
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::conflist::NetworkList;

const EXAMPLES: &str = "\
Examples:
  docker run -d --net=none --name job IMAGE
  pausectl docker attach job --network podnet
  pausectl docker attach job --network podnet --publish 8080:80

The container must be running, and created with --net=none, so that Docker leaves its
network alone. A restart gives it a new, empty namespace: attach it again, or let
pausectl docker watch do so.";

/// Attach a running container that was created with --net=none to a network
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Attach {
    /// The container's name, ID, or ID prefix
    container: String,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    settings: AttachmentOptions,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Attaches a container, or changes nothing.
pub(super) fn attach(options: &Attach, output: Output) -> Result<()> {
    let name = ContainerRef::parse(&options.container).map_err(Stop::usage)?;
    let (ifname, mut settings) = options.settings.parse().map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let (record, result) = block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen_for_signals()?;
        let container = docker.inspect(&name).await?;
        let pid = running_alone(&docker, &container).await?;
        let known = find_record(&name, Some(&container))?;
        let list = network(options, &container, known.as_ref())?;
        let mut addresses = Vec::new();
        if settings == AttachmentSettings::default()
            && let Some(known) = known.as_ref().filter(|known| known.list.name == list.name)
        {
            settings.clone_from(&known.settings);
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
            settings,
            addresses,
            template: known
                .and_then(|known| known.template)
                .or_else(|| Some(Template::from_container(&container))),
        };
        let _lock = record::lock(&record.identity)?;
        let (location, containers) = observe(&docker, &record).await?;
        let target_netns = TargetNetns::of_process(pid)?;
        refuse_if_members_remain(&record, Some(&target_netns), &location, &containers)?;
        if location == NetworkLocation::Gone {
            let mut ports = record.settings.ports.iter();
            ports.try_for_each(PublishedPort::refuse_if_in_use)?;
        }
        let result =
            attachment::reattach(&runtime, &mut record, &target_netns, &mut interrupt).await?;
        etc_hosts::set_addresses(&docker, &record).await;
        Result::<(Record, AddResult)>::Ok((record, result))
    })?;
    match output {
        Output::Json => print_json(&attached_json(&record, &result)),
        Output::Text => print(&attached_text(&record, &result)),
    }
}

/// The PID of a running container whose network nothing else manages.
///
/// # Errors
/// When Docker manages its network; the hint says what to do instead.
async fn running_alone(docker: &Docker, container: &Container) -> Result<u32, Error> {
    let refuse = |why: String, hint: String| {
        Err(Error::new(format!("container {container} {why}")).hint(hint))
    };
    match &container.network {
        NetworkMode::None => {}
        NetworkMode::Host => {
            return refuse(
                "uses the host's network".into(),
                "recreate it with --net=none".into(),
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
                    format!("attach {owner} instead: pausectl docker attach {owner}"),
                ),
                None => refuse(
                    "shares the network of a container that was removed".into(),
                    format!("if its interface is gone: pausectl rescue {container}"),
                ),
            };
        }
        NetworkMode::Docker(name) => {
            return refuse(
                format!("is on Docker's network {name}"),
                format!(
                    "recreate it with --net=none; if its interface is gone: pausectl rescue {container}"
                ),
            );
        }
    }
    Ok(find_running(docker, &container.by_id()).await?.1)
}

/// The network given on the command line, else the container's last one, else that of its label,
/// else the first in the folder.
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
