//! Where a network is: the namespace that its interface lives in, and who else does. From the
//! kernel, each time.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::docker_api::Container;
use pausenet::apply;
use pausenet::cni::IfName;
use pausenet::cni::request::Attachment;
use pausenet::cni::result::AddResult;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link, Which};
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet_host::anchor::interfaces;
use pausenet_host::anchor::processes::{self, Process};
use pausenet_host::runtime::cache::Entry;
use pausenet_host::{During, Error};

/// Where an attachment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// The kernel has nothing of it.
    Gone,
    /// Its interface is there, and no process lives with it.
    Empty,
    /// Processes live in its namespace.
    Lived { netns: NetnsId, pids: Vec<u32> },
}

/// The network namespaces that processes live in, and those.
pub struct Namespaces(HashMap<NetnsId, Vec<Process>>);

impl Namespaces {
    /// Walks /proc.
    pub fn read() -> Result<Self, Error> {
        Ok(Self(processes::by_namespace(|_| true)?))
    }

    /// Finds an attachment. `remembered` helps where another plugin than ours has wired it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn home(
        &self,
        socket: &mut RouteSocket,
        attachment: &Attachment,
        remembered: Option<&Entry>,
    ) -> Result<Home, Error> {
        let Some(host_end) = host_end(socket, attachment, remembered)? else {
            return Ok(Home::Gone);
        };
        let Some(number) = host_end.peer_netns.filter(|number| *number >= 0) else {
            return Ok(Home::Empty);
        };
        for (netns, processes) in &self.0 {
            let open = processes
                .iter()
                .find_map(|process| open(process.pid, *netns));
            let Some(open) = open else {
                continue;
            };
            let found = open.number(socket).during("ask for a namespace's number")?;
            if found == Some(number) {
                return Ok(Home::Lived {
                    netns: *netns,
                    pids: processes.iter().map(|process| process.pid).collect(),
                });
            }
        }
        Ok(Home::Empty)
    }
}

impl Home {
    /// The namespace, if somebody lives there.
    pub fn netns(&self) -> Option<NetnsId> {
        match self {
            Self::Lived { netns, .. } => Some(*netns),
            Self::Gone | Self::Empty => None,
        }
    }

    /// The containers that live there.
    pub fn containers<'a>(&self, all: &'a [Container]) -> Vec<&'a Container> {
        let Some(home) = self.netns() else {
            return Vec::new();
        };
        let lives = |container: &&Container| netns_of(container) == Some(home);
        all.iter().filter(lives).collect()
    }
}

/// The namespace that a container's process lives in.
pub fn netns_of(container: &Container) -> Option<NetnsId> {
    NetnsId::of_process(container.pid?)
}

/// The path by which a process's namespace is found.
pub fn netns_path(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// True when there is an interface of this name inside.
pub fn has_interface(netns: &Netns, name: &IfName) -> Result<bool, Error> {
    let inside = interfaces::apart(|| interfaces::Host::open()?.look_into(netns))?;
    let mut inside = inside.iter();
    Ok(inside.any(|interface| interface.link.name == name.as_str()))
}

fn open(pid: u32, netns: NetnsId) -> Option<Netns> {
    let open = Netns::open(&netns_path(pid)).ok()?;
    (open.id().ok()? == netns).then_some(open)
}

/// Ours, by its name and alias; or the veth on the host that the result of another plugin's
/// ADD names.
fn host_end(
    socket: &mut RouteSocket,
    attachment: &Attachment,
    remembered: Option<&Entry>,
) -> Result<Option<Link>, Error> {
    if let Some(ours) = apply::host_end(socket, attachment)? {
        return Ok(Some(ours));
    }
    let result = remembered
        .and_then(|entry| AddResult::from_json(entry.result.as_ref()?, entry.list.version).ok());
    let interfaces = result.into_iter().flat_map(|result| result.interfaces);
    for interface in interfaces.filter(|interface| interface.sandbox.is_empty()) {
        let Ok(name) = IfName::parse(&interface.name) else {
            continue;
        };
        let found =
            link::get(socket, Which::Name(&name)).during_with(|| format!("look up {name}"))?;
        let same = |link: &Link| {
            let mac = link.mac.map(|mac| mac.to_string());
            link.kind == "veth" && mac.is_some_and(|mac| mac == interface.mac)
        };
        if let Some(link) = found.filter(same) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}
