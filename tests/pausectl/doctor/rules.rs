//! nftables against attachments: a foreign flush, and what the dead left.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use pausenet::apply::try_lock;
use serde_json::{Value, json};

use super::store::host_end;
use super::{DoctorHost, added, network, port, says};
use common::nftables::{element_count, ruleset};
use common::traffic::{HOST, listen, tcp, tcp_is_blocked};
use common::{Container, ip, lab, outside_host, run, with};

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
    outside_server: TcpListener,
    server: TcpListener,
}

impl<'a> Traffic<'a> {
    /// Of a container with this address, and a host outside.
    fn new(web: &'a Container, address: &str, outside: &'a Container) -> Self {
        let last = address.rsplit('.').next().unwrap();
        Self {
            outside_server: listen(Some(outside), &format!("192.0.2.2:70{last}")),
            server: listen(Some(web), &format!("{address}:80")),
            web,
            outside,
        }
    }

    #[track_caller]
    fn assert_works(&self, port: u16) {
        let outside_server = self.outside_server.local_addr().unwrap().to_string();
        let source = tcp(&self.outside_server, Some(self.web), &outside_server);
        assert_eq!(source.to_string(), "192.0.2.1");
        let host = format!("192.0.2.1:{port}");
        let source = tcp(&self.server, Some(self.outside), &host);
        assert_eq!(source.to_string(), "192.0.2.2");
        tcp(&self.server, HOST, &format!("127.0.0.1:{port}"));
    }
}

#[test]
fn rules_lost_to_a_flush_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let other = doctor.attach(&cnitool, "other", "podnet", port(8081));
    let traffic = Traffic::new(&web, "10.1.0.2", &outside);
    let of_other = Traffic::new(&other, "10.1.0.3", &outside);
    traffic.assert_works(8080);
    let before = lines();
    assert!(doctor.check(&["rules"]).findings.is_empty());

    flush();
    run(
        "nft",
        ["add table inet foreign; \
             add chain inet foreign input { type filter hook input priority 0; }; \
             add rule inet foreign input tcp dport 99 accept"],
    );
    let foreign = run("nft", ["list", "table", "inet", "foreign"]);
    tcp_is_blocked(Some(&outside), "192.0.2.1:8080");
    let report = doctor.check(&["rules"]);
    assert_eq!(report.of("problem").len(), 3, "{report:#?}");
    says(&report.findings[0], &["shared chains", "dnat_prerouting"]);
    for port in ["8080/tcp", "8081/tcp"] {
        let all = report.of("problem");
        let of_port = all
            .iter()
            .find(|found| found["what"].as_str().unwrap().contains(port));
        says(
            of_port.unwrap_or_else(|| panic!("{report:#?}")),
            &["masquerade", "podnet"],
        );
    }

    let report = doctor.fix(&["rules"]);
    assert_eq!(report.outcomes(), ["repaired"; 3]);
    assert!(report.findings.is_empty(), "{report:#?}");
    traffic.assert_works(8080);
    of_other.assert_works(8081);
    assert_eq!(run("nft", ["list", "table", "inet", "foreign"]), foreign);
    run("nft", ["delete", "table", "inet", "foreign"]);
    assert_eq!(lines(), before);

    // Each goes with its own DEL, as if nothing had happened.
    doctor.detach(&cnitool, "podnet", &web);
    doctor.detach(&cnitool, "podnet", &other);
    assert!(!ruleset().contains("comment"), "{}", ruleset());
}

/// As kube-proxy makes them in its two modes, and Docker.
#[test]
fn a_port_that_another_program_maps_too_is_named() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let _web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let kube_proxy = |port: u16| {
        run(
            "nft",
            [format!(
                "add table ip kube-proxy; add chain ip kube-proxy service-x; \
                 add map ip kube-proxy service-nodeports \
                 {{ type inet_proto . inet_service : verdict; }}; \
                 add element ip kube-proxy service-nodeports {{ tcp . {port} : goto service-x }}"
            )],
        );
    };
    let iptables = |chain: &str, port: u16| {
        run("iptables-nft", ["-t", "nat", "-N", chain]);
        let rule = format!("-t nat -A {chain} -p tcp -m tcp --dport {port} -j RETURN");
        run("iptables-nft", rule.split(' '));
    };
    for (whose, other, same) in [
        ("NodePort", &kube_proxy as &dyn Fn(u16), true),
        ("NodePort", &|port| iptables("KUBE-NODEPORTS", port), true),
        ("Docker", &|port| iptables("DOCKER", port), true),
        ("Docker", &|port| iptables("DOCKER", port), false),
    ] {
        other(if same { 8080 } else { 8081 });
        let report = doctor.check(&["rules"]);
        if same {
            report.problem(&["podnet", "8080/tcp", whose]);
        }
        assert_eq!(report.findings.len(), usize::from(same), "{report:#?}");
        for table in ["kube-proxy", "nat"] {
            run(
                "nft",
                [format!("add table ip {table}; delete table ip {table}")],
            );
        }
    }
}

#[test]
fn lost_chains_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let before = lines();
    run("nft", ["flush", "table", "inet", "pausenet"]);
    tcp_is_blocked(Some(&outside), "192.0.2.1:8080");
    doctor
        .check(&["rules"])
        .problem(&["shared chains", "postrouting_10.1.0.0/24"]);
    assert_eq!(doctor.fix(&["rules"]).outcomes(), ["repaired"]);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
    assert_eq!(lines(), before);
}

#[test]
fn single_lost_elements_are_restored_and_others_kept() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let _other = doctor.attach(&cnitool, "other", "podnet", port(8081));
    let before = lines();
    run(
        "nft",
        ["delete element inet pausenet ports4 { tcp . 8080 }"],
    );
    let report = doctor.check(&["rules"]);
    let found = report.problem(&["port 8080/tcp"]);
    assert!(
        !found["what"].as_str().unwrap().contains("masquerade"),
        "{found:#}"
    );
    doctor.fix(&["rules"]);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
    assert_eq!(lines(), before);
}

#[test]
fn both_families_and_macspoofchk_are_restored() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    let changes = json!({"macspoofchk": true, "ipam": {"type": "host-local", "ranges": ranges}});
    doctor.host.network(&with(network(), changes));
    let at = json!([
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}
    ]);
    let _web = doctor.attach(&cnitool, "web", "podnet", at);
    let before = lines();
    flush();
    let report = doctor.fix(&["rules"]);
    assert_eq!(report.status, 0, "{report:#?}");
    assert_eq!(lines(), before);
}

/// A conflist of these plugins, in the folder of `pausectl pod`.
fn chain(doctor: &DoctorHost, plugins: Value) {
    fs::remove_file(doctor.confs().join("podnet.json")).unwrap();
    let list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": plugins});
    fs::write(doctor.confs().join("podnet.conflist"), list.to_string()).unwrap();
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
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    chain(&doctor, json!([first("pausenet"), portmap()]));
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    doctor.assert_healthy();
    let before = lines();
    flush();
    doctor.fix(&["rules"]);
    assert_eq!(lines(), before);
    Traffic::new(&web, "10.1.0.2", &outside).assert_works(8080);
}

/// The reference's bridge, and our portmap behind it: no host end identifies such a container.
#[test]
fn ports_of_a_container_wired_by_another_plugin_are_restored() {
    let (Some(cnitool), Some(peers)) = (lab::cnitool(), lab::peers_today()) else {
        return;
    };
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    for plugin in ["bridge", "host-local"] {
        std::os::unix::fs::symlink(peers.join(plugin), doctor.plugins().join(plugin)).unwrap();
    }
    chain(
        &doctor,
        json!([with(first("bridge"), json!({"ipMasq": false})), portmap()]),
    );
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    doctor.assert_healthy();
    let before = lines();
    flush();
    let report = doctor.check(&["rules"]);
    assert!(
        report
            .findings
            .iter()
            .any(|found| { found["what"].as_str().unwrap().contains("port 8080/tcp") }),
        "{report:#?}"
    );
    doctor.fix(&["rules"]);
    assert_eq!(lines(), before);
    let server = listen(Some(&web), "10.1.0.2:80");
    tcp(&server, Some(&outside), "192.0.2.1:8080");

    drop(server);

    // Once it is gone, nothing of it is put back, whatever its runtime remembers.
    web.destroy();
    common::wait::wait_until("its host end is gone", || {
        let links = doctor.host.world.links();
        !links
            .iter()
            .any(|link| link.kind == "veth" && link.name != "up2")
    });
    flush();
    let report = doctor.fix(&["rules"]);
    assert!(report.repairs.is_empty(), "{report:#?}");
    assert_eq!(ruleset(), "");
}

#[test]
fn without_a_result_cache_rules_are_restored_from_the_configuration() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = added(&doctor, &network(), "web");
    let before = lines();
    flush();
    let report = doctor.check(&["rules"]);
    let found = report.of("problem");
    let found = found
        .iter()
        .find(|found| found["subject"].as_str().unwrap().contains("web"));
    says(found.unwrap(), &["masquerade", "in no runtime's cache"]);
    doctor.fix(&["rules"]);
    assert_eq!(lines(), before);
    let outside_server = listen(Some(&outside), "192.0.2.2:7000");
    assert_eq!(
        tcp(&outside_server, Some(&web), "192.0.2.2:7000").to_string(),
        "192.0.2.1"
    );

    fs::remove_file(doctor.confs().join("podnet.json")).unwrap();
    flush();
    let report = doctor.fix(&["rules"]);
    report.note(&["container web", "is unknown"]);
    assert_eq!(ruleset(), "");
}

#[test]
fn only_elements_of_a_missing_attachment_are_removed() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let before = lines();
    let _dead = added(&doctor, &network(), "dead");
    assert!(doctor.check(&["rules"]).findings.is_empty());
    ip(&format!("link delete {}", host_end("dead")));
    let with_dead = lines();

    // What is being worked on is left alone.
    let lock = try_lock(&host_end("dead")).unwrap().unwrap();
    let report = doctor.fix(&["rules"]);
    assert!(
        report.findings.is_empty() && report.repairs.is_empty(),
        "{report:#?}"
    );
    drop(lock);
    doctor
        .check(&["rules"])
        .problem(&["container dead", "1 element", "gone"]);
    assert_eq!(lines(), with_dead);

    assert_eq!(doctor.fix(&["rules"]).outcomes(), ["repaired"]);
    assert_eq!(lines(), before);
    assert_eq!(element_count("pausenet podnet web eth0"), 1);
}

#[test]
fn foreign_elements_are_kept() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    run(
        "nft",
        ["add element inet pausenet masquerade_10.1.0.0/24 { 10.1.0.99 comment \"mine\" }"],
    );
    let before = lines();
    doctor.check(&["rules"]).note(&["\"mine\"", "kept"]);
    assert!(doctor.fix(&["rules"]).repairs.is_empty());
    assert_eq!(lines(), before);
}

#[test]
fn a_port_taken_over_by_another_container_stays_with_it() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let _web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    flush();
    // Nobody knew of web's port any more.
    let other = doctor.attach(&cnitool, "other", "podnet", port(8080));
    let report = doctor.fix(&["rules"]);
    assert_eq!(report.status, 1, "{report:#?}");
    assert!(report.outcomes().contains(&"failed"), "{report:#?}");
    let failed = report
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
