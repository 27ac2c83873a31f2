//! `pausectl graph`: the host's bridges, the namespaces behind them, and the links between them, as
//! a diagram.

mod diagram;
mod dot;
mod svg;
mod tree;

use serde_json::{Value, json};

use crate::command::{Output, Result, Stop, need_root, print, print_json, warn};
use crate::docker_inventory::{self, EndTimes};
use crate::options::DockerOptions;
use crate::sandboxes::{self, HostSandboxes, Scope};
use diagram::Diagram;
use pausenet::kernel::address;
use pausenet_host::anchor::interfaces;
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl graph
  pausectl graph --format svg > network.svg     for a browser
  pausectl graph --format dot | dot -Tpng > network.png
  pausectl graph --output json

It shows every network namespace except the host's.";

/// Draw this host's bridges, the namespaces behind them, and the members of each
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Graph {
    /// The format of the drawing [default: tree]
    #[arg(long, value_enum)]
    format: Option<Format>,

    #[command(flatten)]
    docker: DockerOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Text, for a terminal.
    Tree,
    /// For Graphviz.
    Dot,
    /// For a browser.
    Svg,
}

/// Runs the command.
///
/// # Errors
/// The caller is not root, or the host cannot be read.
pub(crate) fn graph(options: &Graph, output: Output) -> Result<()> {
    let draw: fn(&Diagram) -> String = match (output, options.format) {
        (Output::Json, Some(_)) => {
            let why = "--format and --output json exclude each other: use only one of them";
            return Err(Stop::Usage(Error::new(why)));
        }
        (_, Some(Format::Dot)) => dot::draw,
        (_, Some(Format::Svg)) => svg::draw,
        (_, Some(Format::Tree) | None) => tree::draw,
    };
    need_root()?;
    let (facts, problem) = docker_inventory::read(&options.docker, EndTimes::Skip)?;
    let HostSandboxes {
        mut host,
        sandboxes,
        problems,
    } = HostSandboxes::read(Scope::All, &facts)?;
    problem.iter().chain(&problems).for_each(warn);
    let addresses = address::list(&mut host.socket).during("list the host's addresses")?;
    match output {
        Output::Json => print_json(&as_json(&host, &addresses, &sandboxes)),
        Output::Text => print(&draw(&Diagram::new(&host.links, &addresses, &sandboxes))),
    }
}

fn as_json(
    host: &interfaces::Host,
    addresses: &[(u32, ipnetwork::IpNetwork)],
    sandboxes: &[pausenet_host::anchor::sandbox::Sandbox],
) -> Value {
    let mut bridges: Vec<_> = host
        .links
        .values()
        .filter(|link| link.kind == "bridge")
        .collect();
    bridges.sort_by_key(|link| link.index);
    let bridges: Vec<_> = bridges
        .into_iter()
        .map(|bridge| {
            let own = addresses.iter().filter(|(index, _)| *index == bridge.index);
            let own: Vec<_> = own.map(|(_, address)| address.to_string()).collect();
            json!({"name": bridge.name, "addresses": own})
        })
        .collect();
    let sandboxes: Vec<_> = sandboxes.iter().map(sandboxes::sandbox).collect();
    json!({"bridges": bridges, "sandboxes": sandboxes})
}
