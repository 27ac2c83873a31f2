//! The sandboxes of this host, for `explain`, `ls` and `graph`, and their JSON.

use serde_json::{Value, json};

use pausenet_host::anchor::container::Container;
use pausenet_host::anchor::interfaces::{self, Host};
use pausenet_host::anchor::sandbox::{
    LastKnownState, Member, MissingContainer, Owner, OwnerReason, Sandbox, SandboxInterface,
};
use pausenet_host::anchor::scan::{EngineFacts, NamespaceScan, Selection};
use pausenet_host::{Error, Result};

/// The highest process ID that only the machine's own namespace has: 1 is init, 2 kthreadd.
const KTHREADD: u32 = 2;

/// Which namespaces are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those with an attachment of ours.
    Attached,
    /// All but the host's.
    All,
}

/// The host and its sandboxes.
pub(crate) struct HostSandboxes {
    pub(crate) host: Host,
    pub(crate) sandboxes: Vec<Sandbox>,
    /// Why others could not be read.
    pub(crate) problems: Vec<Error>,
}

impl HostSandboxes {
    /// Reads them from the kernel.
    ///
    /// # Errors
    /// The host's own namespace, links or processes cannot be read.
    pub(crate) fn read(scope: Scope, facts: &EngineFacts) -> Result<Self> {
        interfaces::on_separate_thread(|| {
            let mut host = Host::open()?;
            let scan = NamespaceScan::take(host.id()?, facts)?;
            // If pausectl runs in a namespace of its own, the machine's is one of the others.
            let is_the_machines = |netns| {
                let members = scan.members(netns).iter();
                let mut processes = members.flat_map(|member| &member.processes);
                processes.any(|process| process.pid <= KTHREADD)
            };
            let is_another = |netns| !is_the_machines(netns);
            let selection = match scope {
                Scope::Attached => Selection::Attached,
                Scope::All => Selection::Those(&is_another),
            };
            let mut sandboxes = Vec::new();
            let mut problems = Vec::new();
            for sandbox in scan.describe(&mut host, facts, selection) {
                match sandbox {
                    Ok(sandbox) => sandboxes.push(sandbox),
                    Err(err) => problems.push(err),
                }
            }
            Ok(Self {
                host,
                sandboxes,
                problems,
            })
        })
    }
}

/// A namespace, with all that is known of it.
pub(crate) fn sandbox(sandbox: &Sandbox) -> Value {
    let members = sandbox.members.iter().map(member).collect::<Vec<_>>();
    let interfaces = sandbox.interfaces.iter().map(interface).collect::<Vec<_>>();
    json!({
        "title": sandbox.title(),
        "state": sandbox.state().as_str(),
        "netns": sandbox.netns.number(),
        "boundTo": sandbox.bound_to,
        "owner": owner(sandbox),
        "members": members,
        "interfaces": interfaces,
    })
}

fn owner(sandbox: &Sandbox) -> Value {
    match &sandbox.owner {
        Owner::Member(at, reason) => json!({"member": at, "reason": self::reason(*reason)}),
        Owner::Missing(MissingContainer {
            id,
            name,
            was,
            networks,
        }) => {
            let (was, at) = match was {
                LastKnownState::Removed { at } => ("removed", at.as_deref()),
                LastKnownState::Stopped { at } => ("stopped", at.as_deref()),
                LastKnownState::EndedInNerdctl => ("stopped", None),
                LastKnownState::Restarted(_) => ("restarted", None),
                LastKnownState::Unknown => ("unknown", None),
            };
            json!({"gone": {"id": id, "name": name, "was": was, "at": at, "networks": networks}})
        }
        Owner::File(path) => json!({"file": path.to_string_lossy()}),
        Owner::Unknown => Value::Null,
    }
}

fn reason(reason: OwnerReason) -> &'static str {
    match reason {
        OwnerReason::Sandbox => "sandbox",
        OwnerReason::PodOfOurs => "pod",
        OwnerReason::Joined => "joined",
        OwnerReason::MadeFor => "madeFor",
        OwnerReason::Pause => "pause",
        OwnerReason::Oldest => "oldest",
        OwnerReason::Rescued => "rescued",
        OwnerReason::Registered => "registered",
    }
}

/// A member: a container, or processes in none.
fn member(member: &Member) -> Value {
    let processes = member.processes.iter();
    let processes: Vec<_> = processes
        .map(|process| json!({"pid": process.pid, "name": process.name, "pause": process.is_pause}))
        .collect();
    json!({
        "title": member.title(),
        "container": member.container.as_ref().map(container),
        "processes": processes,
    })
}

/// A container, as far as it is known.
pub(crate) fn container(container: &Container) -> Value {
    let pod = container.pod.as_ref();
    json!({
        "id": container.id,
        "name": container.name,
        "engine": container.engine.map(|engine| engine.as_str()),
        "image": container.image,
        "pod": pod.map(|pod| json!({"namespace": pod.namespace, "name": pod.name})),
    })
}

/// An interface.
fn interface(wire: &SandboxInterface) -> Value {
    let link = &wire.interface.link;
    let addresses = wire.interface.addresses.iter().map(ToString::to_string);
    json!({
        "name": link.name,
        "kind": link.kind,
        "mac": link.mac.map(|mac| mac.to_string()),
        "mtu": link.mtu,
        "up": link.up,
        "addresses": addresses.collect::<Vec<_>>(),
        "madeBy": wire.origin.as_str(),
        "network": wire.origin.network(),
        "hostEnd": wire.interface.host_end.as_ref().map(|link| &link.name),
        "bridge": wire.bridge,
    })
}
