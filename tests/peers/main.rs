//! Our plugins beside the reference's, in Go.
//!
//! * One address store with its `host-local`: in turns, at the same time, and the same files after
//!   the same calls ([`alternating`], [`concurrent`], [`paired_stores`]). A node can change its plugin in place,
//!   in either direction.
//! * The same scripts with its plugins and with ours, compared ([`compare`]): one file for each
//!   plugin, and [`verbs`], [`traffic`], [`chains`], [`conflists`] for what they share.
//! * [`parity`]: that the crate's table of all this is true.

mod alternating;
mod bridge;
mod chained;
mod chains;
mod compare;
mod concurrent;
mod conflists;
mod host_local;
mod json;
mod legacy;
mod loopback;
mod migration;
mod migration_node;
mod paired_stores;
mod parity;
mod portmap;
mod ptp;
mod traffic;
mod verbs;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use common::{Call, PluginOutput, lab, podnet, with};

/// The reference plugins in one version, and the newest CNI version that they speak.
struct Peers {
    dir: PathBuf,
    version: &'static str,
}

/// Both versions of the reference, or none and the test skipped. Ask before the world begins.
fn peers() -> Option<[Peers; 2]> {
    let of = |dir, version| Peers { dir, version };
    Some([of(lab::peers_today()?, "1.1.0"), of(lab::peers()?, "1.0.0")])
}

impl Peers {
    /// A call of the reference's `host-local`, which ignores the namespace.
    fn host_local(&self, verb: &str, config: &Value) -> Call {
        Call::new(verb, config)
            .program(self.dir.join("host-local"))
            .var("CNI_NETNS", "/not/looked/at")
    }

    /// A call of the reference's `bridge`, with its `host-local`.
    fn bridge(&self, verb: &str, config: &Value) -> Call {
        let config = with(config.clone(), json!({"type": "bridge"}));
        Call::new(verb, &config)
            .program(self.dir.join("bridge"))
            .var("CNI_PATH", self.dir.as_os_str())
    }

    /// The network podnet in this version, with these ranges and a store of its own.
    fn network(&self, ranges: Value, data_dir: &Path) -> Value {
        let ipam = json!({"type": "host-local", "ranges": ranges, "dataDir": data_dir});
        with(podnet(), json!({"cniVersion": self.version, "ipam": ipam}))
    }
}

/// Puts so many addresses of others into a network's store that ours has an index for it.
fn fill_store(store: &Path) {
    fs::create_dir_all(store).unwrap();
    for n in 0..50 {
        fs::write(
            store.join(format!("10.200.0.{n}")),
            format!("crowd{n}\r\neth0"),
        )
        .unwrap();
    }
}

/// Address and gateway of every ip of a result.
fn ips(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter()
        .map(|ip| (text(&ip["address"]), text(&ip["gateway"])))
        .collect()
}

/// The error of a call that has to fail; the reference's own lack cniVersion.
#[track_caller]
fn error(answer: &PluginOutput) -> Value {
    assert_eq!(answer.0.status.code(), Some(1), "{answer:?}");
    serde_json::from_slice(&answer.0.stdout).unwrap()
}
