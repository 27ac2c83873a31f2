//! What a target may mean.

use pausenet::kernel::netns::NetnsId;
use pausenet_host::anchor::cgroup::is_hex;
use pausenet_host::anchor::container::Container;
use pausenet_host::anchor::scan::Removed;

/// The shortest beginning of an ID. With fewer digits, each small number would mean a container too.
const SHORTEST_ID: usize = 4;

/// What a target leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A namespace, and the index of the member that is meant.
    Namespace(NetnsId, Option<usize>),
    /// A process or container on the host's own network; its name.
    Host(String),
    /// A container that is not running.
    Stopped(Container),
    /// A container that was removed, and of whose network nothing is left.
    Removed(Removed),
}

/// One meaning of a name.
pub(super) struct Candidate {
    /// The TARGET that means this one and no other.
    pub(super) target: String,
    /// A description, for a list of candidates.
    pub(super) what: String,
    pub(super) found: Found,
}

/// Whether `text` is the beginning of an ID, and long enough.
pub(super) fn is_id_prefix(text: &str, id: &str) -> bool {
    text.len() >= SHORTEST_ID && is_hex(text) && id.starts_with(text)
}
