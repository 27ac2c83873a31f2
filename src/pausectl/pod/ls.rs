//! `pausectl pod ls`: the pods, as the kernel shows them.

use std::collections::{BTreeSet, HashMap};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::options::shown;
use crate::{Output, Result, need_root, print, print_json};
use pausenet::cni::request::Attachment;
use pausenet::kernel::link::Link;
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet::plan::attachment_of_host_end;
use pausenet_host::anchor::PodName;
use pausenet_host::anchor::interfaces::{self, Host};
use pausenet_host::anchor::pin::{self, Pin};
use pausenet_host::anchor::processes::{self, Residents};
use pausenet_host::table::table;
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl pod ls
  pausectl pod ls --output json

STATE is one of
  running     a pause process holds the pod
  unanchored  the pause process is gone, but processes that joined the pod remain
  empty       no process is in it
  incomplete  a name without a namespace: being created, or left by a crash
  nameless    an attachment without the pod's name
MEMBERS counts the processes in the pod, without the pause process. NETWORK is known
for interfaces that pausenet made.";

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
    Unanchored,
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
            Self::Unanchored => "unanchored",
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
    residents: Residents,
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
    let pods = interfaces::apart(observe_pods)?;
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
    let names: BTreeSet<_> = pin::list()?.into_iter().chain(attached).collect();
    let mut pinned = Vec::new();
    for name in names {
        let pin = pin::look_up(&name)?;
        pinned.push((name, pin));
    }
    let id = |pin: &Pin| match pin {
        Pin::Namespace(netns) => netns.id().ok(),
        Pin::Absent | Pin::Empty => None,
    };
    let ids: Vec<NetnsId> = pinned.iter().filter_map(|(_, pin)| id(pin)).collect();
    let mut residents = processes::residents_of(&ids)?;
    pinned
        .into_iter()
        .map(|(name, pin)| {
            let residents = id(&pin).and_then(|id| residents.remove(&id));
            describe(name, pin, residents.unwrap_or_default(), &mut host)
        })
        .collect()
}

fn describe(name: PodName, pin: Pin, residents: Residents, host: &mut Host) -> Result<Pod, Error> {
    let state = match (&pin, &residents.anchor, residents.members.as_slice()) {
        (Pin::Absent, ..) => State::Nameless,
        (Pin::Empty, ..) => State::Incomplete,
        (Pin::Namespace(_), Some(_), _) => State::Running,
        (Pin::Namespace(_), None, []) => State::Empty,
        (Pin::Namespace(_), None, _) => State::Unanchored,
    };
    let interfaces = match &pin {
        Pin::Namespace(netns) => interfaces(netns, &name, host)?,
        Pin::Absent | Pin::Empty => host_ends_only(&name, &host.links),
    };
    Ok(Pod {
        name,
        state,
        residents,
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
        let anchor = pod.residents.anchor.as_ref();
        let own = [
            pod.name.to_string(),
            pod.state.as_str().to_owned(),
            anchor.map_or_else(String::new, |anchor| anchor.pid.to_string()),
            pod.residents.members.len().to_string(),
        ];
        let none = || ["", "", "", ""].map(str::to_owned);
        let mut interfaces: Vec<_> = pod
            .interfaces
            .iter()
            .map(|interface| {
                [
                    interface.network().unwrap_or_default().to_owned(),
                    interface.name().to_owned(),
                    interface.addresses().join(","),
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
        .residents
        .members
        .iter()
        .map(|member| json!({"pid": member.pid, "name": member.name}))
        .collect();
    json!({
        "name": pod.name.as_str(),
        "state": pod.state.as_str(),
        "netns": shown(&pin::path(&pod.name)),
        "containerId": pod.name.container_id().as_str(),
        "pause": pod.residents.anchor.as_ref().map(|anchor| anchor.pid),
        "members": members,
        "interfaces": interfaces,
    })
}
