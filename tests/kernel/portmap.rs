//! The plugin `portmap`, chained behind ours and behind the reference's `bridge`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as, folder};
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, bind, listen, tcp, udp};
use common::wait::wait_until;
use common::{Call, Container, STORES, World, call, ip, lab, outside_host, podnet, run, with};

const OWNER: &str = "portmap podnet x eth0";

/// What wires the container, by the name `bridge`, in this version.
struct OtherPlugin {
    plugins: PathBuf,
    version: &'static str,
}

impl OtherPlugin {
    fn ours() -> Self {
        Self {
            plugins: folder(),
            version: "1.1.0",
        }
    }

    /// Ours and the reference's in two versions, or ours alone and the test counted as skipped.
    fn all() -> Vec<Self> {
        let of = |plugins, version| Self { plugins, version };
        let theirs = [
            lab::peers_today().map(|dir| of(dir, "1.1.0")),
            lab::peers().map(|dir| of(dir, "1.0.0")),
        ];
        let all = theirs.into_iter().flatten();
        all.chain([Self::ours()]).collect()
    }

    fn config(&self) -> Value {
        let ipam = json!({"type": "host-local",
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]});
        let changes = json!({"type": "bridge", "cniVersion": self.version, "ipam": ipam});
        with(podnet(), changes)
    }

    fn bridge(&self, verb: &str, changes: Value, container: &Container) -> Call {
        call(verb, &with(self.config(), changes), container)
            .program(self.plugins.join("bridge"))
            .var("CNI_PATH", self.plugins.as_os_str())
    }

    /// A container with both plugins' work done; portmap's config, and the result.
    fn chained(&self, world: &World, name: &str) -> (Container, Value, Value) {
        let container = world.container(name);
        let wired = self.bridge("ADD", json!({}), &container).run().ok();
        let config = with(mappings(self.version), json!({"prevResult": wired}));
        let result = call_as("portmap", "ADD", &config, &container).run().ok();
        assert_eq!(without_dns(&result), without_dns(&wired), "passed on");
        (container, config, result)
    }
}

/// An empty one is written by some versions, and means none.
fn without_dns(result: &Value) -> Value {
    let no_dns = result["dns"].as_object().is_none_or(|dns| dns.is_empty());
    assert!(no_dns, "{result}");
    with(result.clone(), json!({"dns": null}))
}

/// portmap's own config, without the result that comes before it.
fn mappings(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "podnet", "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]}
    })
}

#[test]
fn mapped_ports_of_a_container_wired_by_another_plugin_are_reachable() {
    for wirer in OtherPlugin::all() {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let (x, config, result) = wirer.chained(&world, "x");
        let y = world.container("y");
        wirer.bridge("ADD", json!({}), &y).run().ok();
        // The reference does not wait until the kernel has probed the gateway's address, and before that the
        // host asks in vain for the container's MAC.
        wait_until("the host has its addresses", || {
            ip("-6 addr show tentative").is_empty()
        });

        let streams = listen(Some(&x), "[::]:80");
        let datagrams = bind(Some(&x), "[::]:80");
        for (client, any, to, seen) in [
            (Some(&outside), "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.2"),
            (Some(&outside), "[::]:0", "[fd99:2::1]:8080", "fd99:2::2"),
            (HOST, "0.0.0.0:0", "127.0.0.1:8080", "10.1.0.1"),
            (HOST, "0.0.0.0:0", "192.0.2.1:8080", "192.0.2.1"),
            (Some(&y), "0.0.0.0:0", "192.0.2.1:8080", "10.1.0.1"),
            (Some(&y), "[::]:0", "[fd99:2::1]:8080", "fd00::1"),
        ] {
            assert_eq!(tcp(&streams, client, to).to_string(), seen, "{to}");
            let seen_by_udp = udp(&datagrams, &bind(client, any), to);
            assert_eq!(seen_by_udp.to_string(), seen, "{to}");
        }
        let check = with(config, json!({"prevResult": result}));
        call_as("portmap", "CHECK", &check, &x).run().ok();
        run(
            "nft",
            ["flush chain inet pausenet ports; delete element inet pausenet ports4 { tcp . 8080 }"],
        );
        call_as("portmap", "CHECK", &check, &x).run().err_code(102);
    }
}

#[test]
fn del_removes_everything_whatever_the_runtime_passes() {
    let world = World::new();
    let wirer = OtherPlugin::ours();
    let (first, config, _) = wirer.chained(&world, "first");
    call_as("portmap", "DEL", &config, &first).run().ok();
    wirer.bridge("DEL", json!({}), &first).run().ok();
    let before = ruleset();
    for netns in ["there", "gone"] {
        for forgotten in [
            json!({}),
            json!({"runtimeConfig": null}),
            json!({"runtimeConfig": {"portMappings": []}}),
            json!({"prevResult": null}),
            json!({"prevResult": null, "runtimeConfig": null}),
        ] {
            let (x, config, _) = wirer.chained(&world, "x");
            assert_eq!(element_count(OWNER), 8);
            let del = call_as("portmap", "DEL", &with(config, forgotten.clone()), &x);
            wirer.bridge("DEL", json!({}), &x).run().ok();
            if netns == "gone" {
                x.destroy();
                del.run().ok();
            } else {
                del.run().ok();
                x.destroy();
            }

            assert_eq!(ruleset(), before, "{forgotten} {netns}");
            del.run().ok();
        }
    }
}

#[test]
fn del_of_an_attachment_never_added_succeeds_and_creates_nothing() {
    let world = World::new();
    let x = world.container("x");
    call_as("portmap", "DEL", &mappings("1.1.0"), &x).run().ok();
    call_as("portmap", "DEL", &mappings("1.1.0"), &x)
        .without("CNI_NETNS")
        .run()
        .ok();
    assert_eq!(ruleset(), "");
}

#[test]
fn unchained_it_is_code_7_and_without_mappings_it_does_nothing() {
    let world = World::new();
    let x = world.container("x");
    let error = call_as("portmap", "ADD", &mappings("1.1.0"), &x)
        .run()
        .err_code(7);
    assert!(
        error["msg"].as_str().unwrap().contains("prevResult"),
        "{error}"
    );
    call_as("portmap", "CHECK", &mappings("1.1.0"), &x)
        .run()
        .err_code(7);

    let before = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]});
    for runtime in [
        json!(null),
        json!({}),
        json!({"portMappings": []}),
        json!({"portMappings": null}),
    ] {
        let changes = json!({"prevResult": before, "runtimeConfig": runtime});
        let config = with(mappings("1.1.0"), changes);
        assert_eq!(call_as("portmap", "ADD", &config, &x).run().ok(), before);
        call_as("portmap", "CHECK", &config, &x).run().ok();
    }
    assert_eq!(ruleset(), "");
}

/// Old results know no interfaces: then every address is the container's.
#[test]
fn the_container_address_is_read_from_a_result_of_any_version() {
    let world = World::new();
    let x = world.container("x");
    OtherPlugin::ours().bridge("ADD", json!({}), &x).run().ok();
    for (version, result) in [
        (
            "0.2.0",
            json!({"ip4": {"ip": "10.1.0.2/24"}, "ip6": {"ip": "fd00::2/64"}}),
        ),
        (
            "0.3.1",
            json!({"ips": [{"version": "4", "address": "10.1.0.2/24"},
                                 {"version": "6", "address": "fd00::2/64"}]}),
        ),
        (
            "1.0.0",
            json!({
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"address": "10.1.0.1/24", "interface": 0},
                    {"address": "10.1.0.2/24", "interface": 1},
                    {"address": "fd00::2/64", "interface": 1}]}),
        ),
    ] {
        let result = with(result, json!({"cniVersion": version}));
        let config = with(mappings(version), json!({"prevResult": result}));
        call_as("portmap", "ADD", &config, &x).run().ok();
        let server = listen(Some(&x), "[::]:80");
        tcp(&server, HOST, "10.1.0.1:8080");
        tcp(&server, HOST, "[fd00::1]:8080");
        call_as("portmap", "DEL", &config, &x).run().ok();
        assert_eq!(element_count(OWNER), 0, "{version}");
    }
}

#[test]
fn a_host_port_in_use_by_another_container_is_refused_and_nothing_changes() {
    let world = World::new();
    let wirer = OtherPlugin::ours();
    let (x, _, _) = wirer.chained(&world, "x");
    let y = world.container("y");
    let wired = wirer.bridge("ADD", json!({}), &y).run().ok();
    let before = ruleset();
    let config = with(mappings("1.1.0"), json!({"prevResult": wired}));

    let error = call_as("portmap", "ADD", &config, &y).run().err_code(103);

    let msg = error["msg"].as_str().unwrap();
    assert!(
        msg.contains("8080/tcp") && msg.contains("container x"),
        "{msg}"
    );
    assert_eq!(ruleset(), before);
    tcp(&listen(Some(&x), "[::]:80"), HOST, "127.0.0.1:8080");
}

/// A second ADD, of a runtime that was restarted in the middle, finds its own mappings.
#[test]
fn a_repeated_add_succeeds() {
    let world = World::new();
    let (x, config, result) = OtherPlugin::ours().chained(&world, "x");
    let before = ruleset();
    let again = call_as("portmap", "ADD", &config, &x).run().ok();
    assert_eq!(without_dns(&again), without_dns(&result));
    assert_eq!(ruleset(), before);
}

/// A's address is given to B before A's DEL comes.
#[test]
fn a_late_del_keeps_the_ports_of_the_address_s_new_holder() {
    for with_result in [true, false] {
        let world = World::new();
        let wirer = OtherPlugin::ours();
        let (x, config, _) = wirer.chained(&world, "x");
        for address in ["10.1.0.2", "fd00::2"] {
            fs::remove_file(Path::new(STORES).join("podnet").join(address)).unwrap();
        }
        let b = world.container("b");
        let request = json!({"runtimeConfig": {"ips": ["10.1.0.2", "fd00::2"]}});
        let wired = wirer.bridge("ADD", request, &b).run().ok();
        let next = with(mappings("1.1.0"), json!({"prevResult": wired}));
        call_as("portmap", "ADD", &next, &b).run().ok();
        let before = ruleset();
        assert_eq!(element_count("portmap podnet b eth0"), 8);

        let changes = if with_result {
            json!({})
        } else {
            json!({"prevResult": null})
        };
        call_as("portmap", "DEL", &with(config, changes), &x)
            .run()
            .ok();
        wirer.bridge("DEL", json!({}), &x).run().ok();
        assert_eq!(ruleset(), before);

        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]});
        call_alone("portmap", "GC", &with(mappings("1.1.0"), valid))
            .run()
            .ok();
        assert_eq!(ruleset(), before);
        tcp(&listen(Some(&b), "[::]:80"), HOST, "127.0.0.1:8080");
    }
}

/// Behind our own plugin the two have elements under one address, and each takes its own.
#[test]
fn elements_of_the_link_and_of_the_ports_are_independent() {
    let world = World::new();
    let wirer = OtherPlugin::ours();
    let x = world.container("x");
    let masq = json!({"ipMasq": true});
    let wired = wirer.bridge("ADD", masq.clone(), &x).run().ok();
    let config = with(mappings("1.1.0"), json!({"prevResult": wired}));
    call_as("portmap", "ADD", &config, &x).run().ok();
    let count = || {
        (
            element_count("pausenet podnet x eth0"),
            element_count(OWNER),
        )
    };
    assert_eq!(count(), (2, 8));

    call_as("portmap", "DEL", &config, &x).run().ok();
    assert_eq!(count(), (2, 0));
    call_as("portmap", "ADD", &config, &x).run().ok();
    wirer.bridge("DEL", masq, &x).run().ok();
    assert_eq!(count(), (0, 8));
}

#[test]
fn gc_removes_the_ports_of_unlisted_attachments() {
    let world = World::new();
    let wirer = OtherPlugin::ours();
    let (_x, _, _) = wirer.chained(&world, "x");
    let gc = |config: Value| call_alone("portmap", "GC", &config).run();
    let list = |list: Value| {
        with(
            mappings("1.1.0"),
            json!({"cni.dev/valid-attachments": list}),
        )
    };

    gc(list(json!([{"containerID": "x", "ifname": "eth0"}]))).ok();
    assert_eq!(element_count(OWNER), 8);
    gc(with(list(json!([])), json!({"name": "othernet"}))).ok();
    assert_eq!(element_count(OWNER), 8);
    gc(list(json!([{"containerID": "x", "ifname": "net1"}]))).ok();
    assert_eq!(element_count(OWNER), 0);

    let (_y, _, _) = wirer.chained(&world, "y");
    assert_ne!(ruleset().matches("portmap podnet y eth0").count(), 0);
    gc(mappings("1.1.0")).ok();
    assert_eq!(ruleset().matches("portmap podnet y eth0").count(), 0);
}
