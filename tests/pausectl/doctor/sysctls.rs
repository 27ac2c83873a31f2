//! Settings that running attachments need.

use serde_json::json;

use super::{DoctorHost, added, network, port};
use common::traffic::{HOST, listen, tcp, tcp_is_blocked};
use common::{ip, lab, outside_host, set_sysctl, sysctl, with};

#[test]
fn forwarding_disabled_under_running_pods_is_enabled_again() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    let ipam = json!({"type": "host-local", "ranges": ranges});
    let dual = with(network(), json!({"ipam": ipam}));
    doctor.host.network(&dual);
    set_sysctl("ipv4/ip_forward", "0");
    assert!(
        doctor.check(&["sysctls"]).findings.is_empty(),
        "nobody needs it"
    );
    let web = added(&doctor, &dual, "web");
    assert!(doctor.check(&["sysctls"]).findings.is_empty());
    let servers = ["192.0.2.2:7000", "[fd99:2::2]:7000"];
    let listeners = servers.map(|server| listen(Some(&outside), server));

    set_sysctl("ipv4/ip_forward", "0");
    set_sysctl("ipv6/conf/all/forwarding", "0");
    tcp_is_blocked(Some(&web), servers[0]);
    let report = doctor.check(&["sysctls"]);
    let subjects: Vec<_> = report
        .of("problem")
        .iter()
        .map(|found| found["subject"].clone())
        .collect();
    assert_eq!(
        subjects,
        ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    );
    assert_eq!(sysctl("ipv4/ip_forward"), "0", "looking changes nothing");

    let report = doctor.fix(&["sysctls"]);
    assert_eq!(report.outcomes(), ["repaired", "repaired"]);
    assert!(report.findings.is_empty(), "{report:#?}");
    for (listener, server) in listeners.iter().zip(servers) {
        tcp(listener, Some(&web), server);
    }
}

#[test]
fn a_layer_2_bridge_needs_no_forwarding() {
    let doctor = DoctorHost::new();
    let switch = with(
        network(),
        json!({"isDefaultGateway": false, "ipMasq": false}),
    );
    doctor.host.network(&switch);
    let _web = added(&doctor, &switch, "web");
    set_sysctl("ipv4/ip_forward", "0");
    assert!(doctor.check(&["sysctls"]).findings.is_empty());
}

#[test]
fn mapped_ports_at_127_0_0_1_need_route_localnet() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let web = doctor.attach(&cnitool, "web", "podnet", port(8080));
    let listener = listen(Some(&web), "10.1.0.2:80");
    tcp(&listener, HOST, "127.0.0.1:8080");

    set_sysctl("ipv4/conf/cni0/route_localnet", "0");
    tcp_is_blocked(HOST, "127.0.0.1:8080");
    let report = doctor.check(&["sysctls"]);
    report.problem(&["net.ipv4.conf.cni0.route_localnet", "127.0.0.1"]);
    let report = doctor.fix(&["sysctls"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    tcp(&listener, HOST, "127.0.0.1:8080");
}

#[test]
fn ports_at_another_address_need_no_route_localnet() {
    let Some(cnitool) = lab::cnitool() else {
        return;
    };
    let doctor = DoctorHost::new();
    let port = json!([{
        "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1",
    }]);
    let _web = doctor.attach(&cnitool, "web", "podnet", port);
    set_sysctl("ipv4/conf/cni0/route_localnet", "0");
    let report = doctor.check(&["sysctls"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}

#[test]
fn strict_rp_filter_is_reported_where_another_link_routes_to_a_pod() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    set_sysctl("ipv4/conf/cni0/rp_filter", "1");
    assert!(doctor.check(&["sysctls"]).findings.is_empty());
    ip("link add vpn up type veth peer name far");
    ip("route add 10.1.0.2/32 dev vpn");

    let report = doctor.check(&["sysctls"]);
    let found = report.problem(&["rp_filter", "10.1.0.2", "vpn", "cni0"]);
    assert_eq!(found["safe"], false);
    assert_eq!(doctor.fix(&["sysctls"]).outcomes(), ["not safe"]);
    set_sysctl("ipv4/conf/cni0/rp_filter", "2");
    assert!(doctor.check(&["sysctls"]).findings.is_empty());
}
