//! The members of a watched anchor: restarted if --restart-members allows it and it helps, or else
//! reported with the command that repairs each.

use serde_json::json;

use super::super::members::{is_orphaned, members_elsewhere, recreate_command, stranded};
use super::super::network_location::netns_of;
use super::super::reanchor::AnchorState;
use super::super::record;
use super::super::restart_members::{MemberRestarts, restart_members};
use super::decision::{ContainerState, Decision, Observed};
use super::event_log::{EventLog, ProblemKind};
use super::pass::{Assessment, Pass, PassError, WatchTarget};
use crate::Stop;
use crate::docker_api::{Container, ContainerName, ErrorKind, NetworkMode};
use pausenet::kernel::netns::NetnsId;
use pausenet_host::runtime::Interrupt;

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
    fn anchor(&self) -> Option<(&Container, NetnsId)> {
        match (self.target.container, self.observed.state) {
            (Some(anchor), ContainerState::Running(netns)) => Some((anchor, netns)),
            _ => None,
        }
    }

    /// The anchor has its network, or just got it.
    fn has_its_network(&self) -> bool {
        match self.decision {
            Decision::Attach | Decision::Reattach => true,
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

impl Pass<'_> {
    /// Moves the network to the anchor's namespace.
    pub(super) async fn move_network(
        &self,
        assessment: &Assessment<'_>,
        log: &mut EventLog,
        interrupt: &mut Interrupt,
    ) -> Result<(), Stop> {
        let target = assessment.target;
        let (Some(record), Some(container)) = (target.record.clone(), target.container) else {
            return Ok(());
        };
        let name = container.name.clone();
        let mut state = AnchorState {
            docker: self.docker.clone(),
            name: name.clone(),
            old: Some(container.clone()),
            record,
            location: assessment.observed.location.clone(),
            containers: assessment.containers.to_owned(),
        };
        let restarts = state
            .move_network_to_anchor(&self.config.runtime, interrupt)
            .await?;
        let text = format!(
            "has its network again ({})",
            state.record.addresses.join(", ")
        );
        log_restarts(&name, &text, &restarts, log)
    }

    /// `succeeded`: nothing before this has failed.
    pub(super) async fn handle_members(
        &self,
        assessment: &Assessment<'_>,
        succeeded: bool,
        log: &mut EventLog,
    ) -> Result<(), PassError> {
        let restarting = succeeded && self.config.restart_members;
        if restarting && assessment.decision == Decision::Split && assessment.can_move_network() {
            return Ok(()); // They were restarted with it.
        }
        match assessment.anchor() {
            // Left over from an attempt that was interrupted or failed.
            Some((anchor, netns)) if restarting && assessment.has_its_network() => {
                let restarts =
                    restart_members(self.docker, &anchor.id, netns, assessment.containers).await;
                if !restarts.is_empty() {
                    log_restarts(&anchor.name, "has its network", &restarts, log)?;
                }
            }
            Some((anchor, netns)) => {
                self.report_members_elsewhere(assessment, anchor, netns, log)
                    .await?;
            }
            None => {}
        }
        self.report_orphaned_members(assessment, log).await
    }

    /// Members in an old namespace of an anchor that still has the same ID.
    async fn report_members_elsewhere(
        &self,
        assessment: &Assessment<'_>,
        anchor: &Container,
        netns: NetnsId,
        log: &mut EventLog,
    ) -> Result<(), PassError> {
        let name = &anchor.name;
        let location = assessment
            .observed
            .location
            .netns()
            .filter(|location| *location != netns);
        if location.is_some() && assessment.observed.kind == record::Kind::Rescued {
            return Ok(()); // Its namespace was rescued, and the members have the network.
        }
        let place = format!("is in an old namespace of {name}");
        let alone = "restarted alone, it would be in the new one without a network";
        for member in members_elsewhere(&anchor.id, Some(netns), assessment.containers) {
            let (text, repair) = match location {
                None => (
                    format!("{place}; to move it to the new one"),
                    format!("docker restart {member}"),
                ),
                Some(_) if assessment.can_move_network() => (
                    format!("{place}; {alone}; to move all members and the network there"),
                    format!("pausectl docker reanchor {name} --restart-members"),
                ),
                Some(location) if netns_of(member) == Some(location) => (
                    format!("{place}, with its network; {alone}; to have the anchor there again"),
                    format!("pausectl docker reanchor {name}"),
                ),
                Some(_) => {
                    let text = format!("{place}, without a network");
                    self.report_recreate_command(member, name, false, &text, log)
                        .await?;
                    continue;
                }
            };
            log.problem(ProblemKind::Member, member.name.as_str(), &text, &repair)?;
        }
        Ok(())
    }

    /// Members that cannot be restarted, since the anchor that they joined was removed.
    async fn report_orphaned_members(
        &self,
        assessment: &Assessment<'_>,
        log: &mut EventLog,
    ) -> Result<(), PassError> {
        let name = assessment.target.name();
        let Ok(anchor) = ContainerName::parse(&name) else {
            return Ok(());
        };
        let location = assessment.observed.location.netns();
        let is_anchored = assessment
            .anchor()
            .is_some_and(|(_, netns)| Some(netns) == location);
        let members = assessment
            .observed
            .location
            .containers(assessment.containers);
        for member in members
            .into_iter()
            .filter(|member| is_orphaned(member, assessment.containers, None))
        {
            // A replaced anchor is itself a member: it joined one of the others.
            let container = assessment.target.container;
            if container.is_some_and(|own| own.id == member.id) {
                continue;
            }
            let text =
                format!("cannot be restarted, because it refers to a removed container {name}");
            self.report_recreate_command(member, &anchor, is_anchored, &text, log)
                .await?;
        }
        Ok(())
    }

    async fn report_recreate_command(
        &self,
        member: &Container,
        anchor: &ContainerName,
        is_anchored: bool,
        text: &str,
        log: &mut EventLog,
    ) -> Result<(), PassError> {
        let name = member.name.as_str();
        match recreate_command(self.docker, member, anchor, is_anchored).await {
            Ok(recreate) => {
                let text = format!("{text}; to recreate it ({})", recreate.caution);
                Ok(log.problem(ProblemKind::Member, name, &text, &recreate.command)?)
            }
            // It was removed meanwhile.
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(()),
            Err(failure) if failure.kind == ErrorKind::Other => {
                let text = format!("{text}; cannot read its settings: {failure}");
                Ok(log.problem(ProblemKind::Member, name, &text, "")?)
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Restarts are events; failures are problems.
fn log_restarts(
    anchor: &ContainerName,
    text: &str,
    restarts: &MemberRestarts,
    log: &mut EventLog,
) -> Result<(), Stop> {
    let names = restarts.restarted.iter().map(ContainerName::as_str);
    let names: Vec<_> = names.collect();
    let text = match names.as_slice() {
        [] => text.to_owned(),
        names => format!("{text}; restarted into it: {}", names.join(", ")),
    };
    let more = json!({"restarted": names});
    log.event("followed", anchor.as_str(), &text, more)?;
    for (member, failure) in &restarts.failed {
        let text = format!(
            "could not be restarted into the network of {anchor} ({failure}); to try again"
        );
        let repair = format!("docker restart {member}");
        log.problem(ProblemKind::Member, member.as_str(), &text, &repair)?;
    }
    Ok(())
}
