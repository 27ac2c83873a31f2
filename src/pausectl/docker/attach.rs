//! `pausectl docker attach`: a network for a container that has none.

use super::attachment::{self, Attached, TargetNetns};
use super::etc_hosts;
use super::lookup::{
    find, find_record, find_running, observe, refuse_if_members_remain, refuse_taken_ports,
};
use super::network_location::LinksInside;
use super::record::{self, Kind, NETWORK_LABEL, NetworkRecord, Record, Template};
use super::report::{attached_json, attached_text};
use crate::attachment_settings::{AttachmentOptions, AttachmentSettings};
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json};
use crate::docker_api::{Container, ContainerRef, Docker, NetworkMode};
use crate::options::{DockerOptions, NetworkOptions, PluginOptions};
use pausenet::cni::IfName;
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::conflist::NetworkList;

const EXAMPLES: &str = "\
Examples:
  docker run -d --net=none --name job IMAGE
  pausectl docker attach job --network podnet
  pausectl docker attach job --network podnet --publish 8080:80
  pausectl docker attach job --network storage
  pausectl docker attach job

The container must be running, and created with --net=none, so that Docker leaves its
network alone. It may have several networks: each attach adds one, on the next free
interface of eth0, eth1, …, or on that of --ifname. detach removes one or all.

A restart gives the container a new, empty namespace: attach it again, without naming a
network, and it has them all again; or let pausectl docker watch do so.";

/// Attach a running container that was created with --net=none to a network, or to one more
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
    let (ifname, settings) = options.settings.parse().map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let (record, attached) = block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen_for_signals()?;
        let container = docker.inspect(&name).await?;
        let pid = running_alone(&docker, &container).await?;
        let identity = match find_record(&name, Some(&container))? {
            Some(known) => known.identity,
            None => record::identity_of(&container)?,
        };
        let _lock = record::lock(&identity)?;
        let known = record::load(&identity);
        let mut record = Record {
            identity,
            kind: known.as_ref().map_or(Kind::Attached, |known| known.kind),
            container: Some(container.id.clone()),
            name: container.name.to_string(),
            unfinished: false,
            networks: known
                .as_ref()
                .map_or_else(Vec::new, |known| known.networks.clone()),
            template: known
                .and_then(|known| known.template)
                .or_else(|| Some(Template::from_container(&container))),
        };
        let target_netns = TargetNetns::of_process(pid)?;
        attachment::remove_unfinished(&runtime, &record).await?;
        let there = target_netns.attached(&record)?;
        attachment::complete_record(&mut record)?;
        if !there.is_empty() {
            etc_hosts::set_addresses(&docker, &record).await;
        }
        let new = selected_networks(options, &container, &record, &there)?;
        let new = with_settings(new, settings, ifname.as_ref())?;
        let new = with_interfaces(new, &record, ifname.as_ref(), &target_netns, &there)?;
        let (location, containers) = observe(&docker, &record).await?;
        refuse_if_members_remain(&record, Some(&target_netns), &location, &containers)?;
        let ports: Vec<_> = new
            .iter()
            .flat_map(|network| network.settings.ports.clone())
            .collect();
        refuse_taken_ports(Some(&docker), &ports, &record.identity).await?;
        let mut attached = Vec::new();
        for network in new {
            let one = attachment::reattach(
                &runtime,
                &mut record,
                network,
                &target_netns,
                &mut interrupt,
            );
            attached.push(one.await?);
        }
        // After a restart of the container, its other networks too.
        let others =
            attachment::reattach_missing(&runtime, &mut record, &target_netns, &mut interrupt);
        attached.extend(others.await?);
        etc_hosts::set_addresses(&docker, &record).await;
        Result::<(Record, Vec<Attached>)>::Ok((record, attached))
    })?;
    match output {
        Output::Json => print_json(&attached_json(&record, &attached)),
        Output::Text => print(&attached_text(&record, &attached)),
    }
}

/// A network to attach, and its record if the container had it before.
struct Selected {
    list: NetworkList,
    known: Option<NetworkRecord>,
}

/// The networks given on the command line, else the container's own that it does not have now, else
/// those of its label, else the first in the folder.
fn selected_networks(
    options: &Attach,
    container: &Container,
    record: &Record,
    there: &[IfName],
) -> Result<Vec<Selected>, Error> {
    let is_missing = |network: &&NetworkRecord| !there.contains(&network.ifname);
    let known = |network: &NetworkRecord| Selected {
        list: network.list.clone(),
        known: Some(network.clone()),
    };
    let network = &options.network;
    if !network.is_given() {
        let missing: Vec<_> = record.networks.iter().filter(is_missing).collect();
        let wanted = missing.iter().filter(|network| network.wanted);
        let mut selected: Vec<_> = wanted.map(|network| known(network)).collect();
        if selected.is_empty() {
            selected.extend(missing.into_iter().map(known));
        }
        if !selected.is_empty() {
            return Ok(selected);
        }
        if let Some(ifname) = there.first() {
            return Err(attachment::already_has(record, ifname));
        }
    }
    let lists = match container.labels.get(NETWORK_LABEL) {
        Some(label) if !network.is_given() => record::labelled_networks(label, &network.conf_dir)?,
        _ => network.load()?,
    };
    let selected = lists.into_iter().map(|list| {
        let mut missing = record.networks.iter().filter(is_missing);
        let known = missing.find(|network| network.list.name == list.name);
        let known = known.cloned();
        Selected { list, known }
    });
    Ok(selected.collect())
}

/// The networks with the settings of the command line, or else their last ones.
fn with_settings(
    selected: Vec<Selected>,
    settings: AttachmentSettings,
    ifname: Option<&IfName>,
) -> Result<Vec<(Selected, AttachmentSettings, Vec<String>)>> {
    let lists: Vec<_> = selected.iter().map(|network| &network.list).collect();
    let settings = settings.for_networks(ifname, &lists).map_err(Stop::usage)?;
    let each = selected.into_iter().zip(settings).map(|(network, given)| {
        let known = network.known.as_ref();
        match known.filter(|_| given == AttachmentSettings::default()) {
            Some(known) => {
                let (settings, addresses) = (known.settings.clone(), known.addresses.clone());
                (network, settings, addresses)
            }
            None => (network, given, Vec::new()),
        }
    });
    Ok(each.collect())
}

/// Gives each network its interface: the given one, its last one, or the first that is free.
fn with_interfaces(
    networks: Vec<(Selected, AttachmentSettings, Vec<String>)>,
    record: &Record,
    ifname: Option<&IfName>,
    target_netns: &TargetNetns,
    there: &[IfName],
) -> Result<Vec<NetworkRecord>, Error> {
    let inside = LinksInside::of(target_netns.netns())?;
    let mut new: Vec<NetworkRecord> = Vec::new();
    for (Selected { list, known }, settings, addresses) in networks {
        let has_it = |network: &&NetworkRecord| {
            network.list.name == list.name && there.contains(&network.ifname)
        };
        let free = || {
            // A second interface in the same network is made only on explicit request.
            if let Some(same) = record.networks.iter().find(has_it) {
                return Err(attachment::already_has(record, &same.ifname));
            }
            let wanted = record.wanted().map(|network| &network.ifname);
            let others: Vec<_> = wanted
                .chain(new.iter().map(|network| &network.ifname))
                .collect();
            inside.free_name(&others)
        };
        let ifname = match (ifname, &known) {
            (Some(ifname), _) => ifname.clone(),
            (None, Some(known)) => known.ifname.clone(),
            (None, None) => free()?,
        };
        if inside.named(&ifname).is_some() {
            return Err(attachment::already_has(record, &ifname));
        }
        new.push(NetworkRecord {
            addresses,
            ..NetworkRecord::new(ifname, list, settings)
        });
    }
    Ok(new)
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
