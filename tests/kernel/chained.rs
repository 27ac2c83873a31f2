//! The plugins `firewall`, `bandwidth` and `tuning`, chained behind the one that makes the interface, ours or the
//! reference's.

mod bandwidth;
mod firewall;
mod tuning;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as, folder};
use common::{Call, Container, World, call, lab, with};

/// A list of two plugins: one that makes the interface, and one behind it.
struct List {
    /// Where the first one is.
    folder: PathBuf,
    first: Value,
    second: Value,
}

impl List {
    /// The first of our own, by the name that its config has.
    fn ours(first: Value, second: Value) -> Self {
        let folder = folder();
        Self {
            folder,
            first,
            second,
        }
    }

    /// The first of our own and, where it is to be had, the reference's.
    fn both(first: &Value, second: &Value) -> Vec<Self> {
        let folders = [Some(folder()), lab::peers_today()];
        let list = |folder| Self {
            folder,
            first: first.clone(),
            second: second.clone(),
        };
        folders.into_iter().flatten().map(list).collect()
    }

    fn call_first(&self, verb: &str, config: &Value, container: &Container) -> Call {
        call(verb, config, container)
            .program(self.folder.join(self.first["type"].as_str().unwrap()))
            .var("CNI_PATH", self.folder.as_os_str())
            .var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    fn call_second(&self, verb: &str, config: &Value, container: &Container) -> Call {
        call_as(
            self.second["type"].as_str().unwrap(),
            verb,
            config,
            container,
        )
    }

    /// The second plugin's config behind the first one's ADD.
    fn behind_first(&self, container: &Container) -> Value {
        let before = self.call_first("ADD", &self.first, container).run().ok();
        with(self.second.clone(), json!({"prevResult": before}))
    }

    /// ADD of both. Returns the result.
    #[track_caller]
    fn add(&self, container: &Container) -> Value {
        let config = self.behind_first(container);
        self.call_second("ADD", &config, container).run().ok()
    }

    /// CHECK of both.
    #[track_caller]
    fn check(&self, container: &Container, result: &Value) {
        let with_result = |config: &Value| with(config.clone(), json!({"prevResult": result}));
        let first = with_result(&self.first);
        self.call_first("CHECK", &first, container).run().ok();
        let second = with_result(&self.second);
        self.call_second("CHECK", &second, container).run().ok();
    }

    /// The error of the second's CHECK.
    #[track_caller]
    fn failed_check(&self, container: &Container, result: &Value) -> String {
        let config = with(self.second.clone(), json!({"prevResult": result}));
        let error = self.call_second("CHECK", &config, container).run();
        error.err_code(102)["msg"].as_str().unwrap().to_owned()
    }

    /// DEL of both, the second first.
    #[track_caller]
    fn del(&self, container: &Container, result: &Value) {
        let with_result = |config: &Value| with(config.clone(), json!({"prevResult": result}));
        let second = with_result(&self.second);
        self.call_second("DEL", &second, container).run().ok();
        let first = with_result(&self.first);
        self.call_first("DEL", &first, container).run().ok();
    }
}

/// A bridge that is the gateway of an IPv4 and an IPv6 subnet.
fn bridge(name: &str, n: u8) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": format!("10.{n}.0.0/24")}], [{"subnet": format!("fd00:{n}::/64")}]]}
    })
}

/// The same routed.
fn ptp(name: &str, n: u8) -> Value {
    let mut config = with(
        bridge(name, n),
        json!({"type": "ptp", "bridge": null, "isDefaultGateway": null}),
    );
    config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    config
}

/// The config of a chained plugin.
fn second(plugin: &str, network: &str, keys: Value) -> Value {
    let config = json!({"cniVersion": "1.1.0", "name": network, "type": plugin});
    with(config, keys)
}

#[test]
fn without_a_result_before_it_a_chained_plugin_says_where_it_belongs() {
    let world = World::new();
    let x = world.container("x");
    for plugin in ["firewall", "bandwidth", "tuning", "portmap"] {
        let config = second(plugin, "podnet", json!({}));
        let error = call_as(plugin, "ADD", &config, &x).run().err_code(7);
        assert!(
            error["details"].as_str().unwrap().contains("conflist"),
            "{error}"
        );
        call_as(plugin, "CHECK", &config, &x).run().err_code(7);
        call_as(plugin, "DEL", &config, &x).run().ok();
        for verb in ["GC", "STATUS"] {
            call_alone(plugin, verb, &config).run().ok();
        }
    }
}

/// nerdctl reads the version of `firewall` from this answer.
#[test]
fn without_a_verb_it_answers_as_the_reference_does() {
    for plugin in [
        "firewall",
        "bandwidth",
        "tuning",
        "portmap",
        "bridge",
        "ptp",
        "loopback",
        "host-local",
    ] {
        let answer = Call::new("", &json!({}))
            .program(folder().join(plugin))
            .without("CNI_COMMAND")
            .run();
        let first = String::from_utf8(answer.0.stderr).unwrap();
        let first = first.lines().next().unwrap().to_owned();
        assert_eq!(first, format!("CNI {plugin} plugin v1.10.0"));
        // By which tools know whose it is.
        assert!(answer.0.status.success() && answer.0.stdout.starts_with(b"pausenet "));
    }
}
