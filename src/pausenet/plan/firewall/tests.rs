use proptest::prelude::*;

use super::*;
use crate::cni::{IfName, NetworkName};
use crate::kernel::nft::{NewRule, Policy, Rule, TableFamily, TerminalVerdict};
use crate::plan::Families;

fn network() -> NetworkName {
    NetworkName::parse("podnet").unwrap()
}

fn bridge() -> AllowedTraffic {
    let both = Families {
        ipv4: true,
        ipv6: true,
    };
    AllowedTraffic {
        network: network(),
        link: HostLink::Bridge(IfName::parse("cni0").unwrap(), both),
    }
}

fn host_ends(subnet: &str) -> AllowedTraffic {
    AllowedTraffic {
        network: network(),
        link: HostLink::HostEnds(subnet.parse().unwrap()),
    }
}

fn returns(handle: u64) -> Rule {
    Rule {
        chain: DOCKER_USER.into(),
        handle,
        unconditional: Some(TerminalVerdict::Return),
        ..Rule::default()
    }
}

fn other(handle: u64) -> Rule {
    Rule {
        unconditional: None,
        ..returns(handle)
    }
}

/// What a rule looks like once it is in the chain.
fn placed(new: &NewRule) -> Rule {
    Rule {
        chain: new.chain.clone(),
        comment: new.comment.clone(),
        ..Rule::default()
    }
}

#[test]
fn rules_go_before_the_last_return_or_to_the_end() {
    for (present, before) in [
        (vec![], None),
        (vec![other(3)], None),
        (vec![other(3), returns(4)], Some(4)),
        // A RETURN half way is the user's.
        (vec![returns(3), other(4)], None),
    ] {
        let new = missing(&[bridge()], TABLES[0], DOCKER_USER, &present);
        assert_eq!(new.len(), 3);
        assert!(new.iter().all(|rule| rule.before == before), "{present:?}");
    }
}

#[test]
fn a_table_gets_rules_of_its_own_family_only() {
    let traffic = [host_ends("10.1.0.0/24"), host_ends("fd00::/64")];
    for (table, subnet) in TABLES.into_iter().zip(["10.1.0.0/24", "fd00::/64"]) {
        let new = missing(&traffic, table, DOCKER_USER, &[]);
        assert_eq!(new.len(), 3);
        assert!(new.iter().all(|rule| rule.comment.ends_with(subnet)));
    }
}

#[test]
fn comments_of_rules_are_stable() {
    let comments: Vec<_> = missing(&[bridge()], TABLES[0], DOCKER_USER, &[])
        .into_iter()
        .map(|rule| rule.comment)
        .collect();
    assert_eq!(
        comments,
        [
            "pausenet podnet: from cni0",
            "pausenet podnet: answers to cni0",
            "pausenet podnet: mapped to cni0"
        ]
    );
}

#[test]
fn a_network_s_rules_are_not_those_of_one_whose_name_starts_alike() {
    let longer = NetworkName::parse("podnet2").unwrap();
    for rule in missing(&[bridge()], TABLES[0], DOCKER_USER, &[]) {
        assert!(is_of_network(&rule.comment, &network()));
        assert!(!is_of_network(&rule.comment, &longer));
    }
    assert!(!is_of_network("podnet: from cni0", &network()));
}

proptest! {
    #[test]
    fn adding_the_missing_rules_leaves_none_missing(
        there in proptest::sample::subsequence(vec![0usize, 1, 2], 0..=3),
        before in 0usize..3,
        ends in proptest::bool::ANY,
    ) {
        let all = missing(&[bridge()], TABLES[0], DOCKER_USER, &[]);
        let mut present: Vec<_> = (1..=before as u64).map(other).collect();
        present.extend(there.iter().map(|&at| placed(&all[at])));
        if ends {
            present.push(returns(99));
        }
        let new = missing(&[bridge()], TABLES[0], DOCKER_USER, &present);
        prop_assert_eq!(new.len() + there.len(), all.len());
        let behind = present.len() - usize::from(ends);
        present.splice(behind..behind, new.iter().map(placed));
        prop_assert_eq!(missing(&[bridge()], TABLES[0], DOCKER_USER, &present), vec![]);
        // The user's rules are where they were: before all of ours.
        let mut handles = present.iter().take(before).map(|rule| rule.handle);
        prop_assert!(handles.all(|handle| handle != 0));
    }
}

fn forward(table: &str, policy: Policy, rules: Vec<Rule>) -> ForwardChain {
    ForwardChain {
        family: TableFamily::Ipv4,
        table: table.into(),
        name: "FORWARD".into(),
        policy,
        rules,
    }
}

fn jump(to: &str) -> Rule {
    Rule {
        chain: "FORWARD".into(),
        jumps: vec![to.into()],
        ..Rule::default()
    }
}

fn rejects() -> Rule {
    Rule {
        chain: "FORWARD".into(),
        unconditional: Some(TerminalVerdict::Drop),
        ..Rule::default()
    }
}

fn found(chains: &[ForwardChain], traffic: &[AllowedTraffic]) -> Vec<(FirewallManager, Remedy)> {
    obstacles(chains, &[], traffic)
        .into_iter()
        .map(|obstacle| (obstacle.manager, obstacle.remedy))
        .collect()
}

#[test]
fn docker_is_an_obstacle_until_its_chain_for_others_has_all_of_ours() {
    let mut rules = vec![jump(DOCKER_USER)];
    for new in missing(&[bridge()], TABLES[0], DOCKER_USER, &[]) {
        let chain = forward("filter", Policy::Drop, rules.clone());
        assert_eq!(
            found(&[chain], &[bridge()]),
            [(FirewallManager::Docker, Remedy::Ours)]
        );
        rules.push(placed(&new));
    }
    let chain = forward("filter", Policy::Drop, rules.clone());
    assert_eq!(found(&[chain], &[bridge()]), []);
    // No rule jumps there any more.
    rules.remove(0);
    let chain = forward("filter", Policy::Drop, rules);
    assert_eq!(found(&[chain], &[bridge()])[0].0, FirewallManager::Unknown);
}

#[test]
fn a_chain_that_accepts_the_rest_or_has_our_rules_is_no_obstacle() {
    let names_it = Rule {
        chain: "elsewhere".into(),
        values: vec![b"cni0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()],
        ..Rule::default()
    };
    let another = Rule {
        values: vec![b"cni01\0".to_vec()],
        ..names_it.clone()
    };
    for (policy, rules, expected) in [
        (Policy::Accept, vec![], 0),
        (Policy::Accept, vec![rejects()], 1),
        (Policy::Drop, vec![], 1),
        (Policy::Drop, vec![another], 1),
        (Policy::Drop, vec![names_it.clone()], 0),
        (Policy::Accept, vec![names_it, rejects()], 0),
    ] {
        let chain = forward("mine", policy, rules);
        let found = obstacles(std::slice::from_ref(&chain), &[], &[bridge()]);
        assert_eq!(found.len(), expected, "{chain:?}");
        for obstacle in found {
            assert_eq!(obstacle.place, "chain FORWARD of table ip mine");
            assert_eq!(obstacle.networks, [network()]);
        }
    }
}

#[test]
fn each_firewall_manager_has_its_own_commands() {
    let traffic = [bridge(), host_ends("10.2.0.0/24")];
    let commands = |chain: ForwardChain| match found(&[chain], &traffic).remove(0) {
        (manager, Remedy::Commands(commands)) => (manager, commands),
        other => panic!("{other:?}"),
    };
    let ufw = forward("filter", Policy::Drop, vec![jump("ufw-before-forward")]);
    let (manager, all) = commands(ufw);
    assert_eq!(manager, FirewallManager::Ufw);
    assert_eq!(
        all,
        [
            "ufw route allow in on cni0",
            "ufw route allow from 10.2.0.0/24"
        ]
    );
    let (manager, all) = commands(forward("firewalld", Policy::Accept, vec![rejects()]));
    assert_eq!(manager, FirewallManager::Firewalld);
    assert_eq!(
        all,
        [
            "firewall-cmd --permanent --zone=trusted --add-interface=cni0",
            "firewall-cmd --permanent --zone=trusted --add-source=10.2.0.0/24",
            "firewall-cmd --reload"
        ]
    );
    let (manager, all) = commands(forward("mine", Policy::Drop, vec![]));
    assert_eq!(manager, FirewallManager::Unknown);
    assert_eq!(all.len(), 6);
    assert_eq!(
        all[0],
        "nft insert rule ip mine FORWARD iifname cni0 accept"
    );
}

#[test]
fn drops_of_iptables_legacy_are_left_to_the_administrator() {
    let chains = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let old = |drops, names: &[&str]| LegacyForward {
        family: crate::cni::Family::Ipv4,
        drops,
        chains: chains(names),
    };
    assert_eq!(
        obstacles(&[], &[old(false, &[DOCKER_USER])], &[bridge()]),
        []
    );
    let of_docker = obstacles(&[], &[old(true, &["DOCKER", DOCKER_USER])], &[bridge()]);
    assert_eq!(of_docker[0].manager, FirewallManager::Docker);
    let Remedy::Commands(commands) = &of_docker[0].remedy else {
        panic!("{of_docker:?}");
    };
    assert_eq!(
        commands[0],
        "iptables-legacy -I DOCKER-USER -i cni0 -j ACCEPT"
    );
    let nobody_s = obstacles(&[], &[old(true, &[])], &[bridge()]);
    assert_eq!(nobody_s[0].manager, FirewallManager::Unknown);
    // Of the other family only.
    assert_eq!(
        obstacles(&[], &[old(true, &[])], &[host_ends("fd00::/64")]),
        []
    );
}
