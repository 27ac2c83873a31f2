//! `pausectl pod rm`: removes a pod, or whatever is left of it.

use serde_json::json;

use super::name::{parse_name, unknown_pod};
use crate::command::{
    Output, Result, Stop, need_root, print, print_error, print_json, waiting_blocked, warn,
};
use crate::options::{NetworkOptions, PluginOptions};
use pausenet::cni::request::Attachment;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Link};
use pausenet::kernel::netns::{Netns, NetnsId};
use pausenet_host::anchor::named_netns::{self, NamedNetns};
use pausenet_host::anchor::processes::{self, PodProcesses};
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

Removes the attachment by the plugins' DEL, then the pause process, then the name. DEL
gets the configuration that the pod was created with (kept in /var/lib/cni/results; if
that is lost, --conf, or the network of that name in the folder of configurations). A
pod can be removed even if its pause process is dead or a reboot took its namespace.

A pod is not removed while other processes are in it, since they would lose their
network. --force ends them.";

/// Remove pods
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Remove {
    /// The pods' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// End the processes in the pod, too (SIGTERM, then SIGKILL), go on if a plugin's DEL fails,
    /// and accept that a pod does not exist
    #[arg(long, short)]
    force: bool,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    plugins: PluginOptions,
}

/// Removes pods. A failure does not stop the others.
///
/// # Errors
/// The last failure; earlier ones are printed.
pub(crate) fn rm(options: &Remove, output: Output) -> Result<()> {
    let pods = options.names.iter().map(|name| parse_name(name));
    let pods = pods.collect::<Result<Vec<_>>>()?;
    need_root()?;
    let mut removed = Vec::new();
    let mut outcome = Ok(());
    for pod in &pods {
        match remove(pod, options) {
            Ok(Removal::Removed) => removed.push(pod.as_str()),
            Ok(Removal::AlreadyGone) => {}
            Err(err) => {
                if let Err(earlier) = std::mem::replace(&mut outcome, Err(err)) {
                    print_error(&earlier);
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

/// What exists of a pod.
struct PodState {
    netns: Option<Netns>,
    processes: PodProcesses,
    /// Its attachments in the result cache.
    cached: Vec<Entry>,
    /// Its host ends in the kernel.
    attached: Vec<(Link, Attachment)>,
}

enum Removal {
    Removed,
    AlreadyGone,
}

fn remove(pod: &PodName, options: &Remove) -> Result<Removal, Error> {
    let what = format!("another process that works on pod {pod}");
    let _lock = waiting_blocked(&what, || anchor::lock(pod))?;
    let Some(state) = PodState::of(pod)? else {
        return if options.force {
            Ok(Removal::AlreadyGone)
        } else {
            Err(unknown_pod(pod))
        };
    };
    refuse_members(pod, &state.processes, options.force)?;
    let detached = block_on(detach(pod, &state, options));
    continue_if_forced(detached, options.force)?;
    if let Some(id) = state.netns.as_ref().and_then(|netns| netns.id().ok()) {
        continue_if_forced(
            end_processes(id, state.processes, options.force),
            options.force,
        )?;
    }
    drop(state.netns);
    named_netns::remove(pod)?;
    Ok(Removal::Removed)
}

impl PodState {
    /// None when there is no such pod.
    fn of(pod: &PodName) -> Result<Option<Self>, Error> {
        let mut socket = open_route_socket()?;
        let netns = named_netns::look_up(pod)?;
        let is_absent = matches!(netns, NamedNetns::Absent);
        let netns = match netns {
            NamedNetns::Namespace(netns) => Some(netns),
            NamedNetns::Absent | NamedNetns::Empty => None,
        };
        let processes = match netns.as_ref().and_then(|netns| netns.id().ok()) {
            Some(id) => processes::processes_in(&[id])?
                .remove(&id)
                .unwrap_or_default(),
            None => PodProcesses::default(),
        };
        let state = Self {
            netns,
            processes,
            cached: cache::of_container(&pod.container_id())?,
            attached: anchor::attachments(&mut socket, pod)?,
        };
        let is_known = !is_absent || !state.cached.is_empty() || !state.attached.is_empty();
        Ok(is_known.then_some(state))
    }
}

fn refuse_members(pod: &PodName, processes: &PodProcesses, force: bool) -> Result<(), Error> {
    if processes.members.is_empty() || force {
        return Ok(());
    }
    let members: Vec<_> = processes.members.iter().map(ToString::to_string).collect();
    Err(Error::new(format!(
        "pod {pod} is in use by {}; nothing was changed",
        members.join(", ")
    ))
    .hint("end them first, or use --force"))
}

/// DEL of every attachment, in the cache or only in the kernel.
async fn detach(pod: &PodName, state: &PodState, options: &Remove) -> Result<(), Error> {
    let runtime = options.plugins.runtime();
    let netns = state.netns.as_ref().map(|netns| netns.path().to_owned());
    let mut outcome = Ok(());
    for remembered in &state.cached {
        let mut entry = remembered.clone();
        entry.parameters.netns.clone_from(&netns);
        let deleted = runtime.detach(&entry).await;
        let deleted = match deleted {
            Err(err) if !options.force => Err(err),
            // With --force, an entry whose DEL fails must not stay for ever.
            other => entry.forget().and(other),
        };
        outcome = outcome.and(deleted);
    }
    for (link, attachment) in &state.attached {
        let is_this = |entry: &Entry| entry.parameters.attachment == *attachment;
        if state.cached.iter().any(is_this) {
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
        outcome = outcome.and(delete_links(pod));
    }
    outcome
}

/// The configuration for an attachment that is not in the cache, by the network in its alias.
fn find_network(options: &NetworkOptions, attachment: &Attachment) -> Result<NetworkList, Error> {
    let name = attachment.network.as_str();
    let list = match &options.conf {
        Some(file) => NetworkList::read(file)?,
        None => NetworkList::find(&options.conf_dir, Some(name))?,
    };
    if list.name != attachment.network {
        return Err(Error::new(format!(
            "--conf has network {}, but the pod is attached to {name}",
            list.name
        )));
    }
    Ok(list)
}

/// Deletes links of the pod that DEL left.
fn delete_links(pod: &PodName) -> Result<(), Error> {
    let mut socket = open_route_socket()?;
    for (link, _) in anchor::links(&mut socket, pod)? {
        link::delete(&mut socket, link.index).during_with(|| format!("remove {}", link.name))?;
    }
    Ok(())
}

/// Ends the pause process, and with force all others, even those started meanwhile.
fn end_processes(netns: NetnsId, first: PodProcesses, force: bool) -> Result<(), Error> {
    const ROUNDS: usize = 10;
    let mut processes = first;
    for _ in 0..ROUNDS {
        let members = processes.members.iter().filter(|_| force);
        let all: Vec<_> = processes.anchor.iter().chain(members).collect();
        if all.is_empty() {
            return Ok(());
        }
        for process in all {
            pause::end(process, netns)?;
        }
        processes = processes::processes_in(&[netns])?
            .remove(&netns)
            .unwrap_or_default();
    }
    Err(Error::new(
        "new processes start in the pod faster than they can be ended",
    ))
}

/// With force, turns a failure into a warning.
fn continue_if_forced(outcome: Result<(), Error>, force: bool) -> Result<(), Error> {
    match outcome {
        Err(err) if force => {
            warn(&err);
            Ok(())
        }
        outcome => outcome,
    }
}

fn open_route_socket() -> Result<RouteSocket, Error> {
    RouteSocket::open().during("open a netlink socket on the host")
}
