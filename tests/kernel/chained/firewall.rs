//! `firewall`: what other firewalls let through, and which networks are closed against one another.

use serde_json::{Value, json};

use super::{List, bridge, ptp, second};
use crate::plugins::call_alone;
use common::firewall::{PROGRAMS, br_netfilter, iptables};
use common::nftables::{element_count, ruleset};
use common::traffic::{listen, tcp, tcp_is_blocked};
use common::{Container, World, lab, outside_host, run, with};

fn conf(network: &str, keys: Value) -> Value {
    second("firewall", network, keys)
}

fn policy(network: &str, policy: &str) -> Value {
    conf(network, json!({"ingressPolicy": policy}))
}

/// Addresses of a result, without prefix lengths.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    let ips = ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap());
    ips.map(|ip| match ip.contains(':') {
        true => format!("[{ip}]"),
        false => ip.to_owned(),
    })
    .collect()
}

/// Whether one container reaches another, in each family, over the address that the result gives it.
fn assert_reaches(from: &Container, to: &Container, result: &Value, reaches: bool) {
    for address in addresses(result) {
        let listener = listen(Some(to), &format!("{address}:80"));
        match reaches {
            true => drop(tcp(&listener, Some(from), &format!("{address}:80"))),
            false => tcp_is_blocked(Some(from), &format!("{address}:80")),
        }
    }
}

#[test]
fn a_chain_that_drops_lets_the_network_s_traffic_through() {
    for backend in ["iptables", "firewalld", "nftables"] {
        for first in [bridge("podnet", 1), ptp("podnet", 1)] {
            let world = World::new();
            let outside = outside_host(&world, 2);
            for program in PROGRAMS {
                iptables(program, "-P FORWARD DROP");
            }
            let list = List::ours(first, conf("podnet", json!({"backend": backend})));
            let x = world.container("x");
            let wired = list.behind_first(&x);
            let listener = listen(Some(&outside), "192.0.2.2:80");
            tcp_is_blocked(Some(&x), "192.0.2.2:80");

            let result = list.call_second("ADD", &wired, &x).run().ok();

            assert_eq!(
                tcp(&listener, Some(&x), "192.0.2.2:80").to_string(),
                "10.1.0.2"
            );
            let six = listen(Some(&outside), "[fd99:2::2]:80");
            assert_eq!(
                tcp(&six, Some(&x), "[fd99:2::2]:80").to_string(),
                "fd00:1::2"
            );
            // New connections from outside meet the policy.
            let _inside = listen(Some(&x), "10.1.0.2:80");
            tcp_is_blocked(Some(&outside), "10.1.0.2:80");
            list.check(&x, &result);
            for program in PROGRAMS {
                iptables(program, "-F CNI-FORWARD");
            }
            list.failed_check(&x, &result);
        }
    }
}

/// iptables lists, saves and loads the rules like its own, and a second ADD adds none.
#[test]
fn its_rules_are_those_of_iptables_and_stand_behind_the_user_s_own() {
    let world = World::new();
    let outside = outside_host(&world, 2);
    for program in PROGRAMS {
        iptables(program, "-P FORWARD DROP");
    }
    let list = List::ours(
        bridge("podnet", 1),
        conf("podnet", json!({"iptablesAdminChainName": "MINE"})),
    );
    let (x, y) = (world.container("x"), world.container("y"));
    let result = list.add(&x);
    let rules = iptables("iptables", "-S");
    list.add(&y);
    assert_eq!(iptables("iptables", "-S"), rules);
    for line in [
        "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD",
        "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j MINE",
        "-A CNI-FORWARD -i br-podnet -m comment --comment \"pausenet podnet: from br-podnet\" -j ACCEPT",
    ] {
        assert!(rules.lines().any(|rule| rule == line), "{line}\n{rules}");
    }
    let _listener = listen(Some(&outside), "192.0.2.2:80");
    iptables("iptables", "-A MINE -s 10.1.0.2 -j DROP");
    tcp_is_blocked(Some(&x), "192.0.2.2:80");
    iptables("iptables", "-F MINE");
    list.del(&x, &result);

    // The last container is gone: so are rules and chains.
    call_alone("firewall", "GC", &list.second).run().ok();
    assert!(
        iptables("iptables", "-S").contains("CNI-FORWARD"),
        "y is there"
    );
    y.destroy();
    run("ip", ["link", "del", "br-podnet"]);
    call_alone("bridge", "GC", &with(list.first.clone(), json!({})))
        .run()
        .ok();
    call_alone("firewall", "GC", &list.second).run().ok();
    for program in PROGRAMS {
        let left = iptables(program, "-S");
        assert!(!left.contains("CNI") && !left.contains("MINE"), "{left}");
    }
}

#[test]
fn where_nobody_uses_iptables_nothing_is_made() {
    let world = World::new();
    let x = world.container("x");
    let list = List::ours(bridge("podnet", 1), conf("podnet", json!({})));
    let result = list.add(&x);
    list.check(&x, &result);
    assert_eq!(ruleset(), "");
    list.del(&x, &result);
}

/// Two networks and a container of a third, which is open.
#[test]
fn closed_networks_do_not_reach_each_other() {
    for first in [bridge, ptp] {
        let world = World::new();
        let outside = outside_host(&world, 2);
        let one = List::ours(first("one", 1), policy("one", "same-bridge"));
        let two = List::ours(first("two", 2), policy("two", "isolated"));
        let three = List::ours(first("three", 3), policy("three", "open"));
        let [x, y, z] = ["x", "y", "z"].map(|name| world.container(name));
        let [to_x, to_y, to_z] = [one.add(&x), two.add(&y), three.add(&z)];

        assert_reaches(&x, &y, &to_y, false);
        assert_reaches(&y, &x, &to_x, false);
        for (from, to, result) in [
            (&x, &z, &to_z),
            (&z, &x, &to_x),
            (&y, &z, &to_z),
            (&z, &y, &to_y),
        ] {
            assert_reaches(from, to, result, true);
        }
        let listener = listen(Some(&outside), "192.0.2.2:80");
        tcp(&listener, Some(&x), "192.0.2.2:80");
        one.check(&x, &to_x);
        two.check(&y, &to_y);

        for (list, container, result) in [(&one, &x, &to_x), (&two, &y, &to_y), (&three, &z, &to_z)]
        {
            list.del(container, result);
            call_alone("firewall", "GC", &list.second).run().ok();
        }
        let left = ruleset();
        assert!(!left.contains("comment \"firewall"), "{left}");
    }
}

/// Within a bridge, `same-bridge` lets all through and `isolated` nothing, whether or not bridged packets are asked
/// about like forwarded ones.
#[test]
fn a_bridge_is_open_within_or_isolated() {
    for value in ["0", "1"] {
        for (name, reaches) in [("same-bridge", true), ("isolated", false), ("open", true)] {
            let world = World::new();
            let _ = br_netfilter(value);
            let list = List::ours(bridge("podnet", 1), policy("podnet", name));
            let (x, y) = (world.container("x"), world.container("y"));
            list.add(&x);
            let to_y = list.add(&y);
            assert_reaches(&x, &y, &to_y, reaches);
            list.check(&y, &to_y);
        }
    }
}

/// The last ADD says what holds, and a container that comes again leaves nothing behind.
#[test]
fn another_policy_takes_the_place_of_the_one_before() {
    let world = World::new();
    let x = world.container("x");
    let mut results = Vec::new();
    for name in ["same-bridge", "isolated", "same-bridge"] {
        let list = List::ours(bridge("podnet", 1), policy("podnet", name));
        let result = list.add(&x);
        list.check(&x, &result);
        list.del(&x, &result);
        results.push(run("nft", ["list table inet pausenet"]));
        assert_eq!(element_count("firewall podnet x eth0"), 0);
    }
    assert_eq!(results[0], results[2]);
    assert_ne!(results[0], results[1]);
}

#[test]
fn check_notices_a_network_that_is_open() {
    let world = World::new();
    let x = world.container("x");
    let list = List::ours(bridge("podnet", 1), policy("podnet", "isolated"));
    let result = list.add(&x);
    run("nft", ["flush set inet pausenet closed"]);
    list.failed_check(&x, &result);
    // The next ADD closes it.
    let y = world.container("y");
    list.add(&y);
    list.check(&x, &result);
    run("nft", ["flush chain inet pausenet ingress_policy"]);
    list.failed_check(&x, &result);
}

/// On a node that switches plugins, DEL of ours removes the rules of the reference's ADD.
#[test]
fn del_removes_the_reference_s_rules() {
    let Some(reference) = lab::peers_today() else {
        return;
    };
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    let list = List::ours(
        bridge("podnet", 1),
        conf("podnet", json!({"backend": "iptables"})),
    );
    let mut configs = Vec::new();
    for container in [&x, &y] {
        let config = list.behind_first(container);
        let call = list.call_second("ADD", &config, container);
        call.program(reference.join("firewall"))
            .var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .run()
            .ok();
        configs.push(config);
    }
    list.call_second("CHECK", &configs[0], &x).run().ok();
    list.call_second("DEL", &configs[0], &x).run().ok();
    list.call_second("CHECK", &configs[0], &x)
        .run()
        .err_code(102);
    for program in PROGRAMS {
        let left = iptables(program, "-S CNI-FORWARD");
        let [of_x, of_y] = match program.starts_with("ip6") {
            false => ["10.1.0.2", "10.1.0.3"],
            true => ["fd00:1::2", "fd00:1::3"],
        };
        assert!(!left.contains(of_x) && left.contains(of_y), "{left}");
    }
}

/// What DEL lets expire is not what the next ADD relies on.
#[test]
fn a_container_that_comes_again_at_once_is_isolated_for_good() {
    for first in [bridge("podnet", 1), ptp("podnet", 1)] {
        let world = World::new();
        let x = world.container("x");
        let list = List::ours(first, policy("podnet", "isolated"));
        for _ in 0..5 {
            let result = list.add(&x);
            assert!(!ruleset().contains("expires"), "{}", ruleset());
            assert_eq!(element_count("firewall podnet x eth0"), 1);
            list.check(&x, &result);
            list.del(&x, &result);
        }
    }
}
