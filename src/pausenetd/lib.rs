//! `pausenetd`, the daemon on each node of a Kubernetes cluster.
//!
//! It looks at the cluster's Nodes, works out what this node's network should be, and makes the
//! kernel and two folders so. Nothing that happens is taken for more than a reason to look again:
//! what is wanted is computed anew each time, compared with what is there, and the difference made
//! good. So a lost watch, a missed event or a restart at any moment lead to the same state.
//!
//! * [`options`]: flags and their environment variables, checked.
//! * [`node`]: a Node, as far as the network is concerned.
//! * [`subnets`]: arithmetic with sets of subnets (pure).
//! * [`desired`]: from Nodes and options to what should be (pure).
//! * [`masquerade`], [`routes`], [`conflist`], [`plugins`]: each makes one part of it so.
//! * [`pod_elements`]: what others remove of pods' elements in nftables is put back.
//! * [`gc`]: what no pod can own any more is reclaimed.
//! * [`reconcile`]: one pass over all of these.
//! * [`node_watch`], [`monitor`]: the reasons to make one; [`wakeup`] is where they meet.
//! * [`metrics`], [`http`]: what the daemon tells of itself.
//! * [`run`]: all of it together.

pub mod conflist;
pub mod desired;
pub mod gc;
pub mod http;
pub mod masquerade;
pub mod metrics;
pub mod monitor;
pub mod node;
pub mod node_watch;
pub mod options;
pub mod plugins;
pub mod pod_elements;
pub mod reconcile;
pub mod routes;
mod run;
pub mod subnets;
mod uninstall;
pub mod wakeup;

pub use run::main;
