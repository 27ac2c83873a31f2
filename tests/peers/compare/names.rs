//! Names for what is random: the host's ends of pairs, and MACs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a random text means. Learnt from every state, and never forgotten.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeMap<String, String>,
}

/// MACs that tests ask for begin like this, and keep their digits.
const ASKED_FOR: &str = "02:00:00:";

impl Names {
    /// A host's end is called after the interface that is its peer; a MAC after the links that
    /// have it.
    pub(super) fn learn(&mut self, state: &Value) {
        let host = &state["host"]["links"];
        for (pod, pod_state) in state["pod"].as_object().into_iter().flatten() {
            for (ifname, link) in pod_state["links"].as_object().into_iter().flatten() {
                let back =
                    |other: &&Value| other["#"][0] == link["#"][1] && other["#"][1] == link["#"][0];
                let pair = host.as_object().unwrap().values().find(back);
                if let Some(name) = pair.and_then(|link| link["ifname"].as_str()) {
                    self.keep(name, format!("<host end of {pod} {ifname}>"));
                }
            }
        }
        let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut collect = |place: &str, links: &Value, names: &Self| {
            for (name, link) in links.as_object().into_iter().flatten() {
                let mac = link["address"].as_str().unwrap_or_default();
                if !mac.starts_with(ASKED_FOR) && mac != "00:00:00:00:00:00" {
                    let owner = format!("{place} {}", names.replace(name));
                    owners.entry(mac.to_owned()).or_default().insert(owner);
                }
            }
        };
        collect("host", host, self);
        for (pod, pod_state) in state["pod"].as_object().into_iter().flatten() {
            collect(pod, &pod_state["links"], self);
        }
        for (mac, owners) in owners {
            let owners: Vec<_> = owners.into_iter().collect();
            self.keep(&mac, format!("<MAC of {}>", owners.join(" and ")));
        }
    }

    fn keep(&mut self, random: &str, name: String) {
        self.known.entry(random.to_owned()).or_insert(name);
    }

    /// The text with names in place of what is random.
    pub(super) fn replace(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (random, name) in &self.known {
            if text.contains(random.as_str()) {
                text = text.replace(random.as_str(), name);
            }
        }
        text
    }
}
