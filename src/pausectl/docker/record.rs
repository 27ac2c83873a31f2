//! The record of a container that pausectl attached: /var/lib/pausenet/docker/ID.json.
//!
//! Docker forgets a removed container, labels and all, while its network may live on with its
//! members; and a restarted container is to get its address and its ports again. The record is
//! never used to find out what exists: the kernel and Docker are asked for that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment_settings::AttachmentSettings;
use crate::command::waiting_blocked;
use crate::docker_api::{Container, ContainerName, Dns, DockerId, RestartPolicy};
use pausenet::cni::request::Attachment;
use pausenet::cni::result::AddResult;
use pausenet::cni::{ContainerId, IfName};
use pausenet::kernel::file::{self, LARGE, Symlinks};
use pausenet::kernel::lock::{Lock, TOOL_LIMIT};
use pausenet_host::anchor::registration::ANCHOR_PREFIX;
use pausenet_host::runtime::cache;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{Error, OnPath};

const DIR: &str = "/var/lib/pausenet/docker";

/// The lock files, one per identity.
const LOCKS: &str = "/run/pausenet/lock/docker";

/// The label that names the networks to attach a container to.
pub(super) const NETWORK_LABEL: &str = "pausenet.network";

/// The label with the identity of a container's network (CNI_CONTAINERID).
pub(crate) const IDENTITY_LABEL: &str = "pausenet.anchor";

/// How pausectl came to attach a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Created by `pausectl docker up`.
    Anchor,
    /// Attached by command, or for its label.
    Attached,
    /// Rescued, after it lost a network that pausectl did not make.
    Rescued,
}

/// What pausectl remembers under an identity.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) identity: ContainerId,
    pub(crate) kind: Kind,
    /// None for a process or a namespace outside Docker.
    pub(crate) container: Option<DockerId>,
    /// The container's name; `process PID` or the namespace's path outside Docker.
    pub(crate) name: String,
    /// `pausectl docker up` has not come to its end: run again, it starts over.
    pub(crate) unfinished: bool,
    /// Its networks, by interface name; at least one in a file.
    pub(crate) networks: Vec<NetworkRecord>,
    /// What a new anchor needs to replace the container.
    pub(crate) template: Option<Template>,
}

/// What pausectl remembers of one of a container's networks.
#[derive(Debug, Clone)]
pub(crate) struct NetworkRecord {
    pub(crate) ifname: IfName,
    pub(crate) list: NetworkList,
    pub(crate) settings: AttachmentSettings,
    /// The last addresses.
    pub(crate) addresses: Vec<String>,
    /// False after `pausectl docker detach`: the label must not bring the network back.
    pub(crate) wanted: bool,
}

/// The properties of a container that its replacement gets.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(super) image: String,
    pub(super) restart: RestartPolicy,
    pub(super) hostname: Option<String>,
    pub(super) dns: Dns,
    pub(super) labels: BTreeMap<String, String>,
}

/// The file's format.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    identity: String,
    kind: Kind,
    container: Option<String>,
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
    /// The keys of the first network are the file's own, as they were when it had only one.
    #[serde(flatten)]
    network: NetworkFile,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more_networks: Vec<NetworkFile>,
    template: Option<TemplateFile>,
}

#[derive(Serialize, Deserialize)]
struct NetworkFile {
    wanted: bool,
    ifname: String,
    config: String,
    #[serde(default, rename = "wishes")]
    settings: AttachmentSettings,
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct TemplateFile {
    image: String,
    restart: String,
    hostname: Option<String>,
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The identity of an anchor. It derives from the name, so that the network of a removed anchor can
/// still be found by name.
pub(super) fn anchor_identity(name: &ContainerName) -> Result<ContainerId, Error> {
    ContainerId::parse(&format!("{ANCHOR_PREFIX}{name}")).map_err(|_| {
        Error::new(format!("{name} is too long for the name of an anchor"))
            .hint("at most 121 bytes are allowed")
    })
}

/// The identity of a container: that of its label, or its Docker ID, which a restart keeps.
///
/// # Errors
/// When the label is not a valid identity.
pub(crate) fn identity_of(container: &Container) -> Result<ContainerId, Error> {
    let text = container.labels.get(IDENTITY_LABEL);
    ContainerId::parse(text.map_or(container.id.as_str(), String::as_str)).map_err(|err| {
        Error::new(format!(
            "label {IDENTITY_LABEL} of container {container}: {}",
            err.msg
        ))
        .hint(err.details)
    })
}

/// The networks that a label names, separated by commas.
///
/// # Errors
/// One of them is not in the folder.
pub(super) fn labelled_networks(label: &str, conf_dir: &Path) -> Result<Vec<NetworkList>, Error> {
    let names = label.split(',').map(str::trim);
    names
        .map(|name| NetworkList::find(conf_dir, Some(name)))
        .collect()
}

impl Template {
    pub(super) fn from_container(container: &Container) -> Self {
        Self {
            image: container.image.clone(),
            restart: container.restart,
            hostname: Some(container.hostname.clone()),
            dns: Dns::default(),
            labels: container.labels.clone(),
        }
    }
}

/// Locks an identity, waiting for whoever holds the lock.
pub(crate) fn lock(identity: &ContainerId) -> Result<Lock, Error> {
    let what = format!("another process that works on {identity}");
    let take = || Lock::take_within(Path::new(LOCKS), identity, TOOL_LIMIT);
    Ok(waiting_blocked(&what, take)?)
}

/// Locks an identity without waiting; None if it is locked.
pub(super) fn try_lock(identity: &ContainerId) -> Result<Option<Lock>, Error> {
    Ok(Lock::try_take(Path::new(LOCKS), identity)?)
}

impl Record {
    pub(super) fn attachment(&self, network: &NetworkRecord) -> Attachment {
        Attachment {
            network: network.list.name.clone(),
            container: self.identity.clone(),
            ifname: network.ifname.clone(),
        }
    }

    /// The network on an interface.
    pub(crate) fn network(&self, ifname: &IfName) -> Option<&NetworkRecord> {
        let mut networks = self.networks.iter();
        networks.find(|network| network.ifname == *ifname)
    }

    /// Adds a network, in place of an earlier one on the same interface.
    pub(crate) fn set_network(&mut self, network: NetworkRecord) {
        self.forget_network(&network.ifname);
        self.networks.push(network);
        // eth2 before eth10.
        let key = |network: &NetworkRecord| {
            let name = network.ifname.to_string();
            (name.len(), name)
        };
        self.networks.sort_by_key(key);
    }

    pub(crate) fn forget_network(&mut self, ifname: &IfName) {
        self.networks.retain(|network| network.ifname != *ifname);
    }

    /// The networks that it should have.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &NetworkRecord> {
        self.networks.iter().filter(|network| network.wanted)
    }

    /// The addresses on all of its networks.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let wanted = self.wanted();
        wanted
            .flat_map(|network| network.addresses.clone())
            .collect()
    }

    /// The addresses on all networks, as `10.1.0.2 on eth0, 10.2.0.2 on eth1`.
    pub(super) fn shown_addresses(&self) -> String {
        let shown = self.wanted().map(|network| {
            let addresses = match network.addresses.as_slice() {
                [] => "no address".to_owned(),
                addresses => addresses.join(", "),
            };
            format!("{addresses} on {}", network.ifname)
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The labels of an anchor with this record: our own, and those of its predecessor.
    pub(super) fn labels(&self) -> Vec<(String, String)> {
        let template = self.template.as_ref();
        let mut labels = template.map_or_else(BTreeMap::new, |template| template.labels.clone());
        labels.insert(IDENTITY_LABEL.into(), self.identity.to_string());
        // The watcher attaches to what the label names if the record is lost.
        let names = self.wanted().map(|network| network.list.name.to_string());
        let names: Vec<_> = names.collect();
        labels.insert(NETWORK_LABEL.into(), names.join(","));
        labels.into_iter().collect()
    }

    /// Replaces the file atomically, or removes it if there is no network to remember. The caller
    /// holds the identity's lock.
    pub(super) fn write(&self) -> Result<(), Error> {
        let Some(text) = self.to_json() else {
            return self.delete();
        };
        let file = file(&self.identity);
        cache::replace(&file, &text).on_path("cannot write", &file)
    }

    /// None without a network.
    #[expect(clippy::expect_used, reason = "a map of strings has a JSON form")]
    fn to_json(&self) -> Option<Vec<u8>> {
        let mut networks = self.networks.iter().map(NetworkFile::from);
        let file_form = RecordFile {
            identity: self.identity.to_string(),
            kind: self.kind,
            container: self.container.as_ref().map(DockerId::to_string),
            name: self.name.clone(),
            unfinished: self.unfinished,
            network: networks.next()?,
            more_networks: networks.collect(),
            template: self.template.as_ref().map(|template| TemplateFile {
                image: template.image.clone(),
                restart: template.restart.to_string(),
                hostname: template.hostname.clone(),
                nameservers: template.dns.servers.clone(),
                search: template.dns.search.clone(),
                options: template.dns.options.clone(),
                labels: template.labels.clone(),
            }),
        };
        Some(serde_json::to_vec_pretty(&file_form).expect("strings always serialise"))
    }

    /// Removes the file. A missing one is success.
    pub(crate) fn delete(&self) -> Result<(), Error> {
        let file = file(&self.identity);
        cache::remove(&file).on_path("cannot remove", &file)
    }

    /// None for an invalid record.
    fn from_json(text: &[u8]) -> Option<Self> {
        let file_form: RecordFile = serde_json::from_slice(text).ok()?;
        let template = match file_form.template {
            Some(template) => Some(Template {
                image: template.image,
                restart: RestartPolicy::parse(&template.restart).ok()?,
                hostname: template.hostname,
                dns: Dns {
                    servers: template.nameservers,
                    search: template.search,
                    options: template.options,
                },
                labels: template.labels,
            }),
            None => None,
        };
        let container = file_form.container.as_deref().map(DockerId::parse);
        let networks = std::iter::once(file_form.network).chain(file_form.more_networks);
        Some(Self {
            identity: ContainerId::parse(&file_form.identity).ok()?,
            kind: file_form.kind,
            container: container.transpose().ok()?,
            name: file_form.name,
            unfinished: file_form.unfinished,
            networks: networks
                .map(NetworkRecord::from_file)
                .collect::<Option<_>>()?,
            template,
        })
    }
}

impl NetworkRecord {
    /// A network that is wanted, without an address so far.
    pub(crate) fn new(ifname: IfName, list: NetworkList, settings: AttachmentSettings) -> Self {
        Self {
            ifname,
            list,
            settings,
            addresses: Vec::new(),
            wanted: true,
        }
    }

    pub(super) fn set_addresses(&mut self, result: &AddResult) {
        let addresses = result.ips.iter().map(|ip| ip.address.ip().to_string());
        self.addresses = addresses.collect();
    }

    fn from_file(file: NetworkFile) -> Option<Self> {
        Some(Self {
            ifname: IfName::parse(&file.ifname).ok()?,
            list: NetworkList::parse(file.config.as_bytes()).ok()?,
            settings: file.settings,
            addresses: file.addresses,
            wanted: file.wanted,
        })
    }
}

impl From<&NetworkRecord> for NetworkFile {
    fn from(network: &NetworkRecord) -> Self {
        Self {
            wanted: network.wanted,
            ifname: network.ifname.to_string(),
            config: String::from_utf8_lossy(&network.list.text).into_owned(),
            settings: network.settings.clone(),
            addresses: network.addresses.clone(),
        }
    }
}

/// The record of an identity. None if there is none, or if it cannot be read.
pub(crate) fn load(identity: &ContainerId) -> Option<Record> {
    read(&file(identity)).filter(|record| record.identity == *identity)
}

/// All records, sorted by identity.
pub(crate) fn load_all() -> Vec<Record> {
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    files.iter().filter_map(|file| read(file)).collect()
}

fn read(file: &Path) -> Option<Record> {
    Record::from_json(&file::read(file, LARGE, Symlinks::Refuse).ok()?)
}

fn file(identity: &ContainerId) -> PathBuf {
    Path::new(DIR).join(format!("{identity}.json"))
}

#[cfg(test)]
mod tests;
