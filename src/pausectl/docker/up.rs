//! `pausectl docker up`: an anchor in Docker, attached to a network.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::attachment::{self, Attached, TargetNetns};
use super::etc_hosts;
use super::lookup::{find, observe, refuse_if_members_remain, refuse_taken_ports};
use super::record::{self, IDENTITY_LABEL, Kind, NetworkRecord, Record, Template};
use super::report::{attached_json, attached_text};
use crate::attachment_settings::AttachmentOptions;
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json, warn};
use crate::docker_api::{
    Container, ContainerFilter, ContainerName, ContainerRef, Dns, Docker, DockerId, NetworkMode,
    NewContainer, RestartPolicy,
};
use crate::options::{DockerOptions, NetworkOptions, PluginOptions};
use pausenet::cni::IfName;
use pausenet::cni::result::Dns as NetworkDns;
use pausenet::ipam;
use pausenet::kernel::file::{self, LARGE, Symlinks};
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::runtime::{Interrupt, Runtime};

/// The default image of an anchor.
pub(super) const IMAGE: &str = "pausenet/pause";

const EXAMPLES: &str = "\
Examples:
  pausectl docker up web --network podnet --publish 8080:80
  pausectl docker up web --network podnet --ip 10.77.0.7 --dns 10.77.0.1
  docker run -d --net=container:web nginx

The anchor is a container of the pause image, created with --net=none; the network's
plugins run on its namespace. Containers that join it share its interface, address and
127.0.0.1, its /etc/resolv.conf and its /etc/hosts. So give nameservers here, or in the
network's configuration (\"dns\", or \"resolvConf\" of its ipam). /etc/hosts maps the
anchor's name to its address; --add-host adds more names.

The plugins know the anchor as container docker-NAME, whatever ID Docker gives it.

If anything fails, or on Ctrl-C, the anchor is removed again. After a kill, run it again.";

/// Start an anchor: a pause container that holds a network for other containers to join
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Up {
    /// The anchor's name, as in --net=container:NAME
    name: String,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    settings: AttachmentOptions,

    /// A nameserver for the anchor and its members
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,

    /// A search domain for the anchor and its members
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,

    /// An entry of /etc/hosts for the anchor and its members
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,

    /// The hostname of the anchor and its members [default: NAME]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// When Docker restarts it: no, on-failure, on-failure:TIMES, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "unless-stopped")]
    restart: String,

    /// The anchor's image
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Creates and attaches an anchor, or leaves nothing.
pub(super) fn up(options: &Up, output: Output) -> Result<()> {
    let name = ContainerName::parse(&options.name).map_err(Stop::usage)?;
    let (ifname, settings) = options.settings.parse().map_err(Stop::usage)?;
    let restart = RestartPolicy::parse(&options.restart)
        .map_err(|why| Stop::usage(format!("--restart: {why}")))?;
    let hostname = options.hostname.clone().unwrap_or_else(|| host_name(&name));
    for server in &options.dns {
        let parsed = server.parse::<std::net::IpAddr>();
        parsed.map_err(|_| Stop::usage(format!("--dns: {server:?} is not an IP address")))?;
    }
    for host in &options.add_host {
        etc_hosts::check_entry(host).map_err(|why| Stop::usage(format!("--add-host: {why}")))?;
    }
    let lists = options.network.load()?;
    let by_reference: Vec<_> = lists.iter().collect();
    let settings = settings
        .for_networks(ifname.as_ref(), &by_reference)
        .map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    lists.iter().try_for_each(|list| runtime.find_all(list))?;
    let template = Template {
        image: options.image.clone(),
        restart,
        hostname: Some(hostname),
        dns: dns(options, &lists)?,
        labels: BTreeMap::new(),
    };
    let mut record = Record {
        identity: record::anchor_identity(&name)?,
        kind: Kind::Anchor,
        container: None,
        name: name.to_string(),
        unfinished: true,
        networks: Vec::new(),
        template: Some(template.clone()),
    };
    for (at, (list, settings)) in lists.into_iter().zip(settings).enumerate() {
        let numbered = || IfName::parse(&format!("eth{at}")).map_err(Error::new);
        let ifname = ifname.clone().map_or_else(numbered, Ok)?;
        record.set_network(NetworkRecord::new(ifname, list, settings));
    }
    let attached = block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen_for_signals()?;
        let _lock = record::lock(&record.identity)?;
        prepare(&docker, &runtime, &record, &name, &template.image).await?;
        let new = new_container(&record, &template, &name, &options.add_host);
        create_and_attach(&docker, &runtime, &mut record, &new, &mut interrupt).await
    })?;
    warn_of_other_dns(&record, &attached);
    match output {
        Output::Json => print_json(&attached_json(&record, &attached)),
        Output::Text => print(&format!(
            "{}{name}: join it with: docker run --net=container:{name} IMAGE\n",
            attached_text(&record, &attached)
        )),
    }
}

/// Refuses what can be refused before anything is created, and removes leftovers.
async fn prepare(
    docker: &Docker,
    runtime: &Runtime,
    record: &Record,
    name: &ContainerName,
    image: &str,
) -> Result<()> {
    let by_name = ContainerRef::from(name);
    let found = find(docker, &by_name).await?;
    let found = match found {
        Some(found) if is_left_unfinished(docker, record, &found).await? => {
            docker.remove(&found.by_id()).await?;
            None
        }
        found => found,
    };
    if let Some(found) = found {
        let hint = match found.labels.get(IDENTITY_LABEL) {
            Some(_) => format!(
                "it is an anchor, in state {}; if it has no network, attach it: pausectl docker attach \
                 {name}; or remove it: docker rm -f {name}",
                found.state
            ),
            None => format!("choose another name, or remove it: docker rm -f {name}"),
        };
        let msg = format!("container {name} already exists");
        return Err(Error::new(msg).hint(hint).into());
    }
    let (location, containers) = observe(docker, record).await?;
    refuse_if_members_remain(record, None, &location, &containers)?;
    require_image(docker, image).await?;
    for NetworkRecord {
        settings,
        list,
        ifname,
        ..
    } in &record.networks
    {
        // Fails early if no plugin maps ports.
        let netns = std::path::PathBuf::new();
        settings.parameters(list, record.identity.clone(), ifname.clone(), netns)?;
        refuse_taken_ports(Some(docker), &settings.ports, &record.identity).await?;
    }
    // The network of an earlier anchor of this name, without members by now.
    attachment::detach(runtime, record).await?;
    Ok(())
}

/// Whether a container is what a killed `up` of this anchor left, and nothing uses it.
async fn is_left_unfinished(
    docker: &Docker,
    record: &Record,
    found: &Container,
) -> Result<bool, Error> {
    let earlier = record::load(&record.identity).filter(|earlier| earlier.unfinished);
    let identity = found.labels.get(IDENTITY_LABEL);
    let is_ours = identity.is_some_and(|identity| *identity == record.identity.as_str())
        && earlier.is_some_and(|earlier| {
            let container = earlier.container.as_ref();
            container.is_none_or(|container| *container == found.id)
        });
    if !is_ours {
        return Ok(false);
    }
    let joins = NetworkMode::Container(found.id.to_string());
    let containers = docker.list(ContainerFilter::All).await?;
    Ok(!containers.iter().any(|other| other.network == joins))
}

/// Creates and starts the container and attaches it. Undoes everything on failure.
async fn create_and_attach(
    docker: &Docker,
    runtime: &Runtime,
    record: &mut Record,
    new: &NewContainer,
    interrupt: &mut Interrupt,
) -> Result<Vec<Attached>> {
    // Before the container, so that whatever a kill leaves is known to be ours.
    record.write()?;
    let id = match docker.create(new).await {
        Ok(id) => id,
        Err(failure) => {
            record.delete()?;
            return Err(failure.into());
        }
    };
    record.container = Some(id.clone());
    let networks = record.networks.clone();
    let outcome = async {
        record.write()?;
        let pid = start(docker, &id, interrupt).await?;
        let target_netns = TargetNetns::of_process(pid)?;
        let mut attached = Vec::new();
        for network in networks {
            let one = attachment::attach(runtime, record, network, &target_netns, interrupt);
            attached.push(one.await?);
        }
        Ok(attached)
    };
    match outcome.await {
        Ok(attached) => {
            etc_hosts::set_addresses(docker, record).await;
            record.unfinished = false;
            record.write()?;
            Ok(attached)
        }
        Err(stop) => {
            let detached = attachment::detach(runtime, record).await;
            let detached = detached.and_then(|()| record.delete());
            let removed = docker.remove(&ContainerRef::from(&id)).await;
            if let Err(err) = removed.map_err(Error::from).and(detached) {
                let name = &record.name;
                let hint = format!("once that is fixed, run: docker rm -f {name}");
                warn(
                    &err.context(format!("anchor {name} could not be removed"))
                        .hint(hint),
                );
            }
            Err(stop)
        }
    }
}

/// Fails when Docker does not have the image: pulling it is left to the user.
pub(super) async fn require_image(docker: &Docker, image: &str) -> Result<(), Error> {
    if docker.has_image(image).await? {
        return Ok(());
    }
    let hint = match image {
        IMAGE => "build it: scripts/image.sh --output - | docker load".into(),
        other => format!("get it: docker pull {other}"),
    };
    Err(Error::new(format!("Docker has no image {image}")).hint(hint))
}

/// Starts a container and returns its PID.
pub(super) async fn start(
    docker: &Docker,
    id: &DockerId,
    interrupt: &mut Interrupt,
) -> Result<u32> {
    let container = ContainerRef::from(id);
    docker.start(&container).await?;
    if let Some(signal) = interrupt.pending().await {
        return Err(Stop::Interrupted(signal));
    }
    let started = docker.inspect(&container).await?;
    started.pid.ok_or_else(|| {
        Error::new(format!(
            "container {started} of image {} exited at once",
            started.image
        ))
        .hint("an anchor must keep running; see: docker logs")
        .into()
    })
}

fn new_container(
    record: &Record,
    template: &Template,
    name: &ContainerName,
    hosts: &[String],
) -> NewContainer {
    NewContainer {
        name: Some(name.clone()),
        image: template.image.clone(),
        command: Vec::new(),
        network: NetworkMode::None,
        restart: template.restart,
        labels: record.labels(),
        hostname: template.hostname.clone(),
        dns: template.dns.clone(),
        hosts: hosts.to_owned(),
    }
}

/// The kernel allows 64 bytes, with the terminating NUL.
fn host_name(name: &ContainerName) -> String {
    name.as_str().chars().take(63).collect()
}

/// The options' DNS settings, or else those of the network.
fn dns(options: &Up, lists: &[NetworkList]) -> Result<Dns, Error> {
    let network = network_dns(lists)?;
    let or = |asked: &[String], other: Vec<String>| match asked {
        [] => other,
        asked => asked.to_owned(),
    };
    let mut search = network.search;
    if search.is_empty() && !network.domain.is_empty() {
        search.push(network.domain);
    }
    Ok(Dns {
        servers: or(&options.dns, network.nameservers),
        search: or(&options.dns_search, search),
        options: network.options,
    })
}

/// The DNS settings that the plugins will return, as far as their configuration shows: Docker
/// needs them before the plugins run.
fn network_dns(lists: &[NetworkList]) -> Result<NetworkDns, Error> {
    for plugin in lists.iter().flat_map(|list| &list.plugins) {
        let ipam = plugin.config.get("ipam");
        for candidate in [
            plugin.config.get("dns"),
            ipam.and_then(|ipam| ipam.get("dns")),
        ] {
            let dns = candidate.and_then(|json| NetworkDns::deserialize(json).ok());
            if let Some(dns) = dns.filter(|dns| !dns.is_empty()) {
                return Ok(dns);
            }
        }
        let file = ipam
            .and_then(|ipam| ipam.get("resolvConf"))
            .and_then(Value::as_str);
        if let Some(file) = file.filter(|file| !file.is_empty()) {
            let text = file::read_text(file.as_ref(), LARGE, Symlinks::Follow)
                .map_err(|err| Error::io("cannot read resolvConf", file.as_ref(), err))?;
            return Ok(ipam::resolv_conf::parse(&text));
        }
    }
    Ok(NetworkDns::default())
}

/// A nameserver that only the ADD result has comes too late for the container.
fn warn_of_other_dns(record: &Record, attached: &[Attached]) {
    let given = record
        .template
        .as_ref()
        .map(|template| &template.dns.servers);
    let late: Vec<_> = attached
        .iter()
        .flat_map(|one| &one.result.dns.nameservers)
        .filter(|server| !given.is_some_and(|given| given.contains(server)))
        .map(String::as_str)
        .collect();
    if !late.is_empty() && given.is_some_and(Vec::is_empty) {
        let late = late.join(" --dns ");
        warn(
            &Error::new(format!(
                "{}: the network's plugins named a nameserver, but too late for this container",
                record.name
            ))
            .hint(format!(
                "to use it, recreate the anchor: docker rm -f {0}; pausectl docker up {0} --dns {late}",
                record.name
            )),
        );
    }
}
