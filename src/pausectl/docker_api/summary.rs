//! Summaries of all containers in one request, without PIDs, and the containers whose removal the
//! daemon still remembers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerSummary as ApiSummary, ContainerSummaryStateEnum, EventMessage, EventMessageTypeEnum,
};
use bollard::query_parameters as query;
use futures_core::Stream;

use super::client::Docker;
use super::container::NetworkMode;
use super::error::Result;
use super::names::{ContainerRef, DockerId};
use crate::published_ports::in_use::DockerPort;

/// A container, as `docker ps` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerSummary {
    pub(crate) id: DockerId,
    pub(crate) name: Option<String>,
    pub(crate) image: String,
    /// It has processes, running or paused.
    pub(crate) is_running: bool,
    pub(crate) network: NetworkMode,
    /// The Docker networks that it is attached to, each with its MAC there (empty while it does not
    /// run).
    pub(crate) endpoints: Vec<(String, String)>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A removed container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemovedContainer {
    pub(crate) id: DockerId,
    pub(crate) name: Option<String>,
    pub(crate) at: Option<SystemTime>,
    /// The Docker networks that it was attached to, as far as the daemon remembers.
    pub(crate) networks: Vec<String>,
}

impl Docker {
    /// All containers, running or not.
    pub(crate) async fn summaries(&self) -> Result<Vec<ContainerSummary>> {
        let options = query::ListContainersOptionsBuilder::new().all(true);
        let listed = self.client.list_containers(Some(options.build())).await;
        let listed = listed.map_err(|cause| self.error("list containers", cause))?;
        Ok(listed
            .into_iter()
            .filter_map(ContainerSummary::from_api)
            .collect())
    }

    /// The host ports that Docker publishes itself.
    pub(crate) async fn published_ports(&self) -> Result<Vec<DockerPort>> {
        let listed = self.client.list_containers(None).await;
        let listed = listed.map_err(|cause| self.error("list containers", cause))?;
        let mut published = Vec::new();
        for found in listed {
            let names = found.names.unwrap_or_default();
            let name = names
                .first()
                .map(|name| name.trim_start_matches('/').to_owned());
            let name = name.or(found.id).unwrap_or_default();
            for port in found.ports.into_iter().flatten() {
                published.extend(port.public_port.map(|number| DockerPort {
                    container: name.clone(),
                    port: number,
                    protocol: port.typ.map_or_else(String::new, |kind| kind.to_string()),
                }));
            }
        }
        Ok(published)
    }

    /// Containers removed lately, from the daemon's last events: it keeps a few hundred of all
    /// kinds, and none from before its start.
    pub(crate) async fn removed_containers(&self) -> Result<Vec<RemovedContainer>> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let filters = [
            ("type", vec!["container", "network"]),
            ("event", vec!["destroy", "disconnect"]),
        ];
        // `until` now: the daemon closes the stream and does not wait for more.
        let options = query::EventsOptionsBuilder::new()
            .since("0")
            .until(&until)
            .filters(&filters.into());
        let mut events = std::pin::pin!(self.client.events(Some(options.build())));
        let mut removals: Vec<RemovedContainer> = Vec::new();
        let mut networks = Vec::new();
        while let Some(event) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
            let event = event.map_err(|cause| self.error("read the last events", cause))?;
            match event.typ {
                Some(EventMessageTypeEnum::NETWORK) => networks.extend(disconnection(event)),
                _ => removals.extend(RemovedContainer::from_api(event)),
            }
        }
        for removal in &mut removals {
            let own = networks.iter().filter(|(id, _)| id == removal.id.as_str());
            removal.networks = own.map(|(_, network)| network.clone()).collect();
            removal.networks.sort();
            removal.networks.dedup();
        }
        Ok(removals)
    }

    /// When a container exited, in RFC 3339; None if it has never run.
    pub(crate) async fn finished_at(&self, container: &ContainerRef) -> Result<Option<String>> {
        let found = self
            .client
            .inspect_container(container.as_str(), None)
            .await;
        let found =
            found.map_err(|cause| self.error(&format!("inspect container {container}"), cause))?;
        let at = found.state.and_then(|state| state.finished_at);
        Ok(at.filter(|at| !at.starts_with("0001-")))
    }
}

impl ContainerSummary {
    fn from_api(found: ApiSummary) -> Option<Self> {
        use ContainerSummaryStateEnum as State;
        let networks = found
            .network_settings
            .and_then(|settings| settings.networks);
        let mut endpoints: Vec<_> = networks
            .into_iter()
            .flatten()
            .map(|(name, endpoint)| (name, endpoint.mac_address.unwrap_or_default()))
            .collect();
        endpoints.sort();
        let mode = found.host_config.and_then(|config| config.network_mode);
        // Legacy links give it further names, with two slashes.
        let names = found.names.unwrap_or_default();
        let own = |name: &String| Some(name.strip_prefix('/')?.to_owned());
        let mut names = names
            .iter()
            .filter_map(own)
            .filter(|name| !name.contains('/'));
        Some(Self {
            id: DockerId::parse(&found.id?).ok()?,
            name: names.next(),
            image: found.image.unwrap_or_default(),
            is_running: matches!(
                found.state,
                Some(State::RUNNING | State::PAUSED | State::STOPPING | State::REMOVING)
            ),
            network: NetworkMode::parse(&mode.unwrap_or_default()),
            endpoints,
            labels: found.labels.unwrap_or_default().into_iter().collect(),
        })
    }
}

impl RemovedContainer {
    fn from_api(event: EventMessage) -> Option<Self> {
        (event.action.as_deref() == Some("destroy")).then_some(())?;
        let actor = event.actor?;
        let name = actor
            .attributes
            .and_then(|mut attributes| attributes.remove("name"));
        let since = |nanos: i64| Some(Duration::from_nanos(u64::try_from(nanos).ok()?));
        Some(Self {
            id: DockerId::parse(&actor.id?).ok()?,
            name,
            at: event
                .time_nano
                .and_then(since)
                .map(|since| UNIX_EPOCH + since),
            networks: Vec::new(),
        })
    }
}

/// The container and the network of a disconnect event.
fn disconnection(event: EventMessage) -> Option<(String, String)> {
    let mut attributes = event.actor?.attributes?;
    // The filter also lets `destroy` events of networks through.
    let is_disconnection = event.action.as_deref() == Some("disconnect");
    let network = attributes.remove("name")?;
    let container = attributes.remove("container")?;
    is_disconnection.then_some((container, network))
}
