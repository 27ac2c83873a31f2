//! `pausectl pod create`: a named network namespace with a pause process in it, attached to a network.

use std::path::PathBuf;
use std::process::Child;

use ipnetwork::IpNetwork;
use serde_json::json;

use super::name::parse_name;
use crate::attachment_settings::{AttachmentOptions, AttachmentSettings};
use crate::command::{
    Output, Result, Stop, need_root, print, print_json, waiting, waiting_blocked, warn,
};
use crate::docker::lookup::refuse_taken_ports;
use crate::docker::report::published_text;
use crate::options::{NetworkOptions, PluginOptions, own_folder, shown};
use pausenet::cni::IfName;
use pausenet::cni::result::AddResult;
use pausenet::kernel::RouteSocket;
use pausenet::kernel::link::{self, Which};
use pausenet::kernel::syscalls::set_cloexec_on_all;
use pausenet_host::anchor::{self, PodName, named_netns, pause};
use pausenet_host::block_on;
use pausenet_host::runtime::cache::Entry;
use pausenet_host::runtime::{Interrupt, NotAttached, Runtime};
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl pod create web --conf conf/10-podnet.conflist
  pausectl pod create web --network podnet --ip 10.77.0.7 --publish 8080:80
  pausectl pod create web --network podnet --network storage
  pausectl pod create web --conf podnet.conf --output json

The pod is a network namespace, bound to /run/pausenet/netns/NAME and held by a pause
process. The network's plugins know it as container pausectl-NAME: the store lists its
addresses under that name, and /var/lib/cni/results keeps what `pod rm` needs.

If anything fails, or on Ctrl-C, the pod is removed again.";

/// Create a pod: a network namespace held by a pause process, attached to a network
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Create {
    /// The pod's name: letters, digits, '_', '.' and '-'
    name: String,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    settings: AttachmentOptions,

    #[command(flatten)]
    plugins: PluginOptions,

    /// The pause program [default: `pause` in the folder of pausectl]
    #[arg(long, value_name = "FILE", env = "PAUSENET_PAUSE")]
    pause: Option<PathBuf>,
}

/// Creates a pod, or leaves nothing.
pub(crate) fn create(options: &Create, output: Output) -> Result<()> {
    let pod = parse_name(&options.name)?;
    let (ifname, settings) = options.settings.parse().map_err(Stop::usage)?;
    need_root()?;
    let lists = options.network.load()?;
    let by_reference: Vec<_> = lists.iter().collect();
    let settings = settings
        .for_networks(ifname.as_ref(), &by_reference)
        .map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    lists.iter().try_for_each(|list| runtime.find_all(list))?;
    let program = pause_program(options.pause.as_ref())?;
    set_cloexec_on_all().map_err(|err| {
        Error::new(format!(
            "cannot mark inherited files as close-on-exec: {err}"
        ))
    })?;

    let what = format!("another process that works on pod {pod}");
    let _lock = waiting_blocked(&what, || anchor::lock(&pod))?;
    refuse_existing(&pod)?;
    let outcome = block_on(async {
        let mut interrupt = Interrupt::listen()
            .map_err(|err| Error::new(format!("cannot listen for signals: {err}")))?;
        let mut attachments = Vec::new();
        for (at, (list, settings)) in lists.into_iter().zip(settings).enumerate() {
            let numbered = || IfName::parse(&format!("eth{at}")).map_err(Error::new);
            let ifname = ifname.clone().map_or_else(numbered, Ok)?;
            let (id, netns) = (pod.container_id(), named_netns::path(&pod));
            let parameters = settings.parameters(&list, id, ifname, netns)?;
            refuse_taken_ports(None, &settings.ports, &pod.container_id()).await?;
            attachments.push((Entry::new(list, parameters), settings));
        }
        remove_leftovers(&runtime, &pod).await?;
        create_and_attach(&runtime, &pod, &program, attachments, &mut interrupt).await
    });
    match outcome {
        Ok((attachments, pid)) => report(&pod, &attachments, pid, output),
        Err(stop) => Err(stop),
    }
}

/// Creates the namespace, the pause process and the attachments. Undoes everything on failure.
async fn create_and_attach(
    runtime: &Runtime,
    pod: &PodName,
    program: &std::path::Path,
    mut attachments: Vec<(Entry, AttachmentSettings)>,
    interrupt: &mut Interrupt,
) -> Result<(Vec<(Entry, AttachmentSettings)>, u32)> {
    let mut pause = named_netns::create(pod, || {
        set_loopback_up()?;
        pause::start(program, pod)
    })?;
    for (entry, settings) in &mut attachments {
        let attached = runtime.attach(entry, interrupt, |entry, result| {
            settings.check(entry, result)?;
            check_still_running(&mut pause, program)
        });
        let what = || format!("the plugins of the network to attach pod {pod}");
        if let Err(NotAttached { stop, undone }) = waiting(what, attached).await {
            let detached = undone.and(runtime.detach_all(&pod.container_id()).await);
            undo(pod, detached, &mut pause);
            return Err(stop.into());
        }
    }
    Ok((attachments, pause.id()))
}

/// Takes the rest of the pod down. A failure is a warning, and left for `pod rm`.
fn undo(pod: &PodName, detached: Result<(), Error>, pause: &mut Child) {
    // SIGKILL: it has nothing to save, and the namespace can't go before it.
    let _ = pause.kill();
    let _ = pause.wait();
    if let Err(err) = detached.and_then(|()| named_netns::remove(pod)) {
        let hint = format!("once that is fixed, run: pausectl pod rm --force {pod}");
        warn(
            &err.context(format!("pod {pod} could not be removed"))
                .hint(hint),
        );
    }
}

fn refuse_existing(pod: &PodName) -> Result<()> {
    let exists = |what: String| {
        Err(Error::new(format!("pod {pod} already exists{what}"))
            .hint(format!(
                "see: pausectl pod ls; to recreate it, first: pausectl pod rm {pod}"
            ))
            .into())
    };
    if let named_netns::NamedNetns::Namespace(netns) = named_netns::look_up(pod)? {
        return exists(format!(" ({})", shown(netns.path())));
    }
    let mut socket = RouteSocket::open().during("open a netlink socket on the host")?;
    // Its name is gone, but its processes and its network are not.
    match anchor::attachments(&mut socket, pod)?.first() {
        Some((link, _)) => exists(format!(": {} is its host end", link.name)),
        None => Ok(()),
    }
}

/// Removes what a reboot or a crash left of a pod with this name. The caller holds its lock.
async fn remove_leftovers(runtime: &Runtime, pod: &PodName) -> Result<(), Error> {
    let detached = runtime.detach_all(&pod.container_id()).await;
    detached.during_with(|| format!("remove what an earlier pod {pod} left"))?;
    named_netns::remove(pod)
}

#[expect(clippy::expect_used, reason = "lo is a name")]
fn set_loopback_up() -> Result<(), Error> {
    let lo = IfName::parse("lo").expect("a fine name");
    let switch_on = || {
        let mut socket = RouteSocket::open()?;
        match link::get(&mut socket, Which::Name(&lo))? {
            Some(link) => link::set_up(&mut socket, link.index, false),
            None => Ok(()),
        }
    };
    switch_on().during("switch on lo in the pod")
}

fn pause_program(named: Option<&PathBuf>) -> Result<PathBuf> {
    let program = match named {
        Some(program) => program.clone(),
        None => own_folder().unwrap_or_default().join(pause::PROGRAM),
    };
    let missing = |why: &str| {
        Error::new(format!("the pause program {} {why}", program.display()))
            .hint("give its path with --pause; it is usually the pause beside pausectl")
    };
    // Resolved here, since it is started from another folder.
    let found = program
        .canonicalize()
        .map_err(|err| missing(&format!("cannot be found: {err}")))?;
    if found.file_name().is_none_or(|name| name != pause::PROGRAM) {
        return Err(missing("must be called pause, which is how it is found in /proc").into());
    }
    Ok(found)
}

fn check_still_running(pause: &mut Child, program: &std::path::Path) -> Result<(), Error> {
    match pause.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(Error::new(format!(
            "the pause process {} ended with {status}",
            program.display()
        ))),
        Err(err) => Err(Error::new(format!(
            "cannot wait for the pause process: {err}"
        ))),
    }
}

/// The first attachment, with the others in `more`.
fn report(
    pod: &PodName,
    attachments: &[(Entry, AttachmentSettings)],
    pid: u32,
    output: Output,
) -> Result<()> {
    if output == Output::Json {
        let one = |(entry, settings): &(Entry, AttachmentSettings)| {
            let attachment = &entry.parameters.attachment;
            let mut one = json!({
                "network": attachment.network.as_str(),
                "ifname": attachment.ifname.as_str(),
                "result": entry.result,
            });
            if !settings.ports.is_empty() {
                one["ports"] = json!(settings.ports);
            }
            one
        };
        let mut all = attachments.iter().map(one);
        let mut first = all.next().unwrap_or_default();
        first["name"] = json!(pod.as_str());
        first["netns"] = json!(shown(&named_netns::path(pod)));
        first["pause"] = json!(pid);
        first["containerId"] = json!(pod.container_id().as_str());
        let more: Vec<_> = all.collect();
        if !more.is_empty() {
            first["more"] = json!(more);
        }
        return print_json(&first);
    }
    let mut text = String::new();
    for (entry, settings) in attachments {
        let attachment = &entry.parameters.attachment;
        let result = entry.result.clone().unwrap_or_default();
        let result = AddResult::from_json(&result, entry.list.version)?;
        let addresses = result.ips.iter().map(|ip| ip.address);
        let addresses: Vec<_> = addresses.map(|net: IpNetwork| net.to_string()).collect();
        let addresses = match addresses.as_slice() {
            [] => "no address".to_owned(),
            addresses => addresses.join(", "),
        };
        let pause = match text.as_str() {
            "" => format!("; pause is process {pid}"),
            _ => String::new(),
        };
        text.push_str(&format!(
            "{pod}: {addresses} on {} (network {}){pause}\n",
            attachment.ifname, attachment.network
        ));
        text.push_str(&published_text(pod.as_str(), settings));
    }
    print(&text)
}
