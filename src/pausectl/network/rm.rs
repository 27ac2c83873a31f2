//! `pausectl network rm`: what a network's attachments shared, once none is left.

use std::path::PathBuf;

use serde_json::json;

use crate::command::{Output, Result, Stop, need_root, print, print_json};
use crate::leftovers::remove_store;
use crate::options::{CONF_DIR, RUNTIME_CONF_DIR, shown};
use pausenet::apply::{self, Host, firewall};
use pausenet::cni::NetworkName;
use pausenet::cni::request::{Attachment, Request};
use pausenet::cni::{ContainerId, IfName, Plugin, args::Args};
use pausenet::ipam::HostLocal;
use pausenet::ipam::host_local::DATA_DIR;
use pausenet::kernel::link::{self, Link};
use pausenet::plan::attachment_of_host_end;
use pausenet_host::runtime::conflist::{self, NetworkList};
use pausenet_host::runtime::{cache, execution_config};
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl network rm podnet
  pausectl network rm podnet --conf 10-podnet.conflist

Attachments leave what they shared for the next one: the bridge, the network's lines in
Docker's chain DOCKER-USER or iptables' FORWARD, the tables of nftables, the folder of addresses. This removes
it. It is refused while the network has attachments, which are named. A bridge that has
other ports, or that another network's configuration names, stays; so does the network's
configuration: with it, the next attachment makes all of it again.";

/// Remove what a network without attachments has left on the host
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Remove {
    /// The network's name
    name: String,

    /// The network's configuration, if it is in none of the folders any more
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,

    /// The folder of configurations; /etc/cni/net.d is looked through too
    #[arg(long, value_name = "DIR", env = "PAUSENET_CONF_DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,
}

/// Removes them.
///
/// # Errors
/// When the network has attachments, or nothing is known of it.
pub(crate) fn rm(options: &Remove, output: Output) -> Result<()> {
    let name = NetworkName::parse(&options.name).map_err(|err| Stop::Usage(err.into()))?;
    need_root()?;
    let confs = Configurations::read(options, &name)?;
    refuse_attachments(&name)?;
    let (mut removed, mut kept) = (Vec::new(), Vec::new());
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    for bridge in &confs.bridges {
        let Some(link) = links.iter().find(|link| is_bridge(link, bridge)) else {
            continue;
        };
        let other = confs.others.iter().find(|(_, other)| other == bridge);
        match other {
            Some((network, _)) => kept.push(format!("bridge {bridge}: network {network} uses it")),
            None if apply::remove_unused_bridge(&mut socket, link)? => {
                removed.push(format!("bridge {bridge}"));
            }
            None => kept.push(format!("bridge {bridge}: it has other ports")),
        }
    }
    if firewall::forget(&name)? {
        removed.push("the network's rules in firewalls".into());
    }
    let tables = apply::remove_empty_tables()?;
    removed.extend(
        tables
            .iter()
            .map(|table| format!("table {} {}", table.family, table.name)),
    );
    for store in &confs.stores {
        if remove_store(store, &name)? {
            removed.push(shown(store));
        }
    }
    kept.extend(
        confs
            .files
            .iter()
            .map(|file| format!("configuration {}", shown(file))),
    );
    match output {
        Output::Json => print_json(&json!({
            "network": name.as_str(),
            "removed": removed,
            "kept": kept,
        })),
        Output::Text if removed.is_empty() && kept.is_empty() => {
            let hint = "networks are named in their configurations; --conf FILE names one";
            Err(Error::new(format!("nothing is left of a network {name}"))
                .hint(hint)
                .into())
        }
        Output::Text => {
            let line = |what: &String, done: &str| format!("{name}: {done} {what}\n");
            let mut text: String = removed.iter().map(|what| line(what, "removed")).collect();
            text.extend(kept.iter().map(|what| line(what, "kept")));
            print(&text)
        }
    }
}

fn is_bridge(link: &Link, name: &IfName) -> bool {
    link.kind == "bridge" && link.name == name.as_str()
}

/// What the configurations say of the network, and of the others.
struct Configurations {
    files: Vec<PathBuf>,
    bridges: Vec<IfName>,
    stores: Vec<PathBuf>,
    /// Other networks, each with its bridge.
    others: Vec<(NetworkName, IfName)>,
}

impl Configurations {
    fn read(options: &Remove, name: &NetworkName) -> Result<Self, Error> {
        let mut found = Self {
            files: Vec::new(),
            bridges: Vec::new(),
            stores: vec![PathBuf::from(DATA_DIR).join(name.as_given())],
            others: Vec::new(),
        };
        let mut lists = Vec::new();
        if let Some(file) = &options.conf {
            let list = NetworkList::read(file)?;
            if list.name != *name {
                return Err(Error::new(format!(
                    "--conf has network {}, not {name}",
                    list.name
                )));
            }
            lists.push(list);
        }
        for dir in [options.conf_dir.clone(), RUNTIME_CONF_DIR.into()] {
            for file in conflist::files(&dir).unwrap_or_default() {
                let Ok(list) = NetworkList::read(&file) else {
                    continue;
                };
                if list.name == *name {
                    found.files.push(file);
                }
                lists.push(list);
            }
        }
        for list in &lists {
            for at in 0..list.plugins.len() {
                let Some(request) = request(list, at) else {
                    continue;
                };
                let network = request.network;
                let link = network.link.as_ref();
                let bridge = link.and_then(|link| link.bridge());
                let bridge = bridge.map(|bridge| bridge.name.clone());
                if list.name != *name {
                    found
                        .others
                        .extend(bridge.map(|bridge| (list.name.clone(), bridge)));
                    continue;
                }
                found
                    .bridges
                    .extend(bridge.filter(|bridge| !found.bridges.contains(bridge)));
                let ipam = network.ipam.as_ref().filter(|ipam| ipam.is_host_local());
                let ipam = ipam.and_then(|ipam| ipam.object.read().ok());
                let store = ipam.and_then(|ipam| HostLocal::new(&network, &ipam).ok());
                let store = store.map(|store| store.dir().to_owned());
                found
                    .stores
                    .extend(store.filter(|store| !found.stores.contains(store)));
            }
        }
        Ok(found)
    }
}

/// What an ADD would ask of a plugin of the list; None if it does not make links.
fn request(list: &NetworkList, at: usize) -> Option<Request> {
    let plugin = list.plugins.get(at)?;
    let called = Plugin::named(&plugin.r#type)?;
    if !called.is_wiring() {
        return None;
    }
    let config = execution_config(list, plugin, &serde_json::Map::new(), None);
    let attachment = (ContainerId::parse("rm").ok()?, IfName::parse("eth0").ok()?);
    let text = config.to_string().into_bytes();
    Request::of_add(called, attachment, &Args::default(), &[], text).ok()
}

/// # Errors
/// The network has attachments, in the kernel or in a runtime's result cache.
fn refuse_attachments(name: &NetworkName) -> Result<(), Error> {
    let mut socket = Host::open_socket()?;
    let links = link::list(&mut socket).during("list the host's links")?;
    let mut attached: Vec<Attachment> = links.iter().filter_map(attachment_of_host_end).collect();
    let cached = cache::list()?.into_iter();
    attached.extend(cached.map(|entry| entry.parameters.attachment));
    attached.retain(|attachment| attachment.network == *name);
    let shown =
        |attachment: &Attachment| format!("{} ({})", attachment.container, attachment.ifname);
    let mut names: Vec<_> = attached.iter().map(shown).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 10;
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.truncate(SHOWN);
    Err(Error::new(format!(
        "network {name} has attachments: {}{more}; nothing was changed",
        names.join(", ")
    ))
    .hint("remove them first: pausectl pod rm, pausectl docker down or detach, or by their runtime; see: pausectl ls"))
}
