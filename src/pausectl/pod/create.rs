//! `pausectl pod create`: a named network namespace with a pause process in it, attached to a network.

use std::path::PathBuf;
use std::process::Child;

use ipnetwork::IpNetwork;
use serde_json::json;

use super::name::parse_name;
use crate::attachment_settings::AttachmentSettings;
use crate::command::{Output, Result, Stop, need_root, print, print_json, warn};
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
  pausectl pod create web --network podnet --ip 10.77.0.7
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

    /// The name of the pod's interface
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,

    /// Request this address: by the capability "ips" if a plugin declares it, else in CNI_ARGS
    #[arg(long = "ip", value_name = "ADDRESS")]
    ips: Vec<String>,

    /// Request this MAC address, by the capability "mac" or in CNI_ARGS
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    /// The pause program [default: `pause` in the folder of pausectl]
    #[arg(long, value_name = "FILE", env = "PAUSENET_PAUSE")]
    pause: Option<PathBuf>,
}

/// Creates a pod, or leaves nothing.
pub(crate) fn create(options: &Create, output: Output) -> Result<()> {
    let pod = parse_name(&options.name)?;
    let usage = |why: String| Stop::Usage(Error::new(why));
    let ifname = IfName::parse(&options.ifname).map_err(|why| usage(format!("--ifname: {why}")))?;
    let settings =
        AttachmentSettings::parse(&options.ips, options.mac.as_deref()).map_err(usage)?;
    need_root()?;
    let list = options.network.load()?;
    let runtime = options.plugins.runtime();
    runtime.find_all(&list)?;
    let program = pause_program(options.pause.as_ref())?;
    set_cloexec_on_all().map_err(|err| {
        Error::new(format!(
            "cannot mark inherited files as close-on-exec: {err}"
        ))
    })?;

    let _lock = anchor::lock(&pod)?;
    refuse_existing(&pod)?;
    let outcome = block_on(async {
        let mut interrupt = Interrupt::listen()
            .map_err(|err| Error::new(format!("cannot listen for signals: {err}")))?;
        remove_leftovers(&runtime, &pod).await?;
        let parameters =
            settings.parameters(&list, pod.container_id(), ifname, named_netns::path(&pod))?;
        let entry = Entry::new(list, parameters);
        create_and_attach(&runtime, &pod, &program, &settings, entry, &mut interrupt).await
    });
    match outcome {
        Ok((entry, pid)) => report(&pod, &entry, pid, output),
        Err(stop) => Err(stop),
    }
}

/// Creates the namespace, the pause process and the attachment. Undoes everything on failure.
async fn create_and_attach(
    runtime: &Runtime,
    pod: &PodName,
    program: &std::path::Path,
    settings: &AttachmentSettings,
    mut entry: Entry,
    interrupt: &mut Interrupt,
) -> Result<(Entry, u32)> {
    let mut pause = named_netns::create(pod, || {
        set_loopback_up()?;
        pause::start(program, pod)
    })?;
    let attached = runtime.attach(&mut entry, interrupt, |entry, result| {
        settings.check(entry, result)?;
        check_still_running(&mut pause, program)
    });
    match attached.await {
        Ok(()) => Ok((entry, pause.id())),
        Err(NotAttached { stop, undone }) => {
            undo(pod, undone, &mut pause);
            Err(stop.into())
        }
    }
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

fn report(pod: &PodName, entry: &Entry, pid: u32, output: Output) -> Result<()> {
    let attachment = &entry.parameters.attachment;
    if output == Output::Json {
        return print_json(&json!({
            "name": pod.as_str(),
            "netns": shown(&named_netns::path(pod)),
            "pause": pid,
            "network": attachment.network.as_str(),
            "containerId": attachment.container.as_str(),
            "result": entry.result,
        }));
    }
    let result = entry.result.clone().unwrap_or_default();
    let result = AddResult::from_json(&result, entry.list.version)?;
    let addresses: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
    let addresses: Vec<_> = addresses.iter().map(IpNetwork::to_string).collect();
    let addresses = match addresses.as_slice() {
        [] => "no address".to_owned(),
        addresses => addresses.join(", "),
    };
    print(&format!(
        "{pod}: {addresses} on {} (network {}); pause is process {pid}\n",
        attachment.ifname, attachment.network
    ))
}
