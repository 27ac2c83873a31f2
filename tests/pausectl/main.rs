//! `pausectl` against the real kernel and real plugins, each test in namespaces of its own.

mod create;
mod doctor;
mod exec;
mod explain;
mod failures;
mod host;
mod install;
mod ls;
mod network;
mod overview;
mod ports;
mod rm;
mod scale;
mod waiting;
