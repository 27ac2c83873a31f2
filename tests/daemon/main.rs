//! `pausenetd`: its parts on the real kernel, the program by itself, and whole clusters, with the
//! real API server, real Nodes and the real plugin. With `--features daemon`.

mod api;
mod cluster;
mod conflist;
mod gc;
mod image;
mod masquerade;
mod numbers;
mod plugins;
mod pod_elements;
mod process;
mod ready;
mod routes;
mod site;
