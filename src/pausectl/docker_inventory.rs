//! What Docker and our own records know of the containers that `explain`, `ls` and `graph` find in
//! the kernel. All three work without Docker.

use std::time::Duration;

use crate::command::{Result, Stop};
use crate::docker::record::{self, IDENTITY_LABEL, Kind as RecordKind, Record};
use crate::docker_api::{
    ApiError, ContainerRef, ContainerSummary, Docker, ErrorKind, NetworkMode, RemovedContainer,
};
use crate::options::DockerOptions;
use pausenet::cni::MacAddr;
use pausenet_host::Error;
use pausenet_host::anchor::cgroup::Engine;
use pausenet_host::anchor::container::{Container, Endpoint, KubePod, NetworkFrom, Role, RunState};
use pausenet_host::anchor::registration::Registered;
use pausenet_host::anchor::scan::{EngineFacts, Removed};
use pausenet_host::block_on;

/// How long Docker may take: the output is useful without its names.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether to ask when stopped containers ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndTimes {
    Skip,
    /// With a request for each of them.
    Ask,
}

/// Reads the records and asks Docker. If Docker runs and does not answer, the second value says
/// why.
///
/// # Errors
/// Wrong usage: the address of Docker's socket is malformed.
pub(crate) fn read(
    options: &DockerOptions,
    end_times: EndTimes,
) -> Result<(EngineFacts, Option<Error>)> {
    if let Some(problem) = options.is_remote() {
        return Ok((with_records(EngineFacts::default()), Some(problem)));
    }
    let socket = options.socket()?;
    let asked = block_on(async {
        let asking = async {
            let docker = Docker::connect(&socket).await?;
            ask(&docker, end_times).await
        };
        Ok::<_, Stop>(tokio::time::timeout(TIMEOUT, asking).await)
    })?;
    let problem = match asked {
        Ok(Ok(facts)) => return Ok((with_records(facts), None)),
        Ok(Err(failure)) if failure.kind == ErrorKind::NotRunning => None,
        Ok(Err(failure)) => Some(Error::from(failure).context("going on without Docker")),
        Err(_) => {
            let seconds = TIMEOUT.as_secs();
            let what = format!("going on without Docker: no answer at {socket} in {seconds} s");
            Some(Error::new(what))
        }
    };
    Ok((with_records(EngineFacts::default()), problem))
}

fn with_records(facts: EngineFacts) -> EngineFacts {
    EngineFacts {
        registered: record::load_all().into_iter().map(registered).collect(),
        ..facts
    }
}

fn registered(record: Record) -> Registered {
    Registered {
        id: record.identity.to_string(),
        name: record.name,
        container: record.container.map(|id| id.to_string()),
        rescued: record.kind == RecordKind::Rescued,
    }
}

async fn ask(docker: &Docker, end_times: EndTimes) -> Result<EngineFacts, ApiError> {
    let mut facts = EngineFacts {
        docker_answered: true,
        ..EngineFacts::default()
    };
    for overview in docker.summaries().await? {
        let runs = overview.is_running;
        let by_id = ContainerRef::from(&overview.id);
        let mut container = container(overview);
        if !runs {
            let at = match end_times {
                EndTimes::Skip => None,
                // It may have been removed in between.
                EndTimes::Ask => docker.finished_at(&by_id).await.unwrap_or_default(),
            };
            container.run_state = RunState::Stopped {
                at: at.as_deref().map(whole_seconds),
            };
        }
        facts.containers.push(container);
    }
    let removals = docker.removed_containers().await?;
    facts.removed = removals.into_iter().map(removed).collect();
    Ok(facts)
}

/// A container as the survey knows it. Its pod is in kubelet's labels.
fn container(mut overview: ContainerSummary) -> Container {
    let identity = overview.labels.remove(IDENTITY_LABEL);
    let mut label = |key: &str| overview.labels.remove(&format!("io.kubernetes.{key}"));
    let role = match label("docker.type").as_deref() {
        Some("podsandbox") => Role::Sandbox,
        Some(_) => Role::Application,
        None => Role::Any,
    };
    let pod = match (label("pod.namespace"), label("pod.name")) {
        (Some(namespace), Some(name)) => Some(KubePod { namespace, name }),
        _ => None,
    };
    let endpoints = overview.endpoints.into_iter();
    Container {
        engine: Some(Engine::Docker),
        name: overview.name,
        image: Some(overview.image).filter(|image| !image.is_empty()),
        pod,
        role,
        identity,
        network: match overview.network {
            NetworkMode::Host => NetworkFrom::Host,
            NetworkMode::Container(id) => NetworkFrom::Container(id),
            NetworkMode::None | NetworkMode::Docker(_) => NetworkFrom::Itself,
        },
        endpoints: endpoints
            .map(|(network, mac)| Endpoint {
                network,
                mac: MacAddr::parse(&mac).ok(),
            })
            .collect(),
        ..Container::new(overview.id.as_str())
    }
}

fn removed(removal: RemovedContainer) -> Removed {
    let at = removal
        .at
        .map(|at| humantime::format_rfc3339_seconds(at).to_string());
    Removed {
        id: removal.id.to_string(),
        name: removal.name,
        at,
        networks: removal.networks,
    }
}

/// Without Docker's nanoseconds.
fn whole_seconds(rfc3339: &str) -> String {
    match rfc3339.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_seconds() {
        assert_eq!(
            whole_seconds("2026-11-24T11:20:03.123456789Z"),
            "2026-11-24T11:20:03Z"
        );
        assert_eq!(
            whole_seconds("2026-11-24T11:20:03Z"),
            "2026-11-24T11:20:03Z"
        );
    }
}
