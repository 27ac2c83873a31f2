//! What is remembered of a container whose network is ours: /var/lib/pausenet/docker/ID.json.
//!
//! Docker forgets a container that is removed, labels and all, while its network may live on
//! with others; and a restarted one is to have its address and its ports again. What there is,
//! is never read from here: that the kernel and Docker say.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment_settings::Wishes;
use crate::docker_api::{Container, ContainerName, Dns, DockerId, RestartPolicy};
use pausenet::cni::request::Attachment;
use pausenet::cni::{ContainerId, IfName};
use pausenet::kernel::lock::Lock;
use pausenet_host::anchor::registration::ANCHOR_PREFIX;
use pausenet_host::runtime::cache;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{Error, OnPath};

/// Where the records are.
const DIR: &str = "/var/lib/pausenet/docker";

/// Where the locks of identities are.
const LOCKS: &str = "/run/pausenet/lock/docker";

/// The label with the network that a container is to have.
pub const NETWORK_LABEL: &str = "pausenet.network";

/// The label with the identity that its network is registered under (CNI_CONTAINERID).
pub const IDENTITY_LABEL: &str = "pausenet.anchor";

/// How a container came to its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Made by `pausectl docker up`.
    Anchor,
    /// Attached, by hand or for its label.
    Attached,
    /// It had a network of somebody else's, and lost it.
    Rescued,
}

/// One identity.
#[derive(Debug, Clone)]
pub struct Record {
    pub identity: ContainerId,
    pub kind: Kind,
    /// None: no container of Docker's, but a process or a namespace.
    pub container: Option<DockerId>,
    /// As people call it.
    pub name: String,
    /// False: a person has detached it, so its label does not count.
    pub wanted: bool,
    pub ifname: IfName,
    pub list: NetworkList,
    pub wishes: Wishes,
    /// Addresses that it had last.
    pub addresses: Vec<String>,
    /// What the container is made of, to make an anchor that passes for it.
    pub template: Option<Template>,
}

/// What a container is made of.
#[derive(Debug, Clone)]
pub struct Template {
    pub image: String,
    pub restart: RestartPolicy,
    pub hostname: Option<String>,
    pub dns: Dns,
    pub labels: BTreeMap<String, String>,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
struct Wire {
    identity: String,
    kind: Kind,
    container: Option<String>,
    name: String,
    wanted: bool,
    ifname: String,
    config: String,
    #[serde(default)]
    wishes: Wishes,
    #[serde(default)]
    addresses: Vec<String>,
    template: Option<WireTemplate>,
}

#[derive(Serialize, Deserialize)]
struct WireTemplate {
    image: String,
    restart: String,
    hostname: Option<String>,
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The identity of an anchor of this name. It is the name's, so that the network of an anchor
/// that is gone can still be called by it.
///
/// # Errors
/// When the name is too long for that.
pub fn anchor_identity(name: &ContainerName) -> Result<ContainerId, Error> {
    ContainerId::parse(&format!("{ANCHOR_PREFIX}{name}")).map_err(|_| {
        Error::new(format!("{name} is too long for an anchor's name")).hint("it may have 121 bytes")
    })
}

/// The identity of a container: its label's, or Docker's ID, which stays over a restart.
///
/// # Errors
/// When the label is no identity.
pub fn identity_of(container: &Container) -> Result<ContainerId, Error> {
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
    /// What Docker tells of a container.
    pub fn of(container: &Container) -> Self {
        Self {
            image: container.image.clone(),
            restart: container.restart,
            hostname: Some(container.hostname.clone()),
            dns: Dns::default(),
            labels: container.labels.clone(),
        }
    }
}

/// Waits until nobody else works on the identity.
pub fn lock(identity: &ContainerId) -> Result<Lock, Error> {
    Ok(Lock::take(Path::new(LOCKS), identity)?)
}

/// The same without waiting: None when somebody does.
pub fn try_lock(identity: &ContainerId) -> Result<Option<Lock>, Error> {
    Ok(Lock::try_take(Path::new(LOCKS), identity)?)
}

impl Record {
    /// What names its attachment.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            network: self.list.name.clone(),
            container: self.identity.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// What an anchor of it is known by, beside the labels that it has anyhow.
    pub fn labels(&self) -> Vec<(String, String)> {
        let template = self.template.as_ref();
        let mut labels = template.map_or_else(BTreeMap::new, |template| template.labels.clone());
        labels.insert(IDENTITY_LABEL.into(), self.identity.to_string());
        labels.insert(NETWORK_LABEL.into(), self.list.name.to_string());
        labels.into_iter().collect()
    }

    /// Writes it, whole or not at all. The caller holds the identity's lock.
    ///
    /// # Errors
    /// An error that names the file.
    pub fn write(&self) -> Result<(), Error> {
        let file = file(&self.identity);
        cache::replace(&file, &self.to_json()).on_path("cannot write", &file)
    }

    fn to_json(&self) -> Vec<u8> {
        let wire = Wire {
            identity: self.identity.to_string(),
            kind: self.kind,
            container: self.container.as_ref().map(DockerId::to_string),
            name: self.name.clone(),
            wanted: self.wanted,
            ifname: self.ifname.to_string(),
            config: String::from_utf8_lossy(&self.list.text).into_owned(),
            wishes: self.wishes.clone(),
            addresses: self.addresses.clone(),
            template: self.template.as_ref().map(|template| WireTemplate {
                image: template.image.clone(),
                restart: template.restart.to_string(),
                hostname: template.hostname.clone(),
                nameservers: template.dns.servers.clone(),
                search: template.dns.search.clone(),
                options: template.dns.options.clone(),
                labels: template.labels.clone(),
            }),
        };
        serde_json::to_vec_pretty(&wire).expect("strings always serialise")
    }

    /// Nothing of it is left. Nothing to forget is success.
    ///
    /// # Errors
    /// An error that names the file.
    pub fn forget(&self) -> Result<(), Error> {
        let file = file(&self.identity);
        match fs::remove_file(&file) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                Err(Error::io("cannot remove", &file, err))
            }
            _ => Ok(()),
        }
    }

    /// None for what is no record.
    fn from_json(text: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(text).ok()?;
        let template = match wire.template {
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
        let container = wire.container.as_deref().map(DockerId::parse);
        Some(Self {
            identity: ContainerId::parse(&wire.identity).ok()?,
            kind: wire.kind,
            container: container.transpose().ok()?,
            name: wire.name,
            wanted: wire.wanted,
            ifname: IfName::parse(&wire.ifname).ok()?,
            list: NetworkList::parse(wire.config.as_bytes()).ok()?,
            wishes: wire.wishes,
            addresses: wire.addresses,
            template,
        })
    }
}

/// What is remembered of an identity. What cannot be read is not.
pub fn of(identity: &ContainerId) -> Option<Record> {
    read(&file(identity)).filter(|record| record.identity == *identity)
}

/// Everything that is remembered, by identity.
pub fn all() -> Vec<Record> {
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
    use crate::published_ports::Port;

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
            wishes: Wishes {
                ips: vec!["10.1.0.7".into()],
                mac: None,
                ports: vec![Port::parse("127.0.0.1:8080:80/udp").unwrap()],
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
    fn a_record_reads_back() {
        let text = record().to_json();
        let read = Record::from_json(&text).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(read.attachment(), record().attachment());
        assert_eq!(read.wishes, record().wishes);
    }

    #[test]
    fn what_is_no_record_is_none() {
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
    fn an_anchor_has_its_labels_and_those_that_it_had() {
        let labels = record().labels();
        let has = |name: &str, value: &str| labels.contains(&(name.into(), value.into()));
        assert!(has("a", "b"));
        assert!(has(IDENTITY_LABEL, "docker-web"));
        assert!(has(NETWORK_LABEL, "podnet"));
    }
}
