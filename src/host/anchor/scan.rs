//! Gathers the facts for [`super::sandbox`]: one walk over /proc, the mounts, the supervisor
//! processes of containers, and the links inside each namespace, which is entered once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::cgroup::Engine;
use super::container::{Container, NetworkFrom, RunState};
use super::interfaces::{Host, Interface};
use super::members::{container_on_host, group};
use super::netns_mounts;
use super::origin::{CachedAttachment, Origin, macs};
use super::processes;
use super::registration::{Registered, Registration};
use super::sandbox::{
    LastKnownState, Member, MissingContainer, OtherNamespace, Sandbox, SandboxInterface, owner,
};
use super::supervisor;
use crate::Result;
use crate::runtime::cache;
use pausenet::kernel::link::Link;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::plan::attachment_of_host_end;

/// What engines report about their containers.
#[derive(Debug, Default)]
pub struct EngineFacts {
    /// The containers that exist, running or not.
    pub containers: Vec<Container>,
    /// Removed containers, according to an engine's history.
    pub removed: Vec<Removed>,
    /// pausectl's own records of networks.
    pub registered: Vec<Registered>,
    /// Docker has answered, so a container it does not know does not exist.
    pub docker_answered: bool,
}

/// A container that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub id: String,
    pub name: Option<String>,
    /// The time of the removal, in RFC 3339.
    pub at: Option<String>,
    /// The Docker networks that it had.
    pub networks: Vec<String>,
}

/// Which namespaces are described.
#[derive(Clone, Copy)]
pub enum Selection<'a> {
    /// Those with an attachment of ours.
    Attached,
    Those(&'a dyn Fn(NetnsId) -> bool),
}

/// The members of each network namespace, other than the host's.
pub struct NamespaceScan {
    host: NetnsId,
    namespaces: BTreeMap<NetnsId, NamespaceContent>,
    /// Containers whose network others joined, whose processes have ended, and whose shims are left.
    ended: Vec<Container>,
}

#[derive(Default)]
struct NamespaceContent {
    members: Vec<Member>,
    bound_to: Vec<PathBuf>,
    /// A file that opens the namespace; it need not hold it.
    path: Option<PathBuf>,
}

impl NamespaceScan {
    /// Walks /proc and the mounts, and identifies containers by their supervisors.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn take(host: NetnsId, facts: &EngineFacts) -> Result<Self> {
        let mut namespaces: BTreeMap<NetnsId, NamespaceContent> = BTreeMap::new();
        let known: HashMap<_, _> = facts
            .containers
            .iter()
            .map(|container| (container.id.as_str(), container))
            .collect();
        let mut supervisors = HashMap::new();
        for (netns, processes) in processes::by_namespace(|netns| netns != host)? {
            let members = group(processes, &mut supervisors);
            let content = namespaces.entry(netns).or_default();
            content.members = members;
            for container in content
                .members
                .iter_mut()
                .filter_map(|member| member.container.as_mut())
            {
                if let Some(facts) = known.get(container.id.as_str()) {
                    container.merge_reported(facts);
                }
            }
        }
        for (netns, files) in netns_mounts::list()? {
            if netns != host {
                namespaces.entry(netns).or_default().bound_to = files;
            }
        }
        let members = || namespaces.values().flat_map(|content| &content.members);
        let joined = members().filter_map(Member::joined);
        let is_unknown =
            |id: &&str| !known.contains_key(*id) && !members().any(|member| member.has_id(id));
        let ended = supervisor::of_ended(&joined.filter(is_unknown).collect());
        Ok(Self {
            host,
            namespaces,
            ended,
        })
    }

    /// Containers without a process whose network others joined, and that no engine reported.
    pub fn ended(&self) -> &[Container] {
        &self.ended
    }

    /// The containers on the host's own network. They have no sandbox.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn on_host(&self, facts: &EngineFacts) -> Result<Vec<Container>> {
        let mut supervisors = HashMap::new();
        let mut found: BTreeMap<String, Container> = BTreeMap::new();
        let processes = processes::by_namespace(|netns| netns == self.host)?;
        for process in processes.into_values().flatten() {
            if let Some(container) = container_on_host(&process, &mut supervisors) {
                found.entry(container.id.clone()).or_insert(container);
            }
        }
        for facts in &facts.containers {
            if let Some(container) = found.get_mut(&facts.id) {
                container.merge_reported(facts);
            }
        }
        Ok(found.into_values().collect())
    }

    /// The namespaces found, without the host's.
    pub fn namespaces(&self) -> impl Iterator<Item = NetnsId> {
        self.namespaces.keys().copied()
    }

    /// Adds a namespace that the user named by a file.
    pub fn add(&mut self, netns: NetnsId, file: &Path) {
        let content = self.namespaces.entry(netns).or_default();
        content.path = Some(file.to_owned());
    }

    /// The members of a namespace.
    pub fn members(&self, netns: NetnsId) -> &[Member] {
        self.namespaces
            .get(&netns)
            .map_or(&[], |content| &content.members)
    }

    /// The files that hold a namespace.
    pub fn bound_to(&self, netns: NetnsId) -> &[PathBuf] {
        self.namespaces
            .get(&netns)
            .map_or(&[], |content| &content.bound_to)
    }

    /// Describes the selected namespaces. One that ends meanwhile, or keeps changing, is an error in
    /// the list and does not affect the others. The calling thread enters some of them; see
    /// [`super::interfaces::on_separate_thread`].
    pub fn describe(
        &self,
        host: &mut Host,
        facts: &EngineFacts,
        selection: Selection,
    ) -> Vec<Result<Sandbox>> {
        let cached = cached();
        let mut sandboxes = Vec::new();
        for (&netns, content) in &self.namespaces {
            if matches!(selection, Selection::Those(is_wanted) if !is_wanted(netns)) {
                continue;
            }
            let Some(open) = self.open(netns) else {
                continue;
            };
            let number = host.number_of(&open).unwrap_or_default();
            if matches!(selection, Selection::Attached) && !host.is_attached(number) {
                continue;
            }
            let interfaces = host.look_into_numbered(&open, number);
            let describe = |found| self.sandbox(netns, content, found, host, facts, &cached);
            sandboxes.push(interfaces.map(describe));
        }
        sandboxes
    }

    fn sandbox(
        &self,
        netns: NetnsId,
        content: &NamespaceContent,
        interfaces: Vec<Interface>,
        host: &Host,
        facts: &EngineFacts,
        cached: &[CachedAttachment],
    ) -> Sandbox {
        let containers = content
            .members
            .iter()
            .filter_map(|member| member.container.as_ref());
        let wire = |interface: Interface| {
            let controller = interface.host_end.as_ref().and_then(|link| link.controller);
            let bridge = controller.and_then(|index| host.links.get(&index));
            let bridge = bridge.map(|link| link.name.clone());
            SandboxInterface {
                origin: Origin::of(
                    &interface,
                    bridge.as_deref(),
                    netns,
                    containers.clone(),
                    cached,
                ),
                bridge,
                interface,
            }
        };
        let interfaces: Vec<_> = interfaces.into_iter().map(wire).collect();
        let holder = holder(&content.members, &interfaces, facts, cached);
        let absent = |id: &str| self.absent(id, &content.members, facts);
        let owner = owner(&content.members, &content.bound_to, absent);
        let missing = joined_elsewhere(&content.members);
        Sandbox {
            netns,
            missing: missing.map(absent).collect(),
            left_behind: self.left_behind(netns, &content.members),
            owner: owner.corrected(&content.members, holder.as_ref()),
            holder,
            members: content.members.clone(),
            bound_to: content.bound_to.clone(),
            interfaces,
        }
    }

    /// The namespaces that our attachments lead to, and what each attachment is registered for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn held(
        &self,
        host: &mut Host,
        facts: &EngineFacts,
    ) -> Result<Vec<(NetnsId, Registration)>> {
        let cached = cached();
        let mut held = Vec::new();
        for &netns in self.namespaces.keys() {
            let Some(open) = self.open(netns) else {
                continue;
            };
            let Some(number) = host.number_of(&open)? else {
                continue;
            };
            let ends = host
                .links
                .values()
                .filter(|link| link.peer_netns == Some(number));
            held.extend(holders(ends, facts, &cached).map(|holder| (netns, holder)));
        }
        Ok(held)
    }

    /// The titles of members that joined this container's network.
    pub fn survivors(&self, id: &str) -> Vec<String> {
        let members = self
            .namespaces
            .values()
            .flat_map(|content| &content.members);
        members
            .filter(|member| joins_one_of(member, &HashSet::from([id])))
            .map(Member::title)
            .collect()
    }

    /// The IDs of containers whose network members joined, and that are not in the namespace.
    pub fn left(&self, netns: NetnsId) -> impl Iterator<Item = &str> {
        joined_elsewhere(self.members(netns))
    }

    /// Opens a namespace through any process or file that leads to it.
    fn open(&self, netns: NetnsId) -> Option<Netns> {
        let content = self.namespaces.get(&netns)?;
        let processes = content.members.iter().flat_map(|member| &member.processes);
        let by_process = processes.map(|process| format!("/proc/{}/ns/net", process.pid).into());
        let mut paths = by_process.chain(content.bound_to.iter().chain(&content.path).cloned());
        paths.find_map(|path: PathBuf| {
            let open = Netns::open(&path).ok()?;
            (open.id().ok()? == netns).then_some(open)
        })
    }

    /// What happened to a container that is not in the namespace of the members that joined it.
    fn absent(&self, id: &str, members: &[Member], facts: &EngineFacts) -> MissingContainer {
        let mut reported = facts.containers.iter().chain(&self.ended);
        let known = reported.find(|container| container.id == id);
        let is_docker_s = members.iter().any(|member| {
            let container = member.container.as_ref();
            member.joined() == Some(id)
                && container.is_some_and(|found| found.engine == Some(Engine::Docker))
        });
        let removed = facts.removed.iter().find(|removed| removed.id == id);
        let was = match (self.elsewhere(id), known, removed) {
            (Some(elsewhere), ..) => LastKnownState::Restarted(elsewhere),
            (None, Some(known), _) if known.by_nerdctl => LastKnownState::EndedInNerdctl,
            (None, Some(known), _) => LastKnownState::Stopped {
                at: match &known.run_state {
                    RunState::Stopped { at } => at.clone(),
                    RunState::Running => None,
                },
            },
            (None, None, Some(removed)) => LastKnownState::Removed {
                at: removed.at.clone(),
            },
            (None, None, None) if facts.docker_answered && is_docker_s => {
                LastKnownState::Removed { at: None }
            }
            (None, None, None) => LastKnownState::Unknown,
        };
        let endpoints = known.into_iter().flat_map(|known| &known.endpoints);
        let endpoints = endpoints.map(|endpoint| endpoint.network.clone());
        let past = removed
            .into_iter()
            .flat_map(|removed| removed.networks.clone());
        MissingContainer {
            id: Some(id.to_owned()),
            name: match (known, removed) {
                (Some(known), _) => known.name.clone(),
                (None, removed) => removed.and_then(|removed| removed.name.clone()),
            },
            was,
            networks: endpoints
                .chain(past)
                .filter(|network| network != "none")
                .collect(),
        }
    }

    /// The titles of those that joined one of these members and are in another namespace.
    fn left_behind(&self, netns: NetnsId, members: &[Member]) -> Vec<String> {
        let containers = members
            .iter()
            .filter_map(|member| member.container.as_ref());
        let ids: HashSet<_> = containers.map(|container| container.id.as_str()).collect();
        let others = self.namespaces.iter().filter(|(other, _)| **other != netns);
        let others = others.flat_map(|(_, content)| &content.members);
        others
            .filter(|member| joins_one_of(member, &ids))
            .map(Member::title)
            .collect()
    }

    /// The namespace that a container is in now.
    fn elsewhere(&self, id: &str) -> Option<OtherNamespace> {
        let is_it = |member: &&Member| member.has_id(id);
        self.namespaces.values().find_map(|content| {
            let own = content.members.iter().find(is_it)?;
            let container = own.container.as_ref();
            let network = container.map(|found| &found.network);
            let others = content.members.iter().filter(|member| !is_it(member));
            Some(OtherNamespace {
                is_its_own: network == Some(&NetworkFrom::Itself),
                with: others.map(Member::title).collect(),
            })
        })
    }

    /// The host's own namespace.
    pub fn host(&self) -> NetnsId {
        self.host
    }
}

fn joins_one_of(member: &Member, ids: &HashSet<&str>) -> bool {
    member.joined().is_some_and(|id| ids.contains(id))
}

/// The registrations of the attachments with these host ends.
fn holders<'a>(
    ends: impl Iterator<Item = &'a Link>,
    facts: &EngineFacts,
    cached: &[CachedAttachment],
) -> impl Iterator<Item = Registration> {
    ends.filter_map(attachment_of_host_end)
        .map(|own| Registration::of(own.container.as_str(), &facts.registered, cached))
}

/// The registration of the network here: by its host end, or else by pausectl's record of the
/// container that the members joined.
fn holder(
    members: &[Member],
    interfaces: &[SandboxInterface],
    facts: &EngineFacts,
    cached: &[CachedAttachment],
) -> Option<Registration> {
    let ends = interfaces
        .iter()
        .filter_map(|wire| wire.interface.host_end.as_ref());
    let mut held: Vec<_> = holders(ends, facts, cached).collect();
    // Those registered by pausectl come first.
    held.sort_by_key(|holder| holder.by);
    let by_end = held.into_iter().next();
    by_end.or_else(|| {
        let joined: Vec<_> = joined_elsewhere(members).collect();
        let is_joined = |found: &&Registered| {
            let container = found.container.as_deref();
            !interfaces.is_empty() && container.is_some_and(|id| joined.contains(&id))
        };
        facts
            .registered
            .iter()
            .find(is_joined)
            .map(Registration::from)
    })
}

/// The IDs of containers whose network members joined, and that are no members themselves.
fn joined_elsewhere(members: &[Member]) -> impl Iterator<Item = &str> {
    let containers = || {
        members
            .iter()
            .filter_map(|member| member.container.as_ref())
    };
    let joined: BTreeSet<_> = containers()
        .filter_map(Container::joined)
        .filter(|id| !containers().any(|container| container.id == **id))
        .collect();
    joined.into_iter()
}

/// The attachments in runtimes' result caches.
fn cached() -> Vec<CachedAttachment> {
    let read = |entry: cache::Entry| {
        let attachment = entry.parameters.attachment;
        let netns = entry.parameters.netns.as_deref();
        let plugins = entry.list.plugins.into_iter().map(|plugin| plugin.r#type);
        CachedAttachment {
            network: attachment.network.to_string(),
            plugins: plugins.collect(),
            container: attachment.container.to_string(),
            ifname: attachment.ifname.to_string(),
            netns: netns.and_then(open_id),
            macs: macs(entry.result.as_ref()),
        }
    };
    let entries = cache::list().unwrap_or_default();
    entries.into_iter().map(read).collect()
}

fn open_id(path: &Path) -> Option<NetnsId> {
    Netns::open(path).ok()?.id().ok()
}
