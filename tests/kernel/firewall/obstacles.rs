//! Other firewalls as obstacles: which chains drop the pods' traffic, and the commands that help.

use pausenet::apply::firewall as forwarding;
use pausenet::cni::{IfName, NetworkName};
use pausenet::plan::Families;
use pausenet::plan::firewall::{AllowedTraffic, FirewallManager, HostLink, Obstacle, Remedy};

use super::{docker_host, run_quietly};
use common::firewall::{FirewalledPods, PROGRAMS, dual_stack, iptables, routed};
use common::{lab, run};

fn traffic_of(link: HostLink) -> AllowedTraffic {
    AllowedTraffic {
        network: NetworkName::parse("podnet").unwrap(),
        link,
    }
}

fn bridge_traffic() -> AllowedTraffic {
    let families = Families {
        ipv4: true,
        ipv6: true,
    };
    traffic_of(HostLink::Bridge(IfName::parse("cni0").unwrap(), families))
}

fn managers(found: &[Obstacle]) -> Vec<(FirewallManager, &str)> {
    found
        .iter()
        .map(|obstacle| (obstacle.manager, obstacle.place.as_str()))
        .collect()
}

#[test]
fn docker_is_named_as_an_obstacle_until_the_rules_are_added() {
    let Some(_world) = docker_host(&PROGRAMS) else {
        return;
    };
    let traffic = [bridge_traffic()];
    let found = forwarding::obstacles(&traffic).unwrap();
    assert_eq!(
        managers(&found),
        [
            (FirewallManager::Docker, "chain FORWARD of table ip filter"),
            (FirewallManager::Docker, "chain FORWARD of table ip6 filter")
        ]
    );
    assert!(found.iter().all(|obstacle| obstacle.remedy == Remedy::Ours));
    forwarding::ensure(&traffic).unwrap();
    assert_eq!(forwarding::obstacles(&traffic).unwrap(), []);
    forwarding::verify(&traffic).unwrap();
    assert!(forwarding::forget(&traffic[0].network).unwrap());
    assert_eq!(forwarding::obstacles(&traffic).unwrap(), found);
    // A chain that accepts the rest is no obstacle.
    for program in PROGRAMS {
        iptables(program, "-P FORWARD ACCEPT");
    }
    assert_eq!(forwarding::obstacles(&traffic).unwrap(), []);
}

#[test]
fn the_suggested_commands_unblock_a_dropping_chain() {
    for config in [dual_stack(), routed(dual_stack())] {
        let Some(world) = docker_host(&[]) else {
            return;
        };
        for program in PROGRAMS {
            iptables(program, "-P FORWARD DROP");
        }
        run("nft", ["add table inet mine"]);
        let chain = "add chain inet mine f { type filter hook forward priority 5; policy accept; }";
        run("nft", [chain]);
        run(
            "nft",
            ["add rule inet mine f counter reject with icmpx admin-prohibited"],
        );
        let pods = FirewalledPods::new(&world, &config);
        pods.assert_blocked();
        let link = |subnet: &str| HostLink::HostEnds(subnet.parse().unwrap());
        let traffic = match config["mode"].as_str() {
            None => vec![bridge_traffic()],
            Some(_) => vec![
                traffic_of(link("10.1.0.0/24")),
                traffic_of(link("fd00::/64")),
            ],
        };
        let found = forwarding::obstacles(&traffic).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        for obstacle in &found {
            assert_eq!(obstacle.manager, FirewallManager::Unknown);
            let Remedy::Commands(commands) = &obstacle.remedy else {
                panic!("{obstacle:?}");
            };
            for command in commands {
                run("sh", ["-c", command]);
            }
        }
        pods.assert_reachable();
        assert_eq!(forwarding::obstacles(&traffic).unwrap(), []);
    }
}

/// Their tables as they make them, as far as it matters here.
#[test]
fn ufw_firewalld_and_iptables_legacy_are_recognized_by_their_chains() {
    let Some(_world) = docker_host(&[]) else {
        return;
    };
    for args in [
        "-N ufw-before-forward",
        "-A FORWARD -j ufw-before-forward",
        "-P FORWARD DROP",
    ] {
        iptables("iptables-nft", args);
    }
    for command in [
        "add table inet firewalld",
        "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }",
        "add chain inet firewalld filter_FORWARD_ZONES",
        "add rule inet firewalld filter_FORWARD ct state { established, related } accept",
        "add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES",
        "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited",
    ] {
        run("nft", [command]);
    }
    let traffic = [bridge_traffic()];
    let found = forwarding::obstacles(&traffic).unwrap();
    assert_eq!(
        managers(&found),
        [
            (FirewallManager::Ufw, "chain FORWARD of table ip filter"),
            (
                FirewallManager::Firewalld,
                "chain filter_FORWARD of table inet firewalld"
            )
        ]
    );
    // What `ufw route allow in on cni0` and a zone's interface come to.
    iptables("iptables-nft", "-A ufw-before-forward -i cni0 -j ACCEPT");
    let zone = "add rule inet firewalld filter_FORWARD_ZONES iifname \"cni0\" accept";
    run("nft", [zone]);
    assert_eq!(forwarding::obstacles(&traffic).unwrap(), []);

    if run_quietly("iptables-legacy -P FORWARD DROP").is_none() {
        return lab::skip_for_the_kernel("iptables-legacy");
    }
    let found = forwarding::obstacles(&traffic).unwrap();
    let legacy = "chain FORWARD of iptables-legacy's table filter";
    assert_eq!(managers(&found), [(FirewallManager::Unknown, legacy)]);
    run("iptables-legacy", ["-N", "DOCKER-USER"]);
    let found = forwarding::obstacles(&traffic).unwrap();
    assert_eq!(managers(&found), [(FirewallManager::Docker, legacy)]);
    run("iptables-legacy", ["-P", "FORWARD", "ACCEPT"]);
    assert_eq!(forwarding::obstacles(&traffic).unwrap(), []);
}
