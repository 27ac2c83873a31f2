//! `pausectl explain`: who owns a network, who shares it, and what happens when one of them ends.

mod candidate;
mod gone;
mod target;
mod text;

use serde_json::{Value, json};

use crate::command::{Output, Result, Stop, need_root, print, print_json, warn};
use crate::docker_inventory::{self, EndTimes};
use crate::options::DockerOptions;
use crate::sandboxes;
use candidate::Found;
use pausenet_host::Error;
use pausenet_host::anchor::advice::advice;
use pausenet_host::anchor::container::Container;
use pausenet_host::anchor::death::{death_effects, summary};
use pausenet_host::anchor::interfaces::{self, Host};
use pausenet_host::anchor::sandbox::Sandbox;
use pausenet_host::anchor::scan::{EngineFacts, NamespaceScan, Removed, Selection};
pub(crate) use target::Target;

const EXAMPLES: &str = "\
Examples:
  pausectl explain web                     a container or a pod, by name, also when it is gone
  pausectl explain 0a1b2c3d4e5f            a container, by its ID or a prefix of it
  pausectl explain 4711                    a process
  pausectl explain /run/netns/blue         a network namespace
  pausectl explain default/two-containers  a pod of Kubernetes
  pausectl explain web --output json

If a name means several things, choose one with pid:4711, pod:web or container:web.
Everything is read from /proc and the kernel; Docker adds the names of its containers.";

/// Show who owns the network of a container, a process or a pod, who shares it, and what
/// happens when one of them ends
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Explain {
    /// A container's name or ID, a process ID, the path of a network namespace, or a pod
    target: String,

    #[command(flatten)]
    docker: DockerOptions,
}

/// What a target turned out to be.
enum Explanation {
    /// A sandbox, and the index of the member that was asked for.
    Sandbox(Box<Sandbox>, Option<usize>),
    /// A process or container on the host's own network.
    Host(String),
    /// A stopped container, and the members that still use its former namespace.
    Stopped(Box<Container>, Vec<String>),
    Removed(Removed),
}

/// Runs the command.
///
/// # Errors
/// Nothing or several things match TARGET, or the caller is not root.
pub(crate) fn explain(options: &Explain, output: Output) -> Result<()> {
    let target = Target::parse(&options.target).map_err(|why| Stop::Usage(Error::new(why)))?;
    need_root()?;
    let (facts, problem) = docker_inventory::read(&options.docker, EndTimes::Ask)?;
    problem.iter().for_each(warn);
    let explanation = interfaces::on_separate_thread(|| explain_target(&target, &facts))?;
    match (output, &explanation) {
        (Output::Json, _) => print_json(&as_json(&explanation)),
        (Output::Text, Explanation::Sandbox(sandbox, about)) => {
            print(&text::sandbox(sandbox, *about))
        }
        (Output::Text, Explanation::Host(name)) => print(&text::host(name)),
        (Output::Text, Explanation::Stopped(container, survivors)) => {
            print(&text::stopped(container, survivors, &facts))
        }
        (Output::Text, Explanation::Removed(removed)) => print(&text::removed(removed)),
    }
}

fn explain_target(target: &Target, facts: &EngineFacts) -> Result<Explanation, Error> {
    let mut host = Host::open()?;
    let mut scan = NamespaceScan::take(host.id()?, facts)?;
    let (netns, about) = match target.find(&mut scan, facts, &mut host)? {
        Found::Namespace(netns, about) => (netns, about),
        Found::Host(name) => return Ok(Explanation::Host(name)),
        Found::Stopped(container) => {
            let survivors = scan.survivors(&container.id);
            return Ok(Explanation::Stopped(Box::new(container), survivors));
        }
        Found::Removed(removed) => return Ok(Explanation::Removed(removed)),
    };
    let mut found = scan.describe(&mut host, facts, Selection::Those(&|other| other == netns));
    match found.pop() {
        Some(sandbox) => Ok(Explanation::Sandbox(Box::new(sandbox?), about)),
        None => Err(Error::new("the network namespace ended in the meantime")),
    }
}

fn as_json(explanation: &Explanation) -> Value {
    match explanation {
        Explanation::Sandbox(sandbox, about) => {
            let death_effects: Vec<_> = death_effects(sandbox)
                .into_iter()
                .map(|effect| json!({"member": effect.member, "effect": effect.effect}))
                .collect();
            let advice: Vec<_> = advice(sandbox, *about)
                .into_iter()
                .map(|advice| json!({"what": advice.what, "commands": advice.commands}))
                .collect();
            let mut json = sandboxes::sandbox(sandbox);
            json["about"] = json!(about);
            json["summary"] = json!(summary(sandbox, *about));
            json["deathEffects"] = json!(death_effects);
            json["advice"] = json!(advice);
            json
        }
        Explanation::Stopped(container, survivors) => json!({
            "state": "stopped",
            "container": sandboxes::container(container),
            "survivors": survivors,
        }),
        Explanation::Removed(Removed { id, name, at, .. }) => {
            json!({"state": "removed", "container": {"id": id, "name": name}, "at": at})
        }
        Explanation::Host(name) => json!({"state": "host", "name": name}),
    }
}
