//! In whose name a network of ours is. The alias of its host end says the ID that it is registered
//! under; what `pausectl docker` and `pausectl rescue` have written down says the rest, also when
//! the engine has long forgotten the container.

use super::container::short_id;
use super::origin::CachedAttachment;

/// What the IDs of anchors begin with; their names follow.
pub const ANCHOR_PREFIX: &str = "docker-";

/// What pausectl has written down of an ID (CNI_CONTAINERID).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: String,
    /// What people call its container.
    pub name: String,
    /// The engine's ID of that. None: it is no container, but a process or a path.
    pub container: Option<String>,
    /// It had lost another's network.
    pub rescued: bool,
}

/// In whose name a network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub id: String,
    /// None when nobody has told.
    pub name: Option<String>,
    /// The engine's ID of its container, where that is another and known.
    pub container: Option<String>,
    pub by: RegisteredBy,
}

/// Who has put it in that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisteredBy {
    /// `pausectl docker`, which can anchor it again.
    Anchoring,
    /// `pausectl rescue`.
    Rescue,
    /// Somebody else, who ran the plugins. Of that `pausectl docker` knows nothing.
    Others,
}

impl Registration {
    /// Whose a network is that is registered under this ID.
    pub fn of(id: &str, registered: &[Registered], cached: &[CachedAttachment]) -> Self {
        if let Some(found) = registered.iter().find(|found| found.id == id) {
            return Self::from(found);
        }
        // The record is lost: the ID is the name, and the cache of results knows the network.
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

    /// True when a person may mean it by this: a name, an ID, or the beginning of one.
    pub fn is_called(&self, text: &str, is_beginning: impl Fn(&str) -> bool) -> bool {
        let ids = [Some(&self.id), self.container.as_ref()];
        self.name.as_deref() == Some(text) || ids.into_iter().flatten().any(|id| is_beginning(id))
    }

    /// What a person calls it.
    pub fn title(&self) -> &str {
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
    fn a_name_is_told_by_the_record_or_by_the_id() {
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
