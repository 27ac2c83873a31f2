//! The connection to the daemon, and the requests about single containers and images.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use bollard::errors::Error as Cause;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters as query;

use super::container::{Container, NetworkMode, RestartPolicy};
use super::error::{ApiError, ErrorKind, Result};
use super::events::Events;
use super::names::{ContainerName, ContainerRef, DockerId, Socket};

/// How long the daemon may take to begin its reply: it may be busy stopping a container.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A daemon that has replied once. Each request opens a connection of its own, so the daemon may
/// restart between two of them.
#[derive(Debug, Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    socket: Socket,
    slow: Option<Slow>,
}

/// What to do about a request that takes long.
#[derive(Debug, Clone, Copy)]
pub struct Slow {
    /// After how long.
    pub after: Duration,
    /// It is told what Docker is asked for.
    pub tell: fn(&str),
}

/// Which containers to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerFilter<'a> {
    All,
    /// Neither those that were only created, nor those that have exited.
    Running,
    /// Those with this label, whatever its value.
    Labelled(&'a str),
}

/// A container to create.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// None: Docker chooses one.
    pub name: Option<ContainerName>,
    pub image: String,
    /// Replaces the image's command, unless empty.
    pub command: Vec<String>,
    pub network: NetworkMode,
    pub restart: RestartPolicy,
    pub labels: Vec<(String, String)>,
    /// None when it joins another container's network: it has that container's name then.
    pub hostname: Option<String>,
    /// When empty, the container gets the host's.
    pub dns: Dns,
    /// More entries of /etc/hosts, as NAME:ADDRESS.
    pub hosts: Vec<String>,
}

/// The contents of a container's /etc/resolv.conf.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The daemon's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Such as "20.10.24+dfsg1".
    pub engine: String,
    /// Such as "1.41".
    pub api: String,
}

impl Docker {
    /// Connects to the daemon behind a socket and negotiates the API version.
    ///
    /// # Errors
    /// [`ErrorKind::NotRunning`] when nothing listens there, [`ErrorKind::PermissionDenied`]
    /// without access to the socket, [`ErrorKind::Other`] when something other than Docker
    /// listens.
    pub async fn connect(socket: &Socket) -> Result<Self> {
        // Tried by hand first: the library reports a socket without permission as missing.
        UnixStream::connect(socket.path()).map_err(|err| ApiError::connect(socket, &err))?;
        let path = socket.path().to_string_lossy();
        let request = "negotiate the API version";
        let client = bollard::Docker::connect_with_unix(
            &path,
            REQUEST_TIMEOUT.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|cause| ApiError::request(socket, request, cause))?;
        let client = client.negotiate_version().await;
        Ok(Self {
            client: client.map_err(|cause| ApiError::request(socket, request, cause))?,
            socket: socket.clone(),
            slow: None,
        })
    }

    /// The same daemon; of each request that takes long, `slow` is told.
    #[must_use]
    pub fn telling(self, slow: Slow) -> Self {
        Self {
            slow: Some(slow),
            ..self
        }
    }

    async fn ask<T>(&self, request: &str, reply: impl Future<Output = T>) -> T {
        let Some(Slow { after, tell }) = self.slow else {
            return reply.await;
        };
        let mut reply = std::pin::pin!(reply);
        tokio::select! {
            reply = &mut reply => return reply,
            () = tokio::time::sleep(after) => tell(&format!("Docker to {request}")),
        }
        reply.await
    }

    pub async fn version(&self) -> Result<Version> {
        let reply = self.ask("tell its version", self.client.version()).await;
        let reply = reply.map_err(|cause| self.error("ask for the version", cause))?;
        Ok(Version {
            engine: reply.version.unwrap_or_default(),
            api: reply.api_version.unwrap_or_default(),
        })
    }

    /// Containers, sorted by name. One that is removed meanwhile is left out.
    pub async fn list(&self, filter: ContainerFilter<'_>) -> Result<Vec<Container>> {
        let mut options =
            query::ListContainersOptionsBuilder::new().all(filter != ContainerFilter::Running);
        if let ContainerFilter::Labelled(label) = filter {
            options = options.filters(&[("label", vec![label])].into());
        }
        let listed = self.client.list_containers(Some(options.build()));
        let listed = self.ask("list containers", listed).await;
        let listed = listed.map_err(|cause| self.error("list containers", cause))?;
        let mut containers = Vec::new();
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            // The list itself has no PIDs.
            match self.try_inspect(&id).await {
                Err(failure) if failure.kind == ErrorKind::NotFound => {}
                found => containers.extend(found?),
            }
        }
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(containers)
    }

    /// One container, by its name, ID or ID prefix.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or when several have this prefix.
    pub async fn inspect(&self, container: &ContainerRef) -> Result<Container> {
        let found = self.try_inspect(container.as_str()).await?;
        found.ok_or_else(|| {
            ApiError::bad_reply(
                &self.socket,
                &format!("inspect container {container}"),
                "the reply has no ID or no name",
            )
        })
    }

    /// None when the reply lacks an ID or a name.
    async fn try_inspect(&self, container: &str) -> Result<Option<Container>> {
        let request = format!("inspect container {container}");
        let found = self.client.inspect_container(container, None);
        let found = self.ask(&request, found).await;
        let found = found.map_err(|cause| self.error(&request, cause))?;
        Ok(Container::from_api(found))
    }

    pub async fn has_image(&self, image: &str) -> Result<bool> {
        let request = format!("look up image {image}");
        let found = self.ask(&request, self.client.inspect_image(image)).await;
        match found.map_err(|cause| self.error(&request, cause)) {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Creates a container without starting it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the image, [`ErrorKind::Conflict`] when the name is taken.
    pub async fn create(&self, new: &NewContainer) -> Result<DockerId> {
        let request = match &new.name {
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
                restart_policy: Some(new.restart.to_api()),
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
        let created = self.client.create_container(Some(options.build()), body);
        let created = self.ask(&request, created).await;
        let created = created.map_err(|cause| self.error(&request, cause))?;
        DockerId::parse(&created.id)
            .map_err(|why| ApiError::bad_reply(&self.socket, &request, &why))
    }

    /// Starts a container. Starting a running one succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Other`] when its command cannot be run.
    pub async fn start(&self, container: &ContainerRef) -> Result<()> {
        let started = self.client.start_container(container.as_str(), None);
        let request = format!("start container {container}");
        self.check(self.ask(&request, started).await, &request)
    }

    /// Stops a container: SIGTERM, and SIGKILL after `grace`. Stopping a stopped one succeeds.
    pub async fn stop(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let options = query::StopContainerOptionsBuilder::new().t(whole_seconds(grace));
        let stopped = self
            .client
            .stop_container(container.as_str(), Some(options.build()));
        let request = format!("stop container {container}");
        self.check(self.ask(&request, stopped).await, &request)
    }

    /// Stops a container as [`Docker::stop`] does, and starts it again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also when the container whose network it joins is gone.
    pub(crate) async fn restart(&self, container: &ContainerRef, grace: Duration) -> Result<()> {
        let options = query::RestartContainerOptionsBuilder::new().t(whole_seconds(grace));
        let restarted = self
            .client
            .restart_container(container.as_str(), Some(options.build()));
        let request = format!("restart container {container}");
        self.check(self.ask(&request, restarted).await, &request)
    }

    /// Removes a container, with SIGKILL if it runs. Removing one that is gone succeeds.
    pub async fn remove(&self, container: &ContainerRef) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::new().force(true);
        let removed = self
            .client
            .remove_container(container.as_str(), Some(options.build()));
        let request = format!("remove container {container}");
        match self.check(self.ask(&request, removed).await, &request) {
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Conflict`] when the name is taken.
    pub(crate) async fn rename(
        &self,
        container: &ContainerRef,
        name: &ContainerName,
    ) -> Result<()> {
        let options = query::RenameContainerOptionsBuilder::new().name(name.as_str());
        let renamed = self
            .client
            .rename_container(container.as_str(), options.build());
        let request = format!("rename container {container} to {name}");
        self.check(self.ask(&request, renamed).await, &request)
    }

    /// Container events since a moment, in seconds since 1970. With a moment before
    /// [`Docker::list`], nothing between the two is missed. The daemon keeps a few hundred events,
    /// and none from before its start.
    pub fn events(&self, since: u64) -> Events {
        Events::new(&self.client, &self.socket, since)
    }

    pub(super) fn error(&self, request: &str, cause: Cause) -> ApiError {
        ApiError::request(&self.socket, request, cause)
    }

    /// 304 (already started, already stopped) is success.
    fn check(&self, outcome: Result<(), Cause>, request: &str) -> Result<()> {
        match outcome {
            Err(Cause::DockerResponseServerError {
                status_code: 304, ..
            }) => Ok(()),
            outcome => outcome.map_err(|cause| self.error(request, cause)),
        }
    }
}

fn whole_seconds(grace: Duration) -> i32 {
    i32::try_from(grace.as_secs()).unwrap_or(i32::MAX)
}
