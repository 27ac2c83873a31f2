//! The pause image and the plugin with real container runtimes: Docker first of all, in a daemon
//! of the test's own (`scripts/lab/docker.sh`).

mod anchor;
mod anew;
mod client;
mod compose;
mod containerd;
mod crash;
mod dockers_own;
mod doctor;
mod explain;
mod firewall;
mod follow;
mod image;
mod orphans;
mod page;
mod publish;
mod reanchor;
mod rescue;
mod talker;
mod up;
mod watch;
