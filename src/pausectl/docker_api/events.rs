//! What happens to containers, as the daemon tells it. Whoever follows it must be able to miss
//! some: it ends with the daemon.

use std::fmt;
use std::pin::Pin;

use bollard::errors::Error as Cause;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_core::Stream;

use super::error::{Failure, Result};
use super::names::{ContainerName, DockerId, Socket};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start,
    /// Its first process has ended.
    Die,
    /// It was removed.
    Destroy,
    Rename,
}

impl Action {
    const ALL: [Self; 4] = [Self::Start, Self::Die, Self::Destroy, Self::Rename];

    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Die => "die",
            Self::Destroy => "destroy",
            Self::Rename => "rename",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub action: Action,
    pub id: DockerId,
    pub name: Option<ContainerName>,
}

/// The daemon's events, one by one.
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

    /// The next event; None when the daemon has ended the stream. Nothing is lost when the
    /// wait is broken off.
    ///
    /// # Errors
    /// Any [`Failure`].
    pub async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            let message = std::future::poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await?;
            match message.map(Event::read) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(cause) => {
                    return Some(Err(Failure::of(&self.socket, "follow its events", cause)));
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
    /// None for one that we have no word for.
    fn read(message: EventMessage) -> Option<Self> {
        let said = message.action?;
        let actor = message.actor?;
        let mut attributes = actor.attributes.unwrap_or_default();
        let name = attributes.remove("name");
        Some(Self {
            action: Action::ALL
                .into_iter()
                .find(|action| action.as_str() == said)?,
            id: DockerId::parse(&actor.id?).ok()?,
            name: name.and_then(|name| ContainerName::parse(&name).ok()),
        })
    }
}
