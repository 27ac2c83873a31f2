//! `pausenetd`: its parts on the real kernel, the program by itself, and whole clusters, with the
//! real API server, real Nodes and the real plugin.

mod api;
mod cluster;
mod conflist;
mod gc;
mod image;
mod masquerade;
mod metrics;
mod misbehaving;
mod nodes;
mod plugins;
mod pod_elements;
mod process;
mod ready;
mod rotation;
mod routes;
