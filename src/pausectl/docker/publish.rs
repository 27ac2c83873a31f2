//! `pausectl docker publish` and `unpublish`: published ports of a running container.
//!
//! A port is an element of an nft map that all containers share, so it can be added and removed at
//! any time. DEL removes the ports that the result cache lists: so a port is recorded before it is
//! mapped, and unrecorded after it is unmapped.

use std::process::{Command, Stdio};

use serde_json::{Map, json};

use super::attachment;
use super::lookup::{find, find_record, locate};
use super::record::{self, Record};
use super::report::published_text;
use crate::attachment_settings::{PORT_MAPPINGS, no_port_mappings};
use crate::command::{Output, Result, Stop, print, print_json};
use crate::docker_api::ContainerRef;
use crate::options::{DockerOptions, PluginOptions};
use crate::published_ports::PublishedPort;
use pausenet::apply::{self, Host};
use pausenet::cni::ports::PortsConf;
use pausenet::cni::result::AddResult;
use pausenet::plan::{Mapper, host_end_name};
use pausenet_host::block_on;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::runtime::conflist::{NetworkList, Plugin};
use pausenet_host::runtime::{Runtime, execution_config};
use pausenet_host::{Error, OnPath};

const PUBLISH_EXAMPLES: &str = "\
Examples:
  pausectl docker publish web 8443:443
  pausectl docker publish web 127.0.0.1:9000:9000 5353:53/udp

The container keeps running, and open connections stay. The ports survive a restart.";

const UNPUBLISH_EXAMPLES: &str = "\
Examples:
  pausectl docker unpublish web 8443
  pausectl docker unpublish web 127.0.0.1:9000 5353/udp
  pausectl docker unpublish web 8443:443

New connections no longer reach the container; open ones stay.";

/// Publish host ports of a running container
#[derive(Debug, clap::Args)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub(crate) struct Publish {
    /// An anchor, or another container that pausectl attached
    container: String,

    /// The host ports, and the container ports that they forward to
    #[arg(required = true, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    ports: Vec<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Remove published ports of a running container
#[derive(Debug, clap::Args)]
#[command(after_help = UNPUBLISH_EXAMPLES)]
pub(crate) struct Unpublish {
    /// An anchor, or another container that pausectl attached
    container: String,

    /// The host ports
    #[arg(required = true, value_name = "[HOSTIP:]HOSTPORT[:PORT][/PROTOCOL]")]
    ports: Vec<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Publishes ports, all or none.
///
/// # Errors
/// When a port is taken, or pausectl did not attach the container.
pub(super) fn publish(options: &Publish, output: Output) -> Result<()> {
    let new =
        PublishedPort::parse_all(options.ports.iter().map(String::as_str)).map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let mut attachment = open_attachment(&options.container, &options.docker, &runtime)?;
    let before = attachment.ports()?;
    let mut ports = before.clone();
    for port in &new {
        match before.iter().find(|other| other.has_same_host_side(port)) {
            None => {
                port.refuse_if_in_use()?;
                ports.push(port.clone());
            }
            Some(same) if same == port => {}
            Some(other) => return Err(attachment.taken(other).into()),
        }
    }
    // The ports must also be valid as a whole.
    attachment.conf(&ports)?;
    attachment.remember(&ports)?;
    if let Err(err) = attachment.map(&new) {
        attachment.remember(&before)?;
        return Err(err.into());
    }
    let mut shown = attachment.record.settings.clone();
    shown.ports = new;
    attachment.report(output, &published_text(&attachment.record.name, &shown))
}

/// Removes published ports, all or none.
///
/// # Errors
/// When a port is not published.
pub(super) fn unpublish(options: &Unpublish, output: Output) -> Result<()> {
    let selectors = options.ports.iter().map(|text| PortSelector::parse(text));
    let selectors = selectors
        .collect::<Result<Vec<_>, _>>()
        .map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    let mut attachment = open_attachment(&options.container, &options.docker, &runtime)?;
    let before = attachment.ports()?;
    for selector in &selectors {
        if !before.iter().any(|port| selector.matches(port)) {
            let has: Vec<_> = before.iter().map(PublishedPort::to_string).collect();
            let msg = format!(
                "{} does not publish port {}",
                attachment.record.name,
                selector.shown()
            );
            let hint = match has.as_slice() {
                [] => "it has no published ports".to_owned(),
                has => format!("its published ports: {}", has.join(", ")),
            };
            return Err(Error::new(msg).hint(hint).into());
        }
    }
    let matches = |port: &PublishedPort| selectors.iter().any(|selector| selector.matches(port));
    let (gone, kept): (Vec<_>, Vec<_>) = before.into_iter().partition(matches);
    attachment.unmap(&gone, &kept)?;
    attachment.remember(&kept)?;
    let name = &attachment.record.name;
    let lines: String = gone
        .iter()
        .map(|port| {
            format!(
                "{name}: host port {} is no longer published\n",
                port.host_side()
            )
        })
        .collect();
    attachment.report(output, &lines)
}

/// An attachment whose ports can be changed: its identity is locked.
struct OpenAttachment {
    record: Record,
    entry: Entry,
    plugin: Plugin,
    mapper: Mapper,
    result: AddResult,
    host: Host,
    _lock: pausenet::kernel::lock::Lock,
}

fn open_attachment(
    container: &str,
    docker: &DockerOptions,
    runtime: &Runtime,
) -> Result<OpenAttachment> {
    let name = ContainerRef::parse(container).map_err(Stop::usage)?;
    let none = || {
        Error::new(format!("{name} has no network made by pausectl"))
            .hint(format!("attach it first: pausectl docker attach {name}"))
    };
    let known = block_on(async {
        let docker = docker.connect().await?;
        let container = find(&docker, &name).await?;
        Result::<_>::Ok(find_record(&name, container.as_ref())?)
    })?;
    let known = known.ok_or_else(none)?;
    let lock = record::lock(&known.identity)?;
    let record = record::load(&known.identity).ok_or_else(none)?;
    let entry = attachment::cached_entry(&record).ok_or_else(none)?;
    if locate(&record)?.netns().is_none() {
        return Err(none().into());
    }
    let result = entry.result.as_ref().ok_or_else(none)?;
    let result = AddResult::from_json(result, entry.list.version)?;
    let (plugin, mapper) = mapper(&entry.list, runtime)?;
    Ok(OpenAttachment {
        host: Host::open(&host_end_name(&entry.parameters.attachment))?,
        record,
        plugin,
        mapper,
        result,
        entry,
        _lock: lock,
    })
}

/// The plugin of a network that maps ports. An error if it is not ours.
fn mapper(list: &NetworkList, runtime: &Runtime) -> Result<(Plugin, Mapper), Error> {
    let mut declaring = list
        .plugins
        .iter()
        .filter(|plugin| plugin.has_capability(PORT_MAPPINGS));
    let Some(plugin) = declaring.next() else {
        return Err(no_port_mappings(list));
    };
    let mapper = match plugin.r#type.as_str() {
        "pausenet" => Mapper::Own,
        "portmap" if is_ours(plugin, runtime)? => Mapper::Chained,
        other => {
            return Err(Error::new(format!(
                "network {}: plugin {other} maps the ports, and cannot change them while the \
                     container runs",
                list.name
            ))
            .hint("use plugin pausenet (capability portMappings), or install it as portmap"));
        }
    };
    Ok((plugin.clone(), mapper))
}

/// Run without CNI_COMMAND, our binary introduces itself.
fn is_ours(plugin: &Plugin, runtime: &Runtime) -> Result<bool, Error> {
    let program = runtime.program(plugin)?;
    let mut command = Command::new(&program);
    command.env_clear().stdin(Stdio::null());
    let output = command.output().on_path("cannot run", &program)?;
    Ok(output.stdout.starts_with(b"pausenet "))
}

impl OpenAttachment {
    /// The ports that the attachment has.
    fn ports(&self) -> Result<Vec<PublishedPort>, Error> {
        match self.entry.parameters.capabilities.get(PORT_MAPPINGS) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_value(json.clone()).map_err(|err| {
                Error::new(format!(
                    "{}: the result cache has invalid ports: {err}",
                    self.record.name
                ))
            }),
        }
    }

    fn conf(&self, ports: &[PublishedPort]) -> Result<Option<PortsConf>, Error> {
        let capabilities = Map::from_iter([(PORT_MAPPINGS.to_owned(), json!(ports))]);
        let config = execution_config(&self.entry.list, &self.plugin, &capabilities, None);
        Ok(PortsConf::new(config.to_string().as_bytes())?)
    }

    /// Records the ports, for DEL and for the next restart.
    fn remember(&mut self, ports: &[PublishedPort]) -> Result<(), Error> {
        let capabilities = &mut self.entry.parameters.capabilities;
        if ports.is_empty() {
            capabilities.remove(PORT_MAPPINGS);
        } else {
            capabilities.insert(PORT_MAPPINGS.into(), json!(ports));
        }
        self.record.settings.ports = ports.to_owned();
        self.entry.write()?;
        self.record.write()
    }

    fn map(&mut self, ports: &[PublishedPort]) -> Result<(), Error> {
        let attachment = self.entry.parameters.attachment.clone();
        let addresses = self.result.addresses_of(&attachment.ifname);
        match self.conf(ports)? {
            Some(conf) => Ok(apply::publish(
                &mut self.host,
                &attachment,
                self.mapper,
                &conf,
                apply::Extent::Part,
                &addresses,
            )?),
            None => Ok(()),
        }
    }

    fn unmap(&mut self, ports: &[PublishedPort], kept: &[PublishedPort]) -> Result<(), Error> {
        let attachment = &self.entry.parameters.attachment;
        let addresses = self.result.addresses_of(&attachment.ifname);
        let kept = self.conf(kept)?;
        match self.conf(ports)? {
            Some(conf) => Ok(apply::unpublish(
                attachment,
                self.mapper,
                &conf,
                kept.as_ref(),
                &addresses,
            )?),
            None => Ok(()),
        }
    }

    fn taken(&self, port: &PublishedPort) -> Error {
        let name = &self.record.name;
        Error::new(format!(
            "host port {} already forwards to port {} of {name}",
            port.host_side(),
            port.container_port
        ))
        .hint(format!(
            "remove that first: pausectl docker unpublish {name} {}",
            port.host_side()
        ))
    }

    fn report(&self, output: Output, lines: &str) -> Result<()> {
        match output {
            Output::Json => print_json(&json!({
                "name": self.record.name,
                "ports": self.record.settings.ports,
            })),
            Output::Text => print(lines),
        }
    }
}

/// A published port to remove.
#[derive(Debug)]
enum PortSelector {
    Mapping(PublishedPort),
    /// By its host side only; the container port is a placeholder.
    HostSide(PublishedPort),
}

impl PortSelector {
    fn parse(text: &str) -> Result<Self, String> {
        let with_a_port = match text.split_once('/') {
            Some((host_side, protocol)) => format!("{host_side}:1/{protocol}"),
            None => format!("{text}:1"),
        };
        // Neither `IP:PORT` nor `PORT:PORT:1` parses as a mapping.
        PublishedPort::parse(&with_a_port)
            .map(Self::HostSide)
            .or_else(|_| PublishedPort::parse(text).map(Self::Mapping))
    }

    fn matches(&self, port: &PublishedPort) -> bool {
        match self {
            Self::Mapping(mapping) => mapping == port,
            Self::HostSide(other) => other.has_same_host_side(port),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Mapping(port) => port.to_string(),
            Self::HostSide(port) => port.host_side(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_selected_by_its_host_side_or_as_a_mapping() {
        let port = PublishedPort::parse("127.0.0.1:8080:80").unwrap();
        for (text, matches) in [
            ("127.0.0.1:8080", true),
            ("127.0.0.1:8080/tcp", true),
            ("127.0.0.1:8080:80", true),
            ("127.0.0.1:8080:81", false),
            ("127.0.0.1:8080/udp", false),
            ("8080", false),
        ] {
            assert_eq!(
                PortSelector::parse(text).unwrap().matches(&port),
                matches,
                "{text}"
            );
        }
        for bad in ["", "x", "80:0", "0", "1:2:3"] {
            PortSelector::parse(bad).unwrap_err();
        }
    }
}
