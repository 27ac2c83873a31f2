//! `pausectl docker detach`: takes down the network of a container, or of one that is gone.

use serde_json::json;

use super::attachment;
use super::etc_hosts;
use super::lookup::{find, find_record, member_names, observe};
use super::network_location::{self, NetworkLocation};
use super::record::{self, NetworkRecord, Record};
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json};
use crate::docker_api::{Container, ContainerRef};
use crate::options::{DockerOptions, PluginOptions};
use pausenet::cni::IfName;
use pausenet_host::Error;
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl docker detach job
  pausectl docker detach job --network storage
  pausectl docker detach --force web

This works for whatever pausectl attached or rescued: it removes the interface and the
published ports, and frees the address. The container keeps running. A container that is
gone can still be named. Of several networks, --network or --ifname names those to remove.

A network that other containers still use stays, unless --force is given.";

/// Remove a container's networks, even if the container no longer exists
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Detach {
    /// The container's name, ID, or ID prefix
    container: String,

    /// Remove only this network; may be given several times [default: all]
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,

    /// Remove only the network on this interface
    #[arg(long, value_name = "NAME", conflicts_with = "networks")]
    ifname: Option<String>,

    /// Take the network down even if other containers use it
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Detaches a container.
///
/// # Errors
/// When pausectl attached nothing of that name, or other containers still use the network.
pub(super) fn detach(options: &Detach, output: Output) -> Result<()> {
    let name = ContainerRef::parse(&options.container).map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let (record, gone) = block_on(async {
        let docker = options.docker.connect().await?;
        let _interrupt = listen_for_signals()?; // A DEL runs to its end, even on Ctrl-C.
        let container = find(&docker, &name).await?;
        let known = find_record(&name, container.as_ref())?;
        let Some(known) = known else {
            return Err(Error::new(format!("pausectl did not attach {name} to a network"),
            )
            .hint("see what it attached: ls /var/lib/pausenet/docker; Docker removes the networks that it made itself")
            .into());
        };
        let _lock = record::lock(&known.identity)?;
        let mut record = record::load(&known.identity).unwrap_or(known);
        let (location, containers) = observe(&docker, &record).await?;
        if !options.force {
            refuse_others(&record, &location, &containers, container.as_ref())?;
        }
        let gone = selected(options, &record)?;
        if gone.len() == record.networks.len() {
            attachment::detach(&runtime, &record).await?;
        } else {
            for network in &gone {
                attachment::detach_network(&runtime, &record, network).await?;
            }
        }
        let has_label = |container: Container| container.labels.contains_key(record::NETWORK_LABEL);
        // Otherwise the watcher would attach it again, for its label.
        let keep = container.is_some_and(has_label);
        for network in &gone {
            match keep {
                true => record.set_network(NetworkRecord {
                    wanted: false,
                    ..network.clone()
                }),
                false => record.forget_network(&network.ifname),
            }
        }
        etc_hosts::set_addresses(&docker, &record).await;
        record.write()?;
        Result::<_>::Ok((record, gone))
    })?;
    match output {
        Output::Json => {
            let networks = gone.iter().map(|network| network.list.name.as_given());
            let networks: Vec<_> = networks.collect();
            print_json(&json!({"detached": record.name, "networks": networks}))
        }
        Output::Text => {
            let line = |network: &NetworkRecord| {
                format!(
                    "{}: detached from network {}\n",
                    record.name, network.list.name
                )
            };
            print(&gone.iter().map(line).collect::<String>())
        }
    }
}

/// The networks to detach.
fn selected(options: &Detach, record: &Record) -> Result<Vec<NetworkRecord>> {
    let all = &record.networks;
    let has = || {
        let shown = all.iter();
        let shown = shown.map(|network| format!("{} on {}", network.list.name, network.ifname));
        format!("it has {}", shown.collect::<Vec<_>>().join(", "))
    };
    let unknown = |what: String| {
        let msg = format!("{} has no {what}; nothing was changed", record.name);
        Stop::Failed(Error::new(msg).hint(has()))
    };
    if let Some(ifname) = &options.ifname {
        let parsed = IfName::parse(ifname);
        let parsed = parsed.map_err(|why| Stop::usage(format!("--ifname: {why}")))?;
        let found = record.network(&parsed).cloned();
        return Ok(vec![found.ok_or_else(|| {
            unknown(format!("interface {ifname} made by pausectl"))
        })?]);
    }
    for name in &options.networks {
        if !all.iter().any(|network| network.list.name.is_called(name)) {
            return Err(unknown(format!("network {name}")));
        }
    }
    let is_named = |network: &&NetworkRecord| {
        let mut names = options.networks.iter();
        options.networks.is_empty() || names.any(|name| network.list.name.is_called(name))
    };
    Ok(all.iter().filter(is_named).cloned().collect())
}

fn refuse_others(
    record: &Record,
    location: &NetworkLocation,
    containers: &[Container],
    own: Option<&Container>,
) -> Result<(), Error> {
    let others: Vec<_> = location
        .containers(containers)
        .into_iter()
        .filter(|container| own.is_none_or(|own| own.id != container.id))
        .map(|container| container.name.to_string())
        .collect();
    let is_anchored = own.is_some_and(|own| {
        location
            .netns()
            .is_some_and(|netns| network_location::netns_of(own) == Some(netns))
    });
    let with = match (others.as_slice(), location) {
        ([], NetworkLocation::Occupied { .. }) if !is_anchored => {
            member_names(location, containers)
        }
        ([], _) => return Ok(()),
        (others, _) => others.join(", "),
    };
    Err(Error::new(format!(
        "the network of {} is in use by {with}; nothing was changed",
        record.name
    ))
    .hint("stop them first, or use --force"))
}
