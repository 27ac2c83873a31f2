//! All containers at a glance, in one request; and those that the daemon remembers to have
//! removed. For who wants names for many, and none of their processes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerSummary, ContainerSummaryStateEnum, EventMessage, EventMessageTypeEnum,
};
use bollard::query_parameters as query;
use futures_core::Stream;

use super::client::Docker;
use super::container::NetworkMode;
use super::error::Result;
use super::names::{ContainerRef, DockerId};

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    pub id: DockerId,
    pub name: Option<String>,
    pub image: String,
    /// It has processes.
    pub runs: bool,
    pub network: NetworkMode,
    /// Docker's networks that it is on: name, and MAC there; that is empty while it does not run.
    pub endpoints: Vec<(String, String)>,
    pub labels: BTreeMap<String, String>,
}

/// A container that is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub id: DockerId,
    pub name: Option<String>,
    pub at: Option<SystemTime>,
    /// Docker's networks that it was taken off, as far as that is remembered.
    pub networks: Vec<String>,
}

impl Docker {
    /// Every container, running or not.
    ///
    /// # Errors
    /// Any [`super::Failure`].
    pub async fn overview(&self) -> Result<Vec<Overview>> {
        let options = query::ListContainersOptionsBuilder::new().all(true);
        let listed = self.client.list_containers(Some(options.build())).await;
        let listed = listed.map_err(|cause| self.failed("list containers", cause))?;
        Ok(listed.into_iter().filter_map(Overview::read).collect())
    }

    /// Removals among the last events: the daemon remembers some hundred of all kinds, and
    /// none of before its own start.
    ///
    /// # Errors
    /// Any [`super::Failure`].
    pub async fn removals(&self) -> Result<Vec<Removal>> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let filters = [
            ("type", vec!["container", "network"]),
            ("event", vec!["destroy", "disconnect"]),
        ];
        // With an end that is past, the daemon does not wait for more.
        let options = query::EventsOptionsBuilder::new()
            .since("0")
            .until(&until)
            .filters(&filters.into());
        let mut events = std::pin::pin!(self.client.events(Some(options.build())));
        let mut removals: Vec<Removal> = Vec::new();
        let mut networks = Vec::new();
        while let Some(event) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
            let event = event.map_err(|cause| self.failed("read its last events", cause))?;
            match event.typ {
                Some(EventMessageTypeEnum::NETWORK) => networks.extend(disconnection(event)),
                _ => removals.extend(Removal::read(event)),
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

    /// When a container ended, in RFC 3339; None for one that has never run.
    ///
    /// # Errors
    /// Any [`super::Failure`].
    pub async fn ended_at(&self, container: &ContainerRef) -> Result<Option<String>> {
        let found = self
            .client
            .inspect_container(container.as_str(), None)
            .await;
        let found =
            found.map_err(|cause| self.failed(&format!("look at container {container}"), cause))?;
        let at = found.state.and_then(|state| state.finished_at);
        Ok(at.filter(|at| !at.starts_with("0001-")))
    }
}

impl Overview {
    fn read(found: ContainerSummary) -> Option<Self> {
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
        // A container may have other names: of links, with two slashes.
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
            runs: matches!(
                found.state,
                Some(State::RUNNING | State::PAUSED | State::STOPPING | State::REMOVING)
            ),
            network: NetworkMode::read(&mode.unwrap_or_default()),
            endpoints,
            labels: found.labels.unwrap_or_default().into_iter().collect(),
        })
    }
}

impl Removal {
    fn read(event: EventMessage) -> Option<Self> {
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

/// A container, and the network that it was taken off.
fn disconnection(event: EventMessage) -> Option<(String, String)> {
    let mut attributes = event.actor?.attributes?;
    // Both kinds of events are asked for, of both kinds of things.
    let is_disconnection = event.action.as_deref() == Some("disconnect");
    let network = attributes.remove("name")?;
    let container = attributes.remove("container")?;
    is_disconnection.then_some((container, network))
}
