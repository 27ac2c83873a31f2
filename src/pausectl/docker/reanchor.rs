//! `pausectl docker reanchor`: an anchor again for a network that has outlived its own.
//!
//! When an anchor is gone, its namespace and network stay with whoever lives in it. Docker can
//! start a container in that namespace by way of any of them: a new pause, which gets the
//! anchor's name, labels and identity. Or the other way round: the network goes with the anchor
//! into its new namespace, and the members are restarted into it.

use serde_json::json;

use super::members::{anew, is_orphan};
use super::network_location::{Home, netns_of};
use super::record::{self, IDENTITY_LABEL, Record};
use super::up::{IMAGE, need_image, started};
use super::{find, listen, look, record_of, usage, who};
use crate::attachment_settings::Wishes;
use crate::docker_api::{
    Container, ContainerName, ContainerRef, Dns, Docker, DockerId, NetworkMode, NewContainer,
    RestartPolicy, State,
};
use crate::options::{DockerOptions, PluginOptions};
use crate::{Output, Result, print, print_json, warn};
use pausenet::cni::request::Attachment;
use pausenet::kernel::netns::NetnsId;
use pausenet_host::Error;
use pausenet_host::block_on;
use pausenet_host::runtime::Interrupt;
use pausenet_host::runtime::cache;

const EXAMPLES: &str = "\
Examples:
  docker rm -f web; pausectl docker reanchor web
  docker restart web; pausectl docker reanchor web
  docker restart web; pausectl docker reanchor web --restart-members

When an anchor dies, its network stays with those who joined it. reanchor starts a new
pause in their namespace, under the anchor's name: nobody is restarted, and no connection
ends. Who joins --net=container:NAME from then on is among them.

A restarted anchor has a new, empty namespace. Without --restart-members the network
stays where the members are, and the anchor is replaced; with it, the network follows the
anchor, and the members are restarted into it, the oldest first; unless somebody lives
in the old namespace whom no restart brings along.

Docker remembers whose network a container joins by ID. A member of an anchor that was
replaced runs on, but cannot be restarted: it has to be made anew, when that suits you.
The command that does it is printed, with all that docker inspect tells of the member:
its environment, too.";

/// Give the network of an anchor that is gone a new anchor, and restart nobody
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Reanchor {
    /// The anchor's name, or its ID
    name: String,

    /// Let the network follow the restarted anchor, and restart the members into it
    #[arg(long)]
    restart_members: bool,

    /// The image of the new anchor; by default that of the old one
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Anchors a network again, or changes nothing.
///
/// # Errors
/// When there is no such network, or nobody left in it; Docker's and the plugins'.
pub fn reanchor(options: &Reanchor, output: Output) -> Result<()> {
    let name = ContainerName::parse(&options.name).map_err(usage)?;
    let runtime = options.plugins.runtime();
    block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen()?;
        let by_name = ContainerRef::from(&name);
        let old = find(&docker, &by_name).await?;
        let known = known(&name, old.as_ref())?;
        let _lock = record::lock(&known.identity)?;
        let record = record::of(&known.identity).unwrap_or(known);
        let name = own_name(name, old.as_ref(), &record);
        let (home, containers) = look(&docker, &record).await?;
        let mut scene = Scene {
            docker,
            name,
            old,
            record,
            home,
            containers,
        };
        if options.restart_members {
            let brought = scene.follow(&runtime, &mut interrupt).await?;
            return scene.report_followed(&brought, output);
        }
        match scene.stay(options.image.as_deref(), &mut interrupt).await? {
            Stayed::Already => match output {
                Output::Json => print_json(&json!({"name": scene.name.as_str(), "via": null})),
                Output::Text => print(&format!(
                    "{}: nothing to do, it anchors its network\n",
                    scene.name
                )),
            },
            Stayed::By(survivor) => scene.report_stayed(&survivor, output).await,
        }
    })
}

/// What there is, looked at once. The identity is locked.
pub struct Scene {
    pub docker: Docker,
    pub name: ContainerName,
    /// The container with the anchor's name, whatever became of it.
    pub old: Option<Container>,
    pub record: Record,
    pub home: Home,
    pub containers: Vec<Container>,
}

enum Stayed {
    Already,
    /// By way of this one.
    By(ContainerName),
}

/// What the anchor is called: it may have been named by its ID, which is no name for another.
fn own_name(typed: ContainerName, old: Option<&Container>, record: &Record) -> ContainerName {
    match old {
        Some(old) => old.name.clone(),
        None => ContainerName::parse(&record.name).unwrap_or(typed),
    }
}

/// What is known of the anchor, by its record or by what is left of its attachment.
fn known(name: &ContainerName, old: Option<&Container>) -> Result<Record, Error> {
    let by_name = ContainerRef::from(name);
    if let Some(record) = record_of(&by_name, old)? {
        return Ok(record);
    }
    let identity = match old {
        Some(old) => record::identity_of(old)?,
        None => record::anchor_identity(name)?,
    };
    let entry = cache::of_container(&identity)?.into_iter().next();
    let entry = entry.ok_or_else(|| {
        Error::new(format!("pausectl knows no network of {name}"))
            .hint("reanchor is for what pausectl docker up, attach or watch has attached")
    })?;
    let Attachment { ifname, .. } = entry.parameters.attachment;
    Ok(Record {
        identity,
        kind: record::Kind::Anchor,
        container: None,
        name: name.to_string(),
        wanted: true,
        ifname,
        list: entry.list,
        wishes: Wishes::default(),
        addresses: Vec::new(),
        template: None,
    })
}

impl Scene {
    /// The network stays with the survivors: the anchor comes to them.
    async fn stay(&mut self, image: Option<&str>, interrupt: &mut Interrupt) -> Result<Stayed> {
        let Some(netns) = self.home.netns() else {
            return Err(self.nobody_left().into());
        };
        if let Some(old) = self.old.clone().filter(|old| netns_of(old) == Some(netns)) {
            self.remember(&old.id)?;
            return Ok(Stayed::Already);
        }
        self.refuse_others_in_the_new_namespace()?;
        let (id, by_whom) = match self.left_half_way(netns) {
            Some(left) => (left.id.clone(), left.name.clone()),
            None => {
                let survivor = self.survivor()?;
                let id = self
                    .anchor_beside(&survivor, netns, image, interrupt)
                    .await?;
                (id, survivor.name)
            }
        };
        if let Err(err) = self.take_the_name(&id).await {
            let hint = format!("try again: pausectl docker reanchor {}", self.name);
            return Err(err.hint(hint).into());
        }
        self.remember(&id)?;
        Ok(Stayed::By(by_whom))
    }

    /// Starts a pause in the namespace of a survivor, or nothing.
    async fn anchor_beside(
        &self,
        survivor: &Container,
        netns: NetnsId,
        image: Option<&str>,
        interrupt: &mut Interrupt,
    ) -> Result<DockerId> {
        let template = self.record.template.as_ref();
        // What an attached application is made of is no anchor.
        let own_image = template
            .filter(|_| self.record.kind == record::Kind::Anchor)
            .map(|template| template.image.as_str());
        let image = image.or(own_image).unwrap_or(IMAGE);
        need_image(&self.docker, image).await?;
        let new = NewContainer {
            name: Some(self.interim_name()?),
            image: image.to_owned(),
            command: Vec::new(),
            network: NetworkMode::Container(survivor.id.to_string()),
            restart: template.map_or(RestartPolicy::UnlessStopped, |template| template.restart),
            labels: self.record.labels(),
            hostname: None,
            // Docker allows neither beside another's network.
            dns: Dns::default(),
            hosts: Vec::new(),
        };
        self.clear_interim().await?;
        let id = self.docker.create(&new).await?;
        let outcome = match started(&self.docker, &id, interrupt).await {
            Ok(pid) if NetnsId::of_process(pid) == Some(netns) => return Ok(id),
            Ok(_) => Error::new(format!("{survivor} has left the network meanwhile"))
                .hint("try again: another may still live in it")
                .into(),
            Err(stop) => stop,
        };
        if let Err(err) = self.docker.remove(&ContainerRef::from(&id)).await {
            warn(&Error::from(err).context("the new anchor is not wholly undone"));
        }
        Err(outcome)
    }

    /// A pause of an earlier attempt that was killed before it had the anchor's name.
    fn left_half_way(&self, netns: NetnsId) -> Option<&Container> {
        self.containers.iter().find(|container| {
            netns_of(container) == Some(netns) && self.is_an_anchor_of_ours(container)
        })
    }

    fn is_an_anchor_of_ours(&self, container: &Container) -> bool {
        let identity = container.labels.get(IDENTITY_LABEL);
        identity.is_some_and(|identity| identity == self.record.identity.as_str())
    }

    /// From whoever has it.
    async fn take_the_name(&self, id: &DockerId) -> Result<(), Error> {
        if let Some(old) = &self.old {
            self.docker.remove(&old.by_id()).await?;
        }
        let by_id = ContainerRef::from(id);
        if self.docker.inspect(&by_id).await?.name != self.name {
            self.docker.rename(&by_id, &self.name).await?;
        }
        Ok(())
    }

    fn remember(&mut self, id: &DockerId) -> Result<(), Error> {
        self.record.container = Some(id.clone());
        self.record.name = self.name.to_string();
        self.record.write()
    }

    /// The anchor's own name, or one beside that of the container which still has it.
    fn interim_name(&self) -> Result<ContainerName, Error> {
        if self.old.is_none() {
            return Ok(self.name.clone());
        }
        ContainerName::parse(&format!("{}.reanchor", self.name)).map_err(|why| Error::new(why))
    }

    /// What an earlier attempt left that was killed.
    async fn clear_interim(&self) -> Result<(), Error> {
        let name = ContainerRef::from(&self.interim_name()?);
        let Some(left) = find(&self.docker, &name).await? else {
            return Ok(());
        };
        if self.is_an_anchor_of_ours(&left) {
            return Ok(self.docker.remove(&left.by_id()).await?);
        }
        Err(Error::new(format!(
            "container {left} is in the way, and is none of ours"
        ))
        .hint(format!("rename it: docker rename {left} …")))
    }

    /// By way of whom: the oldest that runs.
    fn survivor(&self) -> Result<Container, Error> {
        let mut alive = self.home.containers(&self.containers);
        alive.retain(|container| container.state == State::Running);
        alive.sort_by(|one, other| one.created.cmp(&other.created));
        alive
            .first()
            .map(|oldest| (*oldest).clone())
            .ok_or_else(|| {
                Error::new(format!(
                    "no running container of Docker's lives in the network of {}, only {}",
                    self.name,
                    who(&self.home, &self.containers)
                ))
                .hint("Docker can start an anchor only by way of one of its own")
            })
    }

    fn nobody_left(&self) -> Error {
        let name = &self.name;
        let hint = match &self.old {
            Some(old) if old.pid.is_some() => format!("attach it: pausectl docker attach {name}"),
            Some(_) => format!(
                "start it and attach it: docker start {name}; pausectl docker attach {name}"
            ),
            None => format!("make it anew: pausectl docker up {name}"),
        };
        Error::new(format!("nobody is left in the network of {name}")).hint(hint)
    }

    /// A restarted anchor that is to be replaced may have got new members already.
    fn refuse_others_in_the_new_namespace(&self) -> Result<(), Error> {
        let Some(old) = &self.old else {
            return Ok(());
        };
        let Some(netns) = netns_of(old) else {
            return Ok(());
        };
        let others = self
            .containers
            .iter()
            .filter(|container| container.id != old.id && netns_of(container) == Some(netns));
        let others: Vec<_> = others.map(Container::to_string).collect();
        if others.is_empty() {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::new(format!(
            "{} live in the new namespace of {name}",
            others.join(", ")
        ))
        .hint(format!(
            "the network can follow the anchor to them: pausectl docker reanchor {name} \
             --restart-members"
        )))
    }

    async fn report_stayed(&self, survivor: &ContainerName, output: Output) -> Result<()> {
        let name = &self.name;
        let members = self.home.containers(&self.containers);
        let mut orphans = Vec::new();
        for member in &members {
            if is_orphan(member, &self.containers, self.old.as_ref()) {
                orphans.push((member, anew(&self.docker, member, name, true).await?));
            }
        }
        if output == Output::Json {
            let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
            let repairs = orphans.iter().map(|(member, anew)| {
                json!({
                    "name": member.name.as_str(),
                    "caution": anew.caution,
                    "repair": anew.command,
                })
            });
            return print_json(&json!({
                "name": name.as_str(),
                "via": survivor.as_str(),
                "members": names,
                "cannotRestart": repairs.collect::<Vec<_>>(),
            }));
        }
        let mut text = format!(
            "{name}: anchors its network again, by way of {survivor}; with it: {}\n",
            who(&self.home, &self.containers)
        );
        for (member, anew) in orphans {
            text.push_str(&format!(
                "{member}: runs on; but a restart would fail, for it looks for the old anchor. \
                 To make it anew ({}): {}\n",
                anew.caution, anew.command
            ));
        }
        text.push_str(&format!(
            "{name}: looks for {survivor} when it is restarted, and has no /etc/resolv.conf for newcomers\n"
        ));
        print(&text)
    }
}
