//! The command line: which commands there are, and the function that each calls.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{docker, doctor, explain, graph, install, ls, network, pod, rescue};
use crate::command::{Output, finish};

const EXAMPLES: &str = "\
Examples:
  pausectl pod create web --conf conf/10-podnet.conflist
  pausectl docker up web --network podnet --publish 8080:80
  pausectl explain web
  pausectl ls
  pausectl doctor

Exit status: 0 for success, 1 for failure, 2 for wrong usage. An interrupted command
exits with 128 plus the signal number.";

const POD_EXAMPLES: &str = "\
Examples:
  pausectl pod create web --conf conf/10-podnet.conflist
  pausectl pod exec web -- ip address
  pausectl pod ls
  pausectl pod rm web

Exit status: 0 for success, 1 for failure, 2 for wrong usage. An interrupted command
exits with 128 plus the signal number; `pod exec` exits with the status of its command.";

/// Create pods, anchor Docker containers, and inspect and repair pausenet's networks
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// Output format
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Output,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create pods, list them, run commands in them, and remove them
    #[command(subcommand, arg_required_else_help = true, after_help = POD_EXAMPLES)]
    Pod(Pod),
    #[command(subcommand)]
    Docker(docker::Command),
    Install(install::Install),
    Doctor(doctor::Doctor),
    Explain(explain::Explain),
    Graph(graph::Graph),
    Ls(ls::List),
    /// Remove what networks leave on the host
    #[command(subcommand, arg_required_else_help = true)]
    Network(Network),
    Rescue(rescue::Rescue),
}

#[derive(Debug, Subcommand)]
enum Network {
    Rm(network::Remove),
}

#[derive(Debug, Subcommand)]
enum Pod {
    Create(pod::Create),
    Exec(pod::Exec),
    Ls(pod::List),
    Ports(pod::Ports),
    Rm(pod::Remove),
}

/// Runs the command of this process's arguments, and gives its exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Docker(command) => finish(docker::run(&command, cli.output)),
        Command::Doctor(options) => finish(doctor::doctor(&options, cli.output)),
        Command::Explain(options) => finish(explain::explain(&options, cli.output)),
        Command::Rescue(options) => finish(rescue::rescue(&options, cli.output)),
        Command::Graph(options) => finish(graph::graph(&options, cli.output)),
        Command::Install(options) => finish(install::install(&options, cli.output)),
        Command::Ls(options) => finish(ls::ls(&options, cli.output)),
        Command::Network(Network::Rm(options)) => finish(network::rm(&options, cli.output)),
        Command::Pod(Pod::Create(options)) => finish(pod::create(&options, cli.output)),
        Command::Pod(Pod::Exec(options)) => {
            pod::exec(&options).unwrap_or_else(|stop| finish(Err(stop)))
        }
        Command::Pod(Pod::Ls(_)) => finish(pod::ls(cli.output)),
        Command::Pod(Pod::Ports(options)) => finish(pod::ports(&options, cli.output)),
        Command::Pod(Pod::Rm(options)) => finish(pod::rm(&options, cli.output)),
    }
}
