//! `pausectl ls`: the attachments of this host, as the kernel shows them.

mod watch;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::command::{Output, Result, need_root, print, print_json, warn};
use crate::docker_inventory::{self, EndTimes};
use crate::options::DockerOptions;
use crate::sandboxes::{HostSandboxes, Scope};
use pausenet::cni::request::Attachment;
use pausenet::kernel::address;
use pausenet::kernel::link::Link;
use pausenet::plan::attachment_of_host_end;
use pausenet_host::Error;
use pausenet_host::anchor::PodName;
use pausenet_host::anchor::container::short_id;
use pausenet_host::anchor::interfaces::Host;
use pausenet_host::anchor::registration::ANCHOR_PREFIX;
use pausenet_host::anchor::sandbox::{Member, MissingContainer, Sandbox, SandboxInterface};
use pausenet_host::anchor::text::{few, plain};
use pausenet_host::table::table;

const EXAMPLES: &str = "\
Examples:
  pausectl ls
  pausectl ls --all      also interfaces that pausenet did not make
  pausectl ls --watch    print it again on every change, until Ctrl-C
  pausectl ls --watch --output json | jq -c .attachments[].state

STATE is one of
  running   the owner of the network is in it; ANCHOR is its process
  orphaned  the owner is gone or elsewhere, but other members are in it
  empty     it has no members, but its namespace is bound to a file
  unseen    no process or file that leads to its namespace is visible from here
MEMBERS share the network with its owner. With --output json, --watch prints one JSON value
per line. It ends with status 130 on Ctrl-C.";

/// How many members a row names before it only counts them.
const NAMED: usize = 3;

/// How many addresses a row shows before it only counts them.
const ADDRESSES: usize = 4;

/// List the attachments on this host: networks, containers, addresses, members
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct List {
    /// Also list interfaces that pausenet did not make
    #[arg(long, short)]
    all: bool,

    /// Print the list again on every change
    #[arg(long, short)]
    watch: bool,

    #[command(flatten)]
    docker: DockerOptions,
}

/// An interface of a container.
struct Row {
    network: Option<String>,
    /// Its name if it is known, else its ID.
    container: String,
    container_id: Option<String>,
    interface: String,
    addresses: Vec<String>,
    host_end: Option<String>,
    bridge: Option<String>,
    anchor: Option<u32>,
    state: &'static str,
    members: Vec<String>,
    netns: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// The caller is not root, the host cannot be read, or a signal ends `--watch`.
pub(crate) fn ls(options: &List, output: Output) -> Result<()> {
    need_root()?;
    if options.watch {
        return watch::watch(output, || rows(options));
    }
    let (rows, problems) = rows(options)?;
    problems.iter().for_each(warn);
    match output {
        Output::Json => print_json(&as_json(&rows)),
        Output::Text => print(&as_text(&rows)),
    }
}

/// The rows, and why others could not be read.
type Listing = (Vec<Row>, Vec<Error>);

fn rows(options: &List) -> Result<Listing> {
    let (facts, problem) = docker_inventory::read(&options.docker, EndTimes::Skip)?;
    let scope = match options.all {
        true => Scope::All,
        false => Scope::Attached,
    };
    let HostSandboxes {
        mut host,
        sandboxes,
        mut problems,
    } = HostSandboxes::read(scope, &facts)?;
    problems.extend(problem);
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for sandbox in &sandboxes {
        for wire in &sandbox.interfaces {
            let attachment = wire
                .interface
                .host_end
                .as_ref()
                .and_then(attachment_of_host_end);
            seen.extend(wire.interface.host_end.as_ref().map(|link| link.index));
            if options.all || attachment.is_some() {
                rows.push(row(sandbox, wire, attachment.as_ref()));
            }
        }
    }
    let unseen: Vec<_> = host
        .links
        .values()
        .filter(|link| !seen.contains(&link.index))
        .filter_map(|link| Some((link.clone(), attachment_of_host_end(link)?)))
        .collect();
    for (link, attachment) in unseen {
        rows.push(unseen_row(&mut host, &link, attachment));
    }
    let key = |row: &Row| {
        let network = row.network.clone();
        (
            network.is_none(),
            network,
            row.container.clone(),
            row.interface.clone(),
        )
    };
    rows.sort_by_cached_key(key);
    Ok((rows, problems))
}

fn row(sandbox: &Sandbox, wire: &SandboxInterface, attachment: Option<&Attachment>) -> Row {
    let id = attachment.map(|attachment| attachment.container.as_str());
    let container = match attachment {
        Some(attachment) => container_name(sandbox, attachment),
        None => sandbox.title(),
    };
    let addresses = wire.interface.addresses.iter().map(ToString::to_string);
    Row {
        network: wire.origin.network().map(str::to_owned),
        container,
        container_id: id.map(str::to_owned),
        interface: wire.interface.link.name.clone(),
        addresses: addresses.collect(),
        host_end: wire
            .interface
            .host_end
            .as_ref()
            .map(|link| link.name.clone()),
        bridge: wire.bridge.clone(),
        anchor: sandbox.anchor().map(|anchor| anchor.first().pid),
        state: sandbox.state().as_str(),
        members: sandbox.sharers().map(Member::title).collect(),
        netns: Some(sandbox.netns.number()),
    }
}

/// The name of an attachment's container, as Docker or the processes have it.
fn container_name(sandbox: &Sandbox, attachment: &Attachment) -> String {
    let id = attachment.container.as_str();
    let is_it = |member: &&Member| {
        let container = member.container.as_ref();
        container.is_some_and(|found| found.id == id || found.identity.as_deref() == Some(id))
    };
    if sandbox.anchor().is_some_and(|anchor| is_it(&anchor)) {
        return sandbox.title();
    }
    match sandbox.members.iter().find(is_it) {
        Some(member) => member.title(),
        None => {
            let mut missing = sandbox.missing.iter();
            let gone = missing.find(|missing| missing.id.as_deref() == Some(id));
            gone.map_or_else(|| name_from_id(attachment), MissingContainer::title)
        }
    }
}

/// The name of an attachment's container, from its ID alone.
fn name_from_id(attachment: &Attachment) -> String {
    let id = attachment.container.as_str();
    match PodName::of_container(&attachment.container) {
        Some(pod) => pod.to_string(),
        // Anchors in Docker have their name in the ID.
        None => short_id(id.strip_prefix(ANCHOR_PREFIX).unwrap_or(id)).to_owned(),
    }
}

/// A host end whose other end is in a namespace that cannot be seen from here: only an open file or
/// a mount elsewhere holds it.
fn unseen_row(host: &mut Host, link: &Link, attachment: Attachment) -> Row {
    let addresses = link
        .peer_netns
        .filter(|number| *number >= 0)
        .and_then(|number| address::of_namespace(&mut host.socket, number).ok())
        .unwrap_or_default();
    let routable = |ip: &std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => !ip.is_loopback(),
        std::net::IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let addresses = addresses.into_iter().filter(|net| routable(&net.ip()));
    let bridge = link.controller.and_then(|index| host.links.get(&index));
    Row {
        container: name_from_id(&attachment),
        network: Some(attachment.network.to_string()),
        container_id: Some(attachment.container.to_string()),
        interface: attachment.ifname.to_string(),
        addresses: addresses.map(|net| net.to_string()).collect(),
        host_end: Some(link.name.clone()),
        bridge: bridge.map(|bridge| bridge.name.clone()),
        anchor: None,
        state: "unseen",
        members: Vec::new(),
        netns: None,
    }
}

fn as_text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no attachments on this host\n".to_owned();
    }
    let head = [
        "NETWORK",
        "CONTAINER",
        "INTERFACE",
        "ADDRESSES",
        "VETH",
        "BRIDGE",
        "ANCHOR",
        "STATE",
        "MEMBERS",
    ];
    let cell = |text: &Option<String>| text.as_deref().map(plain).unwrap_or_default();
    let line = |row: &Row| {
        [
            cell(&row.network),
            row.container.clone(),
            plain(&row.interface),
            few(&row.addresses, ADDRESSES, ","),
            cell(&row.host_end),
            cell(&row.bridge),
            row.anchor.map(|pid| pid.to_string()).unwrap_or_default(),
            row.state.to_owned(),
            few(&row.members, NAMED, ", "),
        ]
    };
    table(head, &rows.iter().map(line).collect::<Vec<_>>())
}

fn as_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "network": row.network,
            "container": row.container,
            "containerId": row.container_id,
            "interface": row.interface,
            "addresses": row.addresses,
            "hostEnd": row.host_end,
            "bridge": row.bridge,
            "anchor": row.anchor,
            "state": row.state,
            "members": row.members,
            "netns": row.netns,
        })
    };
    json!({"attachments": rows.iter().map(row).collect::<Vec<_>>()})
}
