//! `pausectl graph`: bridges, the links that leave them, and the namespaces those lead to, as a
//! picture.

mod diagram;
mod dot;
mod svg;
mod tree;

use serde_json::{Value, json};

use crate::docker_inventory::{self, Depth};
use crate::options::DockerOptions;
use crate::sandboxes::{self, Scope, Sight};
use crate::{Output, Result, Stop, need_root, print, print_json, warn};
use diagram::Picture;
use pausenet::kernel::address;
use pausenet_host::anchor::interfaces;
use pausenet_host::{During, Error};

const EXAMPLES: &str = "\
Examples:
  pausectl graph
  pausectl graph --format svg > network.svg     for a browser
  pausectl graph --format dot | dot -Tpng > network.png
  pausectl graph --output json

Every network namespace but the host's is shown, whoever made it.";

/// Draw the bridges of this host, the namespaces behind them, and who lives there
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Graph {
    /// What kind of picture; by default a tree
    #[arg(long, value_enum)]
    format: Option<Format>,

    #[command(flatten)]
    docker: DockerOptions,
}

/// A kind of picture.
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
/// When the kernel does not answer.
pub fn graph(options: &Graph, output: Output) -> Result<()> {
    let draw: fn(&Picture) -> String = match (output, options.format) {
        (Output::Json, Some(_)) => {
            let why = "--format is a picture and --output json is the data: only one of them";
            return Err(Stop::Usage(Error::new(why)));
        }
        (_, Some(Format::Dot)) => dot::draw,
        (_, Some(Format::Svg)) => svg::draw,
        (_, Some(Format::Tree) | None) => tree::draw,
    };
    need_root()?;
    let (told, problem) = docker_inventory::ask(&options.docker, Depth::Names)?;
    let Sight {
        mut host,
        sandboxes,
        problems,
    } = Sight::take(Scope::Everything, &told)?;
    problem.iter().chain(&problems).for_each(warn);
    let addresses = address::list(&mut host.socket).during("list the host's addresses")?;
    match output {
        Output::Json => print_json(&as_json(&host, &addresses, &sandboxes)),
        Output::Text => print(&draw(&Picture::new(&host.links, &addresses, &sandboxes))),
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
