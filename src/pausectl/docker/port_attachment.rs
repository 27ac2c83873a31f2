//! The attachments of a running container whose published ports can be changed.
//!
//! A port is an element of an nft map that all containers share, so it can be added and removed at
//! any time. DEL removes the ports that the result cache lists: so a port is recorded before it is
//! mapped, and unrecorded after it is unmapped.

use std::process::{Command, Stdio};

use serde_json::{Map, json};

use super::attachment;
use super::lookup::{find, find_record, locate, refuse_taken_ports};
use super::record::{self, Record};
use crate::attachment_settings::{PORT_MAPPINGS, no_port_mappings};
use crate::command::{Result, Stop};
use crate::docker_api::ContainerRef;
use crate::options::{DockerOptions, PluginOptions};
use crate::published_ports::PublishedPort;
use pausenet::apply::{self, Host};
use pausenet::cni::IfName;
use pausenet::cni::json::Json;
use pausenet::cni::ports::PortsConf;
use pausenet::cni::result::AddResult;
use pausenet::kernel::lock::Lock;
use pausenet::plan::{Mapper, host_end_name};
use pausenet_host::block_on;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::runtime::conflist::{NetworkList, Plugin};
use pausenet_host::runtime::{Runtime, execution_config};
use pausenet_host::{Error, OnPath};

/// A container with its record, locked.
pub(super) struct OpenContainer {
    pub(super) record: Record,
    _lock: Lock,
}

/// An attachment whose ports can be changed.
pub(super) struct PortAttachment {
    ifname: IfName,
    entry: Entry,
    plugin: Plugin,
    mapper: Mapper,
    result: AddResult,
    host: Host,
}

impl OpenContainer {
    /// # Errors
    /// It has no network made by pausectl.
    pub(super) fn open(container: &str, docker: &DockerOptions) -> Result<Self> {
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
        if !attachment::is_cached(&record) || locate(&record)?.netns().is_none() {
            return Err(none().into());
        }
        Ok(Self {
            record,
            _lock: lock,
        })
    }

    /// Refuses ports that anything else than this container has.
    ///
    /// # Errors
    /// Names the port and who has it.
    pub(super) fn refuse_taken(
        &self,
        ports: &[PublishedPort],
        docker: &DockerOptions,
    ) -> Result<()> {
        block_on(async {
            let docker = docker.connect().await?;
            Ok(refuse_taken_ports(Some(&docker), ports, &self.record.identity).await?)
        })
    }

    /// The attachment to publish ports of: that to the named network, or the first to one that maps
    /// ports.
    ///
    /// # Errors
    /// There is none; the message names the network.
    pub(super) fn mapping(
        &self,
        network: Option<&str>,
        plugins: &PluginOptions,
    ) -> Result<PortAttachment, Error> {
        let record = &self.record;
        let cached = |ifname: &IfName| attachment::cached_entry(record, record.network(ifname)?);
        let mut entries: Vec<_> = record
            .wanted()
            .filter_map(|network| cached(&network.ifname))
            .collect();
        if let Some(name) = network {
            entries.retain(|entry| entry.list.name.is_called(name));
            if entries.is_empty() {
                let names = record.wanted().map(|network| network.list.name.to_string());
                let hint = format!("its networks: {}", names.collect::<Vec<_>>().join(", "));
                let msg = format!("{} is not attached to network {name}", record.name);
                return Err(Error::new(msg).hint(hint));
            }
        }
        let at = entries
            .iter()
            .position(|entry| declaring(&entry.list).is_some());
        if entries.is_empty() {
            return Err(Error::new(format!(
                "{} has no network made by pausectl",
                record.name
            )));
        }
        PortAttachment::open(entries.swap_remove(at.unwrap_or(0)), &plugins.runtime())
    }

    /// The attachments that have published ports, by the result cache or by the record.
    pub(super) fn with_ports(&self, plugins: &PluginOptions) -> Result<Vec<PortAttachment>, Error> {
        let with_ports = self.record.networks.iter().filter_map(|network| {
            let entry = attachment::cached_entry(&self.record, network)?;
            let is_cached = entry.parameters.capabilities.contains_key(PORT_MAPPINGS);
            (is_cached || !network.settings.ports.is_empty()).then_some(entry)
        });
        with_ports
            .map(|entry| PortAttachment::open(entry, &plugins.runtime()))
            .collect()
    }

    /// The ports of an attachment by the result cache and by the record: a change that was killed may have
    /// come to one of them only.
    pub(super) fn all_ports(
        &self,
        attachment: &PortAttachment,
    ) -> Result<Vec<PublishedPort>, Error> {
        let mut ports = attachment.ports()?;
        let recorded = self.record.network(&attachment.ifname);
        for port in recorded.map_or(&[][..], |network| &network.settings.ports) {
            if !ports.contains(port) {
                ports.push(port.clone());
            }
        }
        Ok(ports)
    }

    /// Records the ports of an attachment, for DEL and for the next restart.
    pub(super) fn remember(
        &mut self,
        attachment: &mut PortAttachment,
        ports: &[PublishedPort],
    ) -> Result<(), Error> {
        let capabilities = &mut attachment.entry.parameters.capabilities;
        if ports.is_empty() {
            capabilities.remove(PORT_MAPPINGS);
        } else {
            capabilities.insert(PORT_MAPPINGS.into(), json!(ports));
        }
        attachment.entry.write()?;
        if let Some(network) = self.record.network(&attachment.ifname) {
            let mut network = network.clone();
            network.settings.ports = ports.to_owned();
            self.record.set_network(network);
        }
        self.record.write()
    }

    /// The ports of all attachments but this one, whose own are in the result cache: the record may be
    /// behind that, if a change was killed.
    pub(super) fn ports_of_others(&self, attachment: &PortAttachment) -> Vec<PublishedPort> {
        let others = self
            .record
            .networks
            .iter()
            .filter(|network| network.ifname != attachment.ifname);
        others
            .flat_map(|network| network.settings.ports.clone())
            .collect()
    }
}

/// The plugin of a network that maps ports.
fn declaring(list: &NetworkList) -> Option<&Plugin> {
    let mut plugins = list.plugins.iter();
    plugins.find(|plugin| plugin.has_capability(PORT_MAPPINGS))
}

/// The plugin of a network that maps ports. An error if it is not ours.
fn mapper(list: &NetworkList, runtime: &Runtime) -> Result<(Plugin, Mapper), Error> {
    let Some(plugin) = declaring(list) else {
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

impl PortAttachment {
    fn open(entry: Entry, runtime: &Runtime) -> Result<Self, Error> {
        let attachment = &entry.parameters.attachment;
        let none = || {
            Error::new(format!(
                "network {} was not attached completely",
                entry.list.name
            ))
        };
        let result = entry.result.as_ref().ok_or_else(none)?;
        let result = AddResult::from_json(result, entry.list.version)?;
        let (plugin, mapper) = mapper(&entry.list, runtime)?;
        Ok(Self {
            host: Host::open(&host_end_name(attachment))?,
            ifname: attachment.ifname.clone(),
            plugin,
            mapper,
            result,
            entry,
        })
    }

    /// The ports that the attachment has.
    pub(super) fn ports(&self) -> Result<Vec<PublishedPort>, Error> {
        match self.entry.parameters.capabilities.get(PORT_MAPPINGS) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_value(json.clone()).map_err(|err| {
                Error::new(format!(
                    "network {}: the result cache has invalid ports: {err}",
                    self.entry.list.name
                ))
            }),
        }
    }

    pub(super) fn conf(&self, ports: &[PublishedPort]) -> Result<Option<PortsConf>, Error> {
        let capabilities = Map::from_iter([(PORT_MAPPINGS.to_owned(), json!(ports))]);
        let config = execution_config(&self.entry.list, &self.plugin, &capabilities, None);
        Ok(PortsConf::new(&Json::of("network config", &config)?)?)
    }

    pub(super) fn map(&mut self, ports: &[PublishedPort]) -> Result<(), Error> {
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

    pub(super) fn unmap(
        &mut self,
        ports: &[PublishedPort],
        kept: &[PublishedPort],
    ) -> Result<(), Error> {
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
}
