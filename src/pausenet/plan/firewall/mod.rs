//! The traffic of a network that other firewalls of the host should accept.
//!
//! A packet is forwarded only if every base chain at the hook lets it pass, so a rule in a table of
//! our own is no help where another's chain drops it. Docker's does: it makes the policy of
//! `FORWARD` DROP, and keeps a chain for other people's rules, `DOCKER-USER`, that is asked first.
//! pausenet adds rules there that iptables prints and removes like its own:
//!
//! ```text
//! -A DOCKER-USER -i cni0 -m comment --comment "pausenet podnet: from cni0" -j ACCEPT
//! -A DOCKER-USER -o cni0 -m conntrack --ctstate RELATED,ESTABLISHED
//!                -m comment --comment "pausenet podnet: answers to cni0" -j ACCEPT
//! -A DOCKER-USER -o cni0 -m conntrack --ctstate DNAT
//!                -m comment --comment "pausenet podnet: mapped to cni0" -j ACCEPT
//! ```
//!
//! (Two rules for one, for nft shows but half of `RELATED,ESTABLISHED,DNAT`, and would load that.)
//!
//! What pods send is accepted wherever it goes, and towards them the answers, and what comes by a
//! mapped port; new connections from outside to anything else meet the policy, as those to
//! Docker's own containers do. In mode ptp, `cni0` is the host ends (`veth+`) with the subnet.
//!
//! The rules are a network's, not an attachment's. They go behind the user's own, whose DROP has
//! to win, but before the RETURN that ends the chain. No DEL removes them: the next pod needs them
//! again. GC does, once the runtime says that the network has no attachment. What else may be in
//! the kind, and what a person can do about it, is in [`mod@obstacles`].

mod drops;
mod forwarding;
mod obstacles;
mod packet;

pub(crate) use drops::BaseChain;
pub use drops::{Forwarded, Unreachable};
pub use forwarding::{AllowedTraffic, DOCKER_USER, HostLink, TABLES, allowed_traffic};
pub(crate) use forwarding::{
    CNI_FORWARD, is_of_network, missing, network_of, tables_of, traffic_behind,
};
pub use obstacles::{FirewallManager, Obstacle, Remedy};
pub(crate) use obstacles::{ForwardChain, LegacyForward, obstacles};
pub(crate) use packet::{Sets, TableRules, looked_up};

#[cfg(test)]
mod tests;
