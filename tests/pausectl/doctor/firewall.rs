//! Chains of others that drop what pods forward. (A real Docker's are in `tests/docker`.)

use serde_json::Value;

use super::{DoctorHost, added, network};
use common::nftables::ruleset;
use common::outside_host;
use common::run;
use common::traffic::{listen, tcp, tcp_is_blocked};

fn nft(commands: &str) {
    run("nft", [commands]);
}

#[test]
fn a_dropping_chain_is_reported_with_commands_that_help() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    nft(
        "add table inet fw; add chain inet fw forward { type filter hook forward priority 0; policy drop; }",
    );
    // Nobody is harmed yet.
    doctor
        .check(&["firewall"])
        .note(&["podnet", "inet fw", "policy is drop"]);
    let web = added(&doctor, &network(), "web");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    tcp_is_blocked(Some(&web), "192.0.2.2:7000");
    let before = ruleset();

    let report = doctor.fix(&["firewall"]);
    let found = report.problem(&["podnet", "inet fw", "policy is drop"]);
    assert_eq!(report.outcomes(), ["not safe"]);
    assert_eq!(ruleset(), before);
    let commands = found["how"].as_str().unwrap();
    for command in commands.split("; ") {
        run("sh", ["-ec", command]);
    }
    tcp(&server, Some(&web), "192.0.2.2:7000");
    let report = doctor.check(&["firewall"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}

#[test]
fn rules_lost_from_docker_s_chain_are_restored_and_the_user_s_rules_kept() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    // As Docker leaves it.
    nft("add table ip filter; \
         add chain ip filter DOCKER-USER; \
         add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
         add rule ip filter FORWARD jump DOCKER-USER; \
         add rule ip filter DOCKER-USER ip saddr 192.0.2.99 drop");
    assert!(
        doctor.check(&["firewall"]).findings.is_empty(),
        "the next ADD sees to it"
    );
    let web = added(&doctor, &network(), "web");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    tcp(&server, Some(&web), "192.0.2.2:7000");
    doctor.assert_healthy();
    let rules = || run("nft", ["-s", "list", "table", "ip", "filter"]);
    let before = rules();

    nft(
        "flush chain ip filter DOCKER-USER; add rule ip filter DOCKER-USER ip saddr 192.0.2.99 drop",
    );
    tcp_is_blocked(Some(&web), "192.0.2.2:7000");
    let report = doctor.check(&["firewall"]);
    let found = report.problem(&["podnet", "Docker's firewall"]);
    assert_eq!(found["safe"], Value::Bool(true));
    let report = doctor.fix(&["firewall"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    assert!(report.findings.is_empty(), "{report:#?}");
    assert_eq!(rules(), before);
    tcp(&server, Some(&web), "192.0.2.2:7000");
}

/// Each of them lets a pod's packets die somewhere that a look at the policy of FORWARD does not show.
#[test]
fn drops_behind_jumps_and_by_name_are_reported_with_commands_that_help() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = added(&doctor, &network(), "web");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    for (rules, words) in [
        (
            "add table ip filter; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }; \
             add chain ip filter BLOCK; add rule ip filter FORWARD counter jump BLOCK; \
             add rule ip filter BLOCK drop",
            ["chain FORWARD of table ip filter", "jumps to BLOCK"],
        ),
        (
            "add table ip filter; \
             add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }; \
             add rule ip filter FORWARD iifname cni0 drop",
            ["chain FORWARD of table ip filter", "a rule of it drops"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add chain inet fw pods; add rule inet fw f ip saddr 10.0.0.0/8 goto pods; \
             add rule inet fw pods reject",
            ["chain f of table inet fw", "jumps to pods"],
        ),
        (
            "add table ip raw; \
             add chain ip raw PREROUTING { type filter hook prerouting priority -300; policy accept; }; \
             add rule ip raw PREROUTING ip saddr 10.1.0.0/24 drop",
            ["chain PREROUTING of table ip raw", "a rule of it drops"],
        ),
        (
            "add table inet fw; \
             add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add rule inet fw f iifname cni0 accept; add chain inet fw rest; \
             add rule inet fw f jump rest; add rule inet fw rest drop",
            ["chain f of table inet fw", "jumps to rest"],
        ),
    ] {
        let report = doctor.check(&["firewall"]);
        assert!(report.findings.is_empty(), "before {rules}: {report:#?}");
        nft(rules);
        tcp_is_blocked(Some(&web), "192.0.2.2:7000");
        let report = doctor.fix(&["firewall"]);
        let mut expected = vec!["podnet"];
        expected.extend(words);
        let found = report.problem(&expected);
        assert_eq!(report.outcomes(), ["not safe"]);
        let commands = found["how"].as_str().unwrap();
        let is_runnable = !commands.contains("iptables")
            || !run("sh", ["-c", "command -v iptables || :"]).is_empty();
        if is_runnable {
            for command in commands.split("; ") {
                run("sh", ["-ec", command]);
            }
            tcp(&server, Some(&web), "192.0.2.2:7000");
            let report = doctor.check(&["firewall"]);
            assert!(report.findings.is_empty(), "after {rules}: {report:#?}");
        }
        for table in ["ip filter", "ip raw", "inet fw"] {
            nft(&format!("add table {table}; delete table {table}"));
        }
    }
}

/// The rules that Docker 28 and 29 make for the addresses of their containers.
#[test]
fn addresses_that_docker_keeps_from_pods_are_named() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    for (table, chain) in [
        ("ip raw", "PREROUTING"),
        ("ip docker-bridges", "raw-PREROUTING"),
    ] {
        nft(&format!(
            "add table {table}; \
             add chain {table} {chain} {{ type filter hook prerouting priority -300; policy accept; }}; \
             add rule {table} {chain} ip daddr 172.17.0.2 iifname != docker0 counter drop"
        ));
        let report = doctor.check(&["firewall"]);
        let notes = report.of("note");
        let place = format!("chain {chain} of table {table}");
        super::says(
            notes[0],
            &[
                &place,
                "podnet",
                "172.17.0.2",
                "trusted_host_interfaces=cni0",
            ],
        );
        // Docker's backend for nftables has no policy that drops.
        let is_nftables = table == "ip docker-bridges";
        assert_eq!(notes.len(), 1 + usize::from(is_nftables), "{report:#?}");
        if is_nftables {
            super::says(
                notes[1],
                &["nftables backend", "podnet", "keeps others from"],
            );
            nft(
                "add table inet fw; add chain inet fw f { type filter hook forward priority 0; }; \
                 add rule inet fw f ct state established,related accept; \
                 add rule inet fw f oifname cni0 drop",
            );
            let report = doctor.check(&["firewall"]);
            assert_eq!(report.of("note").len(), 1, "they are kept out: {report:#?}");
            nft("delete table inet fw");
        }
        nft(&format!("delete table {table}"));
    }
    let report = doctor.check(&["firewall"]);
    assert!(report.findings.is_empty(), "{report:#?}");
}
