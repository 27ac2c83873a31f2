//! pausenet: a CNI plugin, and all that belongs to a pod's pause container.
//!
//! # Layout
//!
//! One ADD walks through these rooms from top to bottom; no arrow runs up.
//!
//! * [`verbs`]: what the runtime asks for, one file per verb. Each reads like the
//!   specification's paragraph about it.
//! * [`apply`]: the thin layer that makes a plan so in the kernel, undoes it, or compares the
//!   two.
//! * [`plan`]: the pure part: from a request and an allocation to what the kernel should look
//!   like, and the identity that a link carries.
//! * [`ipam`]: addresses: ranges, and the store on disk that is shared with the reference's
//!   `host-local`.
//! * [`kernel`]: netlink, namespaces, sysctls and locks, in the kernel's own words.
//! * [`cni`]: the protocol: environment, config, results, errors, versions.
//!
//! Beside them stand the tools for people, which come in by the same doors:
//!
//! * [`anchor`]: pause processes, the namespaces they hold, and who lives in those.
//! * [`docker`]: what Docker knows of containers, and what it is asked to do.
//! * [`runtime`]: the other side of the protocol: a network's plugins, run on a pod.
//! * [`ctl`]: the commands of `pausectl`.
//! * `daemon` (with the feature of that name): the node daemon of a Kubernetes cluster.
//!
//! How the plugins compare with the reference's, option by option, is written in [`parity`].
//! Anchors in Docker, from the problem to the clean-up, are told in [`with_docker`].
//! What happens to running pods when a node changes from the Go plugins to pausenet, or back,
//! stands in [`switching`]. How fast it is, and how that is measured, in [`speed`].
//! A whole cluster with pausenet as its network is described in [`kubernetes`], one of kind in [`kind`].
//!
//! The binaries are `pausenet` (the plugin: `main.rs`), `pausectl`, `pausenetd` and `pause`
//! (the crates beside this one).

pub mod apply;
pub mod cni;
pub mod ipam;
pub mod kernel;
#[doc = include_str!("../docs/kubernetes.md")]
pub mod kubernetes {}
#[doc = include_str!("../docs/kind.md")]
pub mod kind {}
#[doc = include_str!("../docs/parity.md")]
pub mod parity {}
pub mod plan;
#[doc = include_str!("../docs/screens.md")]
pub mod screens {}
#[doc = include_str!("../docs/speed.md")]
pub mod speed {}
#[doc = include_str!("../docs/switching.md")]
pub mod switching {}
pub mod verbs;
#[doc = include_str!("../docs/docker.md")]
pub mod with_docker {}
