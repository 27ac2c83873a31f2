//! A container, as `docker inspect` describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, RestartPolicy as ApiPolicy,
    RestartPolicyNameEnum,
};

use super::names::{ContainerName, ContainerRef, DockerId};

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: DockerId,
    pub name: ContainerName,
    /// As it was given to `docker run`: a name or an ID.
    pub image: String,
    pub state: State,
    /// Its first process, as a PID of this host; None while it does not run.
    pub pid: Option<u32>,
    pub network: NetworkMode,
    pub restart: RestartPolicy,
    pub labels: BTreeMap<String, String>,
    pub hostname: String,
    /// The file of this host that is mounted as its /etc/hosts; None until it has run once.
    pub hosts: Option<PathBuf>,
    /// When it was created, in RFC 3339, so that text order is time order.
    pub created: String,
    /// Why Docker's last attempt to start it failed; usually empty.
    pub error: String,
}

/// A container's state, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    /// Frozen by `docker pause`; its network stays as it is.
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A state that this version of pausectl does not know.
    Unknown,
}

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// A namespace of its own, with lo only.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by its ID (by name only until it is created).
    Container(String),
    /// A Docker network, by name; Docker's own bridge is "default" or "bridge".
    Docker(String),
}

/// What Docker does when a container exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    No,
    Always,
    UnlessStopped,
    /// At most this many times; 0 means without limit.
    OnFailure(u32),
}

impl Container {
    /// None without an ID or a name.
    pub(super) fn from_api(found: ContainerInspectResponse) -> Option<Self> {
        let state = found.state.unwrap_or_default();
        let config = found.config.unwrap_or_default();
        let host = found.host_config.unwrap_or_default();
        Some(Self {
            id: DockerId::parse(&found.id?).ok()?,
            name: ContainerName::parse(found.name?.trim_start_matches('/')).ok()?,
            image: config.image.unwrap_or_default(),
            state: State::from_api(state.status),
            pid: state
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0),
            network: NetworkMode::parse(&host.network_mode.unwrap_or_default()),
            restart: RestartPolicy::from_api(host.restart_policy),
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

    /// A reference by ID, which no other container can take over.
    pub(crate) fn by_id(&self) -> ContainerRef {
        (&self.id).into()
    }

    /// True when each start of it joins this container's network.
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
    fn from_api(status: Option<ContainerStateStatusEnum>) -> Self {
        use ContainerStateStatusEnum as Api;
        match status {
            Some(Api::CREATED) => Self::Created,
            Some(Api::RUNNING | Api::STOPPING) => Self::Running,
            Some(Api::PAUSED) => Self::Paused,
            Some(Api::RESTARTING) => Self::Restarting,
            Some(Api::REMOVING) => Self::Removing,
            Some(Api::EXITED) => Self::Exited,
            Some(Api::DEAD) => Self::Dead,
            Some(Api::EMPTY) | None => Self::Unknown,
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
    pub(super) fn parse(text: &str) -> Self {
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
    /// A message that names the valid policies.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(0),
            _ => {
                let times = text.strip_prefix("on-failure:");
                let times = times.and_then(|times| times.parse::<u16>().ok());
                let invalid = || {
                    format!(
                        "{text:?} is not a restart policy; use no, always, unless-stopped, or \
                         on-failure[:TIMES]"
                    )
                };
                Self::OnFailure(times.ok_or_else(invalid)?.into())
            }
        })
    }

    pub(super) fn from_api(policy: Option<ApiPolicy>) -> Self {
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

    pub(super) fn to_api(self) -> ApiPolicy {
        let (name, times) = match self {
            Self::No => (RestartPolicyNameEnum::NO, 0),
            Self::Always => (RestartPolicyNameEnum::ALWAYS, 0),
            Self::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
            Self::OnFailure(times) => (RestartPolicyNameEnum::ON_FAILURE, times),
        };
        ApiPolicy {
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
    fn network_modes_round_trip() {
        for text in ["none", "host", "container:abc", "default", "my-net"] {
            assert_eq!(NetworkMode::parse(text).to_string(), text);
        }
        assert_eq!(NetworkMode::parse("none"), NetworkMode::None);
        let joined = NetworkMode::Container("abc".into());
        assert_eq!(NetworkMode::parse("container:abc"), joined);
    }

    #[test]
    fn restart_policies_round_trip() {
        for text in [
            "no",
            "always",
            "unless-stopped",
            "on-failure",
            "on-failure:5",
        ] {
            let policy = RestartPolicy::parse(text).unwrap();
            assert_eq!(policy.to_string(), text);
            assert_eq!(RestartPolicy::from_api(Some(policy.to_api())), policy);
        }
        for text in ["", "never", "on-failure:", "on-failure:-1", "Always"] {
            let why = RestartPolicy::parse(text).unwrap_err();
            assert!(why.contains("is not a restart policy"), "{why}");
        }
    }
}
