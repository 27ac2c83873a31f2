//! Which container one of our networks is registered for. The alias of the host end holds the CNI
//! container ID; the records of `pausectl docker` and `pausectl rescue` hold the rest, even after
//! the engine has removed the container.

use super::container::short_id;
use super::origin::CachedAttachment;

/// The prefix of anchors' CNI container IDs; the anchor's name follows it.
pub const ANCHOR_PREFIX: &str = "docker-";

/// What pausectl has recorded about a CNI container ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: String,
    /// The name of its container.
    pub name: String,
    /// The engine's ID of that container. None if it is a process or a path instead.
    pub container: Option<String>,
    /// `pausectl rescue` attached it, after it had lost the network it shared.
    pub rescued: bool,
}

/// The container that a network is registered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub id: String,
    /// None if unknown.
    pub name: Option<String>,
    /// The engine's ID of its container, if it is known and differs from `id`.
    pub container: Option<String>,
    pub by: RegisteredBy,
}

/// The program that registered the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisteredBy {
    /// `pausectl docker`, which can anchor it again.
    Anchoring,
    /// `pausectl rescue`.
    Rescue,
    /// Another program that ran the plugins; `pausectl docker` has no record of it.
    Others,
}

impl Registration {
    /// The registration of the network with this CNI container ID.
    pub(super) fn of(id: &str, registered: &[Registered], cached: &[CachedAttachment]) -> Self {
        if let Some(found) = registered.iter().find(|found| found.id == id) {
            return Self::from(found);
        }
        // The record is lost, but the ID contains the name, and the result cache the network.
        let name = id.strip_prefix(ANCHOR_PREFIX);
        let is_cached = cached.iter().any(|cached| cached.container == id);
        Self {
            id: id.to_owned(),
            name: name.map(str::to_owned),
            container: None,
            by: if name.is_some() && is_cached {
                RegisteredBy::Anchoring
            } else {
                RegisteredBy::Others
            },
        }
    }

    /// Whether `text`, as typed by the user, refers to it: by name, ID, or the start of an ID.
    pub fn is_called(&self, text: &str, is_beginning: impl Fn(&str) -> bool) -> bool {
        let ids = [Some(&self.id), self.container.as_ref()];
        self.name.as_deref() == Some(text) || ids.into_iter().flatten().any(|id| is_beginning(id))
    }

    /// What to call it: its name, or the start of its ID.
    pub(super) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(short_id(&self.id))
    }
}

impl From<&Registered> for Registration {
    fn from(found: &Registered) -> Self {
        Self {
            id: found.id.clone(),
            name: Some(found.name.clone()),
            container: found.container.clone(),
            by: if found.rescued {
                RegisteredBy::Rescue
            } else {
                RegisteredBy::Anchoring
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_from_the_record_or_the_id() {
        let registered = |id: &str, rescued| Registered {
            id: id.to_owned(),
            name: "web".to_owned(),
            container: None,
            rescued,
        };
        let cached = CachedAttachment {
            network: "podnet".into(),
            plugins: Vec::new(),
            container: "docker-web".into(),
            ifname: "eth0".into(),
            netns: None,
            macs: Vec::new(),
        };
        for (id, registered, cached, name, by) in [
            (
                "0a",
                vec![registered("0a", true)],
                vec![],
                Some("web"),
                RegisteredBy::Rescue,
            ),
            (
                "0a",
                vec![registered("0a", false)],
                vec![],
                Some("web"),
                RegisteredBy::Anchoring,
            ),
            (
                "0a",
                vec![registered("0b", false)],
                vec![],
                None,
                RegisteredBy::Others,
            ),
            (
                "docker-web",
                vec![],
                vec![cached],
                Some("web"),
                RegisteredBy::Anchoring,
            ),
            (
                "docker-web",
                vec![],
                vec![],
                Some("web"),
                RegisteredBy::Others,
            ),
        ] {
            let holder = Registration::of(id, &registered, &cached);
            assert_eq!((holder.name.as_deref(), holder.by), (name, by), "{id}");
        }
    }
}
