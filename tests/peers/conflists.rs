//! Conflists as people write them for the reference's plugins, run unchanged by a real runtime
//! with ours under their names.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::compare::Plugins;
use common::{World, lab, with};

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
    let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
    if let Some(folders) = Plugins::new() {
        list_works_unchanged(&folders, &list, capabilities);
    }
}

/// The same of a whole list, in its own version.
fn list_works_unchanged(folders: &Plugins, conflist: &Value, capabilities: &Value) {
    let Some(program) = lab::cnitool() else {
        return;
    };
    let network = conflist["name"].as_str().unwrap();
    let results = [&folders.reference, &folders.ours].map(|folder| {
        let world = World::new();
        world.container("c1");
        let runtime = Runtime {
            program: &program,
            plugins: folder,
            conflists: tempfile::tempdir().unwrap(),
        };
        let file = runtime.conflists.path().join("10.conflist");
        fs::write(file, conflist.to_string()).unwrap();
        let run = |verb| {
            let output = runtime.run(verb, network, capabilities);
            assert!(output.status.success(), "{verb} {conflist}: {output:?}");
            output.stdout
        };
        let mut result: Value = serde_json::from_slice(&run("add")).unwrap();
        // Older versions have no CHECK.
        if conflist["cniVersion"] != "0.3.1" {
            run("check");
        }
        run("del");
        for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
            interface["mac"] = json!("random");
            if interface["name"].as_str().unwrap().starts_with("veth") {
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

/// Lists of other programs, as they write or document them, run whole from our binary and from the reference's.
#[test]
fn lists_of_nerdctl_nomad_podman_minikube_kind_k3s_and_cri_o_run_whole() {
    let Some(folders) = Plugins::new().filter(Plugins::allow_iptables) else {
        return;
    };
    let bridge = |name: &str, subnet: &str, keys: Value| {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}]});
        let config = json!({"type": "bridge", "bridge": name, "isGateway": true, "ipMasq": true, "ipam": ipam});
        with(config, keys)
    };
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    let list = |name: &str, version: &str, plugins: &[Value]| json!({"cniVersion": version, "name": name, "plugins": plugins});
    let lists = [
        with(
            list(
                "bridge",
                "1.0.0",
                &[
                    bridge("nerdctl0", "10.4.0.0/24", json!({"hairpinMode": true})),
                    portmap.clone(),
                    json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
                    json!({"type": "tuning"}),
                ],
            ),
            json!({"nerdctlID": "17f29b073143", "nerdctlLabels": {"nerdctl/default-network": "true"}}),
        ),
        list(
            "nomad",
            "0.4.0",
            &[
                json!({"type": "loopback"}),
                bridge(
                    "nomad",
                    "172.26.64.0/20",
                    json!({"forceAddress": true, "hairpinMode": false}),
                ),
                json!({"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"}),
                with(portmap.clone(), json!({"snat": true})),
            ],
        ),
        list(
            "podman",
            "0.4.0",
            &[
                bridge("cni-podman0", "10.88.0.0/16", json!({"hairpinMode": true})),
                portmap.clone(),
                json!({"type": "firewall"}),
                json!({"type": "tuning"}),
            ],
        ),
        list(
            "minikube",
            "0.4.0",
            &[
                json!({"type": "bridge", "bridge": "bridge", "addIf": "true", "isDefaultGateway": true,
                "forceAddress": false, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "subnet": "10.244.0.0/16"}}),
                portmap.clone(),
                json!({"type": "firewall"}),
            ],
        ),
        list(
            "kindnet",
            "0.3.1",
            &[
                json!({"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {"type": "host-local",
                "dataDir": "/run/cni-ipam-state", "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.244.0.0/24"}]]}}),
                portmap.clone(),
            ],
        ),
        // What the plugin flannel of k3s delegates, and what follows it.
        list(
            "cbr0",
            "1.0.0",
            &[
                bridge(
                    "cni0",
                    "10.42.0.0/24",
                    json!({"hairpinMode": true, "forceAddress": true, "isDefaultGateway": true,
                        "mtu": 1450, "ipMasq": false, "ipam": {"type": "host-local",
                            "ranges": [[{"subnet": "10.42.0.0/24"}]],
                            "routes": [{"dst": "10.42.0.0/16"}]}}),
                ),
                portmap,
                bandwidth,
            ],
        ),
        list(
            "crio",
            "1.0.0",
            &[
                json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true, "ipam": {"type": "host-local",
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.85.0.0/16"}], [{"subnet": "1100:200::/24"}]]}}),
            ],
        ),
    ];
    for list in lists {
        list_works_unchanged(
            &folders,
            &list,
            &json!({
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
                "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000},
            }),
        );
    }
}
