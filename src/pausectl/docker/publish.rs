//! `pausectl docker publish` and `unpublish`: ports of the host, for a container that runs.
//!
//! A port is an element of a map that all containers share, so it comes and goes without
//! touching anybody. What must stay true is the memory of it: DEL takes away what it is told
//! of. So a port is written down before it is mapped, and crossed out after it is not.

use std::process::{Command, Stdio};

use serde_json::{Map, json};

use super::record::{self, Record};
use super::{attachment, find, home, published, record_of, usage};
use crate::attachment_settings::{PORTS, no_ports};
use crate::docker_api::ContainerRef;
use crate::options::{DockerOptions, PluginOptions};
use crate::published_ports::Port;
use crate::{Output, Result, print, print_json};
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

The container runs on, and no connection is touched. The ports stay over a restart.";

const UNPUBLISH_EXAMPLES: &str = "\
Examples:
  pausectl docker unpublish web 8443
  pausectl docker unpublish web 127.0.0.1:9000 5353/udp
  pausectl docker unpublish web 8443:443

New connections are no longer led to the container; those that were made go on.";

/// Lead ports of the host to a container that runs
#[derive(Debug, clap::Args)]
#[command(after_help = PUBLISH_EXAMPLES)]
pub struct Publish {
    /// The anchor, or another container that pausectl has attached
    container: String,

    /// What leads where
    #[arg(required = true, value_name = "[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]")]
    ports: Vec<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Take ports of the host away from a container that runs
#[derive(Debug, clap::Args)]
#[command(after_help = UNPUBLISH_EXAMPLES)]
pub struct Unpublish {
    /// The anchor, or another container that pausectl has attached
    container: String,

    /// ContainerFilter
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
/// When a port is taken, 7 when the container has no network of ours; the kernel's.
pub fn publish(options: &Publish, output: Output) -> Result<()> {
    let new = Port::parse_all(options.ports.iter().map(String::as_str)).map_err(usage)?;
    let runtime = options.plugins.runtime();
    let mut at_work = open(&options.container, &options.docker, &runtime)?;
    let before = at_work.ports()?;
    let mut ports = before.clone();
    for port in &new {
        match before.iter().find(|other| other.is_same_place(port)) {
            None => {
                port.refuse_served()?;
                ports.push(port.clone());
            }
            Some(same) if same == port => {}
            Some(other) => return Err(at_work.taken(other).into()),
        }
    }
    // As a whole they have to be right, too.
    at_work.conf(&ports)?;
    at_work.remember(&ports)?;
    if let Err(err) = at_work.map(&new) {
        at_work.remember(&before)?;
        return Err(err.into());
    }
    let mut shown = at_work.record.wishes.clone();
    shown.ports = new;
    at_work.report(output, &published(&at_work.record.name, &shown))
}

/// Takes ports away, all or none.
///
/// # Errors
/// For a port that is not published; the kernel's.
pub fn unpublish(options: &Unpublish, output: Output) -> Result<()> {
    let wanted = options.ports.iter().map(|text| Wanted::parse(text));
    let wanted = wanted.collect::<Result<Vec<_>, _>>().map_err(usage)?;
    let runtime = options.plugins.runtime();
    let mut at_work = open(&options.container, &options.docker, &runtime)?;
    let before = at_work.ports()?;
    for wanted in &wanted {
        if !before.iter().any(|port| wanted.means(port)) {
            let has: Vec<_> = before.iter().map(Port::to_string).collect();
            let msg = format!("{} has no port {}", at_work.record.name, wanted.shown());
            let hint = match has.as_slice() {
                [] => "it has none at all".to_owned(),
                has => format!("it has {}", has.join(", ")),
            };
            return Err(Error::new(msg).hint(hint).into());
        }
    }
    let means = |port: &Port| wanted.iter().any(|wanted| wanted.means(port));
    let (gone, kept): (Vec<_>, Vec<_>) = before.into_iter().partition(means);
    at_work.unmap(&gone, &kept)?;
    at_work.remember(&kept)?;
    let name = &at_work.record.name;
    let lines: String = gone
        .iter()
        .map(|port| format!("{name}: port {} of the host leads nowhere\n", port.place()))
        .collect();
    at_work.report(output, &lines)
}

/// A container with ports that may change, as long as this lives.
struct AtWork {
    record: Record,
    entry: Entry,
    plugin: Plugin,
    mapper: Mapper,
    result: AddResult,
    host: Host,
    _lock: pausenet::kernel::lock::Lock,
}

fn open(container: &str, docker: &DockerOptions, runtime: &Runtime) -> Result<AtWork> {
    let name = ContainerRef::parse(container).map_err(usage)?;
    let none = || {
        Error::new(format!(
            "{name} has no network of pausectl's to lead a port to"
        ))
        .hint(format!("give it one: pausectl docker attach {name}"))
    };
    let known = block_on(async {
        let docker = docker.connect().await?;
        let container = find(&docker, &name).await?;
        Result::<_>::Ok(record_of(&name, container.as_ref())?)
    })?;
    let known = known.ok_or_else(none)?;
    let lock = record::lock(&known.identity)?;
    let record = record::of(&known.identity).ok_or_else(none)?;
    let entry = attachment::remembered(&record).ok_or_else(none)?;
    if home(&record)?.netns().is_none() {
        return Err(none().into());
    }
    let result = entry.result.as_ref().ok_or_else(none)?;
    let result = AddResult::from_json(result, entry.list.version)?;
    let (plugin, mapper) = mapper(&entry.list, runtime)?;
    Ok(AtWork {
        host: Host::open(&host_end_name(&entry.parameters.attachment))?,
        record,
        plugin,
        mapper,
        result,
        entry,
        _lock: lock,
    })
}

/// The plugin of a network that maps ports, if it is ours.
fn mapper(list: &NetworkList, runtime: &Runtime) -> Result<(Plugin, Mapper), Error> {
    let mut declaring = list
        .plugins
        .iter()
        .filter(|plugin| plugin.has_capability(PORTS));
    let Some(plugin) = declaring.next() else {
        return Err(no_ports(list));
    };
    let mapper = match plugin.r#type.as_str() {
        "pausenet" => Mapper::Own,
        "portmap" if is_ours(plugin, runtime)? => Mapper::Chained,
        other => {
            return Err(Error::new(format!(
                "network {}: plugin {other} maps the ports, and knows no change while the \
                     container runs",
                list.name
            ))
            .hint("pausenet does, with the capability portMappings, and under the name portmap"));
        }
    };
    Ok((plugin.clone(), mapper))
}

/// Called by nobody in particular, ours says what it is.
fn is_ours(plugin: &Plugin, runtime: &Runtime) -> Result<bool, Error> {
    let program = runtime.program(plugin)?;
    let mut command = Command::new(&program);
    command.env_clear().stdin(Stdio::null());
    let said = command.output().on_path("cannot run", &program)?;
    Ok(said.stdout.starts_with(b"pausenet "))
}

impl AtWork {
    /// The ports that the attachment has.
    fn ports(&self) -> Result<Vec<Port>, Error> {
        match self.entry.parameters.capabilities.get(PORTS) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_value(json.clone()).map_err(|err| {
                Error::new(format!(
                    "{}: its ports are not remembered: {err}",
                    self.record.name
                ))
            }),
        }
    }

    fn conf(&self, ports: &[Port]) -> Result<Option<PortsConf>, Error> {
        let capabilities = Map::from_iter([(PORTS.to_owned(), json!(ports))]);
        let config = execution_config(&self.entry.list, &self.plugin, &capabilities, None);
        Ok(PortsConf::new(config.to_string().as_bytes())?)
    }

    /// Writes down which ports there are: for DEL, and for the next restart.
    fn remember(&mut self, ports: &[Port]) -> Result<(), Error> {
        let capabilities = &mut self.entry.parameters.capabilities;
        if ports.is_empty() {
            capabilities.remove(PORTS);
        } else {
            capabilities.insert(PORTS.into(), json!(ports));
        }
        self.record.wishes.ports = ports.to_owned();
        self.entry.write()?;
        self.record.write()
    }

    fn map(&mut self, ports: &[Port]) -> Result<(), Error> {
        let attachment = self.entry.parameters.attachment.clone();
        let addresses = self.result.addresses_of(&attachment.ifname);
        match self.conf(ports)? {
            Some(conf) => Ok(apply::publish(
                &mut self.host,
                &attachment,
                self.mapper,
                &conf,
                &addresses,
            )?),
            None => Ok(()),
        }
    }

    fn unmap(&mut self, ports: &[Port], kept: &[Port]) -> Result<(), Error> {
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

    fn taken(&self, port: &Port) -> Error {
        let name = &self.record.name;
        Error::new(format!(
            "port {} of the host leads to {} of {name} already",
            port.place(),
            port.container_port
        ))
        .hint(format!(
            "first: pausectl docker unpublish {name} {}",
            port.place()
        ))
    }

    fn report(&self, output: Output, lines: &str) -> Result<()> {
        match output {
            Output::Json => print_json(&json!({
                "name": self.record.name,
                "ports": self.record.wishes.ports,
            })),
            Output::Text => print(lines),
        }
    }
}

/// A port of the host that is to go, with or without what it leads to.
#[derive(Debug)]
enum Wanted {
    Whole(Port),
    /// The container's port in it means nothing.
    Place(Port),
}

impl Wanted {
    fn parse(text: &str) -> Result<Self, String> {
        let with_a_port = match text.split_once('/') {
            Some((place, protocol)) => format!("{place}:1/{protocol}"),
            None => format!("{text}:1"),
        };
        // `IP:PORT` is no mapping, and `PORT:PORT:1` none either.
        Port::parse(&with_a_port)
            .map(Self::Place)
            .or_else(|_| Port::parse(text).map(Self::Whole))
    }

    fn means(&self, port: &Port) -> bool {
        match self {
            Self::Whole(whole) => whole == port,
            Self::Place(place) => place.is_same_place(port),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Whole(port) => port.to_string(),
            Self::Place(port) => port.place(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_to_take_away_is_named_by_its_place_or_whole() {
        let port = Port::parse("127.0.0.1:8080:80").unwrap();
        for (text, means) in [
            ("127.0.0.1:8080", true),
            ("127.0.0.1:8080/tcp", true),
            ("127.0.0.1:8080:80", true),
            ("127.0.0.1:8080:81", false),
            ("127.0.0.1:8080/udp", false),
            ("8080", false),
        ] {
            assert_eq!(Wanted::parse(text).unwrap().means(&port), means, "{text}");
        }
        for bad in ["", "x", "80:0", "0", "1:2:3"] {
            Wanted::parse(bad).unwrap_err();
        }
    }
}
