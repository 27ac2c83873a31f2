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
