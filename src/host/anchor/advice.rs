//! What to do about members that lost their network, or whose network lost its owner.

use super::cgroup::Engine;
use super::container::short_id;
use super::death::{lost, names};
use super::registration::RegisteredBy;
use super::sandbox::{
    LastKnownState, Member, MissingContainer, OtherNamespace, Owner, OwnerReason, Sandbox,
};
use super::text::{list, plain};

/// A piece of advice, and the commands that carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub what: String,
    /// Empty when there is something to know but nothing to run.
    pub commands: Vec<String>,
}

impl Advice {
    fn new(what: impl Into<String>, commands: &[String]) -> Self {
        Self {
            what: what.into(),
            commands: commands.to_vec(),
        }
    }
}

/// What to do about a namespace whose owner is gone, for the member `about`, or else for the first
/// one. Empty for any other namespace.
pub fn advice(sandbox: &Sandbox, about: Option<usize>) -> Vec<Advice> {
    let Some(member) = sandbox.members.get(about.unwrap_or(0)) else {
        return Vec::new();
    };
    let is_docker = member
        .container
        .as_ref()
        .is_some_and(|found| found.engine == Some(Engine::Docker));
    let mut advice = match &sandbox.owner {
        Owner::Missing(_) if sandbox.interfaces.is_empty() => vec![rescue(member, is_docker)],
        Owner::Missing(absent) if is_docker => with_a_network(sandbox, absent, member),
        _ => Vec::new(),
    };
    if !is_docker {
        return advice;
    }
    match &sandbox.owner {
        Owner::Missing(absent) if sandbox.interfaces.is_empty() => {
            advice.push(recreate_advice("or", member));
            if matches!(absent.was, LastKnownState::Restarted(_)) {
                advice.push(Advice::new(
                    format!("restart {} into its owner's new namespace", member.title()),
                    &[format!("docker restart {}", for_docker(member))],
                ));
            }
        }
        Owner::Missing(_) => {}
        Owner::Member(_, OwnerReason::Rescued | OwnerReason::Registered)
            if lost(sandbox, member).is_some() =>
        {
            advice.push(recreate_advice("at a convenient time,", member));
        }
        Owner::Member(..) if !sandbox.left_behind.is_empty() => {
            advice.push(Advice::new(
                format!(
                    "{} {} left behind in an earlier namespace; see",
                    list(&sandbox.left_behind, "and"),
                    if sandbox.left_behind.len() == 1 {
                        "was"
                    } else {
                        "were"
                    },
                ),
                &[format!("pausectl explain {}", sandbox.left_behind[0])],
            ));
            return advice;
        }
        _ => return advice,
    }
    if let Some(id) = lost(sandbox, member) {
        advice.push(Advice::new(
            format!(
                "{} cannot be restarted as it is: Docker would look for container {}, which no \
                 longer exists",
                member.title(),
                plain(short_id(id))
            ),
            &[],
        ));
    }
    advice
}

/// Gives a member without a network a new one.
fn rescue(member: &Member, is_docker: bool) -> Advice {
    // `pausectl rescue` only knows the names of Docker containers.
    let known = member.container.as_ref().filter(|_| is_docker);
    let known = known.and_then(|container| container.name.clone());
    let target = known.unwrap_or_else(|| member.first().pid.to_string());
    Advice::new(
        format!(
            "give {} a network again, in place, without a restart",
            member.title()
        ),
        &[format!("pausectl rescue {target} --network NET")],
    )
}

fn recreate_advice(when: &str, member: &Member) -> Advice {
    Advice::new(
        format!(
            "{when} recreate {} on an anchor, which outlives its members",
            member.title()
        ),
        &[
            "pausectl docker up ANCHOR --network NET".to_owned(),
            "docker run --net=container:ANCHOR ...".to_owned(),
        ],
    )
}

/// For an orphaned namespace that still has its network: how to give it a new owner.
fn with_a_network(sandbox: &Sandbox, absent: &MissingContainer, member: &Member) -> Vec<Advice> {
    let mut advice = Vec::new();
    let elsewhere = match &absent.was {
        LastKnownState::Restarted(elsewhere) => Some(elsewhere),
        _ => None,
    };
    let holder = sandbox.holder.as_ref();
    if holder.is_some_and(|holder| holder.by == RegisteredBy::Anchoring) {
        // A container that still exists may have been renamed.
        let name = match (holder, &absent.was) {
            (Some(holder), LastKnownState::Removed { .. } | LastKnownState::Unknown) => {
                plain(holder.title())
            }
            _ => absent.title(),
        };
        reanchor(&name, elsewhere, &mut advice);
    }
    if advice.is_empty() {
        let name = match (&absent.was, &absent.name) {
            (LastKnownState::Removed { .. }, Some(name)) => plain(name),
            _ => "ANCHOR".to_owned(),
        };
        advice.push(Advice::new(
            "start a pause container in this namespace, without a restart",
            &[format!(
                "docker run -d --name {name} --net=container:{} pausenet/pause",
                for_docker(member)
            )],
        ));
    }
    if elsewhere.is_some() && joins(member, absent) {
        advice.push(Advice::new(
            format!(
                "a plain restart of {} would take it into the new namespace of {}, away from {}",
                member.title(),
                absent.title(),
                list(&names(sandbox, |_| true), "and"),
            ),
            &[],
        ));
    }
    advice
}

/// Adds `pausectl docker reanchor`, which knows the network from its record.
fn reanchor(name: &str, elsewhere: Option<&OtherNamespace>, advice: &mut Vec<Advice>) {
    let command = format!("pausectl docker reanchor {name}");
    match elsewhere {
        None => advice.push(Advice::new(
            "put a new anchor into this namespace, without a restart",
            std::slice::from_ref(&command),
        )),
        // Reanchoring removes the anchor's new namespace, so it must have no other members.
        Some(OtherNamespace { with, .. }) if with.is_empty() => advice.push(Advice::new(
            format!("put a new {name} into this namespace in place of the restarted one, without a restart"),
            std::slice::from_ref(&command),
        )),
        Some(_) => {}
    }
    if elsewhere.is_some_and(|elsewhere| elsewhere.is_its_own) {
        let or = if advice.is_empty() { "" } else { "or " };
        advice.push(Advice::new(
            format!(
                "{or}let the network follow {name}, and restart its members into the new namespace"
            ),
            &[format!("{command} --restart-members")],
        ));
    }
}

/// What to call the member in a docker command: its name, the start of its ID, or its PID.
fn for_docker(member: &Member) -> String {
    let container = member.container.as_ref();
    container.map_or_else(
        || member.first().pid.to_string(),
        |found| plain(found.title()),
    )
}

/// Whether Docker starts the member in the network of that container.
fn joins(member: &Member, absent: &MissingContainer) -> bool {
    let joined = member.joined();
    joined.is_some() && joined == absent.id.as_deref()
}
