//! The members of a watched anchor: restarted if --restart-members allows it and it helps, or else
//! reported with the command that repairs each.

use serde_json::json;

use super::super::members::{is_orphaned, members_elsewhere, recreate_command};
use super::super::network_location::netns_of;
use super::super::reanchor::AnchorState;
use super::super::record;
use super::super::restart_members::{MemberRestarts, restart_members};
use super::decision::Decision;
use super::event_log::{EventLog, ProblemKind};
use super::target::{Assessment, PassError};
use crate::command::Stop;
use crate::docker_api::{Container, ContainerName, Docker, ErrorKind};
use pausenet::kernel::netns::NetnsId;
use pausenet_host::runtime::{Interrupt, Runtime};

/// Moves the network to the anchor's namespace.
pub(super) async fn move_network(
    docker: &Docker,
    runtime: &Runtime,
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
        docker: docker.clone(),
        name: name.clone(),
        old: Some(container.clone()),
        record,
        location: assessment.observed.location.clone(),
        containers: assessment.containers.to_owned(),
    };
    let restarts = state.move_network_to_anchor(runtime, interrupt).await?;
    let text = format!(
        "has its network again ({})",
        state.record.addresses().join(", ")
    );
    log_restarts(&name, &text, &restarts, log)
}

/// `restart`: members may be restarted, and nothing before this has failed.
pub(super) async fn handle_members(
    docker: &Docker,
    assessment: &Assessment<'_>,
    restart: bool,
    log: &mut EventLog,
) -> Result<(), PassError> {
    if restart && assessment.decision == Decision::Split && assessment.can_move_network() {
        return Ok(()); // They were restarted with it.
    }
    match assessment.anchor() {
        // Left over from an attempt that was interrupted or failed.
        Some((anchor, netns)) if restart && assessment.has_its_network() => {
            let restarts = restart_members(docker, &anchor.id, netns, assessment.containers).await;
            if !restarts.is_empty() {
                log_restarts(&anchor.name, "has its network", &restarts, log)?;
            }
        }
        Some((anchor, netns)) => {
            report_members_elsewhere(docker, assessment, anchor, netns, log).await?;
        }
        None => {}
    }
    report_orphaned_members(docker, assessment, log).await
}

/// Members in an old namespace of an anchor that still has the same ID.
async fn report_members_elsewhere(
    docker: &Docker,
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
                report_recreate_command(docker, member, name, false, &text, log).await?;
                continue;
            }
        };
        log.problem(ProblemKind::Member, member.name.as_str(), &text, &repair)?;
    }
    Ok(())
}

/// Members that cannot be restarted, since the anchor that they joined was removed.
async fn report_orphaned_members(
    docker: &Docker,
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
        let text = format!("cannot be restarted, because it refers to a removed container {name}");
        report_recreate_command(docker, member, &anchor, is_anchored, &text, log).await?;
    }
    Ok(())
}

async fn report_recreate_command(
    docker: &Docker,
    member: &Container,
    anchor: &ContainerName,
    is_anchored: bool,
    text: &str,
    log: &mut EventLog,
) -> Result<(), PassError> {
    let name = member.name.as_str();
    match recreate_command(docker, member, anchor, is_anchored).await {
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
