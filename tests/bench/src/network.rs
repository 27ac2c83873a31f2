//! How each side attaches a container: a list of plugins with their configs, called one after the other
//! as a container runtime does; or the floor, whose arguments say what to make.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::call::{CallResult, Program, timed};
use crate::series::{BEFORE, Side};

/// The programs that are measured.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) pausenet: PathBuf,
    pub(crate) pausectl: PathBuf,
    pub(crate) pause: PathBuf,
    pub(crate) floor: PathBuf,
    /// The folder with the reference plugins.
    pub(crate) peers: PathBuf,
    /// The folder with pausenet and pausectl of an earlier commit, if they are to be measured too.
    pub(crate) before: Option<PathBuf>,
    pub(crate) netavark: Option<PathBuf>,
}

impl Tools {
    pub(crate) fn peer(&self, name: &str) -> Program {
        Program::new(self.peers.join(name))
    }

    /// The same, with our programs as they are for a side.
    pub(crate) fn of(&self, side: Side) -> Self {
        let mut tools = self.clone();
        if let Some(before) = self.before.as_ref().filter(|_| side == BEFORE) {
            tools.pausenet = before.join("pausenet");
            tools.pausectl = before.join("pausectl");
        }
        tools
    }

    /// Our plugin, called by this name.
    pub(crate) fn ours(&self, name: &str) -> Program {
        Program::called(&self.pausenet, name)
    }
}

/// An attachment: a container and its number.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// Its address, ports and names are derived from this.
    pub(crate) number: usize,
    pub(crate) netns: PathBuf,
}

impl Attachment {
    pub(crate) fn new(number: usize, netns: &Path) -> Self {
        Self {
            number,
            netns: netns.to_owned(),
        }
    }

    fn id(&self) -> String {
        format!("bench{:04}", self.number)
    }

    /// The CNI_* variables.
    fn vars(&self, verb: &str, path: &str) -> [(&'static str, String); 5] {
        [
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", self.id()),
            ("CNI_NETNS", self.netns.display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", path.to_owned()),
        ]
    }

    /// Port mappings of its own, the first `tcp` of them of TCP and the others of UDP.
    fn mappings(&self, ports: Ports) -> Value {
        let count = ports.tcp + ports.udp;
        let mapping = |at: usize| {
            json!({
                "hostPort": first_port(self.number, count) + at,
                "containerPort": 8000 + at,
                "protocol": if at < ports.tcp { "tcp" } else { "udp" },
            })
        };
        (0..count).map(mapping).collect()
    }
}

/// The first port of the host that is mapped to the attachment of this number.
pub(crate) fn first_port(number: usize, count: usize) -> usize {
    20_000 + number * count
}

/// A plugin of a network.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) program: Program,
    pub(crate) config: Value,
}

/// A network of plugins.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub steps: Vec<Step>,
    /// CNI_PATH.
    pub path: String,
    /// Those that each attachment publishes.
    pub ports: Ports,
}

/// How many ports of each protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) tcp: usize,
    pub(crate) udp: usize,
}

impl Network {
    pub(crate) fn new(tools: &Tools, steps: Vec<Step>) -> Self {
        Self {
            steps,
            path: tools.peers.display().to_string(),
            ports: Ports::default(),
        }
    }

    /// The same with port mappings.
    pub(crate) fn with_ports(self, tcp: usize, udp: usize) -> Self {
        let ports = Ports { tcp, udp };
        Self { ports, ..self }
    }

    /// Runs ADD. Returns the total time of the plugins, and the last one's result.
    pub(crate) fn add(&self, at: &Attachment) -> Result<CallResult> {
        let mut total = CallResult {
            time: Duration::ZERO,
            value: Value::Null,
        };
        for step in &self.steps {
            let answer = self.call(step, "ADD", at, &total.value)?;
            total = CallResult {
                time: total.time + answer.time,
                value: answer.value,
            };
        }
        Ok(total)
    }

    /// Runs CHECK.
    fn check(&self, at: &Attachment, result: &Value) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for step in &self.steps {
            total += self.call(step, "CHECK", at, result)?.time;
        }
        Ok(total)
    }

    /// Runs DEL with the cached result, as runtimes do.
    pub(crate) fn del(&self, at: &Attachment, result: &Value) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for step in self.steps.iter().rev() {
            total += self.call(step, "DEL", at, result)?.time;
        }
        Ok(total)
    }

    /// Runs GC with the attachments that are valid.
    pub(crate) fn gc(&self, valid: &[Attachment]) -> Result<Duration> {
        let valid: Vec<_> = valid
            .iter()
            .map(|at| json!({"containerID": at.id(), "ifname": "eth0"}))
            .collect();
        let mut total = Duration::ZERO;
        for step in &self.steps {
            let mut config = self.config(step);
            config["cni.dev/valid-attachments"] = json!(valid);
            let vars = [
                ("CNI_COMMAND", "GC".to_owned()),
                ("CNI_PATH", self.path.clone()),
            ];
            total += timed(step.program.command(vars), config.to_string().as_bytes())?.time;
        }
        Ok(total)
    }

    fn call(&self, step: &Step, verb: &str, at: &Attachment, result: &Value) -> Result<CallResult> {
        timed(
            self.command(step, verb, at),
            self.stdin(step, at, result).as_bytes(),
        )
    }

    /// A plugin's command line and environment.
    pub(crate) fn command(&self, step: &Step, verb: &str, at: &Attachment) -> Command {
        step.program.command(at.vars(verb, &self.path))
    }

    /// What a plugin reads on stdin.
    pub(crate) fn stdin(&self, step: &Step, at: &Attachment, result: &Value) -> String {
        let mut config = self.config(step);
        if !result.is_null() {
            config["prevResult"] = result.clone();
        }
        if self.ports != Ports::default() {
            config["runtimeConfig"] = json!({"portMappings": at.mappings(self.ports)});
        }
        config.to_string()
    }

    fn config(&self, step: &Step) -> Value {
        let mut config = step.config.clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("bench");
        config
    }
}

/// What the floor creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Bridge,
    /// A bridge, with an nftables element.
    Masquerade,
    /// A bridge, with an IPv6 address, too.
    DualStack,
    Ptp,
}

/// The floor's network.
#[derive(Debug, Clone)]
pub(crate) struct Floor {
    pub(crate) program: Program,
    pub(crate) shape: Shape,
    /// The bridge's index, where there is one.
    pub(crate) bridge: u32,
}

impl Floor {
    /// Makes the attachment.
    fn add(&self, at: &Attachment) -> Result<CallResult> {
        self.call("add", at)
    }

    /// Removes it.
    fn del(&self, at: &Attachment) -> Result<Duration> {
        Ok(self.call("del", at)?.time)
    }

    /// Its command line. It uses the same subnet as the plugins, and numbers far from theirs.
    pub(crate) fn command(&self, verb: &str, at: &Attachment) -> Command {
        let number = at.number;
        let address = format!("10.1.{}.{}", 100 + number / 250, 1 + number % 250);
        let mut command = self.program.command([]);
        command
            .arg(verb)
            .arg(format!("netns={}", at.netns.display()))
            .arg(format!("index={}", 10_000 + number))
            .arg(format!("veth=vethfloor{number}"))
            .arg(format!("file=/var/lib/cni/networks/bench/{address}"))
            .arg(format!("address={address}"))
            .arg("gateway=10.1.0.1")
            .arg(format!("alias=pausenet bench {} eth0", at.id()));
        if self.shape != Shape::Ptp {
            command.arg(format!("bridge={}", self.bridge));
        }
        match self.shape {
            Shape::Masquerade => {
                command.arg("set=masquerade_10.1.0.0/16");
            }
            Shape::DualStack => {
                let address = format!("fd00:1::{:x}", 0x6401 + number);
                command
                    .arg(format!(
                        "file6=/var/lib/cni/networks/bench/{}",
                        address.replace(':', "_")
                    ))
                    .arg(format!("address6={address}"))
                    .arg("gateway6=fd00:1::1");
            }
            Shape::Bridge | Shape::Ptp => {}
        }
        command
    }

    fn call(&self, verb: &str, at: &Attachment) -> Result<CallResult> {
        timed(self.command(verb, at), b"")
    }
}

/// What attaches containers.
#[derive(Debug, Clone)]
pub(crate) enum Implementation {
    Plugins(Network),
    Floor(Floor),
}

impl Implementation {
    /// Creates an attachment.
    pub(crate) fn add(&self, at: &Attachment) -> Result<CallResult> {
        match self {
            Self::Plugins(network) => network.add(at),
            Self::Floor(floor) => floor.add(at),
        }
    }

    /// Runs CHECK; None for the floor, which has none.
    pub(crate) fn check(&self, at: &Attachment, result: &Value) -> Result<Option<Duration>> {
        match self {
            Self::Plugins(network) => network.check(at, result).map(Some),
            Self::Floor(_) => Ok(None),
        }
    }

    /// Removes it.
    pub(crate) fn del(&self, at: &Attachment, result: &Value) -> Result<Duration> {
        match self {
            Self::Plugins(network) => network.del(at, result),
            Self::Floor(floor) => floor.del(at),
        }
    }
}
