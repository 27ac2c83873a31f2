//! A container, put together from three sources: the kernel, its supervisor process, and its
//! engine.

use std::path::PathBuf;

use super::cgroup::Engine;
use pausenet::cni::MacAddr;

/// One container. Unknown fields are None.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub engine: Option<Engine>,
    pub name: Option<String>,
    pub image: Option<String>,
    pub pod: Option<KubePod>,
    pub role: Role,
    pub network: NetworkFrom,
    /// The CNI container ID that its network is registered under, if that is not its own ID.
    pub identity: Option<String>,
    /// The networks that Docker attached it to.
    pub endpoints: Vec<Endpoint>,
    pub run_state: RunState,
    /// nerdctl runs it. It runs the DEL of one that has ended when it removes it or starts it again.
    pub by_nerdctl: bool,
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubePod {
    pub namespace: String,
    pub name: String,
}

/// The part a container plays in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// No source reported a role.
    Any,
    /// A pod's sandbox: it exists to hold the network.
    Sandbox,
    /// An application in a pod.
    Application,
}

/// Where a container's network namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkFrom {
    Unknown,
    /// Created for this container.
    Itself,
    /// It uses the host's.
    Host,
    /// That of a process: /proc/PID/ns/net at the time the container started.
    Process(u32),
    File(PathBuf),
    /// That of another container, by ID, as recorded by Docker or nerdctl.
    Container(String),
}

/// A container's connection to a Docker network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub network: String,
    pub mac: Option<MacAddr>,
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    Running,
    /// It exists but is not running. `at` is when it stopped, as the engine prints it (RFC 3339).
    Stopped {
        at: Option<String>,
    },
}

impl Container {
    /// The ID of the container whose network its engine makes it join at each start.
    pub fn joined(&self) -> Option<&str> {
        match &self.network {
            NetworkFrom::Container(id) => Some(id),
            _ => None,
        }
    }

    /// A container of which only the ID is known.
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
            run_state: RunState::Running,
            by_nerdctl: false,
        }
    }

    /// What to call it: its name, or the start of its ID.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(self.short_id())
    }

    /// The ID, shortened as engines show it in lists.
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }

    /// Merges in what the engine reports, which takes precedence over what is known already.
    pub(super) fn merge_reported(&mut self, reported: &Self) {
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

/// The start of an ID.
pub fn short_id(id: &str) -> &str {
    match super::cgroup::is_id(id) {
        true => &id[..12],
        false => id,
    }
}
