//! The pause image and the plugin with real container runtimes: Docker first of all, in a daemon
//! of the test's own (`scripts/lab/docker.sh`).

mod anchor;
mod client;
mod compose;
mod connected_container;
mod containerd;
mod crash;
mod docs_page;
mod doctor;
mod down;
mod explain;
mod firewall;
mod follow;
mod image;
mod networks;
mod orphans;
mod ports;
mod publish;
mod reanchor;
mod recreate;
mod rescue;
mod shared_network;
mod up;
mod watch;
