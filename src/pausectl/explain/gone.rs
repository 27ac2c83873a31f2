//! A container that no engine knows any more, by its name or ID: what is left of it. Its namespace
//! may still have other members, and an attachment of ours may still have its name.

use super::candidate::{Candidate, Found, is_id_prefix};
use pausenet_host::Result;
use pausenet_host::anchor::container::short_id;
use pausenet_host::anchor::interfaces::Host;
use pausenet_host::anchor::scan::{EngineFacts, NamespaceScan, Removed};
use pausenet_host::anchor::text::plain;

/// What such a name or ID may mean: each namespace that is left, or else the last removed
/// container of that name.
pub(super) fn candidates(
    text: &str,
    scan: &NamespaceScan,
    facts: &EngineFacts,
    host: &mut Host,
) -> Result<Vec<Candidate>> {
    let is_meant = |removed: &&Removed| {
        removed.name.as_deref() == Some(text)
            || removed.id == text
            || is_id_prefix(text, &removed.id)
    };
    let removed: Vec<_> = facts.removed.iter().filter(is_meant).collect();
    let candidate = |id: &str, found| Candidate {
        target: format!("container:{}", plain(short_id(id))),
        what: format!("{}, which is gone", plain(text)),
        found,
    };
    let mut found = Vec::new();
    for netns in scan.namespaces() {
        let mut left = scan.left(netns);
        let is_left =
            |id: &&str| is_id_prefix(text, id) || removed.iter().any(|removed| removed.id == **id);
        if let Some(id) = left.find(is_left) {
            found.push(candidate(id, Found::Namespace(netns, None)));
        }
    }
    for (netns, holder) in scan.held(host, facts)? {
        if holder.is_called(text, |id| id == text || is_id_prefix(text, id)) {
            let id = holder.container.as_deref().unwrap_or(&holder.id);
            found.push(candidate(id, Found::Namespace(netns, None)));
        }
    }
    if let (true, Some(last)) = (found.is_empty(), removed.last()) {
        found.push(candidate(&last.id, Found::Removed((*last).clone())));
    }
    Ok(found)
}
