//! The record of a container that pausectl attached: /var/lib/pausenet/docker/ID.json.
//!
//! Docker forgets a removed container, labels and all, while its network may live on with its
//! members; and a restarted container is to get its address and its ports again. The record is
//! never used to find out what exists: the kernel and Docker are asked for that.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment_settings::AttachmentSettings;
use crate::docker_api::{Container, ContainerName, Dns, DockerId, RestartPolicy};
use pausenet::cni::request::Attachment;
use pausenet::cni::{ContainerId, IfName};
use pausenet::kernel::lock::{Lock, TOOL_LIMIT};
use pausenet_host::anchor::registration::ANCHOR_PREFIX;
use pausenet_host::runtime::cache;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{Error, OnPath};

const DIR: &str = "/var/lib/pausenet/docker";

/// The lock files, one per identity.
const LOCKS: &str = "/run/pausenet/lock/docker";

/// The label that names the network to attach a container to.
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
    /// False after `pausectl docker detach`: the label must not bring the network back.
    pub(crate) wanted: bool,
    pub(crate) ifname: IfName,
    pub(crate) list: NetworkList,
    pub(crate) settings: AttachmentSettings,
    /// The last addresses.
    pub(crate) addresses: Vec<String>,
    /// What a new anchor needs to replace the container.
    pub(crate) template: Option<Template>,
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
    wanted: bool,
    ifname: String,
    config: String,
    #[serde(default, rename = "wishes")]
    settings: AttachmentSettings,
    #[serde(default)]
    addresses: Vec<String>,
    template: Option<TemplateFile>,
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
    Ok(Lock::take_within(Path::new(LOCKS), identity, TOOL_LIMIT)?)
}

/// Locks an identity without waiting; None if it is locked.
pub(super) fn try_lock(identity: &ContainerId) -> Result<Option<Lock>, Error> {
    Ok(Lock::try_take(Path::new(LOCKS), identity)?)
}

impl Record {
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            network: self.list.name.clone(),
            container: self.identity.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// The labels of an anchor with this record: our own, and those of its predecessor.
    pub(super) fn labels(&self) -> Vec<(String, String)> {
        let template = self.template.as_ref();
        let mut labels = template.map_or_else(BTreeMap::new, |template| template.labels.clone());
        labels.insert(IDENTITY_LABEL.into(), self.identity.to_string());
        labels.insert(NETWORK_LABEL.into(), self.list.name.to_string());
        labels.into_iter().collect()
    }

    /// Replaces the file atomically. The caller holds the identity's lock.
    pub(super) fn write(&self) -> Result<(), Error> {
        let file = file(&self.identity);
        cache::replace(&file, &self.to_json()).on_path("cannot write", &file)
    }

    #[expect(clippy::expect_used, reason = "a map of strings has a JSON form")]
    fn to_json(&self) -> Vec<u8> {
        let file_form = RecordFile {
            identity: self.identity.to_string(),
            kind: self.kind,
            container: self.container.as_ref().map(DockerId::to_string),
            name: self.name.clone(),
            wanted: self.wanted,
            ifname: self.ifname.to_string(),
            config: String::from_utf8_lossy(&self.list.text).into_owned(),
            settings: self.settings.clone(),
            addresses: self.addresses.clone(),
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
        serde_json::to_vec_pretty(&file_form).expect("strings always serialise")
    }

    /// Removes the file. A missing one is success.
    pub(crate) fn delete(&self) -> Result<(), Error> {
        let file = file(&self.identity);
        match fs::remove_file(&file) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                Err(Error::io("cannot remove", &file, err))
            }
            _ => Ok(()),
        }
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
        Some(Self {
            identity: ContainerId::parse(&file_form.identity).ok()?,
            kind: file_form.kind,
            container: container.transpose().ok()?,
            name: file_form.name,
            wanted: file_form.wanted,
            ifname: IfName::parse(&file_form.ifname).ok()?,
            list: NetworkList::parse(file_form.config.as_bytes()).ok()?,
            settings: file_form.settings,
            addresses: file_form.addresses,
            template,
        })
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
    Record::from_json(&fs::read(file).ok()?)
}

fn file(identity: &ContainerId) -> PathBuf {
    Path::new(DIR).join(format!("{identity}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published_ports::PublishedPort;

    fn record() -> Record {
        let config = r#"{"cniVersion": "1.0.0", "name": "podnet", "type": "pausenet"}"#;
        Record {
            identity: anchor_identity(&ContainerName::parse("web").unwrap()).unwrap(),
            kind: Kind::Anchor,
            container: Some(DockerId::parse(&"0a".repeat(32)).unwrap()),
            name: "web".into(),
            wanted: true,
            ifname: IfName::parse("eth0").unwrap(),
            list: NetworkList::parse(config.as_bytes()).unwrap(),
            settings: AttachmentSettings {
                ips: vec!["10.1.0.7".into()],
                mac: None,
                ports: vec![PublishedPort::parse("127.0.0.1:8080:80/udp").unwrap()],
            },
            addresses: vec!["10.1.0.7".into()],
            template: Some(Template {
                image: "pausenet/pause".into(),
                restart: RestartPolicy::OnFailure(3),
                hostname: Some("front".into()),
                dns: Dns {
                    servers: vec!["10.1.0.1".into()],
                    ..Dns::default()
                },
                labels: [("a".to_owned(), "b".to_owned())].into(),
            }),
        }
    }

    #[test]
    fn a_record_round_trips() {
        let text = record().to_json();
        let read = Record::from_json(&text).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(read.attachment(), record().attachment());
        assert_eq!(read.settings, record().settings);
    }

    #[test]
    fn an_invalid_record_is_ignored() {
        let text = String::from_utf8(record().to_json()).unwrap();
        for (good, bad) in [
            ("\"docker-web\"", "\"../../etc\""),
            ("\"eth0\"", "\"a/b\""),
            ("\"on-failure:3\"", "\"sometimes\""),
            ("\"anchor\"", "\"ship\""),
            ("8080", "80800"),
            ("podnet", ""),
        ] {
            assert!(text.contains(good), "{good}");
            let broken = text.replace(good, bad);
            assert!(Record::from_json(broken.as_bytes()).is_none(), "{bad}");
        }
        for cut in 0..text.len() {
            assert!(Record::from_json(&text.as_bytes()[..cut]).is_none());
        }
    }

    #[test]
    fn a_new_anchor_keeps_the_labels_of_the_old_one() {
        let labels = record().labels();
        let has = |name: &str, value: &str| labels.contains(&(name.into(), value.into()));
        assert!(has("a", "b"));
        assert!(has(IDENTITY_LABEL, "docker-web"));
        assert!(has(NETWORK_LABEL, "podnet"));
    }
}
