//! What is known about one network namespace: its owner, its members, its network, and the origin
//! of each interface. Pure: [`super::scan`] gathers the facts.

use std::path::PathBuf;

use super::cgroup::Engine;
use super::container::{Container, NetworkFrom, Role, short_id};
use super::interfaces::Interface;
use super::named_netns::pod_of_ours;
use super::origin::Origin;
use super::processes::Process;
use super::registration::{RegisteredBy, Registration};
use super::text::plain;
use pausenet::kernel::netns::NetnsId;

/// A network namespace other than the host's.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub netns: NetnsId,
    /// Its members, the oldest first.
    pub members: Vec<Member>,
    /// The files that hold it.
    pub bound_to: Vec<PathBuf>,
    pub interfaces: Vec<SandboxInterface>,
    pub owner: Owner,
    /// Containers whose network members joined, and that are not in this namespace.
    pub missing: Vec<MissingContainer>,
    /// Containers that joined a member's network and were left in its former namespace when it was
    /// restarted.
    pub left_behind: Vec<String>,
    /// The container that its network is registered for, if the network is ours.
    pub holder: Option<Registration>,
}

/// A container, or a process outside of containers.
#[derive(Debug, Clone)]
pub struct Member {
    pub container: Option<Container>,
    /// Its processes in this namespace, the oldest first; never empty.
    pub processes: Vec<Process>,
}

/// An interface and its origin.
#[derive(Debug, Clone)]
pub struct SandboxInterface {
    pub interface: Interface,
    /// The bridge that its host end is a port of.
    pub bridge: Option<String>,
    pub origin: Origin,
}

/// The owner of the namespace, with the reason for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// One of the members, by index.
    Member(usize, OwnerReason),
    /// A container that is not in the namespace any more.
    Missing(MissingContainer),
    /// It is only bound to a file; no other owner is known.
    File(PathBuf),
    /// No owner that is visible from here.
    Unknown,
}

/// What makes a member the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerReason {
    /// It is the sandbox of a pod of Kubernetes.
    Sandbox,
    /// It is the pause of a pod of ours.
    PodOfOurs,
    /// The others joined its network.
    Joined,
    /// The namespace was made for it.
    MadeFor,
    /// It runs a pause.
    Pause,
    /// It is the oldest process.
    Oldest,
    /// `pausectl rescue` gave it a network, after it had lost the one it shared.
    Rescued,
    /// The network is registered under its ID.
    Registered,
}

/// A container whose network others joined, and that is not in their namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingContainer {
    /// None when only its process is known to be gone.
    pub id: Option<String>,
    pub name: Option<String>,
    pub was: LastKnownState,
    /// The Docker networks that it had; their interfaces are gone with it.
    pub networks: Vec<String>,
}

/// What happened to it. Times are in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastKnownState {
    Removed {
        at: Option<String>,
    },
    Stopped {
        at: Option<String>,
    },
    /// Its processes have ended, and nerdctl has it still.
    EndedInNerdctl,
    /// It was restarted, and runs in another namespace.
    Restarted(OtherNamespace),
    Unknown,
}

/// The namespace of a container that was restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherNamespace {
    /// Its engine creates this namespace for it at each start. False if it is another container's.
    pub(super) is_its_own: bool,
    /// The other members there.
    pub(super) with: Vec<String>,
}

/// The state of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its owner is in it.
    Running,
    /// Its owner is gone or in another namespace, and other members are still in it.
    Orphaned,
    /// It has no members.
    Empty,
}

impl State {
    /// Its name in text and JSON output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
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

    /// The ID of the container whose network it joins; see [`Container::joined`].
    pub(super) fn joined(&self) -> Option<&str> {
        self.container.as_ref()?.joined()
    }

    /// Its oldest process.
    pub fn first(&self) -> &Process {
        &self.processes[0]
    }

    /// Whether one of our networks, registered under this ID, belongs to it.
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

    /// Whether the namespace was created for it. podman binds the namespace to a file first.
    pub(super) fn has_its_own(&self) -> bool {
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
    /// Its state.
    pub fn state(&self) -> State {
        match (&self.owner, self.members.as_slice()) {
            (_, []) => State::Empty,
            (Owner::Missing(_), _) => State::Orphaned,
            // One of our pods without its pause: it is bound to its file, but has no anchor.
            (Owner::File(_), _) if self.pod().is_some() => State::Orphaned,
            _ => State::Running,
        }
    }

    /// The member that owns it, if any.
    pub fn anchor(&self) -> Option<&Member> {
        match self.owner {
            Owner::Member(at, _) => self.members.get(at),
            _ => None,
        }
    }

    /// The members other than the owner.
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

    /// Which of our pods it is, according to the file that it is bound to.
    fn pod(&self) -> Option<super::name::PodName> {
        self.bound_to.iter().find_map(|path| pod_of_ours(path))
    }

    /// What to call it: by its owner, or by the pod.
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
}

/// Finds the owner of a namespace. `absent` looks up what happened to a container outside of it.
pub(super) fn owner(
    members: &[Member],
    bound_to: &[PathBuf],
    absent: impl Fn(&str) -> MissingContainer,
) -> Owner {
    let at = |found: &dyn Fn(&Member) -> bool| members.iter().position(found);
    let is_pod = bound_to.iter().any(|path| pod_of_ours(path).is_some());
    let pause = at(&Member::is_pause);
    if let Some(at) = at(&|member| member.role() == Role::Sandbox) {
        return Owner::Member(at, OwnerReason::Sandbox);
    }
    if is_pod {
        return match pause {
            Some(at) => Owner::Member(at, OwnerReason::PodOfOurs),
            None => bound_to
                .first()
                .map_or(Owner::Unknown, |path| Owner::File(path.clone())),
        };
    }
    let joined = members.iter().find_map(Member::joined).map(str::to_owned);
    let made_for = at(&Member::has_its_own);
    let from_process = members.iter().find_map(|member| match member.network() {
        Some(NetworkFrom::Process(pid)) => Some(*pid),
        _ => None,
    });
    let (root, joined_id) = match (joined, made_for, from_process) {
        (Some(id), ..) => {
            let root = root_of(members, id);
            (at(&|member| member.has_id(&root)), Some(root))
        }
        (None, Some(at), _) => (Some(at), None),
        (None, None, Some(pid)) => (at(&|member| member.has_process(pid)), None),
        (None, None, None) => return owner_by_process_or_file(members, bound_to, pause),
    };
    match (root, pause, joined_id) {
        (Some(at), ..) if members.len() == 1 => Owner::Member(at, OwnerReason::MadeFor),
        (Some(at), ..) => Owner::Member(at, OwnerReason::Joined),
        // A pause has replaced the old owner.
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
    /// Corrects a missing owner by the registration of the network that is here now. It may be
    /// registered for a member that has outlived the missing container; or only the registration may
    /// have the missing container's name or ID.
    pub(super) fn corrected(self, members: &[Member], holder: Option<&Registration>) -> Self {
        let (Self::Missing(absent), Some(holder)) = (&self, holder) else {
            return self;
        };
        let own = members
            .iter()
            .position(|member| member.has_identity(&holder.id));
        match (own, holder.by) {
            (Some(at), RegisteredBy::Rescue) => Self::Member(at, OwnerReason::Rescued),
            (Some(at), _) => Self::Member(at, OwnerReason::Registered),
            // The rescue of a process or a path says nothing about the missing container.
            (None, RegisteredBy::Rescue) => self,
            (None, _) => Self::Missing(MissingContainer {
                id: absent.id.clone().or_else(|| Some(holder.id.clone())),
                name: absent.name.clone().or_else(|| holder.name.clone()),
                ..absent.clone()
            }),
        }
    }
}

/// The owner of members whose engines report nothing about their network.
fn owner_by_process_or_file(
    members: &[Member],
    bound_to: &[PathBuf],
    pause: Option<usize>,
) -> Owner {
    match (pause, members.is_empty(), bound_to.first()) {
        (Some(at), ..) => Owner::Member(at, OwnerReason::Pause),
        (None, _, Some(path)) => Owner::File(path.clone()),
        (None, false, None) => Owner::Member(0, OwnerReason::Oldest),
        (None, true, None) => Owner::Unknown,
    }
}

/// Follows members that joined one another's networks, to the last one. Ends in a cycle too.
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
