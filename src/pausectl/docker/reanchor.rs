//! `pausectl docker reanchor`: a new anchor for a network that outlived its anchor.
//!
//! When an anchor is gone, its namespace and network stay with the members. Docker can start a
//! container in that namespace by joining any of them: a new pause container, which gets the
//! anchor's name, labels and identity. With --restart-members it is the other way round (see
//! [`super::restart_members`]): the network moves to the restarted anchor's new namespace.

use serde_json::json;

use super::lookup::{find, find_record, member_names, observe};
use super::members::{is_orphaned, recreate_command};
use super::network_location::{NetworkLocation, netns_of};
use super::record::{self, IDENTITY_LABEL, NetworkRecord, Record};
use super::up::{IMAGE, require_image, start};
use crate::attachment_settings::AttachmentSettings;
use crate::command::{Output, Result, Stop, listen_for_signals, print, print_json, warn};
use crate::docker_api::{
    Container, ContainerName, ContainerRef, Dns, Docker, DockerId, NetworkMode, NewContainer,
    RestartPolicy, State,
};
use crate::options::{DockerOptions, PluginOptions};
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

When an anchor dies, its network stays with its members. reanchor starts a new pause
container in their namespace, under the anchor's name. It restarts no member and breaks
no connection. Containers started with --net=container:NAME join the members again.

A restarted anchor has a new, empty namespace. Without --restart-members, the network
stays with the members, and a new container replaces the anchor. With it, the network
moves to the anchor, and the members are restarted into it, oldest first. That is refused
while the old namespace has a container that a restart would not move.

Docker stores the ID of the container whose network a member joins. So a member of a
replaced anchor keeps running, but cannot be restarted: recreate it when it suits you.
The command to do so is printed. It has all that docker inspect shows of the member,
including its environment.";

/// Start a new anchor for a network that lost its own, without restarting the members
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Reanchor {
    /// The anchor's name or ID
    name: String,

    /// Move the network to the restarted anchor, and restart the members into it
    #[arg(long)]
    restart_members: bool,

    /// The image of the new anchor [default: that of the old one]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    #[command(flatten)]
    plugins: PluginOptions,

    #[command(flatten)]
    docker: DockerOptions,
}

/// Gives a network an anchor again, or changes nothing.
///
/// # Errors
/// When pausectl knows of no such network, or no process is left in it.
pub(super) fn reanchor(options: &Reanchor, output: Output) -> Result<()> {
    let name = ContainerName::parse(&options.name).map_err(Stop::usage)?;
    let runtime = options.plugins.runtime();
    block_on(async {
        let docker = options.docker.connect().await?;
        let mut interrupt = listen_for_signals()?;
        let by_name = ContainerRef::from(&name);
        let old = find(&docker, &by_name).await?;
        let known = known_record(&name, old.as_ref())?;
        let _lock = record::lock(&known.identity)?;
        let record = record::load(&known.identity).unwrap_or(known);
        let name = own_name(name, old.as_ref(), &record);
        let (location, containers) = observe(&docker, &record).await?;
        let mut state = AnchorState {
            docker,
            name,
            old,
            record,
            location,
            containers,
        };
        if options.restart_members {
            let restarts = state
                .move_network_to_anchor(&runtime, &mut interrupt)
                .await?;
            return state.report_moved(&restarts, output);
        }
        match state
            .replace_anchor(options.image.as_deref(), &mut interrupt)
            .await?
        {
            ReanchorOutcome::AlreadyAnchored => match output {
                Output::Json => print_json(&json!({"name": state.name.as_str(), "via": null})),
                Output::Text => print(&format!(
                    "{}: nothing to do, it is the anchor of its network\n",
                    state.name
                )),
            },
            ReanchorOutcome::StartedVia(member) => state.report_replaced(&member, output).await,
        }
    })
}

/// An anchor and its network, as observed once. The caller holds the identity's lock.
pub(super) struct AnchorState {
    pub(super) docker: Docker,
    pub(super) name: ContainerName,
    /// The container with the anchor's name, in whatever state.
    pub(super) old: Option<Container>,
    pub(super) record: Record,
    pub(super) location: NetworkLocation,
    pub(super) containers: Vec<Container>,
}

enum ReanchorOutcome {
    AlreadyAnchored,
    /// A new anchor was started in this container's namespace.
    StartedVia(ContainerName),
}

/// The anchor's name. The user may have given its ID, which the next container cannot have as a
/// name.
fn own_name(typed: ContainerName, old: Option<&Container>, record: &Record) -> ContainerName {
    match old {
        Some(old) => old.name.clone(),
        None => ContainerName::parse(&record.name).unwrap_or(typed),
    }
}

/// The anchor's record, or one rebuilt from the result cache.
fn known_record(name: &ContainerName, old: Option<&Container>) -> Result<Record, Error> {
    let by_name = ContainerRef::from(name);
    if let Some(record) = find_record(&by_name, old)? {
        return Ok(record);
    }
    let identity = match old {
        Some(old) => record::identity_of(old)?,
        None => record::anchor_identity(name)?,
    };
    let mut record = Record {
        kind: record::Kind::Anchor,
        container: None,
        name: name.to_string(),
        unfinished: false,
        networks: Vec::new(),
        template: None,
        identity,
    };
    for entry in cache::of_container(&record.identity)? {
        let Attachment { ifname, .. } = entry.parameters.attachment;
        record.set_network(NetworkRecord::new(
            ifname,
            entry.list,
            AttachmentSettings::default(),
        ));
    }
    if record.networks.is_empty() {
        return Err(
            Error::new(format!("pausectl knows of no network of {name}"))
                .hint("reanchor works for what pausectl docker up, attach or watch attached"),
        );
    }
    Ok(record)
}

impl AnchorState {
    /// The network stays with the members, and a new anchor is started in their namespace.
    async fn replace_anchor(
        &mut self,
        image: Option<&str>,
        interrupt: &mut Interrupt,
    ) -> Result<ReanchorOutcome> {
        let Some(netns) = self.location.netns() else {
            return Err(self.no_members_left().into());
        };
        if let Some(old) = self.old.clone().filter(|old| netns_of(old) == Some(netns)) {
            self.remember(&old.id)?;
            return Ok(ReanchorOutcome::AlreadyAnchored);
        }
        self.refuse_members_in_new_netns()?;
        let (id, via) = match self.unfinished_anchor(netns) {
            Some(left) => (left.id.clone(), left.name.clone()),
            None => {
                let member = self.oldest_member()?;
                let id = self
                    .start_anchor_via(&member, netns, image, interrupt)
                    .await?;
                (id, member.name)
            }
        };
        if let Err(err) = self.take_over_name(&id).await {
            let hint = format!("try again: pausectl docker reanchor {}", self.name);
            return Err(err.hint(hint).into());
        }
        self.remember(&id)?;
        Ok(ReanchorOutcome::StartedVia(via))
    }

    /// Starts a pause container in a member's namespace, or nothing.
    async fn start_anchor_via(
        &self,
        member: &Container,
        netns: NetnsId,
        image: Option<&str>,
        interrupt: &mut Interrupt,
    ) -> Result<DockerId> {
        let template = self.record.template.as_ref();
        // The image of an attached application is not that of an anchor.
        let own_image = template
            .filter(|_| self.record.kind == record::Kind::Anchor)
            .map(|template| template.image.as_str());
        let image = image.or(own_image).unwrap_or(IMAGE);
        require_image(&self.docker, image).await?;
        let new = NewContainer {
            name: Some(self.interim_name()?),
            image: image.to_owned(),
            command: Vec::new(),
            network: NetworkMode::Container(member.id.to_string()),
            restart: template.map_or(RestartPolicy::UnlessStopped, |template| template.restart),
            labels: self.record.labels(),
            hostname: None,
            // Docker refuses these for a container that joins another's network.
            dns: Dns::default(),
            hosts: Vec::new(),
        };
        self.remove_interim_anchor().await?;
        let id = self.docker.create(&new).await?;
        let outcome = match start(&self.docker, &id, interrupt).await {
            Ok(pid) if NetnsId::of_process(pid) == Some(netns) => return Ok(id),
            Ok(_) => Error::new(format!("{member} left the network in the meantime"))
                .hint("try again: the network may have other members")
                .into(),
            Err(stop) => stop,
        };
        if let Err(err) = self.docker.remove(&ContainerRef::from(&id)).await {
            warn(&Error::from(err).context("the new anchor could not be removed"));
        }
        Err(outcome)
    }

    /// The pause container of an earlier attempt that was killed before it took over the name.
    fn unfinished_anchor(&self, netns: NetnsId) -> Option<&Container> {
        self.containers.iter().find(|container| {
            netns_of(container) == Some(netns) && self.has_our_identity(container)
        })
    }

    fn has_our_identity(&self, container: &Container) -> bool {
        let identity = container.labels.get(IDENTITY_LABEL);
        identity.is_some_and(|identity| identity == self.record.identity.as_str())
    }

    /// Removes the old anchor, and gives its name to the new one.
    async fn take_over_name(&self, id: &DockerId) -> Result<(), Error> {
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

    /// The anchor's name, or NAME.reanchor while the old anchor has it.
    fn interim_name(&self) -> Result<ContainerName, Error> {
        if self.old.is_none() {
            return Ok(self.name.clone());
        }
        ContainerName::parse(&format!("{}.reanchor", self.name)).map_err(Error::new)
    }

    /// Removes what a killed attempt left under the interim name.
    async fn remove_interim_anchor(&self) -> Result<(), Error> {
        let name = ContainerRef::from(&self.interim_name()?);
        let Some(left) = find(&self.docker, &name).await? else {
            return Ok(());
        };
        if self.has_our_identity(&left) {
            return Ok(self.docker.remove(&left.by_id()).await?);
        }
        Err(Error::new(format!(
            "container {left} has the name that is needed, and pausectl did not create it"
        ))
        .hint(format!("rename it: docker rename {left} …")))
    }

    /// The member to join: the oldest that runs.
    fn oldest_member(&self) -> Result<Container, Error> {
        let mut alive = self.location.containers(&self.containers);
        alive.retain(|container| container.state == State::Running);
        alive.sort_by(|one, other| one.created.cmp(&other.created));
        alive
            .first()
            .map(|oldest| (*oldest).clone())
            .ok_or_else(|| {
                Error::new(format!(
                    "no running container is in the network of {}, only {}",
                    self.name,
                    member_names(&self.location, &self.containers)
                ))
                .hint("Docker can start an anchor only in the namespace of one of its containers")
            })
    }

    fn no_members_left(&self) -> Error {
        let name = &self.name;
        let hint = match &self.old {
            Some(old) if old.pid.is_some() => format!("attach it: pausectl docker attach {name}"),
            Some(_) => format!(
                "start it and attach it: docker start {name}; pausectl docker attach {name}"
            ),
            None => format!("create it again: pausectl docker up {name}"),
        };
        Error::new(format!("the network of {name} has no members left")).hint(hint)
    }

    /// A restarted anchor may have new members, which replacing it would strand.
    fn refuse_members_in_new_netns(&self) -> Result<(), Error> {
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
            "{} already joined the new namespace of {name}",
            others.join(", ")
        ))
        .hint(format!(
            "to move the network there: pausectl docker reanchor {name} \
             --restart-members"
        )))
    }

    async fn report_replaced(&self, member: &ContainerName, output: Output) -> Result<()> {
        let name = &self.name;
        let members = self.location.containers(&self.containers);
        let mut orphaned = Vec::new();
        for member in &members {
            if is_orphaned(member, &self.containers, self.old.as_ref()) {
                orphaned.push((
                    member,
                    recreate_command(&self.docker, member, name, true).await?,
                ));
            }
        }
        if output == Output::Json {
            let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
            let repairs = orphaned.iter().map(|(member, recreate)| {
                json!({
                    "name": member.name.as_str(),
                    "caution": recreate.caution,
                    "repair": recreate.command,
                })
            });
            return print_json(&json!({
                "name": name.as_str(),
                "via": member.as_str(),
                "members": names,
                "cannotRestart": repairs.collect::<Vec<_>>(),
            }));
        }
        let mut text = format!(
            "{name}: anchors its network again, started via {member}; members: {}\n",
            member_names(&self.location, &self.containers)
        );
        for (member, recreate) in orphaned {
            text.push_str(&format!(
                "{member}: keeps running, but cannot be restarted: it refers to the old anchor. \
                 To recreate it ({}): {}\n",
                recreate.caution, recreate.command
            ));
        }
        text.push_str(&format!(
            "{name}: needs {member} whenever it is restarted, and gives new members no /etc/resolv.conf\n"
        ));
        print(&text)
    }
}
