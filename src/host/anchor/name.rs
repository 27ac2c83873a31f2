//! A pod's name, and the CNI container ID derived from it.

use pausenet::cni::ContainerId;

/// The prefix of our container IDs. Runtimes' IDs are long hexadecimal numbers, so none begins with
/// `p`, and one of ours is recognized in an address store or an alias.
const PREFIX: &str = "pausectl-";

/// The name of a pod: it has the form of a container ID, so it is a valid file name too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    name: String,
    id: ContainerId,
}

impl PodName {
    /// # Errors
    /// A sentence that says which names are valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |id: &&str| id.len() <= ContainerId::MAX;
        let id = |text: &str| {
            Some(text)
                .filter(fits)
                .and_then(|id| ContainerId::parse(id).ok())
        };
        match (id(text), id(&format!("{PREFIX}{text}"))) {
            (Some(_), Some(id)) => Ok(Self {
                name: text.to_owned(),
                id,
            }),
            _ => {
                let head: String = text.chars().take(64).collect();
                Err(format!(
                    "pod name {head:?} is not usable: it must start with a letter or digit, go on \
                     with letters, digits, '_', '.' or '-', and be at most {} bytes long",
                    ContainerId::MAX - PREFIX.len()
                ))
            }
        }
    }

    /// The pod of a container ID; None if the ID is not ours.
    pub fn of_container(id: &ContainerId) -> Option<Self> {
        Self::parse(id.as_str().strip_prefix(PREFIX)?).ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// `CNI_CONTAINERID` of the pod.
    pub fn container_id(&self) -> ContainerId {
        self.id.clone()
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in [
            "", ".", "..", "../x", "a/b", "a b", "-x", ".x", "a\nb", "ä", "a\0",
        ] {
            assert!(PodName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PodName::parse(&"x".repeat(119)).is_ok());
        assert!(PodName::parse(&"x".repeat(120)).is_err());
    }

    #[test]
    fn a_refusal_cannot_move_the_terminal_s_cursor() {
        let message = PodName::parse("a\x1b[2Jb").unwrap_err();
        assert!(!message.contains('\x1b'), "{message}");
    }

    #[test]
    fn a_runtime_s_container_is_not_a_pod_of_ours() {
        let id = ContainerId::parse("0a1b2c3d4e5f").unwrap();
        assert_eq!(PodName::of_container(&id), None);
    }

    proptest! {
        #[test]
        fn the_container_id_leads_back_to_the_name(text in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,118}") {
            let name = PodName::parse(&text).unwrap();
            prop_assert_eq!(PodName::of_container(&name.container_id()), Some(name));
        }
    }
}
