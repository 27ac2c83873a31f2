//! `pausectl explain`: who owns a network, who shares it, and what happens when one of them dies.

mod gone;
mod target;
mod text;

use serde_json::{Value, json};

use crate::docker_inventory::{self, Depth};
use crate::options::DockerOptions;
use crate::{Output, Result, Stop, need_root, print, print_json, sandboxes, warn};
use pausenet_host::Error;
use pausenet_host::anchor::advice::advice;
use pausenet_host::anchor::container::Container;
use pausenet_host::anchor::death::{death_effects, summary};
use pausenet_host::anchor::interfaces::{self, Host};
use pausenet_host::anchor::sandbox::Sandbox;
use pausenet_host::anchor::scan::{EngineFacts, NamespaceScan, Removed};
use target::Found;
pub(super) use target::Target;

const EXAMPLES: &str = "\
Examples:
  pausectl explain web                     a container or a pod, by name, also when it is gone
  pausectl explain 0a1b2c3d4e5f            a container, by its ID or the beginning of it
  pausectl explain 4711                    a process
  pausectl explain /run/netns/blue         a network namespace
  pausectl explain default/two-containers  a pod of Kubernetes
  pausectl explain web --output json

pid:4711, pod:web and container:web say what is meant, where a name means several
things. It reads /proc and the kernel, and needs nobody else; when Docker answers, its
containers have their names.";

/// Tell who owns the network of a container, a process or a pod, who shares it, and what
/// happens when one of them dies
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// A container's name or ID, a process ID, the path of a network namespace, or a pod
    target: String,

    #[command(flatten)]
    docker: DockerOptions,
}

/// What there is to say.
enum Story {
    Sandbox(Box<Sandbox>, Option<usize>),
    Host(String),
    /// And who lives on in its namespace.
    Stopped(Box<Container>, Vec<String>),
    Removed(Removed),
}

/// Runs the command.
///
/// # Errors
/// When there is no such target, or several; when the kernel does not answer.
pub fn explain(options: &Explain, output: Output) -> Result<()> {
    let target = Target::parse(&options.target).map_err(|why| Stop::Usage(Error::new(why)))?;
    need_root()?;
    let (told, problem) = docker_inventory::ask(&options.docker, Depth::History)?;
    problem.iter().for_each(warn);
    let story = interfaces::apart(|| look(&target, &told))?;
    match (output, &story) {
        (Output::Json, _) => print_json(&as_json(&story)),
        (Output::Text, Story::Sandbox(sandbox, about)) => print(&text::story(sandbox, *about)),
        (Output::Text, Story::Host(who)) => print(&text::host(who)),
        (Output::Text, Story::Stopped(container, survivors)) => {
            print(&text::stopped(container, survivors, &told))
        }
        (Output::Text, Story::Removed(removed)) => print(&text::removed(removed)),
    }
}

fn look(target: &Target, told: &EngineFacts) -> Result<Story, Error> {
    let mut host = Host::open()?;
    let mut scan = NamespaceScan::take(host.id()?, told)?;
    let (netns, about) = match target.find(&mut scan, told, &mut host)? {
        Found::Namespace(netns, about) => (netns, about),
        Found::Host(who) => return Ok(Story::Host(who)),
        Found::Stopped(container) => {
            let survivors = scan.survivors(&container.id);
            return Ok(Story::Stopped(Box::new(container), survivors));
        }
        Found::Removed(removed) => return Ok(Story::Removed(removed)),
    };
    let mut found = scan.describe(&mut host, told, |_, _, other| other == netns);
    match found.pop() {
        Some(sandbox) => Ok(Story::Sandbox(Box::new(sandbox?), about)),
        None => Err(Error::new(
            "the network namespace has ended while it was looked at",
        )),
    }
}

fn as_json(story: &Story) -> Value {
    match story {
        Story::Sandbox(sandbox, about) => {
            let death_effects: Vec<_> = death_effects(sandbox)
                .into_iter()
                .map(|effect| json!({"who": effect.member, "then": effect.effect}))
                .collect();
            let advice: Vec<_> = advice(sandbox, *about)
                .into_iter()
                .map(|advice| json!({"what": advice.what, "commands": advice.commands}))
                .collect();
            let mut json = sandboxes::sandbox(sandbox);
            json["about"] = json!(about);
            json["summary"] = json!(summary(sandbox, *about));
            json["fates"] = json!(death_effects);
            json["advice"] = json!(advice);
            json
        }
        Story::Stopped(container, survivors) => json!({
            "state": "dead",
            "container": sandboxes::container(container),
            "survivors": survivors,
        }),
        Story::Removed(Removed { id, name, at, .. }) => {
            json!({"state": "removed", "container": {"id": id, "name": name}, "at": at})
        }
        Story::Host(_) => json!({"state": "host"}),
    }
}
