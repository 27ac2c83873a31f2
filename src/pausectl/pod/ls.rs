//! `pausectl pod ls`: the pods, as the kernel shows them.

use std::collections::{BTreeSet, HashMap};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::command::{Output, Result, need_root, print, print_json};
use crate::options::shown;
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::plan::attachment_of_host_end;
use pausenet_host::anchor::PodName;
use pausenet_host::anchor::interfaces::{self, Host};
use pausenet_host::anchor::named_netns::{self, NamedNetns};
use pausenet_host::anchor::processes::{self, PodProcesses};
use pausenet_host::anchor::text::few;
use pausenet_host::table::table;
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl pod ls
  pausectl pod ls --output json

STATE is one of
  running     a pause process holds the pod
  orphaned    the pause process is gone, but processes that joined the pod remain
  empty       no process is in it
  incomplete  a name without a namespace: being created, or left by a crash
  nameless    an attachment without the pod's name
MEMBERS counts the processes in the pod, without the pause process. NETWORK is known
for interfaces that pausenet made.";

/// How many addresses of an interface are shown before they are only counted.
const ADDRESSES: usize = 4;

/// List the pods
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct List {}

/// A pod's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A pause process holds it.
    Running,
    /// The pause process is gone, and processes that joined the pod remain.
    Orphaned,
    /// No process is in it.
    Empty,
    /// A name without a namespace: being created, or left by a crash.
    Incomplete,
    /// A namespace with our attachment, without its name.
    Nameless,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Orphaned => "orphaned",
            Self::Empty => "empty",
            Self::Incomplete => "incomplete",
            Self::Nameless => "nameless",
        }
    }
}

/// A pod as the kernel shows it.
struct Pod {
    name: PodName,
    state: State,
    processes: PodProcesses,
    interfaces: Vec<Interface>,
}

/// An interface of a pod, except lo.
struct Interface {
    link: Option<Link>,
    addresses: Vec<IpNetwork>,
    host_end: Option<Link>,
    /// From the host end's alias.
    attachment: Option<Attachment>,
}

/// Lists the pods.
pub(crate) fn ls(output: Output) -> Result<()> {
    need_root()?;
    let pods = interfaces::on_separate_thread(observe_pods)?;
    match output {
        Output::Json => print_json(&json!({"pods": pods.iter().map(json).collect::<Vec<_>>()})),
        Output::Text => print(&text(&pods)),
    }
}

fn observe_pods() -> Result<Vec<Pod>, Error> {
    let mut host = Host::open()?;
    let attached = host.links.values().filter_map(|link| {
        let attachment = attachment_of_host_end(link)?;
        PodName::of_container(&attachment.container)
    });
    let names: BTreeSet<_> = named_netns::list()?.into_iter().chain(attached).collect();
    let mut named = Vec::new();
    for name in names {
        let netns = named_netns::look_up(&name)?;
        named.push((name, netns));
    }
    let id = |netns: &NamedNetns| match netns {
        NamedNetns::Namespace(netns) => netns.id().ok(),
        NamedNetns::Absent | NamedNetns::Empty => None,
    };
    let ids: Vec<NetnsId> = named.iter().filter_map(|(_, netns)| id(netns)).collect();
    let mut processes = processes::processes_in(&ids)?;
    named
        .into_iter()
        .map(|(name, netns)| {
            let processes = id(&netns).and_then(|id| processes.remove(&id));
            describe(name, netns, processes.unwrap_or_default(), &mut host)
        })
        .collect()
}

fn describe(
    name: PodName,
    netns: NamedNetns,
    processes: PodProcesses,
    host: &mut Host,
) -> Result<Pod, Error> {
    let state = match (&netns, &processes.anchor, processes.members.as_slice()) {
        (NamedNetns::Absent, ..) => State::Nameless,
        (NamedNetns::Empty, ..) => State::Incomplete,
        (NamedNetns::Namespace(_), Some(_), _) => State::Running,
        (NamedNetns::Namespace(_), None, []) => State::Empty,
        (NamedNetns::Namespace(_), None, _) => State::Orphaned,
    };
    let interfaces = match &netns {
        NamedNetns::Namespace(netns) => interfaces(netns, &name, host)?,
        NamedNetns::Absent | NamedNetns::Empty => host_ends_only(&name, &host.links),
    };
    Ok(Pod {
        name,
        state,
        processes,
        interfaces,
    })
}

fn interfaces(netns: &Netns, pod: &PodName, host: &mut Host) -> Result<Vec<Interface>, Error> {
    let found = host.look_into(netns).during_with(|| format!("pod {pod}"))?;
    let ours = |interface: interfaces::Interface| {
        let attachment = interface.host_end.as_ref().and_then(attachment_of_host_end);
        Interface {
            attachment: attachment.filter(|found| found.container == pod.container_id()),
            link: Some(interface.link),
            addresses: interface.addresses,
            host_end: interface.host_end,
        }
    };
    Ok(found.into_iter().map(ours).collect())
}

/// The interfaces of a pod whose namespace has no name: only their host ends are visible.
fn host_ends_only(pod: &PodName, host_links: &HashMap<u32, Link>) -> Vec<Interface> {
    let ours = host_links.values().filter_map(|link| {
        let attachment = attachment_of_host_end(link)?;
        (attachment.container == pod.container_id()).then(|| Interface {
            link: None,
            addresses: Vec::new(),
            host_end: Some(link.clone()),
            attachment: Some(attachment),
        })
    });
    ours.collect()
}

impl Interface {
    fn name(&self) -> &str {
        match (&self.link, &self.attachment) {
            (Some(link), _) => &link.name,
            (None, Some(attachment)) => attachment.ifname.as_str(),
            (None, None) => "",
        }
    }

    fn network(&self) -> Option<&str> {
        let attachment = self.attachment.as_ref();
        attachment.map(|attachment| attachment.network.as_str())
    }

    fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(IpNetwork::to_string).collect()
    }

    fn host_name(&self) -> Option<&str> {
        self.host_end.as_ref().map(|link| link.name.as_str())
    }
}

/// A line for each interface, with the pod's columns repeated.
fn text(pods: &[Pod]) -> String {
    if pods.is_empty() {
        return "no pods\n".to_owned();
    }
    let head = [
        "NAME",
        "STATE",
        "PAUSE",
        "MEMBERS",
        "NETWORK",
        "INTERFACE",
        "ADDRESSES",
        "HOST END",
    ];
    let mut rows = Vec::new();
    for pod in pods {
        let anchor = pod.processes.anchor.as_ref();
        let own = [
            pod.name.to_string(),
            pod.state.as_str().to_owned(),
            anchor.map_or_else(String::new, |anchor| anchor.pid.to_string()),
            pod.processes.members.len().to_string(),
        ];
        let none = || ["", "", "", ""].map(str::to_owned);
        let mut interfaces: Vec<_> = pod
            .interfaces
            .iter()
            .map(|interface| {
                [
                    interface.network().unwrap_or_default().to_owned(),
                    interface.name().to_owned(),
                    few(&interface.addresses(), ADDRESSES, ","),
                    interface.host_name().unwrap_or_default().to_owned(),
                ]
            })
            .collect();
        if interfaces.is_empty() {
            interfaces.push(none());
        }
        for interface in interfaces {
            let [name, state, pause, members] = own.clone();
            let [network, link, addresses, host] = interface;
            rows.push([name, state, pause, members, network, link, addresses, host]);
        }
    }
    table(head, &rows)
}

fn json(pod: &Pod) -> Value {
    let interfaces: Vec<_> = pod
        .interfaces
        .iter()
        .map(|interface| {
            let mac = interface.link.as_ref().and_then(|link| link.mac);
            json!({
                "name": interface.name(),
                "mac": mac.map(|mac| mac.to_string()),
                "mtu": interface.link.as_ref().map(|link| link.mtu),
                "addresses": interface.addresses(),
                "network": interface.network(),
                "hostEnd": interface.host_name(),
            })
        })
        .collect();
    let members: Vec<_> = pod
        .processes
        .members
        .iter()
        .map(|member| json!({"pid": member.pid, "name": member.name}))
        .collect();
    json!({
        "name": pod.name.as_str(),
        "state": pod.state.as_str(),
        "netns": shown(&named_netns::path(&pod.name)),
        "containerId": pod.name.container_id().as_str(),
        "pause": pod.processes.anchor.as_ref().map(|anchor| anchor.pid),
        "members": members,
        "interfaces": interfaces,
    })
}
