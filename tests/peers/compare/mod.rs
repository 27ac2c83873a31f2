//! One script run twice: with the reference plugins on one host, and with ours under their names on
//! an identical one. The effects of both are recorded and compared.
//!
//! A script calls a [`Node`] as a runtime calls plugins. Each call, and the state of host and
//! containers after it, becomes entries of a log; [`state`] reads them, [`names`] replaces what
//! is random in them, and every entry that differs has to be in the table of [`allowed`].

mod allowed;
pub(crate) mod cases;
mod difference;
mod names;
pub(crate) mod reach;
mod state;

pub(crate) use difference::tests_with_allowed_differences;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use common::programs;
use common::wait::wait_until;
use common::{Call, Container, PluginOutput, World, lab, run, set_sysctl, with};

/// The plugins that ours stands in for.
const OURS: [&str; 8] = [
    "bridge",
    "ptp",
    "host-local",
    "loopback",
    "portmap",
    "firewall",
    "bandwidth",
    "tuning",
];

/// The versions of the specification that differ in the shape of a result.
pub(crate) const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// What was seen, by where it was seen.
type Log = BTreeMap<String, String>;

/// Runs the script with both sets of plugins, in all [`VERSIONS`], and compares. `test` is the name of the
/// calling test, by which the table of allowed differences finds it.
#[track_caller]
pub(crate) fn same(test: &str, script: impl Fn(&mut Node)) {
    same_in(test, &VERSIONS, script);
}

/// The same in some versions only.
#[track_caller]
pub(crate) fn same_in(test: &str, versions: &[&str], script: impl Fn(&mut Node)) {
    let Some(plugins) = Plugins::new() else {
        return;
    };
    let (theirs, ours) = (plugins.reference.clone(), plugins.ours.clone());
    compare(test, versions, &theirs, &ours, script);
}

/// Runs the script with the plugins of two folders, and compares.
#[track_caller]
pub(crate) fn compare(
    test: &str,
    versions: &[&str],
    theirs: &Path,
    ours: &Path,
    script: impl Fn(&mut Node),
) {
    let [theirs, ours] = [theirs, ours].map(|plugins| {
        let mut log = Log::new();
        for version in versions {
            // The kernel's state does not depend on the config's version: one full read is enough.
            let records_state = Some(version) == versions.last();
            let mut node = Node::new(plugins, version, records_state);
            script(&mut node);
            log.append(&mut node.log);
        }
        log
    });
    difference::assert_allowed(test, &theirs, &ours);
}

/// Folders of plugins under the reference's names.
pub(crate) struct Plugins {
    /// All of them the reference's.
    pub(crate) reference: PathBuf,
    /// Ours where there is one.
    pub(crate) ours: PathBuf,
    peers: PathBuf,
    dir: tempfile::TempDir,
}

impl Plugins {
    /// None, and the test counted as skipped, where the reference or `nft` is not to be had. Ask
    /// before the world begins.
    pub(crate) fn new() -> Option<Self> {
        let peers = lab::peers_today()?;
        let nft = ["/usr/sbin/nft", "/sbin/nft"].map(Path::new);
        let Some(nft) = nft.iter().find(|nft| nft.exists()) else {
            lab::skip("nft is missing, which the reference calls");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tools")).unwrap();
        symlink(nft, dir.path().join("tools/nft")).unwrap();
        let mut plugins = Self {
            reference: PathBuf::new(),
            ours: PathBuf::new(),
            peers,
            dir,
        };
        plugins.reference = plugins.folder("reference", &[]);
        plugins.ours = plugins.folder("ours", &OURS);
        Some(plugins)
    }

    /// Lets plugins find iptables too. False, and the test counted as skipped, where it is missing.
    pub(crate) fn allow_iptables(&self) -> bool {
        for tool in ["iptables", "ip6tables"] {
            let program = Path::new("/usr/sbin").join(tool);
            if !program.exists() {
                lab::skip("iptables is missing, which the reference's firewall calls");
                return false;
            }
            symlink(program, self.dir.path().join("tools").join(tool)).unwrap();
        }
        true
    }

    /// A folder with plugins of the reference, some of them replaced by ours. In their PATH they
    /// find nothing but `nft`: where there is iptables, the reference would use that too.
    /// Its host-local is there as `other-local` too.
    pub(crate) fn folder(&self, name: &str, replaced: &[&str]) -> PathBuf {
        let peers = &self.peers;
        let folder = self.dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(peers).unwrap().flatten() {
            let plugin = entry.file_name();
            if !replaced.iter().any(|ours| plugin == *ours) {
                symlink(entry.path(), folder.join(&plugin)).unwrap();
            }
        }
        for plugin in replaced {
            symlink(programs::pausenet(), folder.join(plugin)).unwrap();
        }
        symlink(peers.join("host-local"), folder.join("other-local")).unwrap();
        folder
    }
}

/// The host of one of the two runs of a script.
pub(crate) struct Node {
    pub(crate) world: World,
    pub(crate) version: String,
    /// Whether the log contains the whole state, or the stores only.
    records_state: bool,
    plugins: PathBuf,
    names: names::Names,
    containers: BTreeMap<String, Container>,
    /// The last result of each attachment, which CHECK and DEL get as prevResult.
    results: BTreeMap<String, Value>,
    /// CNI_ARGS of the calls to come.
    args: String,
    step: usize,
    log: Log,
}

impl Node {
    fn new(plugins: &Path, version: &str, records_state: bool) -> Self {
        let world = World::new();
        // Duplicate address detection would keep the host's IPv6 addresses changing for seconds.
        for conf in ["all", "default"] {
            set_sysctl(&format!("ipv6/conf/{conf}/accept_dad"), "0");
        }
        Self {
            world,
            version: version.to_owned(),
            records_state,
            plugins: plugins.to_owned(),
            names: names::Names::default(),
            containers: BTreeMap::new(),
            results: BTreeMap::new(),
            args: String::new(),
            step: 0,
            log: Log::new(),
        }
    }

    /// The config in the version of this run.
    pub(crate) fn config(&self, config: &Value) -> Value {
        with(config.clone(), json!({"cniVersion": self.version}))
    }

    /// The container, made when it is first named.
    pub(crate) fn container(&mut self, name: &str) -> &Container {
        self.containers
            .entry(name.to_owned())
            .or_insert_with(|| self.world.container(name))
    }

    /// Makes a container's namespace disappear, and waits until its interfaces have: the kernel
    /// takes its time.
    pub(crate) fn destroy(&mut self, name: &str) {
        let container = self.containers.remove(name).unwrap();
        // Only a veth has an end among the host's links.
        let links = container.state().links;
        let ends = links.iter().filter(|link| link.kind == "veth").count();
        let before = self.world.links().len();
        container.destroy();
        wait_until(&format!("{name}'s links go with it"), || {
            self.world.links().len() + ends <= before
        });
    }

    /// CNI_ARGS from here on.
    pub(crate) fn args(&mut self, args: &str) {
        self.args = args.to_owned();
    }

    /// ADD, CHECK or DEL of `eth0` of a container, by one plugin.
    pub(crate) fn call(&mut self, verb: &str, container: &str, config: &Value) -> Option<Value> {
        self.call_chain(verb, container, "eth0", std::slice::from_ref(config))
    }

    /// The same of another interface.
    pub(crate) fn call_at(
        &mut self,
        verb: &str,
        container: &str,
        ifname: &str,
        config: &Value,
    ) -> Option<Value> {
        self.call_chain(verb, container, ifname, std::slice::from_ref(config))
    }

    /// The same by several plugins in a row, as the specification has a runtime do it. Gives
    /// back the result if all of them succeeded.
    pub(crate) fn call_chain(
        &mut self,
        verb: &str,
        container: &str,
        ifname: &str,
        plugins: &[Value],
    ) -> Option<Value> {
        self.container(container);
        let step = self.next_step(&format!("{verb} {container} {ifname}"));
        let key = format!("{container} {ifname}");
        let mut result = match verb {
            "ADD" => plugins[0].get("prevResult").cloned(),
            _ => self.results.get(&key).cloned(),
        };
        let mut order: Vec<&Value> = plugins.iter().collect();
        if verb == "DEL" {
            order.reverse();
        }
        let mut succeeded = true;
        for config in order {
            let mut config = self.config(config);
            if let Some(result) = &result {
                config["prevResult"] = result.clone();
            }
            let call = self.plugin(verb, container, &config).ifname(ifname);
            let answer = call.run();
            self.record_outcome(
                &format!("{step} / {}", config["type"].as_str().unwrap()),
                &answer,
            );
            succeeded = answer.0.status.success();
            if !succeeded {
                break;
            }
            if verb == "ADD" {
                result = Some(answer.ok());
            }
        }
        if verb != "CHECK" {
            self.record_state(&step);
        }
        match verb {
            "ADD" if succeeded => {
                let result = result.unwrap();
                self.record_json(&format!("{step} / result"), &result);
                self.results.insert(key, result.clone());
                return Some(result);
            }
            "DEL" if succeeded => drop(self.results.remove(&key)),
            _ => {}
        }
        None
    }

    /// The last result of an attachment, `CONTAINER INTERFACE`.
    pub(crate) fn result(&self, key: &str) -> Value {
        self.results[key].clone()
    }

    /// A call of the plugin that a config names.
    pub(crate) fn plugin(&self, verb: &str, container: &str, config: &Value) -> Call {
        let plugin = config["type"].as_str().expect("a type");
        let mut call = Call::new(verb, config)
            .program(self.plugins.join(plugin))
            .var("CNI_PATH", self.plugins.as_os_str())
            .var("CNI_NETNS", format!("/run/netns/{container}"))
            .var("CNI_ARGS", self.args.as_str())
            .var("PATH", self.plugins.join("../tools"))
            .id(container);
        if self.args.is_empty() {
            call = call.without("CNI_ARGS");
        }
        call
    }

    /// Any call: its answer and the state after it become part of the log.
    pub(crate) fn run(&mut self, what: &str, call: &Call) -> PluginOutput {
        let step = self.next_step(what);
        let answer = call.run();
        self.record_outcome(&step, &answer);
        self.record_state(&step);
        if answer.0.status.success() && !answer.0.stdout.is_empty() {
            self.record_json(&format!("{step} / result"), &answer.ok());
        }
        answer
    }

    /// Whether nftables still knows any of these words.
    pub(crate) fn record_rules(&mut self, words: &[&str]) {
        let step = self.next_step("rules");
        let rules = run("nft", ["list", "ruleset"]);
        let known: Vec<&str> = rules
            .split(|c: char| !c.is_alphanumeric() && !".:".contains(c))
            .map(|word| word.trim_matches([':', '.']))
            .collect();
        for word in words {
            let with_port = format!("{word}:");
            let is_it = |known: &&str| known == word || known.starts_with(&with_port);
            let known = known.iter().any(is_it).to_string();
            self.record(&format!("{step} / {word} is known"), known);
        }
    }

    /// Adds an entry to the log.
    pub(crate) fn record(&mut self, what: &str, value: impl Into<String>) {
        let value = self.names.replace(&value.into());
        self.log.insert(format!("{} / {what}", self.version), value);
    }

    /// A call of which only the outcome is recorded.
    pub(crate) fn outcome(&mut self, what: &str, call: &Call) -> bool {
        let step = self.next_step(what);
        let answer = call.run();
        self.record_outcome(&step, &answer);
        answer.0.status.success()
    }

    fn next_step(&mut self, what: &str) -> String {
        self.step += 1;
        format!("{:02} {what}", self.step)
    }

    fn record_outcome(&mut self, step: &str, answer: &PluginOutput) {
        let output = &answer.0;
        let error: Value = match output.status.success() {
            true => Value::Null,
            false => serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
        };
        if std::env::var_os("SHOW").is_some() && !error.is_null() {
            eprintln!("{step} {}: {}", self.plugins.display(), error);
        }
        let outcome = match output.status.code() {
            Some(0) => "ok".to_owned(),
            Some(1) if error["code"].is_number() => "error".to_owned(),
            code => format!("neither: {code:?}"),
        };
        self.record(&format!("{step} / outcome"), outcome);
        if !error.is_null() {
            self.record(&format!("{step} / code"), error["code"].to_string());
        }
    }

    fn record_state(&mut self, step: &str) {
        if self.records_state {
            let seen = state::settled(&self.containers);
            self.names.learn(&seen);
            self.record_json(step, &seen);
        } else {
            self.names.learn(&state::links_only(&self.containers));
            self.record_json(step, &json!({"store": state::store()}));
        }
    }

    fn record_json(&mut self, what: &str, json: &Value) {
        let mut flat = Map::new();
        flatten("", json, &mut flat);
        for (key, value) in flat {
            let key = self.names.replace(&key);
            let value = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.record(&format!("{what}{key}"), value);
        }
    }
}

/// Every leaf of a JSON value by its path.
fn flatten(path: &str, json: &Value, flat: &mut Map<String, Value>) {
    match json {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object.iter().filter(|(key, _)| *key != "#") {
                flatten(&format!("{path} / {key}"), value, flat);
            }
        }
        Value::Array(array) if !array.is_empty() => {
            for (at, value) in array.iter().enumerate() {
                flatten(&format!("{path} / {at}"), value, flat);
            }
        }
        leaf => drop(flat.insert(path.to_owned(), leaf.clone())),
    }
}
