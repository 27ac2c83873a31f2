//! pausenet, the CNI plugin: connects containers to networks.
//!
//! # Layout
//!
//! The rooms, from top to bottom; no import runs up.
//!
//! * `run`: stdin and environment in, result or error out.
//! * [`verbs`]: what the runtime asks for, one file per verb, each of which reads like the
//!   specification's paragraph about it; and one for each of the smaller plugins.
//! * [`apply`]: makes a plan so in the kernel, undoes it, or compares the two.
//! * [`plan`]: the pure part: from a request and an allocation to what the kernel should look
//!   like, and the identity that a link carries.
//! * [`ipam`]: addresses: ranges, and the store on disk that is shared with the reference's
//!   `host-local`.
//! * [`kernel`]: netlink, namespaces, sysctls and locks, in the kernel's own words.
//! * [`cni`]: the protocol: environment, config, results, errors, versions.
//!
//! Beside this crate stand `pausenet-host` (what tools and daemon need of a host), `pausectl`,
//! `pausenetd` and `pause`: see their own front pages.
//!
//! # One ADD from stdin to stdout
//!
//! 1. `main.rs` calls [`run`](run()) in `run.rs`, which reads stdin and the environment.
//! 2. `cni/plugin.rs`: the file's name decides which plugin it is. `cni/env.rs` checks the `CNI_*`
//!    variables, `cni/config.rs` reads the JSON, `cni/link.rs` its mode, and `cni/request.rs` puts
//!    them together; with the verb, that is a call (`cni/call.rs`).
//! 3. `verbs/mod.rs` finds the verb's function: `verbs/add.rs`. It opens the container's namespace
//!    (`kernel/netns.rs`), takes the attachment's lock (`apply/host.rs`), and calls ipam, plan and
//!    apply, one after another. Whatever a later step refuses, it undoes the earlier ones.
//! 4. `ipam/mod.rs` picks an IPAM; `ipam/host_local.rs` takes an address from its ranges and writes
//!    it down in `ipam/store/folder.rs`. When a range is exhausted, `apply/reclaim.rs` frees what
//!    no container can own any more, and it tries once more.
//! 5. `plan/attachment.rs`: what the kernel should look like. Modes are in `plan/bridge.rs` and
//!    `plan/ptp.rs`, names and aliases in `plan/names.rs`, elements of nftables in
//!    `plan/elements/mod.rs`.
//! 6. `apply/attach.rs` makes it so, in this order: `apply/uplink.rs` the bridge or the routed end
//!    with its settings and `apply/firewall.rs`, `apply/veth.rs` the pair, `apply/container.rs`
//!    addresses and routes, `apply/bandwidth.rs`, `apply/nft_elements.rs` the elements of nftables
//!    with `apply/ports.rs`, and the alias, which says that the attachment is whole. Announcing the
//!    addresses to neighbours comes after it.
//! 7. `kernel/link.rs`, `kernel/address.rs`, `kernel/route.rs` and `kernel/nft/request.rs` build the
//!    messages; `kernel/netlink.rs` and `kernel/nft/socket.rs` send them.
//! 8. The way out: `verbs/add.rs` makes the result, `cni/result.rs` writes it in the config's
//!    version, or `cni/error.rs` the error; `run.rs` prints it.
//!
//! # How to add a mode
//!
//! A mode, say ipvlan, is one variant in each of four types:
//!
//! 1. `Mode` and its name in `Mode::ALL` (`cni/link.rs`): what the config's `mode` may say.
//! 2. `LinkConf` (`cni/link.rs`): the mode's own keys, checked.
//! 3. `LinkPlan` (`plan/attachment.rs`): what the kernel should look like, planned in a file of its
//!    own beside `plan/ptp.rs`.
//! 4. `Uplink` (`apply/uplink.rs`): what is done on the host.
//!
//! From then on the compiler leads to each place that has to know, 17 of them in the plugin (tried
//! with an empty variant): reading the config in `cni/link.rs`; the plan in `plan/attachment.rs`;
//! traffic that other firewalls should let through in `plan/firewall/forwarding.rs`; every step on
//! the host in `apply/uplink.rs`; CHECK in `apply/verify.rs`; the result in `verbs/add.rs`. After
//! these come the checks of `pausectl doctor`.
//!
//! # Further reading
//!
//! The words that code, docs and messages use: [`glossary`].
//! How the plugins compare with the reference's, option by option: [`parity`]. What happens to
//! running pods when a node changes from the Go plugins to pausenet, or back: [`switching`]. How
//! fast it is, and how that is measured: [`speed`].

pub mod apply;
pub mod cni;
#[doc = include_str!("../docs/glossary.md")]
pub mod glossary {}
pub mod ipam;
pub mod kernel;
#[doc = include_str!("../docs/parity.md")]
pub mod parity {}
pub mod plan;
mod run;
#[doc = include_str!("../docs/speed.md")]
pub mod speed {}
#[doc = include_str!("../docs/switching.md")]
pub mod switching {}
pub mod verbs;

pub use run::run;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The walk through one ADD, and that of a new mode, stay true.
    #[test]
    fn files_that_the_walks_name_exist() {
        let walk = include_str!("lib.rs");
        let walk = walk.split("//! # One ADD").nth(1).unwrap_or_default();
        let walk = walk.split("//! # Further").next().unwrap_or_default();
        let files: Vec<_> = walk
            .split('`')
            .filter(|word| word.ends_with(".rs"))
            .collect();
        assert!(files.len() > 15, "{files:?}");
        for file in &files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(path.is_file(), "{file} is not there");
        }
    }
}
