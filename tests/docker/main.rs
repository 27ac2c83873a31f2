//! The pause image and the plugin with real container runtimes: Docker first of all, in a daemon
//! of the test's own (`scripts/lab/docker.sh`).

mod anchor;
mod recreate;
mod client;
mod compose;
mod containerd;
mod crash;
mod shared_network;
mod doctor;
mod explain;
mod firewall;
mod follow;
mod image;
mod orphans;
mod docs_page;
mod publish;
mod reanchor;
mod rescue;
mod connected_container;
mod up;
mod watch;
