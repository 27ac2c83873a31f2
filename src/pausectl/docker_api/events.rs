//! Container events from the daemon. A consumer must cope with missed events: the stream ends
//! when the daemon does.

use std::fmt;
use std::pin::Pin;

use bollard::errors::Error as Cause;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_core::Stream;

use super::error::{ApiError, Result};
use super::names::{ContainerName, DockerId, Socket};

/// What happened to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start,
    /// Its first process ended.
    Die,
    /// The container was removed.
    Destroy,
    Rename,
}

impl Action {
    const ALL: [Self; 4] = [Self::Start, Self::Die, Self::Destroy, Self::Rename];

    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Die => "die",
            Self::Destroy => "destroy",
            Self::Rename => "rename",
        }
    }
}

/// A container event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub action: Action,
    pub id: DockerId,
    pub name: Option<ContainerName>,
}

/// The stream of container events.
pub struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<EventMessage, Cause>> + Send>>,
    socket: Socket,
}

impl Events {
    pub(super) fn new(client: &bollard::Docker, socket: &Socket, since: u64) -> Self {
        let actions = Action::ALL.map(Action::as_str).to_vec();
        let filters = [("type", vec!["container"]), ("event", actions)].into();
        let options = EventsOptionsBuilder::new()
            .since(&since.to_string())
            .filters(&filters);
        Self {
            stream: Box::pin(client.events(Some(options.build()))),
            socket: socket.clone(),
        }
    }

    /// The next event; None at the end of the stream. Cancel-safe: dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            let message = std::future::poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await?;
            match message.map(Event::from_api) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(cause) => {
                    return Some(Err(ApiError::request(
                        &self.socket,
                        "follow the events",
                        cause,
                    )));
                }
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Event {
    /// None for an action that is not in [`Action`].
    fn from_api(message: EventMessage) -> Option<Self> {
        let action_name = message.action?;
        let actor = message.actor?;
        let mut attributes = actor.attributes.unwrap_or_default();
        let name = attributes.remove("name");
        Some(Self {
            action: Action::ALL
                .into_iter()
                .find(|action| action.as_str() == action_name)?,
            id: DockerId::parse(&actor.id?).ok()?,
            name: name.and_then(|name| ContainerName::parse(&name).ok()),
        })
    }
}
