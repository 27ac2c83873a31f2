//! What Docker knows of containers, and what it is asked to do with them: a thin client.
//!
//! Nobody else speaks to the daemon, and no type of the client library leaves this room. What
//! is read here is as old as the call that read it: a container may be gone with the next line.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use bollard::errors::Error as Cause;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters as query;

use super::container::{Container, NetworkMode, RestartPolicy};
use super::error::{Failure, Kind, Result};
use super::events::Events;
use super::names::{ContainerName, ContainerRef, DockerId, Socket};

/// How long the daemon may take to begin an answer. It may be busy with a container's end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon that has answered once. Each request makes its own connection, so it may be
/// restarted meanwhile.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    socket: Socket,
}

/// Which containers are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    All,
    /// Not those that were only created, or have ended.
    Running,
    /// All that carry this label, whatever its value.
    Labelled(&'a str),
}

/// A container to be made.
#[derive(Debug, Clone)]
pub struct Creation {
    /// None: Docker finds one.
    pub name: Option<ContainerName>,
    pub image: String,
    /// In place of the image's own; empty for that.
    pub command: Vec<String>,
    pub network: NetworkMode,
    pub restart: RestartPolicy,
    pub labels: Vec<(String, String)>,
    /// None where the network is another container's, as the name is then.
    pub hostname: Option<String>,
    /// Nameservers, search domains and options for /etc/resolv.conf; without any, the host's.
    pub dns: Dns,
    /// Further lines of /etc/hosts, as NAME:ADDRESS.
    pub hosts: Vec<String>,
}

/// What a container's /etc/resolv.conf is made of.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The daemon, as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Such as "20.10.24+dfsg1".
    pub engine: String,
    /// Such as "1.41".
    pub api: String,
}

impl Docker {
    /// Finds the daemon behind a socket, and agrees with it on a version.
    ///
    /// # Errors
    /// [`Kind::Absent`] when nobody listens there, [`Kind::Denied`] when we may not ask,
    /// [`Kind::Other`] when it is no Docker or does not answer.
    pub async fn connect(socket: &Socket) -> Result<Self> {
        // Looked for by hand: the library takes a socket that it may not see for none.
        UnixStream::connect(socket.path()).map_err(|err| Failure::connect(socket, &err))?;
        let path = socket.path().to_string_lossy();
        let what = "ask for its version";
        let client = bollard::Docker::connect_with_unix(
            &path,
            PATIENCE.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|cause| Failure::of(socket, what, cause))?;
        let client = client.negotiate_version().await;
        Ok(Self {
            client: client.map_err(|cause| Failure::of(socket, what, cause))?,
            socket: socket.clone(),
        })
    }

    /// Where the daemon is.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// # Errors
    /// Any [`Failure`].
    pub async fn version(&self) -> Result<Version> {
        let said = self.client.version().await;
        let said = said.map_err(|cause| self.failed("ask for its version", cause))?;
        Ok(Version {
            engine: said.version.unwrap_or_default(),
            api: said.api_version.unwrap_or_default(),
        })
    }

    /// Containers, by name. One that goes while they are read is left out.
    ///
    /// # Errors
    /// Any [`Failure`].
    pub async fn list(&self, which: Which<'_>) -> Result<Vec<Container>> {
        let mut options = query::ListContainersOptionsBuilder::new().all(which != Which::Running);
        if let Which::Labelled(label) = which {
            options = options.filters(&[("label", vec![label])].into());
        }
        let listed = self.client.list_containers(Some(options.build())).await;
        let listed = listed.map_err(|cause| self.failed("list containers", cause))?;
        let mut containers = Vec::new();
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            // The list has no processes.
            match self.look_at(&id).await {
                Err(failure) if failure.kind == Kind::NoSuch => {}
                found => containers.extend(found?),
            }
        }
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(containers)
    }

    /// One container, by its name, ID, or the beginning of its ID.
    ///
    /// # Errors
    /// [`Kind::NoSuch`] when there is none, or when several begin like that; any other.
    pub async fn inspect(&self, container: &ContainerRef) -> Result<Container> {
        let found = self.look_at(container.as_str()).await?;
        found.ok_or_else(|| {
            Failure::other(
                &self.socket,
                &format!("look at container {container}"),
                "its answer has no ID or no name",
            )
        })
    }

    /// None when the answer is not understood.
    async fn look_at(&self, container: &str) -> Result<Option<Container>> {
        let found = self.client.inspect_container(container, None).await;
        let found =
            found.map_err(|cause| self.failed(&format!("look at container {container}"), cause))?;
        Ok(Container::read(found))
    }

    /// True when the daemon has the image.
    ///
    /// # Errors
    /// Any [`Failure`] but that.
    pub async fn has_image(&self, image: &str) -> Result<bool> {
        let found = self.client.inspect_image(image).await;
        match found.map_err(|cause| self.failed(&format!("look for image {image}"), cause)) {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind == Kind::NoSuch => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a container; it does not run yet.
    ///
    /// # Errors
    /// [`Kind::NoSuch`] without the image, [`Kind::Conflict`] when the name is taken; any other.
    pub async fn create(&self, new: &Creation) -> Result<DockerId> {
        let what = match &new.name {
            Some(name) => format!("create container {name} of image {}", new.image),
            None => format!("create a container of image {}", new.image),
        };
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_owned());
        let body = ContainerCreateBody {
            image: Some(new.image.clone()),
            cmd: some(&new.command),
            hostname: new.hostname.clone(),
            labels: Some(new.labels.iter().cloned().collect()),
            host_config: Some(HostConfig {
                network_mode: Some(new.network.to_string()),
                restart_policy: Some(new.restart.wire()),
                dns: some(&new.dns.servers),
                dns_search: some(&new.dns.search),
                dns_options: some(&new.dns.options),
                extra_hosts: some(&new.hosts),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let mut options = query::CreateContainerOptionsBuilder::new();
        if let Some(name) = &new.name {
            options = options.name(name.as_str());
        }
        let made = self.client.create_container(Some(options.build()), body);
        let made = made.await.map_err(|cause| self.failed(&what, cause))?;
        DockerId::parse(&made.id)
            .map_err(|why| Failure::other(&self.socket, &what, &format!("its answer: {why}")))
    }

    /// Starts a container. One that runs already is no error.
    ///
    /// # Errors
    /// [`Kind::NoSuch`], and what the daemon says of a command that cannot be run.
    pub async fn start(&self, container: &ContainerRef) -> Result<()> {
        let started = self.client.start_container(container.as_str(), None);
        self.done(started.await, &format!("start container {container}"))
    }

    /// Ends a container: SIGTERM, and SIGKILL after `grace`. One that has ended is no error.
    ///
    /// # Errors
    /// [`Kind::NoSuch`]; any other.
    pub async fn stop(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let options = query::StopContainerOptionsBuilder::new().t(whole_seconds(grace));
        let stopped = self
            .client
            .stop_container(container.as_str(), Some(options.build()));
        self.done(stopped.await, &format!("stop container {container}"))
    }

    /// Ends a container as [`Docker::stop`] does, and starts it again.
    ///
    /// # Errors
    /// [`Kind::NoSuch`], also when the container whose network it joins is gone; any other.
    pub async fn restart(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let options = query::RestartContainerOptionsBuilder::new().t(whole_seconds(grace));
        let restarted = self
            .client
            .restart_container(container.as_str(), Some(options.build()));
        self.done(restarted.await, &format!("restart container {container}"))
    }

    /// Takes a container away, with SIGKILL if it runs. One that is gone is no error.
    ///
    /// # Errors
    /// Any [`Failure`] but [`Kind::NoSuch`].
    pub async fn remove(&self, container: &ContainerRef) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::new().force(true);
        let removed = self
            .client
            .remove_container(container.as_str(), Some(options.build()));
        match self.done(removed.await, &format!("remove container {container}")) {
            Err(failure) if failure.kind == Kind::NoSuch => Ok(()),
            other => other,
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`Kind::NoSuch`], [`Kind::Conflict`] when the name is taken; any other.
    pub async fn rename(&self, container: &ContainerRef, name: &ContainerName) -> Result<()> {
        let options = query::RenameContainerOptionsBuilder::new().name(name.as_str());
        let renamed = self
            .client
            .rename_container(container.as_str(), options.build());
        self.done(
            renamed.await,
            &format!("rename container {container} to {name}"),
        )
    }

    /// What happens to containers from a moment on, in seconds since 1970. Name one before
    /// your list of containers, and nothing between the two is missed; the daemon remembers
    /// some hundred events, and none of before its own start.
    pub fn events(&self, since: u64) -> Events {
        Events::new(&self.client, &self.socket, since)
    }

    pub(super) fn failed(&self, what: &str, cause: Cause) -> Failure {
        Failure::of(&self.socket, what, cause)
    }

    /// A request that changes nothing because it is so already was successful.
    fn done(&self, outcome: Result<(), Cause>, what: &str) -> Result<()> {
        match outcome {
            Err(Cause::DockerResponseServerError {
                status_code: 304, ..
            }) => Ok(()),
            outcome => outcome.map_err(|cause| self.failed(what, cause)),
        }
    }
}

fn whole_seconds(grace: Duration) -> i32 {
    i32::try_from(grace.as_secs()).unwrap_or(i32::MAX)
}
