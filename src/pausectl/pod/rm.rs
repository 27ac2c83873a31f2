//! `pausectl pod rm`: what `create` made, taken down again, however little is left of it.

use serde_json::json;

use super::{parse_name, unknown};
use crate::options::{NetworkOptions, PluginOptions};
use crate::{Output, Result, Stop, complain, need_root, print, print_json, warn};
use pausenet::cni::request::Attachment;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link};
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet_host::anchor::pin::{self, Pin};
use pausenet_host::anchor::processes::{self, Residents};
use pausenet_host::anchor::{self, PodName, pause};
use pausenet_host::block_on;
use pausenet_host::runtime::Parameters;
use pausenet_host::runtime::cache::{self, Entry};
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl pod rm web
  pausectl pod rm --force web db

DEL of the network's plugins first, with the config that the pod was made with
(kept in /var/lib/cni/results; if it is lost, --conf or the network's name in the
folder of configurations), then the pause process, then the name. It works as well
when the pause process is dead, or when the last boot took the namespace.

While processes that joined the pod still live in it, it is not removed: they would
lose their network. --force ends them.";

/// Take pods down
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Remove {
    /// The pods' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// End the processes in the pod too (SIGTERM, then SIGKILL), go on when a plugin's DEL
    /// fails, and take an unknown pod for one that is gone already
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    plugins: PluginOptions,
}

/// Removes pods. One that cannot be removed does not keep the others.
///
/// # Errors
/// The last failure; earlier ones have been said.
pub fn rm(options: &Remove, output: Output) -> Result<()> {
    let pods = options.names.iter().map(|name| parse_name(name));
    let pods = pods.collect::<Result<Vec<_>>>()?;
    need_root()?;
    let mut removed = Vec::new();
    let mut outcome = Ok(());
    for pod in &pods {
        match remove(pod, options) {
            Ok(Was::There) => removed.push(pod.as_str()),
            Ok(Was::GoneAlready) => {}
            Err(err) => {
                if let Err(earlier) = std::mem::replace(&mut outcome, Err(err)) {
                    complain(&earlier);
                }
            }
        }
    }
    match output {
        Output::Json => print_json(&json!({"removed": removed}))?,
        Output::Text => {
            let lines: String = removed
                .iter()
                .map(|pod| format!("{pod}: removed\n"))
                .collect();
            print(&lines)?;
        }
    }
    outcome.map_err(Stop::Failed)
}

/// What there is of a pod.
struct Remains {
    netns: Option<Netns>,
    residents: Residents,
    /// What is remembered of its attachments.
    remembered: Vec<Entry>,
    /// Host ends that the kernel has.
    attached: Vec<(Link, Attachment)>,
}

enum Was {
    There,
    GoneAlready,
}

fn remove(pod: &PodName, options: &Remove) -> Result<Was, Error> {
    let _lock = anchor::lock(pod)?;
    let Some(remains) = Remains::of(pod)? else {
        return if options.force {
            Ok(Was::GoneAlready)
        } else {
            Err(unknown(pod))
        };
    };
    refuse_members(pod, &remains.residents, options.force)?;
    let detached = block_on(detach(pod, &remains, options));
    or_go_on(detached, options.force)?;
    if let Some(id) = remains.netns.as_ref().and_then(|netns| netns.id().ok()) {
        or_go_on(
            end_processes(id, remains.residents, options.force),
            options.force,
        )?;
    }
    drop(remains.netns);
    pin::remove(pod)?;
    Ok(Was::There)
}

impl Remains {
    /// None when there is no such pod.
    fn of(pod: &PodName) -> Result<Option<Self>, Error> {
        let mut socket = open_host()?;
        let pin = pin::look_up(pod)?;
        let is_absent = matches!(pin, Pin::Absent);
        let netns = match pin {
            Pin::Namespace(netns) => Some(netns),
            Pin::Absent | Pin::Empty => None,
        };
        let residents = match netns.as_ref().and_then(|netns| netns.id().ok()) {
            Some(id) => processes::residents_of(&[id])?
                .remove(&id)
                .unwrap_or_default(),
            None => Residents::default(),
        };
        let remains = Self {
            netns,
            residents,
            remembered: cache::of_container(&pod.container_id())?,
            attached: anchor::attachments(&mut socket, pod)?,
        };
        let is_known = !is_absent || !remains.remembered.is_empty() || !remains.attached.is_empty();
        Ok(is_known.then_some(remains))
    }
}

fn refuse_members(pod: &PodName, residents: &Residents, force: bool) -> Result<(), Error> {
    if residents.members.is_empty() || force {
        return Ok(());
    }
    let members: Vec<_> = residents.members.iter().map(ToString::to_string).collect();
    Err(Error::new(format!(
        "pod {pod} is in use by {}; nothing was changed",
        members.join(", ")
    ))
    .hint("end them first, or let --force do it"))
}

/// DEL of every attachment, those that are remembered and those that only the kernel knows.
async fn detach(pod: &PodName, remains: &Remains, options: &Remove) -> Result<(), Error> {
    let runtime = options.plugins.runtime();
    let netns = remains.netns.as_ref().map(|netns| netns.path().to_owned());
    let mut outcome = Ok(());
    for remembered in &remains.remembered {
        let mut entry = remembered.clone();
        entry.parameters.netns.clone_from(&netns);
        let deleted = runtime.detach(&entry).await;
        let deleted = match deleted {
            Err(err) if !options.force => Err(err),
            // With force, an entry that cannot be undone must not stay for ever.
            other => entry.forget().and(other),
        };
        outcome = outcome.and(deleted);
    }
    for (link, attachment) in &remains.attached {
        let is_this = |entry: &Entry| entry.parameters.attachment == *attachment;
        if remains.remembered.iter().any(is_this) {
            continue;
        }
        let parameters = Parameters {
            attachment: attachment.clone(),
            netns: netns.clone(),
            args: Vec::new(),
            capabilities: serde_json::Map::new(),
        };
        let deleted = match find_network(&options.network, attachment) {
            Ok(list) => runtime.detach(&Entry::new(list, parameters)).await,
            Err(err) => Err(err),
        };
        outcome = outcome.and(deleted.during_with(|| format!("remove {} of pod {pod}", link.name)));
    }
    if options.force {
        outcome = outcome.and(cut_links(pod));
    }
    outcome
}

/// The network of an attachment of which nothing but its alias is known.
fn find_network(options: &NetworkOptions, attachment: &Attachment) -> Result<NetworkList, Error> {
    let name = attachment.network.as_str();
    let list = match &options.conf {
        Some(_) => options.load()?,
        None => NetworkList::find(&options.conf_dir, Some(name))?,
    };
    if list.name != attachment.network {
        return Err(Error::new(format!(
            "--conf is of network {}, the pod of {name}",
            list.name
        )));
    }
    Ok(list)
}

/// Links of the pod that no DEL has removed.
fn cut_links(pod: &PodName) -> Result<(), Error> {
    let mut socket = open_host()?;
    for (link, _) in anchor::links(&mut socket, pod)? {
        link::delete(&mut socket, link.index).during_with(|| format!("remove {}", link.name))?;
    }
    Ok(())
}

/// The pause process, and with force all others, those included that they start meanwhile.
fn end_processes(netns: NetnsId, first: Residents, force: bool) -> Result<(), Error> {
    const ROUNDS: usize = 10;
    let mut residents = first;
    for _ in 0..ROUNDS {
        let members = residents.members.iter().filter(|_| force);
        let all: Vec<_> = residents.anchor.iter().chain(members).collect();
        if all.is_empty() {
            return Ok(());
        }
        for process in all {
            pause::end(process, netns)?;
        }
        residents = processes::residents_of(&[netns])?
            .remove(&netns)
            .unwrap_or_default();
    }
    Err(Error::new(
        "processes in the pod are started faster than they can be ended",
    ))
}

/// With force, a failure is said and does not stop what follows.
fn or_go_on(outcome: Result<(), Error>, force: bool) -> Result<(), Error> {
    match outcome {
        Err(err) if force => {
            warn(&err);
            Ok(())
        }
        outcome => outcome,
    }
}

fn open_host() -> Result<RouteSocket, Error> {
    RouteSocket::open().during("open a netlink socket on the host")
}
