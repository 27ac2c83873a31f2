//! `pausectl docker`: containers whose network CNI plugins make, not Docker.
//!
//! Each command has a file of its own. They share [`record`], what pausectl remembers of a
//! container; [`network_location`], the namespace that a network is in; [`attachment`], which makes
//! and removes a container's network; and [`lookup`] and [`report`].

mod attach;
pub(crate) mod attachment;
mod detach;
mod down;
mod etc_hosts;
pub(crate) mod lookup;
mod members;
pub(crate) mod network_location;
mod port_attachment;
mod ports;
mod publish;
mod reanchor;
pub(crate) mod record;
pub(crate) mod report;
mod restart_members;
mod up;
mod watch;

use crate::command::{Output, Result, need_root};

const EXAMPLES: &str = "\
Examples:
  pausectl docker up web --network podnet --publish 8080:80
  docker run -d --net=container:web nginx
  pausectl docker publish web 8443:443
  pausectl docker reanchor web
  pausectl docker down web

An anchor is a container of the pause image that holds a network namespace; its
network is made by CNI plugins, so Docker does not take it down with a container.";

/// Attach Docker containers to CNI networks, and manage anchors
#[derive(Debug, clap::Subcommand)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) enum Command {
    Up(up::Up),
    Down(down::Down),
    Attach(attach::Attach),
    Detach(detach::Detach),
    Ports(ports::Ports),
    Publish(publish::Publish),
    Unpublish(publish::Unpublish),
    Reanchor(reanchor::Reanchor),
    Watch(watch::Watch),
}

/// Serves a command.
pub(crate) fn run(command: &Command, output: Output) -> Result<()> {
    need_root()?;
    match command {
        Command::Up(options) => up::up(options, output),
        Command::Down(options) => down::down(options, output),
        Command::Attach(options) => attach::attach(options, output),
        Command::Detach(options) => detach::detach(options, output),
        Command::Ports(options) => ports::ports(options, output),
        Command::Publish(options) => publish::publish(options, output),
        Command::Unpublish(options) => publish::unpublish(options, output),
        Command::Reanchor(options) => reanchor::reanchor(options, output),
        Command::Watch(options) => watch::watch(options, output),
    }
}
