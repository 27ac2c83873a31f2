//! The ruleset of nftables, as `nft` prints it.

use crate::commands::run;

/// The whole ruleset.
pub fn ruleset() -> String {
    run("nft", ["list", "ruleset"])
}

/// The number of elements whose comment names this attachment.
pub fn element_count(owner: &str) -> usize {
    ruleset().matches(&format!("comment \"{owner}\"")).count()
}
