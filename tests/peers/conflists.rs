//! Conflists as people write them for the reference's plugins, run unchanged by a real runtime
//! with ours under their names.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::compare::Plugins;
use common::{World, lab};

/// cnitool, a folder of conflists, and one of plugins.
struct Runtime<'a> {
    program: &'a Path,
    plugins: &'a Path,
    conflists: tempfile::TempDir,
}

impl Runtime<'_> {
    fn run(&self, verb: &str, network: &str, capabilities: &Value) -> Output {
        Command::new(self.program)
            .args([verb, network, "/run/netns/c1"])
            .env_clear()
            .env("PATH", self.plugins.join("../tools"))
            .env("NETCONFPATH", self.conflists.path())
            .env("CNI_PATH", self.plugins)
            .env("CAP_ARGS", capabilities.to_string())
            .output()
            .expect("start cnitool")
    }
}

/// Plays ADD, CHECK and DEL of a conflist with both sets of plugins: all of them succeed, and the
/// results have the same addresses, routes and interfaces.
fn works_unchanged(plugins: &Value, capabilities: &Value) {
    let (Some(program), Some(folders)) = (lab::cnitool(), Plugins::new()) else {
        return;
    };
    let results = [&folders.reference, &folders.ours].map(|folder| {
        let world = World::new();
        world.container("c1");
        let conflist = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
        let runtime = Runtime {
            program: &program,
            plugins: folder,
            conflists: tempfile::tempdir().unwrap(),
        };
        let file = runtime.conflists.path().join("10-podnet.conflist");
        fs::write(file, conflist.to_string()).unwrap();
        let run = |verb| {
            let output = runtime.run(verb, "podnet", capabilities);
            assert!(output.status.success(), "{verb} {conflist}: {output:?}");
            output.stdout
        };
        let mut result: Value = serde_json::from_slice(&run("add")).unwrap();
        run("check");
        run("del");
        for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
            interface["mac"] = json!("random");
            if interface["sandbox"].is_null() && interface["name"] != "cni0" {
                interface["name"] = json!("the host's end");
            }
        }
        result
    });
    assert_eq!(results[0], results[1]);
}

#[test]
fn conflist_of_a_bridge_works_unchanged() {
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]]
        }
    });
    works_unchanged(&json!([bridge]), &json!({}));
}

#[test]
fn conflist_of_ptp_works_unchanged() {
    let ptp = json!({
        "type": "ptp",
        "ipMasq": true,
        "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "subnet": "10.22.0.0/24",
            "routes": [{"dst": "0.0.0.0/0"}]
        },
        "dns": {"nameservers": ["10.22.0.1", "192.0.2.53"]}
    });
    works_unchanged(&json!([ptp]), &json!({}));
}

#[test]
fn conflist_of_portmap_works_unchanged() {
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": true,
        "ipMasq": true,
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}
    });
    let portmap = json!({
        "type": "portmap",
        "capabilities": {"portMappings": true},
        "snat": true
    });
    let ports = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8053, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}
    ]});
    works_unchanged(&json!([bridge, portmap]), &ports);
}

#[test]
fn conflist_of_host_local_works_unchanged() {
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "capabilities": {"ipRanges": true, "ips": true, "mac": true},
        "ipam": {
            "type": "host-local",
            "ranges": [
                [{"subnet": "10.10.0.0/16", "rangeStart": "10.10.1.20", "rangeEnd": "10.10.3.50",
                  "gateway": "10.10.0.254"},
                 {"subnet": "10.20.5.0/24"}],
                [{"subnet": "fd05:0:0:1::/64", "rangeStart": "fd05:0:0:1::0010",
                  "rangeEnd": "fd05:0:0:1::0020"}]
            ],
            "routes": [
                {"dst": "0.0.0.0/0"},
                {"dst": "10.30.0.0/16", "gw": "10.10.5.1"},
                {"dst": "fd05:0:0:02::/64"}
            ],
            "dataDir": "/run/addresses"
        }
    });
    works_unchanged(&json!([bridge]), &json!({"ips": ["10.10.1.77"]}));
}

#[test]
fn conflist_of_loopback_works_unchanged() {
    works_unchanged(&json!([{"type": "loopback"}]), &json!({}));
}
