//! The namespace that an attachment's interface is in, and the processes there. Always read from the
//! kernel.

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

/// Where an attachment's interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkLocation {
    /// Nowhere: the kernel does not have it.
    Gone,
    /// In a namespace without processes.
    Unoccupied,
    /// In a namespace with these processes.
    Occupied { netns: NetnsId, pids: Vec<u32> },
}

/// All network namespaces with processes in them, and these processes.
pub(super) struct Namespaces(HashMap<NetnsId, Vec<Process>>);

impl Namespaces {
    /// Reads /proc.
    pub(super) fn read() -> Result<Self, Error> {
        Ok(Self(processes::by_namespace(|_| true)?))
    }

    /// Finds an attachment. The cache entry is for attachments made by other plugins than ours.
    pub(super) fn locate(
        &self,
        socket: &mut RouteSocket,
        attachment: &Attachment,
        remembered: Option<&Entry>,
    ) -> Result<NetworkLocation, Error> {
        let Some(host_end) = host_end(socket, attachment, remembered)? else {
            return Ok(NetworkLocation::Gone);
        };
        let Some(number) = host_end.peer_netns.filter(|number| *number >= 0) else {
            return Ok(NetworkLocation::Unoccupied);
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
                return Ok(NetworkLocation::Occupied {
                    netns: *netns,
                    pids: processes.iter().map(|process| process.pid).collect(),
                });
            }
        }
        Ok(NetworkLocation::Unoccupied)
    }
}

impl NetworkLocation {
    /// The namespace, if processes are in it.
    pub(super) fn netns(&self) -> Option<NetnsId> {
        match self {
            Self::Occupied { netns, .. } => Some(*netns),
            Self::Gone | Self::Unoccupied => None,
        }
    }

    /// The containers in it.
    pub(super) fn containers<'a>(&self, all: &'a [Container]) -> Vec<&'a Container> {
        let Some(location) = self.netns() else {
            return Vec::new();
        };
        let lives = |container: &&Container| netns_of(container) == Some(location);
        all.iter().filter(lives).collect()
    }
}

/// The namespace of a running container.
pub(super) fn netns_of(container: &Container) -> Option<NetnsId> {
    NetnsId::of_process(container.pid?)
}

pub(super) fn netns_path(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// The links in a namespace, without lo.
pub(crate) struct LinksInside(Vec<Link>);

impl LinksInside {
    pub(crate) fn of(netns: &Netns) -> Result<Self, Error> {
        let inside = interfaces::on_separate_thread(|| interfaces::Host::open()?.look_into(netns))?;
        Ok(Self(inside.into_iter().map(|found| found.link).collect()))
    }

    pub(crate) fn named(&self, name: &IfName) -> Option<&Link> {
        self.0.iter().find(|link| link.name == name.as_str())
    }

    /// The first of eth0, eth1, … that neither a link nor one of `others` has.
    pub(crate) fn free_name(&self, others: &[&IfName]) -> Result<IfName, Error> {
        let names = (0..=self.0.len() + others.len()).map(|at| IfName::parse(&format!("eth{at}")));
        for name in names {
            let name = name.map_err(Error::new)?;
            if self.named(&name).is_none() && !others.contains(&&name) {
                return Ok(name);
            }
        }
        Err(Error::new("no interface name is free").hint("choose one with --ifname"))
    }

    /// Whether an attachment's interface is in the namespace. Its host end says so; without one that
    /// can be found, an interface with the name and the MAC address in the plugins' result.
    pub(super) fn has(
        &self,
        socket: &mut RouteSocket,
        netns: &Netns,
        attachment: &Attachment,
        remembered: Option<&Entry>,
    ) -> Result<bool, Error> {
        if let Some(host_end) = host_end(socket, attachment, remembered)? {
            let number = netns
                .number(socket)
                .during("ask for a namespace's number")?;
            return Ok(number.is_some() && host_end.peer_netns == number);
        }
        let Some(inside) = self.named(&attachment.ifname) else {
            return Ok(false);
        };
        let mac = inside.mac.map(|mac| mac.to_string());
        let result = remembered.and_then(result);
        let mut made = result.into_iter().flat_map(|result| result.interfaces);
        Ok(made.any(|made| !made.sandbox.is_empty() && Some(made.mac) == mac))
    }
}

fn result(entry: &Entry) -> Option<AddResult> {
    AddResult::from_json(entry.result.as_ref()?, entry.list.version).ok()
}

fn open(pid: u32, netns: NetnsId) -> Option<Netns> {
    let open = Netns::open(&netns_path(pid)).ok()?;
    (open.id().ok()? == netns).then_some(open)
}

/// Our host end, by name and alias; or the host veth in the result of another plugin's ADD.
fn host_end(
    socket: &mut RouteSocket,
    attachment: &Attachment,
    remembered: Option<&Entry>,
) -> Result<Option<Link>, Error> {
    if let Some(ours) = apply::host_end(socket, attachment)? {
        return Ok(Some(ours));
    }
    let interfaces = remembered
        .and_then(result)
        .into_iter()
        .flat_map(|result| result.interfaces);
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
