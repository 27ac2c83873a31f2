//! `pausectl pod ports`: the published ports of pods.

use std::collections::BTreeSet;

use super::name::{parse_name, unknown_pod};
use crate::command::{Output, Result, need_root};
use crate::published_ports::list::print_ports;
use pausenet_host::anchor::PodName;
use pausenet_host::anchor::named_netns;
use pausenet_host::runtime::cache;

const EXAMPLES: &str = "\
Examples:
  pausectl pod ports
  pausectl pod ports web
  pausectl pod ports --output json

STATE is `missing` for a port that nftables does not have, because another program flushed
its rules: pausectl doctor --fix puts it back.";

/// List the published ports of one pod or of all
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ports {
    /// The pod's name [default: all]
    name: Option<String>,
}

/// Lists them.
///
/// # Errors
/// When there is no pod of that name.
pub(crate) fn ports(options: &Ports, output: Output) -> Result<()> {
    let name = options.name.as_deref().map(parse_name).transpose()?;
    need_root()?;
    let pod_of =
        |entry: &cache::Entry| PodName::of_container(&entry.parameters.attachment.container);
    let cached = cache::list()?.into_iter();
    let cached = cached.filter_map(|entry| Some((pod_of(&entry)?, entry)));
    let mut cached: Vec<_> = cached.collect();
    if let Some(name) = &name {
        let known: BTreeSet<_> = named_netns::list()?
            .into_iter()
            .chain(cached.iter().map(|(pod, _)| pod.clone()))
            .collect();
        if !known.contains(name) {
            return Err(unknown_pod(name).into());
        }
        cached.retain(|(pod, _)| pod == name);
    }
    cached.sort_by(|(one, _), (other, _)| one.cmp(other));
    let entries = cached.into_iter();
    let entries: Vec<_> = entries
        .map(|(pod, entry)| (pod.to_string(), entry))
        .collect();
    print_ports(&entries, output)
}
