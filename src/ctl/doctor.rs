//! `pausectl doctor`: what a person has to see to on this host, because nothing of ours can.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cni::error::io as io_error;
use crate::cni::{Code, Error};
use crate::ctl::table::table;
use crate::ctl::{Output, Result, Stop, need_root, print, print_json};
use crate::ipam::host_local::DATA_DIR;
use crate::ipam::store::Store;
use crate::kernel::legacy::{self, Family};
use crate::plan::reference::{iptables_chains, is_iptables_chain};

const EXAMPLES: &str = "\
Examples:
  pausectl doctor
  pausectl doctor --output json

It looks for the chains that the plugins bridge, ptp and portmap made for their pods
with iptables-legacy: once pausenet has taken the pods over, nobody removes them, for
they can only be changed by iptables-legacy itself. STATE is one of
  held  the pod has an address still: the chain does its work, and stays behind later
  left  no address is held for whoever it was made for

Nothing is changed. Exit status: 0 when nothing is left behind, 1 when something is or
the host could not be looked at.";

/// Look for what plugins before pausenet left on this host, and say how to remove it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// The folder with a store of addresses for each network
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
}

/// A chain of one of the reference's plugins, in the table nat of iptables-legacy.
struct Chain {
    family: Family,
    name: String,
    /// The network and the container that have an address still.
    holder: Option<(String, String)>,
}

impl Chain {
    fn state(&self) -> &'static str {
        match self.holder {
            Some(_) => "held",
            None => "left",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When something is left behind; code 101 without privileges, or with the kernel's refusal;
/// code 5 when the stores cannot be read.
pub fn doctor(options: &Doctor, output: Output) -> Result<()> {
    need_root()?;
    let holders = holders(&options.data_dir)?;
    let mut chains = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let found = legacy::chains(family, "nat").map_err(|err| refusal(family, &err))?;
        let of_plugins = found.into_iter().filter(|name| is_iptables_chain(name));
        chains.extend(of_plugins.map(|name| Chain {
            family,
            holder: holders.get(&name).cloned(),
            name,
        }));
    }
    match output {
        Output::Json => {
            let chains: Vec<_> = chains.iter().map(as_json).collect();
            print_json(&json!({ "legacyChains": chains }))?;
        }
        Output::Text if chains.is_empty() => print("nothing was left by plugins before us\n")?,
        Output::Text => print(&as_table(&chains))?,
    }
    match left(&chains) {
        Some(problem) => Err(Stop::Failed(problem)),
        None => Ok(()),
    }
}

/// What is left behind and how it is removed, if anything is.
fn left(chains: &[Chain]) -> Option<Error> {
    let of = |family| {
        let left = chains
            .iter()
            .filter(move |chain| chain.family == family && chain.holder.is_none());
        left.map(|chain| chain.name.as_str()).collect::<Vec<_>>()
    };
    let commands: Vec<_> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .filter(|&family| !of(family).is_empty())
        .map(|family| removal(family, &of(family)))
        .collect();
    let count = of(Family::Ipv4).len() + of(Family::Ipv6).len();
    let what = match count {
        0 => return None,
        1 => "1 chain that a plugin before us made with iptables-legacy is left".to_owned(),
        _ => format!("{count} chains that plugins before us made with iptables-legacy are left"),
    };
    let how = format!(
        "removed, with the rules that lead there, by: {}",
        commands.join("; ")
    );
    Some(Error::new(Code::KernelRefused, what).hint(how))
}

/// The command that takes chains out of a table, and the jumps to them, in one step. It keeps
/// the counters of all others.
fn removal(family: Family, chains: &[&str]) -> String {
    let program = family.program();
    let patterns: Vec<_> = chains.iter().map(|chain| format!("-e {chain}")).collect();
    format!(
        "{program}-save -c -t nat | grep -v {} | {program}-restore -c",
        patterns.join(" ")
    )
}

/// Which network and container the chains of all who hold an address would be named for.
fn holders(data_dir: &Path) -> Result<HashMap<String, (String, String)>> {
    let attempt = |err| io_error("cannot list the address stores in", data_dir, err);
    let mut holders = HashMap::new();
    let entries = match fs::read_dir(data_dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(holders),
        entries => entries.map_err(attempt)?,
    };
    for entry in entries {
        let entry = entry.map_err(attempt)?;
        let (dir, network) = (entry.path(), entry.file_name());
        let Some(network) = network.to_str().filter(|_| dir.is_dir()) else {
            continue;
        };
        let Some(store) = Store::open_existing(&dir)? else {
            continue;
        };
        for held in store.stale(|_, _| false)? {
            for chain in iptables_chains(network, &held.container) {
                let holder = (network.to_owned(), held.container.clone());
                holders.insert(chain, holder);
            }
        }
    }
    Ok(holders)
}

fn refusal(family: Family, err: &std::io::Error) -> Error {
    let program = family.program();
    Error::new(
        Code::KernelRefused,
        format!("cannot read the table nat of {program}: {err}"),
    )
}

fn as_table(chains: &[Chain]) -> String {
    let rows: Vec<_> = chains
        .iter()
        .map(|chain| {
            let (network, container) = chain.holder.clone().unwrap_or_default();
            let program = chain.family.program().to_owned();
            let state = chain.state().to_owned();
            [chain.name.clone(), program, state, network, container]
        })
        .collect();
    table(["CHAIN", "IN", "STATE", "NETWORK", "CONTAINER"], &rows)
}

fn as_json(chain: &Chain) -> Value {
    let holder = chain.holder.as_ref();
    json!({
        "chain": chain.name,
        "table": "nat",
        "program": chain.family.program(),
        "state": chain.state(),
        "network": holder.map(|(network, _)| network),
        "container": holder.map(|(_, container)| container),
    })
}
