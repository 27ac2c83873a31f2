//! `pausectl docker ports`: the published ports of containers.

use super::attachment;
use super::lookup::{find, find_record};
use super::record::{self, Record};
use crate::command::{Output, Result, Stop};
use crate::docker_api::{ContainerRef, ErrorKind};
use crate::options::DockerOptions;
use crate::published_ports::list::print_ports;
use pausenet_host::Error;
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl docker ports
  pausectl docker ports web
  pausectl docker ports --output json

These are the ports that pausectl published. STATE is `missing` for one that nftables does
not have, because another program flushed its rules: pausectl doctor --fix puts it back.";

/// List the published ports of one container or of all
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ports {
    /// The container's name, ID, or ID prefix [default: all]
    container: Option<String>,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Lists them.
///
/// # Errors
/// When pausectl attached nothing of that name.
pub(super) fn ports(options: &Ports, output: Output) -> Result<()> {
    let records = match &options.container {
        None => record::load_all(),
        Some(name) => vec![record_of(name, &options.docker)?],
    };
    let mut entries = Vec::new();
    for record in &records {
        let cached = record.networks.iter();
        let cached = cached.filter_map(|network| attachment::cached_entry(record, network));
        entries.extend(cached.map(|entry| (record.name.clone(), entry)));
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    print_ports(&entries, output)
}

fn record_of(name: &str, docker: &DockerOptions) -> Result<Record> {
    let name = ContainerRef::parse(name).map_err(Stop::usage)?;
    let socket = docker.socket()?;
    let known = block_on(async {
        let container = match crate::docker_api::Docker::connect(&socket).await {
            Ok(docker) => find(&docker, &name).await?,
            // The records have the names too.
            Err(failure) if failure.kind == ErrorKind::NotRunning => None,
            Err(failure) => return Err(failure.into()),
        };
        Result::<_>::Ok(find_record(&name, container.as_ref())?)
    })?;
    known.ok_or_else(|| {
        let hint = format!("attach it first: pausectl docker attach {name}");
        Error::new(format!("{name} has no network made by pausectl"))
            .hint(hint)
            .into()
    })
}
