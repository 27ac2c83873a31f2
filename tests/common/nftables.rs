//! The ruleset of nftables, as `nft` prints it.

use crate::commands::run;

/// nftables, as its own tool shows them.
pub fn ruleset() -> String {
    run("nft", ["list", "ruleset"])
}

/// How many elements of nftables say in their comment that they are this attachment's.
pub fn element_count(owner: &str) -> usize {
    ruleset().matches(&format!("comment \"{owner}\"")).count()
}
