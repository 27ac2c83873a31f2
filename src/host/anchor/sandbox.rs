//! What is known of one network namespace: who owns it, who shares it, which network it has, and
//! who made that. Pure: [`super::scan`] gathers the facts.

use std::path::PathBuf;

use super::cgroup::Engine;
use super::container::{Container, NetworkFrom, Role, short_id};
use super::interfaces::Interface;
use super::origin::Origin;
use super::pin::pod_of_ours;
use super::processes::Process;
use super::registration::{RegisteredBy, Registration};
use super::text::plain;
use pausenet::cni::request::Attachment;
use pausenet::kernel::netns::NetnsId;
use pausenet::plan::attachment_of_host_end;

/// A network namespace other than the host's.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub netns: NetnsId,
    /// Who lives in it, the oldest first.
    pub members: Vec<Member>,
    /// Files that hold it.
    pub held_by: Vec<PathBuf>,
    pub interfaces: Vec<SandboxInterface>,
    pub owner: Owner,
    /// Containers that members were started onto, and that are not with them.
    pub missing: Vec<MissingContainer>,
    /// Who was started onto a member and lives in another namespace: that of before a restart.
    pub left_behind: Vec<String>,
    /// In whose name its network is, if that is one of ours.
    pub holder: Option<Registration>,
}

/// A container, or a process that is in none.
#[derive(Debug, Clone)]
pub struct Member {
    pub container: Option<Container>,
    /// Those in this namespace, the oldest first; never empty.
    pub processes: Vec<Process>,
}

/// An interface and where it comes from.
#[derive(Debug, Clone)]
pub struct SandboxInterface {
    pub interface: Interface,
    /// The bridge that its host end is a port of.
    pub bridge: Option<String>,
    pub origin: Origin,
}

/// Who stands for the namespace, and why we say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// One of the members, by its place.
    Member(usize, OwnerReason),
    /// It was started for a container that is not in it any more.
    Missing(MissingContainer),
    /// A file; nobody else is known.
    File(PathBuf),
    /// Nobody that can be seen from here.
    Nobody,
}

/// What makes a member the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerReason {
    /// It is the sandbox of a pod of Kubernetes.
    Sandbox,
    /// It is the pause of a pod of ours.
    PodOfOurs,
    /// The others were started onto its network.
    Joined,
    /// The namespace was made for it.
    MadeFor,
    /// It runs a pause.
    Pause,
    /// It is the oldest process.
    Oldest,
    /// `pausectl rescue` gave it a network, when it had lost another's.
    Rescued,
    /// The network is registered under its ID.
    Registered,
}

/// A container that others were started onto, and that is not with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingContainer {
    /// None when only its process is known to be gone.
    pub id: Option<String>,
    pub name: Option<String>,
    pub was: LastKnownState,
    /// Docker's networks that it had, and took along.
    pub networks: Vec<String>,
}

/// What became of it. Times are in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastKnownState {
    Removed {
        at: Option<String>,
    },
    Stopped {
        at: Option<String>,
    },
    /// It runs, in another namespace: it was restarted.
    Restarted(OtherNamespace),
    Unknown,
}

/// The namespace of a container that was restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherNamespace {
    /// Its engine makes it anew at each start. False: it was that of another container.
    pub is_its_own: bool,
    /// Who else lives there.
    pub with: Vec<String>,
}

/// How a namespace fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its owner lives in it.
    Alive,
    /// Its owner is gone or elsewhere, and others live on in it.
    Orphaned,
    /// Nobody lives in it.
    Empty,
}

impl State {
    /// Its name on screens and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Orphaned => "orphaned",
            Self::Empty => "empty",
        }
    }
}

impl MissingContainer {
    /// What a person calls it.
    pub fn title(&self) -> String {
        let id = self.id.as_deref().map(short_id);
        let known = self.name.as_deref().or(id);
        known.map_or_else(|| "another container".to_owned(), plain)
    }
}

impl Member {
    /// What a person calls it.
    pub fn title(&self) -> String {
        match &self.container {
            Some(container) => plain(container.title()),
            None => self.first().to_string(),
        }
    }

    /// See [`Container::joined`].
    pub fn joined(&self) -> Option<&str> {
        self.container.as_ref()?.joined()
    }

    /// Its oldest process.
    pub fn first(&self) -> &Process {
        &self.processes[0]
    }

    /// True when a network of ours that is registered under this ID is its own.
    fn has_identity(&self, id: &str) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|found| found.id == id || found.identity.as_deref() == Some(id))
    }

    fn is_pause(&self) -> bool {
        self.first().is_pause
    }

    pub(super) fn has_id(&self, id: &str) -> bool {
        self.container.as_ref().is_some_and(|found| found.id == id)
    }

    /// True when the namespace was made for it. podman makes a file of it first.
    fn has_its_own(&self) -> bool {
        self.container
            .as_ref()
            .is_some_and(|found| match found.network {
                NetworkFrom::Itself => true,
                NetworkFrom::File(_) => found.engine == Some(Engine::Podman),
                _ => false,
            })
    }

    fn has_process(&self, pid: u32) -> bool {
        self.processes.iter().any(|process| process.pid == pid)
    }

    fn role(&self) -> Role {
        self.container
            .as_ref()
            .map_or(Role::Any, |found| found.role)
    }

    fn network(&self) -> Option<&NetworkFrom> {
        self.container.as_ref().map(|found| &found.network)
    }
}

impl Sandbox {
    /// How it fares.
    pub fn state(&self) -> State {
        match (&self.owner, self.members.as_slice()) {
            (_, []) => State::Empty,
            (Owner::Missing(_), _) => State::Orphaned,
            // A pod of ours without its pause: its name holds it, and nobody stands for it.
            (Owner::File(_), _) if self.pod().is_some() => State::Orphaned,
            _ => State::Alive,
        }
    }

    /// The member that owns it, if one does.
    pub fn anchor(&self) -> Option<&Member> {
        match self.owner {
            Owner::Member(at, _) => self.members.get(at),
            _ => None,
        }
    }

    /// The others.
    pub fn sharers(&self) -> impl Iterator<Item = &Member> {
        let owner = match self.owner {
            Owner::Member(at, _) => Some(at),
            _ => None,
        };
        let others = self.members.iter().enumerate();
        others
            .filter(move |(at, _)| Some(*at) != owner)
            .map(|(_, member)| member)
    }

    /// The pod of ours that it is, by the file that holds it.
    pub fn pod(&self) -> Option<super::name::PodName> {
        self.held_by.iter().find_map(|path| pod_of_ours(path))
    }

    /// What a person calls it: after its owner, or the pod.
    pub fn title(&self) -> String {
        if let Some(pod) = self.pod() {
            return pod.to_string();
        }
        let kube = self
            .anchor()
            .and_then(|anchor| anchor.container.as_ref()?.pod.as_ref());
        if let Some(pod) = kube {
            return plain(&format!("{}/{}", pod.namespace, pod.name));
        }
        match (&self.owner, self.anchor()) {
            (_, Some(anchor)) => anchor.title(),
            (Owner::Missing(absent), _) => absent.title(),
            (Owner::File(path), _) => plain(&path.to_string_lossy()),
            _ => format!("net:[{}]", self.netns.number()),
        }
    }

    /// Attachments of ours in it.
    pub fn attachments(&self) -> impl Iterator<Item = (&SandboxInterface, Attachment)> {
        let ours =
            |wire: &SandboxInterface| attachment_of_host_end(wire.interface.host_end.as_ref()?);
        self.interfaces
            .iter()
            .filter_map(move |wire| Some((wire, ours(wire)?)))
    }
}

/// Decides who owns a namespace. `absent` tells what became of a container that is not in it.
pub fn owner(
    members: &[Member],
    held_by: &[PathBuf],
    absent: impl Fn(&str) -> MissingContainer,
) -> Owner {
    let at = |found: &dyn Fn(&Member) -> bool| members.iter().position(found);
    let is_pod = held_by.iter().any(|path| pod_of_ours(path).is_some());
    let pause = at(&Member::is_pause);
    if let Some(at) = at(&|member| member.role() == Role::Sandbox) {
        return Owner::Member(at, OwnerReason::Sandbox);
    }
    if is_pod {
        return match pause {
            Some(at) => Owner::Member(at, OwnerReason::PodOfOurs),
            None => held_by
                .first()
                .map_or(Owner::Nobody, |path| Owner::File(path.clone())),
        };
    }
    let joined = members.iter().find_map(Member::joined).map(str::to_owned);
    let made_for = at(&Member::has_its_own);
    let from_process = members.iter().find_map(|member| match member.network() {
        Some(NetworkFrom::Process(pid)) => Some(*pid),
        _ => None,
    });
    let (root, told) = match (joined, made_for, from_process) {
        (Some(id), ..) => {
            let root = root_of(members, id);
            (at(&|member| member.has_id(&root)), Some(root))
        }
        (None, Some(at), _) => (Some(at), None),
        (None, None, Some(pid)) => (at(&|member| member.has_process(pid)), None),
        (None, None, None) => return unled(members, held_by, pause),
    };
    match (root, pause, told) {
        (Some(at), ..) if members.len() == 1 => Owner::Member(at, OwnerReason::MadeFor),
        (Some(at), ..) => Owner::Member(at, OwnerReason::Joined),
        // Somebody has put a pause in the place of the old owner.
        (None, Some(at), _) => Owner::Member(at, OwnerReason::Pause),
        (None, None, Some(id)) => Owner::Missing(absent(&id)),
        (None, None, None) => Owner::Missing(MissingContainer {
            id: None,
            name: None,
            was: LastKnownState::Unknown,
            networks: Vec::new(),
        }),
    }
}

impl Owner {
    /// Corrects what members' own stories say by whose network is here now: that of a member,
    /// which has outlived another's; or of one that only we remember the name of.
    pub fn corrected(self, members: &[Member], holder: Option<&Registration>) -> Self {
        let (Self::Missing(absent), Some(holder)) = (&self, holder) else {
            return self;
        };
        let own = members
            .iter()
            .position(|member| member.has_identity(&holder.id));
        match (own, holder.by) {
            (Some(at), RegisteredBy::Rescue) => Self::Member(at, OwnerReason::Rescued),
            (Some(at), _) => Self::Member(at, OwnerReason::Registered),
            // A process or a path: not the one that its container was started onto.
            (None, RegisteredBy::Rescue) => self,
            (None, _) => Self::Missing(MissingContainer {
                name: absent.name.clone().or_else(|| holder.name.clone()),
                ..absent.clone()
            }),
        }
    }
}

/// Of members that nobody says anything of.
fn unled(members: &[Member], held_by: &[PathBuf], pause: Option<usize>) -> Owner {
    match (pause, members.is_empty(), held_by.first()) {
        (Some(at), ..) => Owner::Member(at, OwnerReason::Pause),
        (None, _, Some(path)) => Owner::File(path.clone()),
        (None, false, None) => Owner::Member(0, OwnerReason::Oldest),
        (None, true, None) => Owner::Nobody,
    }
}

/// Follows members that were started onto one another. A circle ends where it began.
fn root_of(members: &[Member], first: String) -> String {
    let mut id = first;
    for _ in members {
        let next = members.iter().find(|member| member.has_id(&id));
        match next.and_then(Member::joined) {
            Some(further) => id = further.to_owned(),
            None => break,
        }
    }
    id
}
