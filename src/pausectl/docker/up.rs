//! `pausectl docker up`: an anchor in Docker, attached to a network.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use super::attachment::{self, Place};
use super::etc_hosts;
use super::record::{self, IDENTITY_LABEL, Kind, Record, Template};
use super::{find, listen, look, made, made_json, refuse_survivors, usage};
use crate::attachment_settings::WishOptions;
use crate::docker_api::{
    ContainerName, ContainerRef, Dns, Docker, DockerId, NetworkMode, NewContainer, RestartPolicy,
};
use crate::options::{DockerOptions, NetworkOptions, PluginOptions};
use crate::published_ports::Port;
use crate::{Output, Result, Stop, print, print_json, warn};
use pausenet::cni::result::{AddResult, Dns as NetworkDns};
use pausenet::ipam;
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::conflist::NetworkList;
use pausenet_host::runtime::{Interrupt, Runtime};

/// The image that anchors are made of.
pub const IMAGE: &str = "pausenet/pause";

const EXAMPLES: &str = "\
Examples:
  pausectl docker up web --network podnet --publish 8080:80
  pausectl docker up web --network podnet --ip 10.77.0.7 --dns 10.77.0.1
  docker run -d --net=container:web nginx

The anchor is a container of the pause image with --net=none; the network's plugins
run on its namespace. Who joins it shares its interface, address and 127.0.0.1, and
its /etc/resolv.conf and /etc/hosts: so the nameservers are given here, or come from
the network's configuration (\"dns\", or \"resolvConf\" of its ipam). In /etc/hosts
the anchor's name stands for its address, and --add-host adds other names.

For the plugins it is container docker-NAME, whatever ID Docker gives it.

If anything fails, or on Ctrl-C, nothing of the anchor stays.";

/// Start an anchor: a pause container that holds a network for others to join
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    /// The anchor's name, for docker and for --net=container:NAME
    name: String,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    wishes: WishOptions,

    /// A nameserver, for the anchor and all that join it
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,

    /// A domain to search names in
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,

    /// A line for /etc/hosts, for the anchor and all that join it
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,

    /// The host's name inside, for the anchor and all that join it; by default NAME
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// When Docker starts it again: no, on-failure, on-failure:TIMES, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "unless-stopped")]
    restart: String,

    /// The image of the anchor
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Makes an anchor, or nothing.
///
/// # Errors
/// What stood in the way, after everything was undone.
pub fn up(options: &Up, output: Output) -> Result<()> {
    let name = ContainerName::parse(&options.name).map_err(usage)?;
    let (ifname, wishes) = options.wishes.parse().map_err(usage)?;
    let restart =
        RestartPolicy::parse(&options.restart).map_err(|why| usage(format!("--restart: {why}")))?;
    let hostname = options.hostname.clone().unwrap_or_else(|| host_name(&name));
    for server in &options.dns {
        let parsed = server.parse::<std::net::IpAddr>();
        parsed.map_err(|_| usage(format!("--dns: {server:?} is no address of a nameserver")))?;
    }
    for host in &options.add_host {
        etc_hosts::check(host).map_err(|why| usage(format!("--add-host: {why}")))?;
    }
    let list = options.network.load()?;
    let runtime = options.plugins.runtime();
    runtime.find_all(&list)?;
    let template = Template {
        image: options.image.clone(),
        restart,
        hostname: Some(hostname),
        dns: dns(options, &list)?,
        labels: BTreeMap::new(),
    };
    let mut record = Record {
        identity: record::anchor_identity(&name)?,
        kind: Kind::Anchor,
        container: None,
        name: name.to_string(),
        wanted: true,
        ifname,
        list,
        wishes,
        addresses: Vec::new(),
        template: Some(template.clone()),
    };
    let result = block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen()?;
        let _lock = record::lock(&record.identity)?;
        prepare(&docker, &runtime, &record, &name, &template.image).await?;
        let new = new_container(&record, &template, &name, &options.add_host);
        make(&docker, &runtime, &mut record, &new, &mut interrupt).await
    })?;
    warn_of_other_dns(&record, &result);
    match output {
        Output::Json => print_json(&made_json(&record, &result)),
        Output::Text => print(&format!(
            "{}{name}: join it with: docker run --net=container:{name} IMAGE\n",
            made(&record, &result)
        )),
    }
}

/// Everything that can be refused is, before anything is made.
async fn prepare(
    docker: &Docker,
    runtime: &Runtime,
    record: &Record,
    name: &ContainerName,
    image: &str,
) -> Result<()> {
    let by_name = ContainerRef::from(name);
    if let Some(found) = find(docker, &by_name).await? {
        let hint = match found.labels.get(IDENTITY_LABEL) {
            Some(_) => format!(
                "it is an anchor, and {}; attach it if it has no network: pausectl docker attach \
                 {name}; or remove it: docker rm -f {name}",
                found.state
            ),
            None => format!("choose another name, or remove it: docker rm -f {name}"),
        };
        let msg = format!("container {name} exists already");
        return Err(Error::new(msg).hint(hint).into());
    }
    let (home, containers) = look(docker, record).await?;
    refuse_survivors(record, None, &home, &containers)?;
    need_image(docker, image).await?;
    if !record.wishes.ports.is_empty() {
        // Told before a container is made.
        let netns = std::path::PathBuf::new();
        let (identity, ifname) = (record.identity.clone(), record.ifname.clone());
        record
            .wishes
            .parameters(&record.list, identity, ifname, netns)?;
    }
    record
        .wishes
        .ports
        .iter()
        .try_for_each(Port::refuse_served)?;
    // Of an earlier anchor with this name, with whom nobody lives any more.
    attachment::detach(runtime, record).await?;
    Ok(())
}

/// The container, its process, its network; undone the other way round.
async fn make(
    docker: &Docker,
    runtime: &Runtime,
    record: &mut Record,
    new: &NewContainer,
    interrupt: &mut Interrupt,
) -> Result<AddResult> {
    let id = docker.create(new).await?;
    record.container = Some(id.clone());
    let outcome = async {
        let pid = started(docker, &id, interrupt).await?;
        let place = Place::of_process(pid)?;
        let wishes = record.wishes.clone();
        attachment::attach(runtime, record, &place, &wishes, interrupt).await
    };
    match outcome.await {
        Ok(result) => {
            etc_hosts::name_addresses(docker, record).await;
            Ok(result)
        }
        Err(stop) => {
            let removed = docker.remove(&ContainerRef::from(&id)).await;
            if let Err(err) = removed.map_err(Error::from) {
                let name = &record.name;
                let hint = format!("once that is mended: docker rm -f {name}");
                warn(
                    &err.context(format!("anchor {name} is not wholly undone"))
                        .hint(hint),
                );
            }
            Err(stop)
        }
    }
}

/// # Errors
/// When Docker has to get the image first.
pub async fn need_image(docker: &Docker, image: &str) -> Result<(), Error> {
    if docker.has_image(image).await? {
        return Ok(());
    }
    let hint = match image {
        IMAGE => "make it from the pause binary: scripts/image.sh --output - | docker load".into(),
        other => format!("docker pull {other}"),
    };
    Err(Error::new(format!("Docker has no image {image}")).hint(hint))
}

/// Starts a container, and gives back its process.
pub async fn started(docker: &Docker, id: &DockerId, interrupt: &mut Interrupt) -> Result<u32> {
    let container = ContainerRef::from(id);
    docker.start(&container).await?;
    if let Some(signal) = interrupt.pending().await {
        return Err(Stop::Interrupted(signal));
    }
    let started = docker.inspect(&container).await?;
    started.pid.ok_or_else(|| {
        Error::new(format!(
            "container {started} of image {} ended at once",
            started.image
        ))
        .hint("an anchor's image has to run for ever; see: docker logs")
        .into()
    })
}

/// An anchor as it was asked for.
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

/// The kernel takes 64 bytes for it.
fn host_name(name: &ContainerName) -> String {
    name.as_str().chars().take(63).collect()
}

/// What was asked for, or else what the network says to everybody.
fn dns(options: &Up, list: &NetworkList) -> Result<Dns, Error> {
    let network = network_dns(list)?;
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

/// What the plugins will say, as far as their configuration tells: Docker has to be told
/// before they run.
fn network_dns(list: &NetworkList) -> Result<NetworkDns, Error> {
    for plugin in &list.plugins {
        let ipam = plugin.config.get("ipam");
        for place in [
            plugin.config.get("dns"),
            ipam.and_then(|ipam| ipam.get("dns")),
        ] {
            let dns = place.and_then(|json| NetworkDns::deserialize(json).ok());
            if let Some(dns) = dns.filter(|dns| !dns.is_empty()) {
                return Ok(dns);
            }
        }
        let file = ipam
            .and_then(|ipam| ipam.get("resolvConf"))
            .and_then(Value::as_str);
        if let Some(file) = file.filter(|file| !file.is_empty()) {
            let text = fs::read_to_string(file)
                .map_err(|err| Error::io("cannot read resolvConf", file.as_ref(), err))?;
            return Ok(ipam::resolv_conf::parse(&text));
        }
    }
    Ok(NetworkDns::default())
}

/// A nameserver that only the result tells came too late for the container.
fn warn_of_other_dns(record: &Record, result: &AddResult) {
    let given = record
        .template
        .as_ref()
        .map(|template| &template.dns.servers);
    let late: Vec<_> = result
        .dns
        .nameservers
        .iter()
        .filter(|server| !given.is_some_and(|given| given.contains(server)))
        .map(String::as_str)
        .collect();
    if !late.is_empty() && given.is_some_and(Vec::is_empty) {
        let late = late.join(" --dns ");
        warn(
            &Error::new(format!(
                "{}: the network named its nameserver only when the container was made",
                record.name
            ))
            .hint(format!(
                "to have it: docker rm -f {0}, and up {0} --dns {late}",
                record.name
            )),
        );
    }
}
