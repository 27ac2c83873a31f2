//! The state of the host that several checks look at, read once. No namespace is entered for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use super::planned::Planned;
use super::programs::Programs;
use pausenet::apply::{Host, host_end};
use pausenet::cni::Plugin;
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::{Link, Which};
use pausenet::kernel::{address, link};
use pausenet::plan::attachment_of_host_end;
use pausenet_host::runtime::add_calls::{self, AddCall};
use pausenet_host::runtime::cache::{self, Entry};
use pausenet_host::runtime::conflist::{self, NetworkList};
use pausenet_host::{During, Error, Result};

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// The folders of network configurations: the runtimes', and that of `pausectl pod`.
    pub(super) conf_dirs: Vec<PathBuf>,
    /// The folder with an address store for each network.
    pub(super) data_dir: PathBuf,
    /// The folders of plugins.
    pub(super) cni_path: Vec<PathBuf>,
    /// What is judged as if it were there.
    pub(super) planned: Planned,
}

/// A network configuration on disk.
#[derive(Debug)]
pub(super) struct Conf {
    pub(super) file: PathBuf,
    pub(super) list: Result<NetworkList>,
}

/// The addresses at the other ends of the host's links.
#[derive(Debug, Default)]
pub(super) struct PeerAddresses {
    /// By the namespace's number on this host: the index of a link there, and an address of it.
    namespaces: HashMap<i32, Vec<(u32, IpNetwork)>>,
    /// Links whose other end is in a namespace that cannot be seen from here.
    pub(super) unreadable: Vec<String>,
}

impl PeerAddresses {
    fn read(links: &[Link]) -> Result<Self> {
        let mut socket = Host::open_socket()?;
        let mut peers = Self::default();
        for link in links {
            match link.peer_netns {
                Some(id) if id < 0 => peers.unreadable.push(link.name.clone()),
                Some(id) if !peers.namespaces.contains_key(&id) => {
                    let addresses = address::of_namespace_by_link(&mut socket, id)
                        .during_with(|| format!("list the addresses behind {}", link.name))?;
                    peers.namespaces.insert(id, addresses);
                }
                _ => {}
            }
        }
        Ok(peers)
    }

    /// Whether every namespace shows its addresses. A sandbox with a network stack of its own (gVisor)
    /// takes them off the interface.
    pub(super) fn are_complete(&self) -> bool {
        let is_global = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        let mut namespaces = self.namespaces.values();
        self.unreadable.is_empty()
            && namespaces.all(|addresses| addresses.iter().any(|(_, net)| is_global(net.ip())))
    }

    /// The interfaces that have an address: namespace and link index of each.
    pub(super) fn interfaces_by_address(&self) -> HashMap<IpAddr, Vec<(i32, u32)>> {
        let mut interfaces: HashMap<IpAddr, Vec<_>> = HashMap::new();
        for (namespace, addresses) in &self.namespaces {
            for (index, net) in addresses {
                interfaces
                    .entry(net.ip())
                    .or_default()
                    .push((*namespace, *index));
            }
        }
        interfaces
    }

    /// The addresses of the interface at the other end of a link. None if it cannot be seen.
    fn behind(&self, host_end: &Link) -> Option<Vec<IpNetwork>> {
        let addresses = self.namespaces.get(&host_end.peer_netns?)?;
        let peer = host_end.peer?;
        let own = addresses.iter().filter(|(index, _)| *index == peer);
        Some(own.map(|(_, net)| *net).collect())
    }

    /// How many namespaces the host's links lead to.
    pub(super) fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }
}

/// An attachment of ours that is complete: its host end has its alias.
#[derive(Debug)]
pub(super) struct LiveAttachment {
    pub(super) attachment: Attachment,
    pub(super) host_end: Link,
    /// Those of its interface, without link-local ones. None if it cannot be seen.
    pub(super) addresses: Option<Vec<IpNetwork>>,
    /// What each plugin of ours was asked for: by the runtime's result cache, or else by the
    /// network's configuration.
    pub(super) add_calls: Vec<AddCall>,
    /// It is in the runtime's result cache, so its published ports are known.
    pub(super) is_cached: bool,
    /// No plugin behind ours is known or suspected to change routes in the pod.
    pub(super) routes_are_ours: bool,
    /// A plugin of its list has set lo up.
    pub(super) has_loopback: bool,
}

/// Plugins that leave the routes in a pod alone. Others, such as `sbr` and `vrf`, are there to
/// change them.
const NOT_FOR_ROUTES: [&str; 7] = [
    "bandwidth",
    "firewall",
    "host-local",
    "loopback",
    "portmap",
    "tuning",
    "pausenet",
];

fn leaves_routes_alone(list: &NetworkList) -> bool {
    let behind = &list.plugins[list.wiring() + 1..];
    behind
        .iter()
        .all(|plugin| NOT_FOR_ROUTES.contains(&plugin.r#type.as_str()))
}

fn has_loopback(list: &NetworkList) -> bool {
    let mut plugins = list.plugins.iter();
    plugins.any(|plugin| plugin.r#type == Plugin::Loopback.name())
}

/// The host at one moment.
pub(super) struct Snapshot {
    pub(super) paths: Paths,
    pub(super) now: SystemTime,
    pub(super) programs: Programs,
    pub(super) confs: Vec<Conf>,
    pub(super) links: Result<Vec<Link>>,
    pub(super) peers: Result<PeerAddresses>,
    /// The runtimes' result caches.
    pub(super) cache: Result<Vec<Entry>>,
    pub(super) attachments: Vec<LiveAttachment>,
}

impl Snapshot {
    /// Reads all of it. A part that cannot be read holds its error, for the checks that need it.
    pub(super) fn read(paths: Paths, now: SystemTime) -> Self {
        let programs = Programs::find(&paths.cni_path, &paths.planned);
        let confs = confs(&paths);
        let links = Host::open_socket()
            .map_err(Error::from)
            .and_then(|mut socket| link::list(&mut socket).during("list the host's links"));
        let peers = links
            .as_deref()
            .map_err(Clone::clone)
            .and_then(PeerAddresses::read);
        let cache = cache::list();
        let cached: HashMap<_, _> = (cache.iter().flatten())
            .map(|entry| (&entry.parameters.attachment, entry))
            .collect();
        let mut attachments = Vec::new();
        for host_end in links.iter().flatten() {
            let Some(attachment) = attachment_of_host_end(host_end) else {
                continue;
            };
            let addresses = peers.as_ref().ok().and_then(|peers| peers.behind(host_end));
            let addresses: Option<Vec<_>> = addresses.map(|addresses| {
                let own = addresses.into_iter().filter(|net| !is_link_local(net));
                own.collect()
            });
            let entry = cached.get(&attachment).copied();
            let seen = addresses.as_deref().unwrap_or_default();
            let list = entry.map(|entry| &entry.list);
            let list = list.or_else(|| lists(&confs).find(|list| list.name == attachment.network));
            let add_calls = match (entry, list) {
                (Some(entry), _) => add_calls::remembered(entry, seen, programs.known()),
                (None, Some(list)) => {
                    add_calls::configured(list, &attachment, seen, programs.known())
                }
                (None, None) => Vec::new(),
            };
            attachments.push(LiveAttachment {
                is_cached: entry.is_some(),
                routes_are_ours: list.is_some_and(leaves_routes_alone),
                has_loopback: list.is_some_and(has_loopback),
                host_end: host_end.clone(),
                attachment,
                addresses,
                add_calls,
            });
        }
        Self {
            paths,
            now,
            programs,
            confs,
            links,
            peers,
            cache,
            attachments,
        }
    }

    /// The configurations that can be read.
    pub(super) fn lists(&self) -> impl Iterator<Item = &NetworkList> {
        lists(&self.confs)
    }

    /// The attachment that has the host end of this name.
    pub(super) fn attachment_at(&self, host_end: &str) -> Option<&LiveAttachment> {
        let of = |live: &&LiveAttachment| live.host_end.name == host_end;
        self.attachments.iter().find(of)
    }
}

fn lists(confs: &[Conf]) -> impl Iterator<Item = &NetworkList> {
    confs.iter().filter_map(|conf| conf.list.as_ref().ok())
}

fn confs(paths: &Paths) -> Vec<Conf> {
    let planned = paths.planned.conf.as_ref();
    let mut confs = Vec::new();
    for dir in &paths.conf_dirs {
        let mut files = conflist::files(dir).unwrap_or_default();
        if let Some((file, _)) = planned.filter(|(file, _)| file.parent() == Some(dir)) {
            files.retain(|other| other != file);
            files.push(file.clone());
            files.sort();
        }
        for file in files {
            let list = match planned.filter(|(planned, _)| *planned == file) {
                Some((_, text)) => NetworkList::with_text(text.clone(), &file),
                None => NetworkList::read(&file),
            };
            confs.push(Conf { file, list });
        }
    }
    confs
}

/// Whether an attachment exists now: it may have come or gone since the links were listed. True
/// if the kernel does not answer.
pub(super) fn exists(attachment: &Attachment) -> bool {
    let found = Host::open_socket().and_then(|mut socket| host_end(&mut socket, attachment));
    !matches!(found, Ok(None))
}

/// Whether a link that was listed exists still. The kernel gives no index out again.
pub(super) fn link_exists(index: u32) -> bool {
    let found = Host::open_socket().map(|mut socket| link::get(&mut socket, Which::Index(index)));
    !matches!(found, Ok(Ok(None)))
}

/// Link-local and loopback addresses: the kernel assigns them, or every host has them.
pub(super) fn is_link_local(net: &IpNetwork) -> bool {
    match net.ip() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// A path for a message.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
