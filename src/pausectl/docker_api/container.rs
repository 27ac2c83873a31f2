//! A container as Docker describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, RestartPolicy as WirePolicy,
    RestartPolicyNameEnum,
};

use super::names::{ContainerName, ContainerRef, DockerId};

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: DockerId,
    pub name: ContainerName,
    /// As it was asked for: a name, or an ID.
    pub image: String,
    pub state: State,
    /// Its first process on this host; None when it has none.
    pub pid: Option<u32>,
    pub network: NetworkMode,
    pub restart: RestartPolicy,
    pub labels: BTreeMap<String, String>,
    pub hostname: String,
    /// What it has for /etc/hosts: a file of Docker's on this host; None until it has run.
    pub hosts: Option<PathBuf>,
    /// When it was made, in RFC 3339: of two, the older sorts first.
    pub created: String,
    /// Why Docker's last attempt to start it failed; mostly empty.
    pub error: String,
}

/// What Docker says of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    /// Its processes are frozen, by `docker pause`. They have a network as before.
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A word that we do not know.
    Unknown,
}

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// A namespace of its own with nothing but lo.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by its ID. (By a name only until it is made.)
    Container(String),
    /// A network of Docker's, by name; its own bridge is "default" or "bridge".
    Docker(String),
}

/// What Docker does when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    No,
    Always,
    UnlessStopped,
    /// So often at most; 0 is for ever.
    OnFailure(u32),
}

impl Container {
    pub(super) fn read(found: ContainerInspectResponse) -> Option<Self> {
        let state = found.state.unwrap_or_default();
        let config = found.config.unwrap_or_default();
        let host = found.host_config.unwrap_or_default();
        Some(Self {
            id: DockerId::parse(&found.id?).ok()?,
            name: ContainerName::parse(found.name?.trim_start_matches('/')).ok()?,
            image: config.image.unwrap_or_default(),
            state: State::read(state.status),
            pid: state
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0),
            network: NetworkMode::read(&host.network_mode.unwrap_or_default()),
            restart: RestartPolicy::read(host.restart_policy),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            hostname: config.hostname.unwrap_or_default(),
            hosts: found
                .hosts_path
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            created: found.created.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
        })
    }

    /// How to call it: by its ID, which no other takes over.
    pub fn by_id(&self) -> ContainerRef {
        (&self.id).into()
    }

    /// True when it looks for this container's network at each of its starts.
    pub fn joins(&self, other: &DockerId) -> bool {
        self.network == NetworkMode::Container(other.to_string())
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl State {
    fn read(status: Option<ContainerStateStatusEnum>) -> Self {
        use ContainerStateStatusEnum as Wire;
        match status {
            Some(Wire::CREATED) => Self::Created,
            Some(Wire::RUNNING | Wire::STOPPING) => Self::Running,
            Some(Wire::PAUSED) => Self::Paused,
            Some(Wire::RESTARTING) => Self::Restarting,
            Some(Wire::REMOVING) => Self::Removing,
            Some(Wire::EXITED) => Self::Exited,
            Some(Wire::DEAD) => Self::Dead,
            Some(Wire::EMPTY) | None => Self::Unknown,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        })
    }
}

impl NetworkMode {
    pub(super) fn read(text: &str) -> Self {
        match text.split_once(':') {
            Some(("container", id)) => Self::Container(id.to_owned()),
            _ => match text {
                "none" => Self::None,
                "host" => Self::Host,
                _ => Self::Docker(text.to_owned()),
            },
        }
    }
}

/// As `docker run --network` takes it.
impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(id) => write!(f, "container:{id}"),
            Self::Docker(name) => f.write_str(name),
        }
    }
}

impl RestartPolicy {
    /// As `docker run --restart` takes it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(0),
            _ => {
                let times = text.strip_prefix("on-failure:");
                let times = times.and_then(|times| times.parse::<u16>().ok());
                let wrong = || {
                    format!(
                        "{text:?} is no restart policy: no, always, unless-stopped, or \
                         on-failure[:TIMES]"
                    )
                };
                Self::OnFailure(times.ok_or_else(wrong)?.into())
            }
        })
    }

    pub(super) fn read(policy: Option<WirePolicy>) -> Self {
        let policy = policy.unwrap_or_default();
        let times = policy.maximum_retry_count.unwrap_or_default();
        match policy.name {
            Some(RestartPolicyNameEnum::ALWAYS) => Self::Always,
            Some(RestartPolicyNameEnum::UNLESS_STOPPED) => Self::UnlessStopped,
            Some(RestartPolicyNameEnum::ON_FAILURE) => {
                Self::OnFailure(u32::try_from(times).unwrap_or_default())
            }
            Some(RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY) | None => Self::No,
        }
    }

    pub(super) fn wire(self) -> WirePolicy {
        let (name, times) = match self {
            Self::No => (RestartPolicyNameEnum::NO, 0),
            Self::Always => (RestartPolicyNameEnum::ALWAYS, 0),
            Self::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
            Self::OnFailure(times) => (RestartPolicyNameEnum::ON_FAILURE, times),
        };
        WirePolicy {
            name: Some(name),
            maximum_retry_count: Some(times.into()),
        }
    }
}

/// As `docker run --restart` takes it.
impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::OnFailure(0) => f.write_str("on-failure"),
            Self::OnFailure(times) => write!(f, "on-failure:{times}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_modes_read_back() {
        for text in ["none", "host", "container:abc", "default", "my-net"] {
            assert_eq!(NetworkMode::read(text).to_string(), text);
        }
        assert_eq!(NetworkMode::read("none"), NetworkMode::None);
        let joined = NetworkMode::Container("abc".into());
        assert_eq!(NetworkMode::read("container:abc"), joined);
    }

    #[test]
    fn restart_policies_read_back() {
        for text in [
            "no",
            "always",
            "unless-stopped",
            "on-failure",
            "on-failure:5",
        ] {
            let policy = RestartPolicy::parse(text).unwrap();
            assert_eq!(policy.to_string(), text);
            assert_eq!(RestartPolicy::read(Some(policy.wire())), policy);
        }
        for text in ["", "never", "on-failure:", "on-failure:-1", "Always"] {
            let why = RestartPolicy::parse(text).unwrap_err();
            assert!(why.contains("is no restart policy"), "{why}");
        }
    }
}
