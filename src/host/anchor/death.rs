//! Describes in sentences what happens to a network when a member dies, and which members share
//! it. Pure.

use std::ffi::OsStr;
use std::path::Path;

use super::cgroup::Engine;
use super::container::{Container, Role, short_id};
use super::origin::Origin;
use super::registration::RegisteredBy;
use super::sandbox::{
    LastKnownState, Member, MissingContainer, Owner, OwnerReason, Sandbox, State,
};
use super::text::{list, plain};

/// The effect of one member's death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeathEffect {
    pub member: String,
    pub effect: String,
}

/// The effects of death, one for each member, the owner first.
pub fn death_effects(sandbox: &Sandbox) -> Vec<DeathEffect> {
    let others: Vec<_> = sandbox.sharers().map(Member::title).collect();
    let owner = sandbox.anchor().map(|anchor| DeathEffect {
        member: anchor.title(),
        effect: owners_death(sandbox, anchor, &others),
    });
    let sharers_death = |member: &Member| DeathEffect {
        member: member.title(),
        effect: sharers_death(sandbox, member),
    };
    owner
        .into_iter()
        .chain(sandbox.sharers().map(sharers_death))
        .collect()
}

fn owners_death(sandbox: &Sandbox, anchor: &Member, others: &[String]) -> String {
    let engine = anchor
        .container
        .as_ref()
        .and_then(|container| container.engine);
    let is_sandbox = anchor
        .container
        .as_ref()
        .is_some_and(|found| found.role == Role::Sandbox);
    let all = names(sandbox, |_| true);
    if is_sandbox {
        return "Kubernetes recreates the pod, unless its restartPolicy is Never: it stops the other \
                containers, removes the network, and starts everything in a new namespace, usually \
                with another address"
            .to_owned();
    }
    let taken = match engine {
        // Whatever made it: podman made the namespace, and removes its network with the container.
        Some(Engine::Podman) if anchor.has_its_own() => names(sandbox, |_| true),
        Some(Engine::Podman) => Vec::new(),
        _ => names(sandbox, |origin| matches!(origin, Origin::Docker { .. })),
    };
    let taker = match engine {
        Some(Engine::Podman) => "podman",
        _ => "Docker",
    };
    if others.is_empty() {
        return match taken.as_slice() {
            [] => last_members_death(sandbox) + &cannot_return(sandbox, anchor),
            taken => format!(
                "{taker} removes {}; nothing else uses {}",
                list(taken, "and"),
                if taken.len() == 1 { "it" } else { "them" },
            ),
        };
    }
    let who = list(others, "and");
    let (keep, stay) = match others {
        [_] => ("keeps", "stays"),
        _ => ("keep", "stay"),
    };
    let anchor_name = anchor.title();
    if !taken.is_empty() {
        let new = if taken.len() == 1 {
            "a new"
        } else {
            "new interfaces"
        };
        let taken = list(&taken, "and");
        return format!(
            "{taker} removes {taken} for every member; {who} {keep} running with only lo. If \
             {anchor_name} is restarted, it gets {new} {taken} in a namespace of its own; {who} \
             {stay} here without a network"
        );
    }
    let kept = match all.as_slice() {
        [] => "nothing: there is no network to lose".to_owned(),
        all => format!(
            "{} {} with {who}: the address is kept, and connections survive",
            list(all, "and"),
            if all.len() == 1 { "stays" } else { "stay" },
        ),
    };
    let is_nerdctl_s = |container: &Container| container.by_nerdctl;
    if !all.is_empty() && anchor.container.as_ref().is_some_and(is_nerdctl_s) {
        return format!("{kept}, until {}", nerdctl_removes(&anchor_name));
    }
    if engine != Some(Engine::Docker) {
        return kept;
    }
    let mut said = kept;
    said.push_str(&match anchor.joined() {
        Some(_) if lost(sandbox, anchor).is_some() => cannot_return(sandbox, anchor),
        Some(joined) => match is_missing(sandbox, joined) {
            false => format!(". If {anchor_name} is restarted, it rejoins this namespace"),
            true => format!(
                ". If {anchor_name} is restarted, it leaves this namespace for that of the \
                 container it was started onto"
            ),
        },
        None => format!(
            ". If {anchor_name} is restarted, it gets a new namespace, and {who} {keep} this one"
        ),
    });
    let bound = sandbox.sharers().filter(|member| joins(member, anchor));
    let bound: Vec<_> = bound.map(Member::title).collect();
    if !bound.is_empty() {
        said.push_str(&format!(
            "; if it is removed, {} cannot be restarted, because Docker looks for it by its ID",
            list(&bound, "and"),
        ));
    }
    said
}

/// Whether Docker looks for `other` at each start of `member`.
fn joins(member: &Member, other: &Member) -> bool {
    member.joined().is_some_and(|id| other.has_id(id))
}

fn sharers_death(sandbox: &Sandbox, member: &Member) -> String {
    let is_in_pod = member
        .container
        .as_ref()
        .is_some_and(|found| found.role == Role::Application);
    match (sandbox.members.len(), is_in_pod) {
        (1, _) => last_members_death(sandbox),
        (_, true) => {
            "the others keep the network; Kubernetes starts it again in the same one, if its \
                      restartPolicy or a rule says so, and with the rule RestartAllContainers the \
                      others too; an ephemeral container (kubectl debug) it never starts again"
                .to_owned()
        }
        (_, false) => match lost(sandbox, member) {
            Some(id) => format!(
                "nothing for the others; it cannot be started again, because Docker looks for \
                 container {}, which was removed",
                plain(short_id(id))
            ),
            None => "nothing for the others".to_owned(),
        },
    }
}

/// Ends the sentence about a member that Docker can no longer start; empty for any other.
fn cannot_return(sandbox: &Sandbox, member: &Member) -> String {
    lost(sandbox, member).map_or_else(String::new, |id| {
        format!(
            ". {} cannot be started again, because Docker looks for container {}, which was \
             removed",
            member.title(),
            plain(short_id(id))
        )
    })
}

fn is_missing(sandbox: &Sandbox, id: &str) -> bool {
    let mut missing = sandbox.missing.iter();
    missing.any(|missing| missing.id.as_deref() == Some(id))
}

/// The ID of the removed container that Docker would look for when it starts this member.
pub(super) fn lost<'a>(sandbox: &'a Sandbox, member: &Member) -> Option<&'a str> {
    let joined = member.joined()?;
    let removed = sandbox.missing.iter().find(|missing| {
        missing.id.as_deref() == Some(joined)
            && matches!(missing.was, LastKnownState::Removed { .. })
    });
    removed?.id.as_deref()
}

/// What happens when the last member dies.
fn last_members_death(sandbox: &Sandbox) -> String {
    let stays = sandbox.bound_to.iter().find(|file| !is_engine_s(file));
    if let Some(file) = stays {
        return format!(
            "the namespace stays: it is bound to {}",
            plain(&file.to_string_lossy())
        );
    }
    let all = names(sandbox, |_| true);
    let by_cni = names(sandbox, |origin| {
        matches!(origin, Origin::Cni { .. } | Origin::Pausenet { .. })
    });
    let end = match all.as_slice() {
        [] => "the namespace ends".to_owned(),
        all => format!("the namespace ends, and {} with it", list(all, "and")),
    };
    match by_cni.is_empty() {
        true => end,
        false => format!("{end}; its address stays reserved until DEL or GC is run"),
    }
}

/// Whether an engine binds namespaces to such files itself, and unbinds them when their container
/// ends: Docker, and podman.
fn is_engine_s(file: &Path) -> bool {
    let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let dir = file.parent().unwrap_or(file);
    dir.ends_with("docker/netns") || name.starts_with("netns-") && dir.ends_with("netns")
}

/// The names of the interfaces with a wanted origin.
pub(super) fn names(sandbox: &Sandbox, wanted: impl Fn(&Origin) -> bool) -> Vec<String> {
    let wires = sandbox
        .interfaces
        .iter()
        .filter(|wire| wanted(&wire.origin));
    wires.map(|wire| plain(&wire.interface.link.name)).collect()
}

/// A summary in one sentence, of the member `about` or of the namespace as a whole.
pub fn summary(sandbox: &Sandbox, about: Option<usize>) -> String {
    let sharers: Vec<_> = sandbox.sharers().map(Member::title).collect();
    let subject = about
        .and_then(|at| sandbox.members.get(at))
        .map(Member::title);
    match (&sandbox.owner, sandbox.state()) {
        (Owner::Missing(absent), State::Orphaned) => {
            let who = subject.map_or(sharers, |subject| vec![subject]);
            orphaned(sandbox, absent, &who)
        }
        (Owner::Member(at, _), _) if about.is_some() && about != Some(*at) => format!(
            "{} shares the network of {}.",
            subject.unwrap_or_default(),
            sandbox.members[*at].title(),
        ),
        (Owner::Member(at, OwnerReason::Rescued | OwnerReason::Registered), _)
            if !sandbox.missing.is_empty() =>
        {
            outlived(sandbox, &sandbox.members[*at], &sharers)
        }
        (Owner::Member(at, reason @ (OwnerReason::PodOfOurs | OwnerReason::Sandbox)), _) => {
            let owner = sandbox.members[*at].title();
            let role = match reason {
                OwnerReason::Sandbox => {
                    format!("{owner} is the sandbox of pod {}", sandbox.title())
                }
                _ => format!("{owner} is the anchor of pod {}", sandbox.title()),
            };
            match sharers.as_slice() {
                [] => format!("{role}; it has no other member."),
                [one] => format!("{role}; {one} shares its network."),
                many => format!("{role}; {} share its network.", list(many, "and")),
            }
        }
        (Owner::Member(at, _), _) => {
            let owner = sandbox.members[*at].title();
            match sharers.as_slice() {
                [] => format!("{owner} has a network of its own that nothing shares."),
                [one] => format!("{owner} owns its network; {one} shares it."),
                many => format!("{owner} owns its network; {} share it.", list(many, "and")),
            }
        }
        (_, State::Orphaned) => format!(
            "Pod {} has lost its pause process; {} still {} its network.",
            sandbox.title(),
            list(&sharers, "and"),
            if sharers.len() == 1 { "uses" } else { "use" },
        ),
        (Owner::File(file), State::Empty) => format!(
            "This network has no members; its namespace is bound to {}.",
            plain(&file.to_string_lossy()),
        ),
        (Owner::File(file), _) => {
            let verb = if sharers.len() == 1 { "uses" } else { "use" };
            format!(
                "{} {verb} a network whose namespace is bound to {}.",
                list(&sharers, "and"),
                plain(&file.to_string_lossy()),
            )
        }
        _ => "This network has no visible members.".to_owned(),
    }
}

/// The summary for an owner that outlived the container whose network it shared, and now has a
/// network of its own.
fn outlived(sandbox: &Sandbox, owner: &Member, sharers: &[String]) -> String {
    let lost: Vec<_> = sandbox
        .missing
        .iter()
        .map(MissingContainer::title)
        .collect();
    let gone = match sandbox.missing.as_slice() {
        [one] => format!(", {}", gone(one)),
        _ => String::new(),
    };
    let rescued = match sandbox.owner {
        Owner::Member(_, OwnerReason::Rescued) => " was rescued: it",
        _ => "",
    };
    let with = match sharers {
        [] => String::new(),
        [one] => format!("; {one} shares it"),
        many => format!("; {} share it", list(many, "and")),
    };
    format!(
        "{}{rescued} shared the network of {}{gone}, and now has {} of its own{with}.",
        owner.title(),
        list(&lost, "and"),
        list(&names(sandbox, |_| true), "and"),
    )
}

/// Word forms that agree with one subject or several.
struct Grammar {
    was: &'static str,
    its: &'static str,
    has: &'static str,
    it: &'static str,
    uses: &'static str,
}

const ONE: Grammar = Grammar {
    was: "was",
    its: "its",
    has: "has",
    it: "it",
    uses: "uses",
};

const MANY: Grammar = Grammar {
    was: "were",
    its: "their",
    has: "have",
    it: "they",
    uses: "use",
};

fn orphaned(sandbox: &Sandbox, absent: &MissingContainer, about: &[String]) -> String {
    let who = list(about, "and");
    let Grammar {
        was,
        its,
        has,
        it,
        uses,
    } = if about.len() == 1 { ONE } else { MANY };
    let owner = absent.title();
    let gone = gone(absent);
    let left = names(sandbox, |_| true);
    let rescued = sandbox
        .holder
        .as_ref()
        .is_some_and(|holder| holder.by == RegisteredBy::Rescue);
    match (&absent.was, left.as_slice()) {
        (_, left) if rescued => format!(
            "{who} {was} rescued: {it} shared the network of {owner}, {gone}; {} was put into \
             {its} namespace instead, and stays until its last member ends.",
            list(left, "and"),
        ),
        (LastKnownState::Restarted(_), []) => format!(
            "{who} {was} left behind: {its} owner {owner} was restarted and has a network in \
             another namespace; here, only lo is left."
        ),
        (LastKnownState::Restarted(_), left) => format!(
            "{who} {was} left behind: {its} owner {owner} was restarted and has another \
             namespace; {} stayed here.",
            list(left, "and"),
        ),
        (_, []) if absent.networks.is_empty() => {
            format!("{who} {has} no network: {it} shared that of {owner}, {gone}; only lo is left.")
        }
        (_, []) => format!(
            "{who} {has} lost {its} network: {} with {its} owner {owner}, {gone}; only lo is left.",
            // Docker names interfaces eth0, eth1 and so on.
            match absent.networks.as_slice() {
                [_] => "eth0 is gone".to_owned(),
                many => {
                    let names: Vec<_> = (0..many.len()).map(|at| format!("eth{at}")).collect();
                    format!("{} are gone", list(&names, "and"))
                }
            },
        ),
        (was, left) => format!(
            "{who} still {uses} the network of {owner}, {gone}: {} {} until its last member ends{}.",
            list(left, "and"),
            if left.len() == 1 { "stays" } else { "stay" },
            match was {
                LastKnownState::EndedInNerdctl => format!(", or {}", nerdctl_removes(&owner)),
                _ => String::new(),
            },
        ),
    }
}

/// When nerdctl takes the network of a container away that has ended.
fn nerdctl_removes(container: &str) -> String {
    format!("nerdctl removes {container} or starts it again")
}

/// What happened to the owner, as the end of a sentence.
pub fn gone(absent: &MissingContainer) -> String {
    let moment = |what: &str, at: &Option<String>| match at {
        Some(at) => format!("which {what} at {}", plain(at)),
        None => format!("which {what}"),
    };
    match &absent.was {
        LastKnownState::Removed { at } => moment("was removed", at),
        LastKnownState::Stopped { at } => moment("stopped", at),
        LastKnownState::EndedInNerdctl => "which has ended".to_owned(),
        LastKnownState::Restarted(_) => {
            "which was restarted and is in another namespace".to_owned()
        }
        LastKnownState::Unknown => "which is gone".to_owned(),
    }
}
