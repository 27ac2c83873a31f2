//! What a pass looks after: the targets, and what it makes of each.

use std::collections::BTreeMap;

use super::super::attachment::{self, TargetNetns};
use super::super::lookup::locate_among;
use super::super::members::stranded;
use super::super::network_location::{Namespaces, NetworkLocation, netns_of};
use super::super::record::{self, IDENTITY_LABEL, NETWORK_LABEL, Record};
use super::decision::{ContainerState, Decision, Observed};
use super::event_log::{EventLog, ProblemKind};
use crate::command::Stop;
use crate::docker_api::{ApiError, Container, NetworkMode, State};
use pausenet::cni::{self, ContainerId};
use pausenet::kernel::RouteSocket;
use pausenet::kernel::netns::NetnsId;
use pausenet_host::Error;

/// Why a pass was aborted.
pub(super) enum PassError {
    /// The daemon failed to reply.
    Docker(ApiError),
    Stop(Stop),
}

impl From<ApiError> for PassError {
    fn from(failure: ApiError) -> Self {
        Self::Docker(failure)
    }
}

impl From<Stop> for PassError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Error> for PassError {
    fn from(err: Error) -> Self {
        Self::Stop(err.into())
    }
}

impl From<cni::Error> for PassError {
    fn from(err: cni::Error) -> Self {
        Self::Stop(err.into())
    }
}

impl From<PassError> for Stop {
    fn from(broken: PassError) -> Self {
        match broken {
            PassError::Docker(failure) => failure.into(),
            PassError::Stop(stop) => stop,
        }
    }
}

/// A container (or rescued process or namespace) to look after.
pub(super) struct WatchTarget<'a> {
    pub(super) identity: ContainerId,
    pub(super) record: Option<Record>,
    pub(super) container: Option<&'a Container>,
}

/// A target, its observed state, and what to do about it.
pub(super) struct Assessment<'a> {
    pub(super) target: &'a WatchTarget<'a>,
    pub(super) observed: Observed,
    pub(super) decision: Decision,
    pub(super) containers: &'a [Container],
    /// What would lose the network for good if it moved to the anchor's namespace.
    pub(super) stranded: Vec<String>,
}

impl<'a> Assessment<'a> {
    pub(super) fn new(
        target: &'a WatchTarget<'a>,
        observed: Observed,
        decision: Decision,
        containers: &'a [Container],
    ) -> Self {
        let anchor = target.container.filter(|_| decision == Decision::Split);
        Self {
            stranded: anchor.map_or_else(Vec::new, |anchor| {
                stranded(&observed.location, anchor, containers)
            }),
            target,
            observed,
            decision,
            containers,
        }
    }

    /// The anchor and its namespace, if it runs.
    pub(super) fn anchor(&self) -> Option<(&Container, NetnsId)> {
        match (self.target.container, self.observed.state) {
            (Some(anchor), ContainerState::Running(netns)) => Some((anchor, netns)),
            _ => None,
        }
    }

    /// The anchor has its network, or just got it.
    pub(super) fn has_its_network(&self) -> bool {
        match self.decision {
            Decision::Attach | Decision::Reattach | Decision::Complete => true,
            Decision::NoAction => self
                .anchor()
                .is_some_and(|(_, netns)| self.observed.location.netns() == Some(netns)),
            _ => false,
        }
    }

    /// The network can move to the anchor's namespace without loss for anything.
    pub(super) fn can_move_network(&self) -> bool {
        let anchor = self.target.container;
        let has_own_netns = anchor.is_some_and(|anchor| anchor.network == NetworkMode::None);
        has_own_netns && self.stranded.is_empty()
    }
}

/// Everything to look after: containers with a label, and what has a record.
pub(super) fn targets<'a>(
    containers: &'a [Container],
    log: &mut EventLog,
) -> Result<Vec<WatchTarget<'a>>, PassError> {
    let mut targets: BTreeMap<ContainerId, WatchTarget<'a>> = BTreeMap::new();
    for record in record::load_all() {
        let own = record.container.as_ref();
        targets.insert(
            record.identity.clone(),
            WatchTarget {
                container: containers
                    .iter()
                    .find(|container| Some(&container.id) == own),
                identity: record.identity.clone(),
                record: Some(record),
            },
        );
    }
    for container in containers {
        if !container.labels.contains_key(NETWORK_LABEL) {
            continue;
        }
        let identity = match record::identity_of(container) {
            Ok(identity) => identity,
            Err(err) => {
                log.problem(
                    ProblemKind::Label,
                    container.name.as_str(),
                    &err.to_string(),
                    "",
                )?;
                continue;
            }
        };
        let target = targets.entry(identity.clone()).or_insert(WatchTarget {
            identity,
            record: None,
            container: None,
        });
        match target.container {
            None => target.container = Some(container),
            Some(other) if other.id != container.id && container.pid.is_some() => {
                let text = format!(
                    "its label {IDENTITY_LABEL} is {}, which {other} has too",
                    target.identity
                );
                log.problem(ProblemKind::Label, container.name.as_str(), &text, "")?;
            }
            Some(_) => {}
        }
    }
    Ok(targets.into_values().collect())
}

impl WatchTarget<'_> {
    /// The container's or record's name.
    pub(super) fn name(&self) -> String {
        match (self.container, &self.record) {
            (Some(container), _) => container.name.to_string(),
            (None, Some(record)) => record.name.clone(),
            (None, None) => self.identity.to_string(),
        }
    }

    pub(super) fn mode(&self) -> String {
        self.container
            .map_or_else(String::new, |container| container.network.to_string())
    }

    pub(super) fn observed(
        &self,
        namespaces: &Namespaces,
        socket: &mut RouteSocket,
    ) -> Result<Observed, Error> {
        let record = self.record.as_ref();
        let location = match record {
            Some(record) => locate_among(record, namespaces, socket)?,
            None => NetworkLocation::Gone,
        };
        let state = self.container.map_or(ContainerState::Absent, state);
        Ok(Observed {
            is_complete: match (record, state, self.container.and_then(|own| own.pid)) {
                (Some(record), ContainerState::Running(netns), Some(pid))
                    if location.netns() == Some(netns) =>
                {
                    has_all_networks(record, pid)?
                }
                _ => true,
            },
            kind: record.map_or(record::Kind::Attached, |record| record.kind),
            not_in_docker: record.is_some_and(|record| record.container.is_none()),
            // The user detached that container, not one created later under its name.
            wanted: record.is_none_or(|record| {
                record.wanted().next().is_some()
                    || self
                        .container
                        .is_some_and(|own| record.container.as_ref() != Some(&own.id))
            }),
            has_own_netns: self
                .container
                .is_some_and(|container| container.network == NetworkMode::None),
            is_cached: record.is_some_and(attachment::is_cached),
            state,
            location,
        })
    }
}

/// Whether a process's namespace has all networks of the record. One that exits meanwhile has.
fn has_all_networks(record: &Record, pid: u32) -> Result<bool, Error> {
    let wanted: Vec<_> = record.wanted().collect();
    // The common case: the network that was found is the only one.
    if wanted.len() < 2 {
        return Ok(true);
    }
    let Ok(target_netns) = TargetNetns::of_process(pid) else {
        return Ok(true);
    };
    let there = target_netns.attached(record)?;
    Ok(wanted.iter().all(|network| there.contains(&network.ifname)))
}

fn state(container: &Container) -> ContainerState {
    match container.state {
        State::Restarting => ContainerState::Restarting,
        _ if container.pid.is_none() => ContainerState::Stopped,
        _ => netns_of(container).map_or(ContainerState::Ending, ContainerState::Running),
    }
}
