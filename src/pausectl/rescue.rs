//! `pausectl rescue`: a network for what lost its own and still runs.
//!
//! Who shared the network of a container in Docker keeps its namespace when that container is
//! removed, but Docker takes the interface out of it. The namespace is as good as new: so it is
//! attached in place, and nobody is restarted.

use std::path::PathBuf;

use serde_json::json;

use super::attachment_settings::WishOptions;
use super::docker::attachment::{self, Place};
use super::docker::network_location::has_interface;
use super::docker::record::{self, Kind, Record};
use super::docker::{find_running, home, listen, made, made_json, refuse_survivors, usage};
use super::explain::Target;
use super::options::{DockerOptions, NetworkOptions, PluginOptions};
use super::published_ports::Port;
use super::{Output, Result, need_root, print, print_json};
use crate::docker_api::{ContainerRef, DockerId};
use pausenet::cni::ContainerId;
use pausenet::cni::result::AddResult;
use pausenet_host::Error;
use pausenet_host::anchor::{PodName, pin};
use pausenet_host::block_on;

const EXAMPLES: &str = "\
Examples:
  pausectl rescue web2 --network podnet
  pausectl rescue 4711 --network podnet
  pausectl rescue /run/netns/job --network podnet
  pausectl rescue 4711 --undo

For a container whose eth0 has vanished, because the container whose network it
shared was removed. It runs on; everybody else in its namespace has the network too.

Nothing in Docker's own configuration changes: restarted, such a container still looks
for the one that was removed. To take the network down again: pausectl docker detach
CONTAINER, or --undo; pausectl docker watch does it when nobody is left.";

/// Give a running container whose network has vanished a new one, in place
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Rescue {
    /// A container in Docker (its name, its ID, or the beginning of that), the number of a
    /// process, or the path of a network namespace; container:, pid: and pod: say what is meant
    target: String,

    #[command(flatten)]
    network: NetworkOptions,

    /// Take down again what a rescue has made
    #[arg(long, conflicts_with_all = ["network", "conf", "publish", "ips", "mac"])]
    undo: bool,

    #[command(flatten)]
    wishes: WishOptions,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// What is to be rescued. Unlike for `explain`, a name is not looked for everywhere: what
/// follows changes something.
#[derive(Debug, PartialEq, Eq)]
enum Meant {
    Container(ContainerRef),
    Process(u32),
    Namespace(PathBuf),
}

/// What that is now.
struct Found {
    name: String,
    identity: ContainerId,
    container: Option<DockerId>,
    place: Place,
}

/// Rescues a target, or changes nothing.
///
/// # Errors
/// When there is no such target, 100 when it has the interface; what stood in the way.
pub fn rescue(options: &Rescue, output: Output) -> Result<()> {
    let target = Target::parse(&options.target).map_err(usage)?;
    let target = Meant::by(target).map_err(usage)?;
    let (ifname, wishes) = options.wishes.parse().map_err(usage)?;
    need_root()?;
    let runtime = options.plugins.runtime();
    block_on(async {
        let found = look_up(&target, &options.docker).await?;
        let mut interrupt = listen()?;
        let _lock = record::lock(&found.identity)?;
        let known = record::of(&found.identity);
        if options.undo {
            let known = known.ok_or_else(|| {
                let msg = format!("{} was not rescued by pausectl", found.name);
                Error::new(msg).hint("nothing was changed")
            })?;
            attachment::detach(&runtime, &known).await?;
            known.forget()?;
            return match output {
                Output::Json => print_json(&json!({"detached": found.name})),
                Output::Text => print(&format!(
                    "{}: detached from network {}\n",
                    found.name, known.list.name
                )),
            };
        }
        if has_interface(found.place.netns(), &ifname)? {
            return Err(Error::new(format!(
                "{} has its interface {ifname}: there is nothing to rescue",
                found.name
            ))
            .hint("nothing was changed")
            .into());
        }
        let list = options.network.load()?;
        wishes.ports.iter().try_for_each(Port::refuse_served)?;
        let mut record = Record {
            identity: found.identity,
            kind: known.as_ref().map_or(Kind::Rescued, |known| known.kind),
            container: found.container,
            name: found.name,
            wanted: true,
            ifname,
            list,
            wishes: wishes.clone(),
            addresses: Vec::new(),
            template: known.and_then(|known| known.template),
        };
        let home = home(&record)?;
        refuse_survivors(&record, Some(&found.place), &home, &[])?;
        let result =
            attachment::attach(&runtime, &mut record, &found.place, &wishes, &mut interrupt)
                .await?;
        report(&record, &result, output)
    })
}

async fn look_up(target: &Meant, docker: &DockerOptions) -> Result<Found> {
    let outside = |name: String, place: Place| -> Result<Found, Error> {
        let number = place
            .netns()
            .id()
            .map_err(|err| Error::new(format!("{name}: the kernel says: {err}")))?;
        Ok(Found {
            identity: ContainerId::parse(&format!("rescue-{}", number.number()))?,
            container: None,
            name,
            place,
        })
    };
    Ok(match target {
        Meant::Container(name) => {
            let docker = docker.connect().await?;
            let (container, pid) = find_running(&docker, name).await?;
            Found {
                name: container.name.to_string(),
                identity: record::identity_of(&container)?,
                place: Place::of_process(pid)?,
                container: Some(container.id),
            }
        }
        Meant::Process(pid) => outside(format!("process {pid}"), Place::of_process(*pid)?)?,
        Meant::Namespace(path) => outside(path.display().to_string(), Place::open(path.clone())?)?,
    })
}

fn report(record: &Record, result: &AddResult, output: Output) -> Result<()> {
    let name = &record.name;
    let undo = match record.container {
        Some(_) => format!("pausectl docker detach {name}"),
        None => {
            let target = name.strip_prefix("process ").unwrap_or(name);
            format!("pausectl rescue {target} --undo")
        }
    };
    match output {
        Output::Json => print_json(&made_json(record, result)),
        Output::Text => print(&format!(
            "{}{name}: to take it down again: {undo}\n",
            made(record, result)
        )),
    }
}

impl Meant {
    /// A bare number is a process, and a bare name a container.
    fn by(target: Target) -> Result<Self, String> {
        let container = |name: &str| ContainerRef::parse(name).map(Self::Container);
        match target {
            Target::File(path) => match std::path::absolute(&path) {
                Ok(path) => Ok(Self::Namespace(path)),
                Err(err) => Err(format!("{}: {err}", path.display())),
            },
            Target::Process(pid) => Ok(Self::Process(pid)),
            Target::Pod(name) => Ok(Self::Namespace(pin::path(&PodName::parse(&name)?))),
            Target::Container(name) => container(&name),
            Target::Name(name) => match name.parse() {
                // The beginning of an ID may look like one, but has more digits.
                Ok(pid) if pid > 0 && name.len() <= 7 => Ok(Self::Process(pid)),
                _ => container(&name),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart_by_their_form() {
        let container = |text: &str| Meant::Container(ContainerRef::parse(text).unwrap());
        let meant = |text: &str| Target::parse(text).and_then(Meant::by);
        for (text, expected) in [
            ("web", container("web")),
            ("0a1b2c3d4e5f", container("0a1b2c3d4e5f")),
            ("123456789012", container("123456789012")),
            ("container:4711", container("4711")),
            ("4711", Meant::Process(4711)),
            ("pid:4711", Meant::Process(4711)),
            ("/run/netns/x", Meant::Namespace("/run/netns/x".into())),
            ("pod:x", Meant::Namespace("/run/pausenet/netns/x".into())),
        ] {
            assert_eq!(meant(text), Ok(expected));
        }
        for bad in [
            "",
            "pid:0",
            "pid:x",
            "pod:../x",
            "container:a/b",
            "a b",
            "web;rm",
        ] {
            meant(bad).unwrap_err();
        }
    }
}
