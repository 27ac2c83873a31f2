//! What several checks look at, read once: the host's links and the addresses behind them, the
//! configurations, and what runtimes remember. No namespace is entered for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use super::programs::Programs;
use pausenet::apply::{Host, host_end};
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
pub struct Places {
    /// The folders of configurations: the runtimes', and that of `pausectl pod`.
    pub conf_dirs: Vec<PathBuf>,
    /// The folder with a store of addresses for each network.
    pub data_dir: PathBuf,
    /// Where plugins are found.
    pub cni_path: Vec<PathBuf>,
}

/// A configuration on disk.
#[derive(Debug)]
pub struct Conf {
    pub file: PathBuf,
    pub list: Result<NetworkList>,
}

/// The addresses in the namespaces behind the host's links.
#[derive(Debug, Default)]
pub struct Behind {
    /// By the number that the namespace has here: the index of a link there, and its address.
    namespaces: HashMap<i32, Vec<(u32, IpNetwork)>>,
    /// Links whose other end is where nobody here can see.
    pub unseen: Vec<String>,
}

impl Behind {
    /// Whose an address is: namespace and link, of everybody who has it.
    pub fn holders(&self) -> HashMap<IpAddr, Vec<(i32, u32)>> {
        let mut holders: HashMap<IpAddr, Vec<_>> = HashMap::new();
        for (namespace, addresses) in &self.namespaces {
            for (index, net) in addresses {
                holders
                    .entry(net.ip())
                    .or_default()
                    .push((*namespace, *index));
            }
        }
        holders
    }

    /// The addresses of the interface at the other end of a link. None if it cannot be seen.
    pub fn of(&self, host_end: &Link) -> Option<Vec<IpNetwork>> {
        let addresses = self.namespaces.get(&host_end.peer_netns?)?;
        let peer = host_end.peer?;
        let own = addresses.iter().filter(|(index, _)| *index == peer);
        Some(own.map(|(_, net)| *net).collect())
    }

    /// How many namespaces there are behind the host's links.
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }
}

/// A whole attachment of ours.
#[derive(Debug)]
pub struct Attached {
    pub attachment: Attachment,
    pub host_end: Link,
    /// What its interface has; link-local addresses are left out. None: it cannot be seen.
    pub addresses: Option<Vec<IpNetwork>>,
    /// What each plugin of ours was asked for, as far as anybody remembers it.
    pub add_calls: Vec<AddCall>,
    /// The runtime's memory of it is there: mapped ports are known.
    pub is_remembered: bool,
}

/// The host at one moment.
pub struct Scene {
    pub places: Places,
    pub now: SystemTime,
    pub programs: Programs,
    pub confs: Vec<Conf>,
    pub links: Result<Vec<Link>>,
    pub behind: Result<Behind>,
    pub entries: Result<Vec<Entry>>,
    pub attached: Vec<Attached>,
}

impl Scene {
    /// Reads all of it. What cannot be read is an error of that part, for the checks that need
    /// it to tell.
    pub fn read(places: Places, now: SystemTime) -> Self {
        let programs = Programs::find(&places.cni_path);
        let confs = confs(&places.conf_dirs);
        let links = Host::open_socket()
            .map_err(Error::from)
            .and_then(|mut socket| link::list(&mut socket).during("list the host's links"));
        let behind = links.as_deref().map_err(Clone::clone).and_then(read_behind);
        let entries = cache::list();
        let known = |attachment: &Attachment| {
            let entries = entries.as_ref().ok()?;
            let of = |entry: &&Entry| entry.parameters.attachment == *attachment;
            entries.iter().find(of)
        };
        let mut attached = Vec::new();
        for host_end in links.iter().flatten() {
            let Some(attachment) = attachment_of_host_end(host_end) else {
                continue;
            };
            let addresses = behind.as_ref().ok().and_then(|behind| behind.of(host_end));
            let addresses: Option<Vec<_>> = addresses.map(|addresses| {
                let own = addresses.into_iter().filter(|net| !is_link_local(net));
                own.collect()
            });
            let entry = known(&attachment);
            let seen = addresses.as_deref().unwrap_or_default();
            let add_calls = match entry {
                Some(entry) => add_calls::remembered(entry, seen, programs.known()),
                None => {
                    let list = lists(&confs).find(|list| list.name == attachment.network);
                    list.map_or_else(Vec::new, |list| {
                        add_calls::configured(list, &attachment, seen, programs.known())
                    })
                }
            };
            attached.push(Attached {
                is_remembered: entry.is_some(),
                host_end: host_end.clone(),
                attachment,
                addresses,
                add_calls,
            });
        }
        Self {
            places,
            now,
            programs,
            confs,
            links,
            behind,
            entries,
            attached,
        }
    }

    /// The configurations that can be read.
    pub fn lists(&self) -> impl Iterator<Item = &NetworkList> {
        lists(&self.confs)
    }

    /// The attachment that has the host end of this name.
    pub fn attached_to(&self, host_end: &str) -> Option<&Attached> {
        let of = |attached: &&Attached| attached.host_end.name == host_end;
        self.attached.iter().find(of)
    }
}

fn lists(confs: &[Conf]) -> impl Iterator<Item = &NetworkList> {
    confs.iter().filter_map(|conf| conf.list.as_ref().ok())
}

fn confs(dirs: &[PathBuf]) -> Vec<Conf> {
    let mut confs = Vec::new();
    for dir in dirs {
        for file in conflist::files(dir).unwrap_or_default() {
            confs.push(Conf {
                list: NetworkList::read(&file),
                file,
            });
        }
    }
    confs
}

fn read_behind(links: &[Link]) -> Result<Behind> {
    let mut socket = Host::open_socket()?;
    let mut behind = Behind::default();
    for link in links {
        match link.peer_netns {
            Some(id) if id < 0 => behind.unseen.push(link.name.clone()),
            Some(id) if !behind.namespaces.contains_key(&id) => {
                let addresses = address::of_namespace_by_link(&mut socket, id)
                    .during_with(|| format!("list the addresses behind {}", link.name))?;
                behind.namespaces.insert(id, addresses);
            }
            _ => {}
        }
    }
    Ok(behind)
}

/// Whether an attachment is there, now: it may have come or gone since the links were listed.
/// When in doubt it is.
pub fn is_there(attachment: &Attachment) -> bool {
    let found = Host::open_socket().and_then(|mut socket| host_end(&mut socket, attachment));
    !matches!(found, Ok(None))
}

/// Whether a link that was listed is there still. Indexes are not given out again.
pub fn is_link_there(index: u32) -> bool {
    let found = Host::open_socket().map(|mut socket| link::get(&mut socket, Which::Index(index)));
    !matches!(found, Ok(Ok(None)))
}

/// What the kernel gives interfaces by itself, or what every host may have.
pub fn is_link_local(net: &IpNetwork) -> bool {
    match net.ip() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// A path for a message.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
