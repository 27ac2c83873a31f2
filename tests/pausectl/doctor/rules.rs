//! nftables against attachments: a foreign flush, and what the dead left.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use pausenet::apply::try_lock;
use serde_json::{Value, json};

use super::store::host_end;
use super::{Ward, added, network, port, says};
use common::nftables::{elements_of, ruleset};
use common::traffic::{HOST, listen, tcp, tcp_is_cut};
use common::{Container, beyond, ip, lab, run, with};

fn flush() {
    run("nft", ["flush", "ruleset"]);
}

/// The ruleset line by line: what came first does not matter.
fn lines() -> Vec<String> {
    let mut lines: Vec<_> = ruleset().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Masquerade and a port, seen by traffic. Bound once: a child that another test is starting holds
/// a socket until it has become its program, and the port with it.
struct Traffic<'a> {
    web: &'a Container,
    outside: &'a Container,
    beyond: TcpListener,
    server: TcpListener,
}

impl<'a> Traffic<'a> {
    /// Of a container with this address, and a world beyond the host.
    fn new(web: &'a Container, address: &str, outside: &'a Container) -> Self {
        let last = address.rsplit('.').next().unwrap();
        Self {
            beyond: listen(Some(outside), &format!("192.0.2.2:70{last}")),
            server: listen(Some(web), &format!("{address}:80")),
            web,
            outside,
        }
    }

    #[track_caller]
    fn assert_works(&self, port: u16) {
        let beyond = self.beyond.local_addr().unwrap().to_string();
        let seen = tcp(&self.beyond, Some(self.web), &beyond);
        assert_eq!(seen.to_string(), "192.0.2.1");
        let host = format!("192.0.2.1:{port}");
        let seen = tcp(&self.server, Some(self.outside), &host);
        assert_eq!(seen.to_string(), "192.0.2.2");
        tcp(&self.server, HOST, &format!("127.0.0.1:{port}"));
    }
}

#[test]
fn rules_lost_to_a_flush_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    let other = ward.attach(&cnitool, "other", "podnet", port(8081));
    let traffic = Traffic::new(&web, "10.1.0.2", &outside);
    let of_other = Traffic::new(&other, "10.1.0.3", &outside);
    traffic.assert_works(8080);
    let before = lines();
    assert!(ward.look(&["rules"]).findings.is_empty());

    flush();
    run(
        "nft",
        ["add table inet foreign; \
             add chain inet foreign input { type filter hook input priority 0; }; \
             add rule inet foreign input tcp dport 99 accept"],
    );
    let foreign = run("nft", ["list", "table", "inet", "foreign"]);
    tcp_is_cut(Some(&outside), "192.0.2.1:8080");
    let seen = ward.look(&["rules"]);
    assert_eq!(seen.of("problem").len(), 3, "{seen:#?}");
    says(&seen.findings[0], &["shared chains", "prerouting"]);
    for port in ["8080/tcp", "8081/tcp"] {
        let all = seen.of("problem");
        let of_port = all
            .iter()
            .find(|found| found["what"].as_str().unwrap().contains(port));
        says(
            of_port.unwrap_or_else(|| panic!("{seen:#?}")),
            &["masquerade", "podnet"],
        );
    }

    let seen = ward.fix(&["rules"]);
    assert_eq!(seen.outcomes(), ["repaired"; 3]);
    assert!(seen.findings.is_empty(), "{seen:#?}");
    traffic.assert_works(8080);
    of_other.assert_works(8081);
    assert_eq!(run("nft", ["list", "table", "inet", "foreign"]), foreign);
    run("nft", ["delete", "table", "inet", "foreign"]);
    assert_eq!(lines(), before);

    // Each goes with its own DEL, as if nothing had happened.
    ward.detach(&cnitool, "podnet", &web);
    ward.detach(&cnitool, "podnet", &other);
    assert!(!ruleset().contains("comment"), "{}", ruleset());
}

#[test]
fn lost_chains_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    let before = lines();
    run("nft", ["flush", "table", "inet", "pausenet"]);
    tcp_is_cut(Some(&outside), "192.0.2.1:8080");
    ward.look(&["rules"])
        .problem(&["shared chains", "postrouting_10.1.0.0/24"]);
    assert_eq!(ward.fix(&["rules"]).outcomes(), ["repaired"]);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
    assert_eq!(lines(), before);
}

#[test]
fn single_lost_elements_are_restored_and_others_kept() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    let _other = ward.attach(&cnitool, "other", "podnet", port(8081));
    let before = lines();
    run(
        "nft",
        ["delete element inet pausenet ports4 { tcp . 8080 }"],
    );
    let seen = ward.look(&["rules"]);
    let found = seen.problem(&["port 8080/tcp"]);
    assert!(
        !found["what"].as_str().unwrap().contains("masquerade"),
        "{found:#}"
    );
    ward.fix(&["rules"]);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
    assert_eq!(lines(), before);
}

#[test]
fn both_families_and_macspoofchk_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    let changes = json!({"macspoofchk": true, "ipam": {"type": "host-local", "ranges": ranges}});
    ward.site.network(&with(network(), changes));
    let at = json!([
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}
    ]);
    let _web = ward.attach(&cnitool, "web", "podnet", at);
    let before = lines();
    flush();
    let seen = ward.fix(&["rules"]);
    assert_eq!(seen.status, 0, "{seen:#?}");
    assert_eq!(lines(), before);
}

/// A conflist of these plugins, in the folder of `pausectl pod`.
fn chain(ward: &Ward, plugins: Value) {
    fs::remove_file(ward.confs().join("podnet.json")).unwrap();
    let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
    fs::write(ward.confs().join("podnet.conflist"), list.to_string()).unwrap();
}

fn first(plugin: &str) -> Value {
    let keys = json!({"cniVersion": null, "name": null, "capabilities": null, "type": plugin});
    with(network(), keys)
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

#[test]
fn ports_of_a_chained_portmap_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    chain(&ward, json!([first("pausenet"), portmap()]));
    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    ward.assert_healthy();
    let before = lines();
    flush();
    ward.fix(&["rules"]);
    assert_eq!(lines(), before);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
}

/// The reference's bridge, and our portmap behind it: no host end tells of such a container.
#[test]
fn ports_of_a_container_wired_by_another_plugin_are_restored() {
    let (Some(cnitool), Some(peers)) = (lab::cnitool(), lab::peers_sid()) else {
        return;
    };
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    for plugin in ["bridge", "host-local"] {
        std::os::unix::fs::symlink(peers.join(plugin), ward.plugins().join(plugin)).unwrap();
    }
    chain(
        &ward,
        json!([with(first("bridge"), json!({"ipMasq": false})), portmap()]),
    );
    let web = ward.attach(&cnitool, "web", "podnet", port(8080));
    ward.assert_healthy();
    let before = lines();
    flush();
    let seen = ward.look(&["rules"]);
    assert!(
        seen.findings
            .iter()
            .any(|found| { found["what"].as_str().unwrap().contains("port 8080/tcp") }),
        "{seen:#?}"
    );
    ward.fix(&["rules"]);
    assert_eq!(lines(), before);
    let server = listen(Some(&web), "10.1.0.2:80");
    tcp(&server, Some(&outside), "192.0.2.1:8080");

    drop(server);

    // Once it is gone, nothing of it is put back, whatever its runtime remembers.
    web.destroy();
    common::wait::wait_until("its host end is gone", || {
        let links = ward.site.world.links();
        !links
            .iter()
            .any(|link| link.kind == "veth" && link.name != "up2")
    });
    flush();
    let seen = ward.fix(&["rules"]);
    assert!(seen.repairs.is_empty(), "{seen:#?}");
    assert_eq!(ruleset(), "");
}

#[test]
fn without_a_result_cache_rules_are_restored_from_the_configuration() {
    let ward = Ward::new();
    let outside = beyond(&ward.site.world, 2);
    let web = added(&ward, &network(), "web");
    let before = lines();
    flush();
    let seen = ward.look(&["rules"]);
    let found = seen.of("problem");
    let found = found
        .iter()
        .find(|found| found["subject"].as_str().unwrap().contains("web"));
    says(found.unwrap(), &["masquerade", "no runtime remembers it"]);
    ward.fix(&["rules"]);
    assert_eq!(lines(), before);
    let beyond = listen(Some(&outside), "192.0.2.2:7000");
    assert_eq!(
        tcp(&beyond, Some(&web), "192.0.2.2:7000").to_string(),
        "192.0.2.1"
    );

    fs::remove_file(ward.confs().join("podnet.json")).unwrap();
    flush();
    let seen = ward.fix(&["rules"]);
    seen.note(&["container web", "cannot be told"]);
    assert_eq!(ruleset(), "");
}

#[test]
fn only_elements_of_a_missing_attachment_are_removed() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "web");
    let before = lines();
    let _dead = added(&ward, &network(), "dead");
    assert!(ward.look(&["rules"]).findings.is_empty());
    ip(&format!("link delete {}", host_end("dead")));
    let with_dead = lines();

    // What is being worked on is left alone.
    let lock = try_lock(&host_end("dead")).unwrap().unwrap();
    let seen = ward.fix(&["rules"]);
    assert!(
        seen.findings.is_empty() && seen.repairs.is_empty(),
        "{seen:#?}"
    );
    drop(lock);
    ward.look(&["rules"])
        .problem(&["container dead", "1 element", "gone"]);
    assert_eq!(lines(), with_dead);

    assert_eq!(ward.fix(&["rules"]).outcomes(), ["repaired"]);
    assert_eq!(lines(), before);
    assert_eq!(elements_of("pausenet podnet web eth0"), 1);
}

#[test]
fn foreign_elements_are_kept() {
    let ward = Ward::new();
    let _web = added(&ward, &network(), "web");
    run(
        "nft",
        ["add element inet pausenet masquerade_10.1.0.0/24 { 10.1.0.99 comment \"mine\" }"],
    );
    let before = lines();
    ward.look(&["rules"]).note(&["\"mine\"", "kept"]);
    assert!(ward.fix(&["rules"]).repairs.is_empty());
    assert_eq!(lines(), before);
}

#[test]
fn a_port_taken_over_by_another_container_stays_with_it() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let ward = Ward::new();
    let _web = ward.attach(&cnitool, "web", "podnet", port(8080));
    flush();
    // Nobody knew of web's port any more.
    let other = ward.attach(&cnitool, "other", "podnet", port(8080));
    let seen = ward.fix(&["rules"]);
    assert_eq!(seen.status, 1, "{seen:#?}");
    assert!(seen.outcomes().contains(&"failed"), "{seen:#?}");
    let failed = seen
        .repairs
        .iter()
        .find(|repair| repair["outcome"] == "failed")
        .unwrap();
    assert!(
        failed["why"]
            .as_str()
            .unwrap()
            .contains("8080/tcp is mapped to"),
        "{failed:#}"
    );
    let server = listen(Some(&other), "10.1.0.3:80");
    tcp(&server, HOST, "127.0.0.1:8080");
    assert!(Path::new("/var/lib/cni/results").exists());
}
