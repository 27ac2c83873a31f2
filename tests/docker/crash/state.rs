//! All that an interrupted command may leave behind, in a form in which two runs can be compared: IDs and PIDs
//! of containers are replaced by their names.

use std::fs;
use std::path::Path;

use serde_json::Value;

use common::docker::Docker;
use common::{STORES, run, run_files, store_files};

/// A line for each thing: of each container its state, its network, its labels, its hosts and the addresses
/// inside; the host's links of ours; address files, records and the result cache; rules and elements of
/// nftables.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State(Vec<String>);

impl State {
    /// `untouched` are containers whose processes must stay the same.
    pub(super) fn read(docker: &Docker, untouched: &[&str]) -> Self {
        let ids = docker.run(&["ps", "--all", "--quiet", "--no-trunc"]);
        let ids: Vec<_> = ids.lines().collect();
        let shown = match ids.as_slice() {
            [] => "[]".to_owned(),
            ids => docker.run(&[&["inspect"], ids].concat()),
        };
        let shown: Vec<Value> = serde_json::from_str(&shown).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut names = Vec::new();
        for container in &shown {
            let name = text(&container["Name"]).trim_start_matches('/').to_owned();
            names.push((text(&container["Id"]), format!("ID-OF-{name}")));
            let pid = &container["State"]["Pid"];
            if *pid != 0 {
                names.push((format!("/proc/{pid}/"), format!("/proc/PID-OF-{name}/")));
            }
        }
        let plain = |text: String| {
            let replace = |text: String, (id, name): &(String, String)| text.replace(id, name);
            without_dead(names.iter().fold(text, replace))
        };
        let mut lines = Vec::new();
        for container in &shown {
            let name = text(&container["Name"]).trim_start_matches('/').to_owned();
            let mut about =
                |what: &str, is: String| lines.push(format!("{name}: {what}: {}", plain(is)));
            about("state", text(&container["State"]["Status"]));
            about("network", text(&container["HostConfig"]["NetworkMode"]));
            about("labels", container["Config"]["Labels"].to_string());
            let hosts = fs::read_to_string(text(&container["HostsPath"]));
            about("hosts", hosts.unwrap_or_default());
            if container["State"]["Running"] == true {
                let view = docker.view(&name);
                let addresses = ["eth0", "eth1"].map(|ifname| view.addresses(ifname).join(" "));
                about("addresses", addresses.join(", "));
            }
            if untouched.contains(&name.as_str()) {
                about("process", container["State"]["Pid"].to_string());
            }
        }
        for dir in [STORES, "/var/lib/cni/results", "/var/lib/pausenet"] {
            for (file, content) in store_files(Path::new(dir)) {
                let file = plain(Path::new(dir).join(file).display().to_string());
                let content = match file.contains("last_reserved") {
                    true => String::new(),
                    false => plain(without_macs(&content)),
                };
                lines.push(format!("{file}: {content}"));
            }
        }
        lines.extend(
            run_files()
                .into_keys()
                .map(|file| format!("/run/pausenet/{}", file.display())),
        );
        for link in docker.world.links() {
            if link.kind == "veth" {
                lines.push(plain(format!("{}: {:?}", link.name, link.alias)));
            }
        }
        lines.extend(rules());
        lines.sort();
        Self(lines)
    }

    /// The lines of this one that the other does not have, and the other way round, without those that start
    /// with `ignored`.
    pub(super) fn difference(&self, other: &Self, ignored: Option<&str>) -> String {
        let lacks = |one: &Self, other: &Self, sign: &str| {
            let mut rest = other.0.clone();
            let mut lacking = String::new();
            let counts = |line: &&String| ignored.is_none_or(|start| !line.starts_with(start));
            for line in one.0.iter().filter(counts) {
                match rest.iter().position(|same| same == line) {
                    Some(at) => drop(rest.swap_remove(at)),
                    None => lacking += &format!("{sign} {line}\n"),
                }
            }
            lacking
        };
        lacks(self, other, "+") + &lacks(other, self, "-")
    }
}

/// The kernel gives a host end any MAC address.
fn without_macs(content: &[u8]) -> String {
    let Ok(mut json) = serde_json::from_slice::<Value>(content) else {
        return String::from_utf8_lossy(content).into_owned();
    };
    let interfaces = json["result"]["interfaces"].as_array_mut();
    for interface in interfaces.into_iter().flatten() {
        interface["mac"].take();
    }
    json.to_string()
}

fn rules() -> Vec<String> {
    let listed = run("nft", ["--stateless", "list", "ruleset"]);
    let parts = listed.split(['\n', ',', '{', '}']);
    let mut parts: Vec<_> = parts.map(|part| part.trim().to_owned()).collect();
    parts.retain(|part| !part.is_empty());
    parts.sort();
    parts
}

/// The text without the IDs and PIDs that are left in it: those of containers that are gone.
fn without_dead(text: String) -> String {
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        let end = from
            .find(|letter: char| !letter.is_ascii_hexdigit())
            .unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        plain += before;
        plain += match word.len() {
            64 => "ID-OF-A-DEAD",
            _ if plain.ends_with("/proc/") && after.starts_with("/ns/") => "PID-OF-A-DEAD",
            _ => word,
        };
        rest = after;
    }
    plain + rest
}
