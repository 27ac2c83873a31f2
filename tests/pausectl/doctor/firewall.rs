//! Chains of others that drop what pods forward. (A real Docker's are in `tests/docker`.)

use std::process::Command;

use serde_json::Value;

use super::{DoctorHost, added, network};
use common::nftables::ruleset;
use common::traffic::{listen, tcp, tcp_is_blocked};
use common::{lab, outside_host, run};

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
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add set inet fw links { type ifname; elements = { eth7, cni0 }; }; \
             add rule inet fw f iifname @links drop",
            ["chain f of table inet fw", "a rule of it drops"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add set inet fw nets { type ipv4_addr; flags interval; elements = { 10.0.0.0-10.2.0.9, 192.168.0.0/16 }; }; \
             add rule inet fw f ip saddr @nets reject",
            ["chain f of table inet fw", "a rule of it drops"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add rule inet fw f ip saddr != { 172.16.0.0/12, 192.168.0.0/16 } drop",
            ["chain f of table inet fw", "a rule of it drops"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add chain inet fw pods; add rule inet fw pods drop; \
             add rule inet fw f iifname vmap { lo : accept, cni0 : jump pods }",
            ["chain f of table inet fw", "jumps to pods"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add map inet fw zones { type ipv4_addr : verdict; flags interval; elements = { 10.1.0.0/16 : drop, 10.9.0.0/16 : accept }; }; \
             add rule inet fw f ip saddr vmap @zones",
            ["chain f of table inet fw", "a rule of it drops"],
        ),
        (
            "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
             add rule inet fw f iifname vmap { lo : accept, * : drop }",
            ["chain f of table inet fw", "a rule of it drops"],
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

/// A chain with each of some rules in turn lets pods send, and is not reported.
fn assert_is_no_obstacle(chain: &str, all: &[&str]) {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = added(&doctor, &network(), "web");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    for rules in all {
        nft(&format!("{chain}{rules}"));
        tcp(&server, Some(&web), "192.0.2.2:7000");
        let report = doctor.check(&["firewall"]);
        assert!(report.findings.is_empty(), "{rules}: {report:#?}");
        nft("delete table inet fw");
    }
}

/// Sets and maps of verdicts that let the pods through, or keep others out.
#[test]
fn look_ups_that_do_not_drop_what_pods_send_are_not_reported() {
    let chain = "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy accept; }; \
        add chain inet fw others; add rule inet fw others drop; ";
    assert_is_no_obstacle(
        chain,
        &[
            "add set inet fw links { type ifname; elements = { eth7, cni01 }; }; add rule inet fw f iifname @links drop",
            "add rule inet fw f iifname != { cni0, up2 } drop",
            "add set inet fw nets { type ipv4_addr; flags interval; elements = { 10.0.0.0-10.0.255.255, 10.1.1.0/24 }; }; \
         add rule inet fw f ip saddr @nets drop; add rule inet fw f ip daddr @nets drop",
            "add rule inet fw f iifname vmap { eth7 : jump others, cni0 : accept }; add rule inet fw f ct state established,related accept; \
         add rule inet fw f iifname cni0 drop",
            "add rule inet fw f ip saddr vmap { 10.1.0.77 : drop, 10.1.1.0-10.1.2.255 : goto others }",
            "add rule inet fw f meta iifname . ip saddr { eth7 . 10.1.0.2 } drop",
        ],
    );
}

/// What a chain drops by its policy it may accept before, by a set.
#[test]
fn a_chain_that_accepts_the_pods_by_a_set_is_no_obstacle() {
    let chain = "add table inet fw; add chain inet fw f { type filter hook forward priority 5; policy drop; }; \
        add rule inet fw f ct state established,related accept; ";
    assert_is_no_obstacle(
        chain,
        &[
            "add rule inet fw f iifname { lo, cni0 } accept",
            "add set inet fw nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }; add rule inet fw f ip saddr @nets accept",
            "add rule inet fw f iifname vmap { cni0 : accept, * : drop }",
            "add chain inet fw pods; add rule inet fw pods accept; add rule inet fw f iifname vmap { cni0 : goto pods }",
        ],
    );
}

/// nf_tables does not show them.
#[test]
fn drops_of_iptables_legacy_are_reported_with_commands_that_help() {
    let doctor = DoctorHost::new();
    let outside = outside_host(&doctor.host.world, 2);
    let web = added(&doctor, &network(), "web");
    let server = listen(Some(&outside), "192.0.2.2:7000");
    let legacy = |commands: &[&str]| {
        let run = |command: &&str| {
            let mut iptables = Command::new("iptables-legacy");
            iptables
                .args(command.split_whitespace())
                .output()
                .is_ok_and(|output| output.status.success())
        };
        commands.iter().all(run)
    };
    if !legacy(&["-L FORWARD"]) {
        return lab::skip_for_the_kernel("iptables-legacy");
    }
    for (commands, words) in [
        (
            &["-A FORWARD -i cni0 -j DROP"][..],
            "filter: a firewall on this host drops what pods of podnet forward: a rule of it",
        ),
        (
            &["-A FORWARD -s 10.0.0.0/8 -j REJECT"],
            "a rule of it drops or rejects it",
        ),
        (
            &[
                "-N BLOCK",
                "-A BLOCK -j DROP",
                "-A FORWARD -i cni+ -j BLOCK",
            ],
            "it jumps to BLOCK",
        ),
        (
            &[
                "-N BLOCK",
                "-A BLOCK -j DROP",
                "-A FORWARD ! -s 10.2.0.0/16 -m comment --comment x -g BLOCK",
            ],
            "it jumps to BLOCK",
        ),
        (
            &["-t raw -A PREROUTING -s 10.1.0.0/24 -j DROP"],
            "chain PREROUTING of iptables-legacy's table raw",
        ),
        (
            &["-t mangle -A FORWARD -i cni0 -m conntrack --ctstate NEW -j DROP"],
            "table mangle",
        ),
        (&["-P FORWARD DROP"], "its policy is drop"),
    ] {
        assert!(legacy(commands), "{commands:?}");
        tcp_is_blocked(Some(&web), "192.0.2.2:7000");
        let report = doctor.check(&["firewall"]);
        let found = report.problem(&["iptables-legacy", "podnet"]);
        let text = format!(
            "{}: {}",
            found["subject"].as_str().unwrap(),
            found["what"].as_str().unwrap()
        );
        assert!(text.contains(words), "{commands:?}: {text}");
        for command in found["how"].as_str().unwrap().split("; ") {
            run("sh", ["-ec", command]);
        }
        tcp(&server, Some(&web), "192.0.2.2:7000");
        let report = doctor.check(&["firewall"]);
        assert!(
            report.findings.is_empty(),
            "after {commands:?}: {report:#?}"
        );
        assert!(legacy(&[
            "-P FORWARD ACCEPT",
            "-F",
            "-X",
            "-t raw -F",
            "-t mangle -F"
        ]));
    }
    // Rules that others meet, or that accept the pods before the policy.
    for commands in [
        &["-A FORWARD -i cni01 -j DROP"][..],
        &[
            "-A FORWARD -s 10.2.0.0/16 -j DROP",
            "-A FORWARD ! -i cni0 -s 10.1.0.0/24 -j DROP",
        ],
        &["-A FORWARD -i cni0 -p tcp --dport 25 -j DROP"],
        &[
            "-P FORWARD DROP",
            "-A FORWARD -m state --state ESTABLISHED -j ACCEPT",
            "-A FORWARD -i cni+ -j LOG",
            "-A FORWARD -i cni+ -j ACCEPT",
        ],
        &[
            "-A FORWARD -i cni0 -j RETURN",
            "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "-A FORWARD -j DROP",
        ],
    ] {
        assert!(legacy(commands), "{commands:?}");
        tcp(&server, Some(&web), "192.0.2.2:7000");
        let report = doctor.check(&["firewall"]);
        assert!(report.findings.is_empty(), "{commands:?}: {report:#?}");
        assert!(legacy(&["-P FORWARD ACCEPT", "-F", "-X"]));
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
