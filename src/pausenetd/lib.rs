//! `pausenetd`, the daemon on each node of a Kubernetes cluster.
//!
//! It watches the cluster's Nodes, computes the desired state of this node's network, and applies it
//! to the kernel and to two folders. It is level-triggered: every event is only a reason to reconcile.
//! Each pass computes the desired state from scratch, compares it with the observed state, and
//! applies the difference. So a lost watch, a missed event or a restart at any moment lead to the
//! same state.
//!
//! * [`options`]: flags and their environment variables, checked.
//! * [`node`]: a Node, reduced to what the network depends on.
//! * [`subnets`]: sets of subnets (pure).
//! * [`desired`]: from Nodes and options to the desired state (pure).
//! * [`routes`], [`masquerade`], [`conflist`], [`plugins`]: each applies one part of it. Routes are set
//!   in [`routes::ensure`], masquerade in [`masquerade::ensure`], the conflist is written in
//!   [`conflist::ensure`].
//! * [`pod_elements`]: restores pods' nftables elements (published ports) after another program
//!   removed them.
//! * [`gc`]: reclaims what no pod can own any more.
//! * [`reconcile`]: one pass over all of these.
//! * [`node_watch`], [`monitor`]: what triggers a pass; [`wakeup`] is where both request it.
//! * [`metrics`], [`http`]: metrics and probes.
//! * [`run`]: starts and stops all of it; [`uninstall`] removes what it made.
//!
//! A whole cluster with pausenet as its network is described in [`kubernetes`], one of kind in
//! [`kind`].
//!
//! Modules are public only where tests of the built daemon (`tests/daemon`, `tests/kubernetes`) use
//! them.

pub mod conflist;
pub mod desired;
pub mod gc;
mod http;
#[doc = include_str!("../docs/kind.md")]
pub mod kind {}
#[doc = include_str!("../docs/kubernetes.md")]
pub mod kubernetes {}
pub mod masquerade;
pub mod metrics;
mod monitor;
pub mod node;
mod node_requests;
pub mod node_watch;
pub mod options;
mod plugins;
pub mod pod_elements;
pub mod reconcile;
pub mod routes;
mod run;
mod subnets;
mod uninstall;
pub mod wakeup;

pub use run::main;
