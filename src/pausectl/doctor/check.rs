//! What a check is.

use super::finding::Finding;
use super::snapshot::Snapshot;

/// One check of `pausectl doctor`.
#[derive(Debug)]
pub(super) struct Check {
    /// As in `--check NAME`.
    pub(super) name: &'static str,
    /// What it looks at, for `--list`.
    pub(super) about: &'static str,
    /// Its line in the report when nothing is wrong.
    pub(super) all_is_well: &'static str,
    /// Judges the host. What it could not read is a finding too: [`Finding::not_checked`].
    pub(super) run: fn(&Snapshot) -> Vec<Finding>,
}
