//! A container as all sources together know it: the kernel, the process behind it, and its
//! engine.

use std::path::PathBuf;

use super::cgroup::Engine;
use pausenet::cni::MacAddr;

/// One container. What is not known is None.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub engine: Option<Engine>,
    pub name: Option<String>,
    pub image: Option<String>,
    pub pod: Option<KubePod>,
    pub role: Role,
    pub network: NetworkFrom,
    /// The ID that its network is registered under, where that is another than its own.
    pub identity: Option<String>,
    /// The networks that Docker has attached it to.
    pub endpoints: Vec<Endpoint>,
    pub life: Life,
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubePod {
    pub namespace: String,
    pub name: String,
}

/// What a container is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// No source has reported one.
    Any,
    /// A pod's sandbox: it is there for the network.
    Sandbox,
    /// An application in a pod.
    Application,
}

/// Where a container has its network namespace from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkFrom {
    Unknown,
    /// Made for it.
    Itself,
    /// It has none of its own.
    Host,
    /// That of a process, by /proc/PID/ns/net as it was when the container started.
    Process(u32),
    File(PathBuf),
    /// That of another container, by ID: Docker remembers it.
    Container(String),
}

/// A network of Docker's, on a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub network: String,
    pub mac: Option<MacAddr>,
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    Running,
    /// It exists, and does not run. When it ended, in the engine's words (RFC 3339).
    Stopped {
        at: Option<String>,
    },
}

impl Container {
    /// The ID of the container onto whose network its engine starts it.
    pub fn joined(&self) -> Option<&str> {
        match &self.network {
            NetworkFrom::Container(id) => Some(id),
            _ => None,
        }
    }

    /// One of which nothing but the ID is known.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            engine: None,
            name: None,
            image: None,
            pod: None,
            role: Role::Any,
            network: NetworkFrom::Unknown,
            identity: None,
            endpoints: Vec::new(),
            life: Life::Running,
        }
    }

    /// What a person calls it: its name, or the beginning of its ID.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.short_id())
    }

    /// The ID as engines show it in lists.
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }

    /// Adds what its engine says, which knows best.
    pub fn merge_reported(&mut self, reported: &Self) {
        self.engine = reported.engine.or(self.engine);
        self.name = reported.name.clone().or(self.name.take());
        self.image = reported.image.clone().or(self.image.take());
        self.pod = reported.pod.clone().or(self.pod.take());
        if reported.role != Role::Any {
            self.role = reported.role;
        }
        if reported.network != NetworkFrom::Unknown {
            self.network = reported.network.clone();
        }
        self.identity = reported.identity.clone().or(self.identity.take());
        self.endpoints.clone_from(&reported.endpoints);
    }
}

/// The beginning of an ID.
pub fn short_id(id: &str) -> &str {
    match super::cgroup::is_id(id) {
        true => &id[..12],
        false => id,
    }
}
