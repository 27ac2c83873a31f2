//! `pausectl docker detach`: takes down the network of a container, or of one that is gone.

use serde_json::json;

use super::network_location::{self, Home};
use super::record::{self, Record};
use super::{attachment, etc_hosts, find, listen, look, record_of, usage, who};
use crate::docker_api::{Container, ContainerRef};
use crate::options::{DockerOptions, PluginOptions};
use crate::{Output, Result, print, print_json};
use pausenet_host::Error;
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl docker detach job
  pausectl docker detach --force web

Whatever pausectl has attached or rescued: its interface goes, its address is free
again, and its ports with it. The container runs on. Its name is enough when it is gone.

While others live in the network it is not taken from them, unless --force says so.";

/// Take down the network of a container, also of one that is gone
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Detach {
    /// The container: its name, its ID, or the beginning of that
    container: String,

    /// Take the network also from others that live in it
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
/// When pausectl has attached nothing of that name, 11 while others live in the network;
/// the plugins'.
pub fn detach(options: &Detach, output: Output) -> Result<()> {
    let name = ContainerRef::parse(&options.container).map_err(usage)?;
    let runtime = options.plugins.runtime();
    let record = block_on(async {
        let docker = options.docker.connect().await?;
        let _interrupt = listen()?; // A DEL that was begun is brought to its end.
        let container = find(&docker, &name).await?;
        let known = record_of(&name, container.as_ref())?;
        let Some(known) = known else {
            return Err(Error::new(format!("pausectl has given {name} no network"),
            )
            .hint("see which there are: ls /var/lib/pausenet/docker; what Docker has made, Docker removes")
            .into());
        };
        let _lock = record::lock(&known.identity)?;
        let mut record = record::of(&known.identity).unwrap_or(known);
        let (home, containers) = look(&docker, &record).await?;
        if !options.force {
            refuse_others(&record, &home, &containers, container.as_ref())?;
        }
        attachment::detach(&runtime, &record).await?;
        etc_hosts::forget(&docker, &record).await;
        match container {
            // Its label must not bring the network back.
            Some(container) if container.labels.contains_key(record::NETWORK_LABEL) => {
                record.wanted = false;
                record.write()?;
            }
            _ => record.forget()?,
        }
        Result::<Record>::Ok(record)
    })?;
    match output {
        Output::Json => print_json(&json!({"detached": record.name})),
        Output::Text => print(&format!(
            "{}: detached from network {}\n",
            record.name, record.list.name
        )),
    }
}

fn refuse_others(
    record: &Record,
    home: &Home,
    containers: &[Container],
    own: Option<&Container>,
) -> Result<(), Error> {
    let others: Vec<_> = home
        .containers(containers)
        .into_iter()
        .filter(|container| own.is_none_or(|own| own.id != container.id))
        .map(|container| container.name.to_string())
        .collect();
    let at_home = own.is_some_and(|own| {
        home.netns()
            .is_some_and(|netns| network_location::netns_of(own) == Some(netns))
    });
    let with = match (others.as_slice(), home) {
        ([], Home::Lived { .. }) if !at_home => who(home, containers),
        ([], _) => return Ok(()),
        (others, _) => others.join(", "),
    };
    Err(Error::new(format!(
        "the network of {} is in use by {with}; nothing was changed",
        record.name
    ))
    .hint("end them first, or take it from them with --force"))
}
