//! `pausectl docker down`: the opposite of `up`.

use serde_json::json;

use super::attachment;
use super::lookup::{find, find_record, observe};
use super::record::{self, IDENTITY_LABEL, Kind, NetworkRecord, Record};
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json};
use crate::docker_api::{Container, ContainerFilter, ContainerRef, NetworkMode};
use crate::options::{DockerOptions, PluginOptions};
use pausenet_host::Error;
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl docker down web
  pausectl docker down --force web

Removes the anchor's container, its networks with their published ports and addresses, and
what pausectl remembers of it. It works for an anchor that is already gone, too.

An anchor with members is not removed, since they would lose their network. --force
removes it; the members keep running without a network, and are named.";

/// Remove an anchor with its networks
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Down {
    /// The anchor's name, ID, or ID prefix
    name: String,

    /// Remove it even if it has members
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Removes an anchor. After an interruption, running it again goes on where it was.
///
/// # Errors
/// There is no such anchor, or it has members.
pub(super) fn down(options: &Down, output: Output) -> Result<()> {
    let name = ContainerRef::parse(&options.name).map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let (record, members) = block_on(async {
        let docker = options.docker.connect().await?;
        let _interrupt = listen_for_signals()?; // It runs to its end, even on Ctrl-C.
        let container = find(&docker, &name).await?;
        let known = match find_record(&name, container.as_ref())? {
            Some(known) => known,
            None => unrecorded(&name, container.as_ref())?,
        };
        let _lock = record::lock(&known.identity)?;
        let record = record::load(&known.identity).unwrap_or(known);
        if record.kind != Kind::Anchor {
            let what = format!(
                "{} is not an anchor that pausectl docker up made",
                record.name
            );
            let hint = format!(
                "to take its network: pausectl docker detach {}",
                record.name
            );
            return Err(Error::new(what).hint(hint).into());
        }
        let containers = docker.list(ContainerFilter::All).await?;
        let (location, _) = observe(&docker, &record).await?;
        let is_anchor = |other: &Container| {
            container.as_ref().is_some_and(|own| own.id == other.id)
                || other
                    .labels
                    .get(IDENTITY_LABEL)
                    .is_some_and(|id| *id == record.identity.as_str())
        };
        let in_network = location.containers(&containers);
        let joins = |other: &Container| match &other.network {
            NetworkMode::Container(owner) => container
                .as_ref()
                .is_some_and(|own| own.id.as_str() == owner),
            _ => false,
        };
        let mut members: Vec<_> = containers
            .iter()
            .filter(|other| joins(other) || in_network.iter().any(|inside| inside.id == other.id))
            .filter(|other| !is_anchor(other))
            .map(|other| other.name.to_string())
            .collect();
        members.sort();
        if !members.is_empty() && !options.force {
            let what = format!(
                "anchor {} has members: {}; nothing was changed",
                record.name,
                members.join(", ")
            );
            let hint = format!(
                "remove them first: docker rm -f {}; or use --force",
                members.join(" ")
            );
            return Err(Error::new(what).hint(hint).into());
        }
        attachment::detach(&runtime, &record).await?;
        for anchor in containers.iter().filter(|other| is_anchor(other)) {
            docker.remove(&anchor.by_id()).await?;
        }
        record.delete()?;
        Result::<_>::Ok((record, members))
    })?;
    report(&record, &members, output)
}

/// An anchor whose record is lost is known by its label.
fn unrecorded(name: &ContainerRef, container: Option<&Container>) -> Result<Record> {
    let container = container.filter(|found| found.labels.contains_key(IDENTITY_LABEL));
    let Some(container) = container else {
        let hint = "see: docker ps --filter label=pausenet.anchor";
        return Err(Error::new(format!("there is no anchor {name}"))
            .hint(hint)
            .into());
    };
    Ok(Record {
        identity: record::identity_of(container)?,
        kind: Kind::Anchor,
        container: Some(container.id.clone()),
        name: container.name.to_string(),
        unfinished: false,
        networks: Vec::new(),
        template: None,
    })
}

fn report(record: &Record, members: &[String], output: Output) -> Result<()> {
    let name = &record.name;
    if output == Output::Json {
        let networks = record.networks.iter();
        let networks: Vec<_> = networks.map(|network| network.list.name.as_str()).collect();
        return print_json(&json!({
            "removed": name,
            "networks": networks,
            "withoutNetwork": members,
        }));
    }
    let line =
        |network: &NetworkRecord| format!("{name}: detached from network {}\n", network.list.name);
    let mut text: String = record.wanted().map(line).collect();
    text.push_str(&format!("{name}: removed\n"));
    for member in members {
        text.push_str(&format!(
            "{member}: keeps its processes, but has no network any more, and cannot be started again; recreate it\n"
        ));
    }
    print(&text)
}
