//! The built plugin against the real kernel, each test in namespaces of its own.

#[path = "../common/mod.rs"]
mod common;

mod add;
mod bad_input;
mod bandwidth;
mod check;
mod concurrency;
mod crowded;
mod debris;
mod del;
mod delegation;
mod dropping;
mod firewall;
mod gc;
mod host_local;
mod invocation;
mod letting_go;
mod loopback;
mod masquerade;
mod messages;
mod options;
mod pid_reuse;
mod plugins;
mod portmap;
mod ports;
mod processes;
mod ptp;
mod reclaim;
mod restart;
mod sctp;
mod spoof;
mod status;
mod traffic;
mod versions;
mod vlan;
mod waiting;
mod wire;
