//! `pausectl rescue`: a new network for a running container that lost its own.
//!
//! When a container in Docker is removed, containers that shared its network keep the namespace, but
//! Docker takes the interface out of it. The namespace itself still works, so it is attached again,
//! and nothing is restarted.

use std::path::PathBuf;

use serde_json::json;

use super::attachment_settings::{AttachmentOptions, AttachmentSettings};
use super::docker::attachment::{self, Attached, TargetNetns};
use super::docker::lookup::{find_running, locate, refuse_if_members_remain, refuse_taken_ports};
use super::docker::network_location::LinksInside;
use super::docker::record::{self, Kind, NetworkRecord, Record};
use super::docker::report::{attached_json, attached_text};
use super::explain::Target;
use super::options::{DockerOptions, NetworkOptions, PluginOptions};
use crate::command::{Output, Result, Stop, listen_for_signals, need_root, print, print_json};
use crate::docker_api::{ContainerRef, Docker, DockerId};
use pausenet::cni::{ContainerId, IfName};
use pausenet_host::Error;
use pausenet_host::anchor::{PodName, named_netns};
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl rescue web2 --network podnet
  pausectl rescue 4711 --network podnet
  pausectl rescue /run/netns/job --network podnet
  pausectl rescue 4711 --undo

For a container that lost its eth0 because the container whose network it shared was
removed. It keeps running, and everything else in its namespace gets the network, too.

Docker's own configuration does not change: such a container still cannot be restarted,
for it refers to the removed one. To take the network down again, use pausectl docker
detach CONTAINER, or --undo; pausectl docker watch does it once the namespace is empty.";

/// Give a running container that lost its network a new one, without a restart
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Rescue {
    /// A container in Docker (name, ID, or ID prefix), a PID, or the path of a network namespace;
    /// prefix it with container:, pid: or pod: to be explicit
    target: String,

    #[command(flatten)]
    network: NetworkOptions,

    /// Take down the network that a rescue made
    #[arg(long, conflicts_with_all = ["networks", "conf", "publish", "ips", "mac", "ifname"])]
    undo: bool,

    #[command(flatten)]
    settings: AttachmentOptions,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// What to rescue. Unlike in `explain`, a bare name means a container only, since a rescue changes
/// something.
#[derive(Debug, PartialEq, Eq)]
enum RescueTarget {
    Container(ContainerRef),
    Process(u32),
    Namespace(PathBuf),
}

/// The target's namespace, and the identity to attach it under.
struct ResolvedTarget {
    name: String,
    identity: ContainerId,
    container: Option<DockerId>,
    target_netns: TargetNetns,
    /// None outside Docker.
    docker: Option<Docker>,
}

/// Gives the target a network, or changes nothing.
///
/// # Errors
/// When there is no such target, or it has an interface of this name.
pub(crate) fn rescue(options: &Rescue, output: Output) -> Result<()> {
    let target = Target::parse(&options.target).map_err(Stop::usage)?;
    let target = RescueTarget::from_target(target).map_err(Stop::usage)?;
    let (ifname, settings) = options.settings.parse().map_err(Stop::usage)?;
    need_root()?;
    let runtime = options.plugins.runtime();
    block_on(async {
        let resolved = resolve(&target, &options.docker).await?;
        let mut interrupt = listen_for_signals()?;
        let _lock = record::lock(&resolved.identity)?;
        let known = record::load(&resolved.identity);
        if options.undo {
            let known = known.ok_or_else(|| {
                let msg = format!("{} was not rescued by pausectl", resolved.name);
                Error::new(msg).hint("nothing was changed")
            })?;
            attachment::detach(&runtime, &known).await?;
            known.delete()?;
            return match output {
                Output::Json => print_json(&json!({"detached": resolved.name})),
                Output::Text => {
                    let line = |network: &NetworkRecord| {
                        let (name, network) = (&resolved.name, &network.list.name);
                        format!("{name}: detached from network {network}\n")
                    };
                    print(&known.networks.iter().map(line).collect::<String>())
                }
            };
        }
        let mut record = Record {
            identity: resolved.identity,
            kind: known.as_ref().map_or(Kind::Rescued, |known| known.kind),
            container: resolved.container,
            name: resolved.name,
            unfinished: false,
            networks: known
                .as_ref()
                .map_or_else(Vec::new, |known| known.networks.clone()),
            template: known.and_then(|known| known.template),
        };
        attachment::remove_unfinished(&runtime, &record).await?;
        attachment::complete_record(&mut record)?;
        let new = new_networks(options, settings, ifname, &record, &resolved.target_netns)?;
        let ports: Vec<_> = new
            .iter()
            .flat_map(|network| network.settings.ports.clone())
            .collect();
        refuse_taken_ports(resolved.docker.as_ref(), &ports, &record.identity).await?;
        let location = locate(&record)?;
        refuse_if_members_remain(&record, Some(&resolved.target_netns), &location, &[])?;
        let mut attached = Vec::new();
        for network in new {
            let one = attachment::attach(
                &runtime,
                &mut record,
                network,
                &resolved.target_netns,
                &mut interrupt,
            );
            attached.push(one.await?);
        }
        report(&record, &attached, output)
    })
}

/// The networks to attach: those of the command line, or what a rescue gave it before, or the first
/// in the folder.
fn new_networks(
    options: &Rescue,
    settings: AttachmentSettings,
    ifname: Option<IfName>,
    record: &Record,
    target_netns: &TargetNetns,
) -> Result<Vec<NetworkRecord>> {
    let there = target_netns.attached(record)?;
    let inside = LinksInside::of(target_netns.netns())?;
    let nothing = |ifname: &IfName| {
        let name = &record.name;
        Error::new(format!(
            "{name} has an interface {ifname}: nothing to rescue"
        ))
        .hint("nothing was changed; for one more network, name its interface with --ifname")
    };
    // What has an interface that pausectl did not make, has not lost it.
    let default = match ifname {
        Some(ifname) => ifname,
        None => IfName::parse("eth0").map_err(Error::new)?,
    };
    if inside.named(&default).is_some() && (options.settings.has_ifname() || there.is_empty()) {
        return Err(nothing(&default).into());
    }
    let missing = record
        .wanted()
        .filter(|network| !there.contains(&network.ifname));
    let missing: Vec<_> = missing.cloned().collect();
    if !options.network.is_given()
        && !missing.is_empty()
        && settings == AttachmentSettings::default()
    {
        return Ok(missing);
    }
    let lists = options.network.load()?;
    let by_reference: Vec<_> = lists.iter().collect();
    let given = options.settings.has_ifname().then_some(&default);
    let settings = settings
        .for_networks(given, &by_reference)
        .map_err(Stop::usage)?;
    let mut new: Vec<NetworkRecord> = Vec::new();
    for (list, settings) in lists.into_iter().zip(settings) {
        let has_it = |network: &&NetworkRecord| network.list.name == list.name;
        let known = record.networks.iter().find(has_it);
        let ifname = match known.filter(|network| there.contains(&network.ifname)) {
            _ if given.is_some() => default.clone(),
            Some(known) => return Err(nothing(&known.ifname).into()),
            None => {
                let names: Vec<_> = new.iter().map(|network| &network.ifname).collect();
                inside.free_name(&names)?
            }
        };
        new.push(NetworkRecord::new(ifname, list, settings));
    }
    Ok(new)
}

async fn resolve(target: &RescueTarget, docker: &DockerOptions) -> Result<ResolvedTarget> {
    let without_container =
        |name: String, target_netns: TargetNetns| -> Result<ResolvedTarget, Error> {
            let number = target_netns
                .netns()
                .id()
                .map_err(|err| Error::new(format!("{name}: the kernel says: {err}")))?;
            Ok(ResolvedTarget {
                identity: ContainerId::parse(&format!("rescue-{}", number.number()))?,
                container: None,
                docker: None,
                name,
                target_netns,
            })
        };
    Ok(match target {
        RescueTarget::Container(name) => {
            let docker = docker.connect().await?;
            let (container, pid) = find_running(&docker, name).await?;
            ResolvedTarget {
                name: container.name.to_string(),
                identity: record::identity_of(&container)?,
                target_netns: TargetNetns::of_process(pid)?,
                container: Some(container.id),
                docker: Some(docker),
            }
        }
        RescueTarget::Process(pid) => {
            without_container(format!("process {pid}"), TargetNetns::of_process(*pid)?)?
        }
        RescueTarget::Namespace(path) => {
            without_container(path.display().to_string(), TargetNetns::open(path.clone())?)?
        }
    })
}

fn report(record: &Record, attached: &[Attached], output: Output) -> Result<()> {
    let name = &record.name;
    let undo = match record.container {
        Some(_) => format!("pausectl docker detach {name}"),
        None => {
            let target = name.strip_prefix("process ").unwrap_or(name);
            format!("pausectl rescue {target} --undo")
        }
    };
    match output {
        Output::Json => print_json(&attached_json(record, attached)),
        Output::Text => print(&format!(
            "{}{name}: to take it down again: {undo}\n",
            attached_text(record, attached)
        )),
    }
}

impl RescueTarget {
    /// A bare number is a PID, a bare name a container.
    fn from_target(target: Target) -> Result<Self, String> {
        let container = |name: &str| ContainerRef::parse(name).map(Self::Container);
        match target {
            Target::File(path) => match std::path::absolute(&path) {
                Ok(path) => Ok(Self::Namespace(path)),
                Err(err) => Err(format!("{}: {err}", path.display())),
            },
            Target::Process(pid) => Ok(Self::Process(pid)),
            Target::Pod(name) => Ok(Self::Namespace(named_netns::path(&PodName::parse(&name)?))),
            Target::Container(name) => container(&name),
            Target::Name(name) => match name.parse() {
                // An all-digit ID prefix is longer than a PID.
                Ok(pid) if pid > 0 && name.len() <= 7 => Ok(Self::Process(pid)),
                _ => container(&name),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_recognized_by_their_form() {
        let container = |text: &str| RescueTarget::Container(ContainerRef::parse(text).unwrap());
        let parse = |text: &str| Target::parse(text).and_then(RescueTarget::from_target);
        for (text, expected) in [
            ("web", container("web")),
            ("0a1b2c3d4e5f", container("0a1b2c3d4e5f")),
            ("123456789012", container("123456789012")),
            ("container:4711", container("4711")),
            ("4711", RescueTarget::Process(4711)),
            ("pid:4711", RescueTarget::Process(4711)),
            (
                "/run/netns/x",
                RescueTarget::Namespace("/run/netns/x".into()),
            ),
            (
                "pod:x",
                RescueTarget::Namespace("/run/pausenet/netns/x".into()),
            ),
        ] {
            assert_eq!(parse(text), Ok(expected));
        }
        for bad in [
            "",
            "pid:0",
            "pid:x",
            "pod:../x",
            "container:a/b",
            "a b",
            "web;rm",
        ] {
            parse(bad).unwrap_err();
        }
    }
}
