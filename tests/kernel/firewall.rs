//! Another firewall on the host: Docker's, whose FORWARD drops what its chain DOCKER-USER does not
//! accept, made with the real iptables.

mod obstacles;

use std::collections::BTreeSet;

use pausenet::plan::HOST_END_START;
use serde_json::{Value, json};

use common::firewall::{
    FirewalledPods, PROGRAMS, br_netfilter, docker_user_rules, dual_stack, expected_rules,
    iptables, off, routed, without_ports,
};
use common::nftables::ruleset;
use common::programs;
use common::traffic::{listen, tcp, tcp_is_blocked};
use common::{Call, World, added, call, lab, podnet, run, with};

/// A world with a node whose firewall is as Docker makes it, for the programs' families.
fn docker_host(programs: &[&str]) -> Option<World> {
    if run_quietly("iptables-nft --version").is_none() {
        lab::skip("there is no iptables-nft");
        return None;
    }
    let world = World::new();
    for program in programs {
        for args in [
            "-N DOCKER-USER",
            "-A DOCKER-USER -j RETURN",
            "-I FORWARD -j DOCKER-USER",
            "-P FORWARD DROP",
        ] {
            iptables(program, args);
        }
    }
    Some(world)
}

fn run_quietly(command: &str) -> Option<String> {
    let mut words = command.split(' ');
    let output = std::process::Command::new(words.next()?)
        .args(words)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn pods_on_a_bridge_reach_each_other_the_outside_and_their_published_ports() {
    for value in ["0", "1"] {
        let Some(world) = docker_host(&PROGRAMS) else {
            return;
        };
        // Where frames between ports are asked about too, a policy of DROP cuts neighbours off.
        let there = br_netfilter(value);
        FirewalledPods::new(&world, &dual_stack()).assert_reachable();
        if !there {
            return lab::skip_for_the_kernel("br_netfilter");
        }
    }
}

#[test]
fn routed_pods_reach_each_other_the_outside_and_their_published_ports() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    FirewalledPods::new(&world, &routed(dual_stack())).assert_reachable();
}

#[test]
fn without_accept_rules_the_host_drops_pod_traffic() {
    for config in [off(dual_stack()), off(routed(dual_stack()))] {
        let Some(world) = docker_host(&PROGRAMS) else {
            return;
        };
        let pods = FirewalledPods::new(&world, &config);
        pods.assert_blocked();
        for program in PROGRAMS {
            assert_eq!(docker_user_rules(program), ["-j RETURN"]);
        }
    }
}

#[test]
fn frames_on_a_layer_2_network_pass_too() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    if !br_netfilter("1") {
        return lab::skip_for_the_kernel("br_netfilter");
    }
    let switch = json!({"cniVersion": "1.1.0", "name": "switch", "type": "pausenet"});
    let (x, _) = added(&world, &switch, "x");
    let (y, _) = added(&world, &switch, "y");
    x.ip("addr add 10.9.0.2/24 dev eth0");
    y.ip("addr add 10.9.0.3/24 dev eth0");
    let server = listen(Some(&y), "10.9.0.3:7000");
    tcp(&server, Some(&x), "10.9.0.3:7000");
    for program in PROGRAMS {
        assert_eq!(
            docker_user_rules(program)[..3],
            expected_rules("cni0", "switch")
        );
    }
}

#[test]
fn iptables_saves_and_restores_the_rules_and_they_are_not_added_twice() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    added(&world, &without_ports(), "x");
    let othernet = json!({"name": "othernet", "ipam": {"type": "host-local",
        "ranges": [[{"subnet": "10.2.0.0/22"}], [{"subnet": "10.3.0.0/29"}], [{"subnet": "fd02::/64"}]]}});
    added(
        &world,
        &routed(with(without_ports(), othernet.clone())),
        "y",
    );

    let behind = |subnet: &str, comment: &str| {
        let ends = format!("{HOST_END_START}+");
        let comment = |what| {
            format!("-m comment --comment \"pausenet othernet: {what} {comment}\" -j ACCEPT")
        };
        let to = format!("-d {subnet} -o {ends} -m conntrack --ctstate");
        [
            format!("-s {subnet} -i {ends} {}", comment("from")),
            format!("{to} RELATED,ESTABLISHED {}", comment("answers to")),
            format!("{to} DNAT {}", comment("mapped to")),
        ]
    };
    let mut expected = [(); 2].map(|()| Vec::from(expected_rules("cni0", "podnet")));
    for (family, subnet) in [(0, "10.2.0.0/22"), (0, "10.3.0.0/29"), (1, "fd02::/64")] {
        expected[family].extend(behind(subnet, subnet));
    }
    for (program, mut expected) in PROGRAMS.into_iter().zip(expected) {
        expected.push("-j RETURN".to_owned());
        assert_eq!(docker_user_rules(program), expected);

        let save = || run(&format!("{program}-save"), ["-t", "filter"]);
        let saved = save();
        std::fs::write("/run/saved", &saved).unwrap();
        iptables(program, "-F DOCKER-USER");
        run(&format!("{program}-restore"), ["/run/saved"]);
        assert_eq!(docker_user_rules(program), expected);
    }
    // They are in iptables' own form now.
    added(&world, &without_ports(), "z");
    added(&world, &routed(with(without_ports(), othernet)), "w");
    assert_eq!(docker_user_rules(PROGRAMS[0]).len(), 10);
    assert_eq!(docker_user_rules(PROGRAMS[1]).len(), 7);
}

#[test]
fn iptables_deletes_each_rule_as_printed() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    added(&world, &without_ports(), "x");
    let othernet = json!({"name": "othernet", "ipam": {"type": "host-local",
        "ranges": [[{"subnet": "10.2.0.0/22"}], [{"subnet": "fd02::/60"}]]}});
    added(&world, &routed(with(without_ports(), othernet)), "y");
    for program in PROGRAMS {
        for rule in docker_user_rules(program) {
            // A shell takes the quotes away.
            run("sh", ["-c", &format!("{program} -D DOCKER-USER {rule}")]);
        }
        assert_eq!(docker_user_rules(program), [""; 0]);
    }
}

#[test]
fn a_user_s_drop_rule_wins_whether_added_before_or_after() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let drop = "-s 10.1.0.3/32 -j DROP";
    iptables("iptables-nft", &format!("-I DOCKER-USER {drop}"));
    let pods = FirewalledPods::new(&world, &dual_stack());
    let server = listen(Some(&pods.outside), "192.0.2.2:7000");
    tcp(&server, Some(&pods.pod), "192.0.2.2:7000");
    tcp_is_blocked(Some(&pods.neighbour), "192.0.2.2:7000");
    assert_eq!(docker_user_rules("iptables-nft")[0], drop);

    iptables("iptables-nft", "-I DOCKER-USER -d 192.0.2.2 -j DROP");
    tcp_is_blocked(Some(&pods.pod), "192.0.2.2:7000");
    // And still does when a pod comes.
    added(&world, &without_ports(), "later");
    tcp_is_blocked(Some(&pods.pod), "192.0.2.2:7000");
}

#[test]
fn concurrent_adds_add_the_rules_once() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let config = without_ports();
    let pods: Vec<_> = (0..20).map(|n| world.container(&format!("x{n}"))).collect();
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| call("ADD", &config, pod).run().ok());
        }
    });
    for program in PROGRAMS {
        let rules = docker_user_rules(program);
        assert_eq!(rules[..3], expected_rules("cni0", "podnet"));
        assert_eq!(rules[3..], ["-j RETURN"]);
    }
}

#[test]
fn rules_are_appended_to_a_chain_without_a_return() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    iptables("iptables-nft", "-F DOCKER-USER");
    iptables("iptables-nft", "-A DOCKER-USER -s 192.0.2.9 -j DROP");
    added(&world, &without_ports(), "x");
    let rules = docker_user_rules("iptables-nft");
    assert_eq!(rules[0], "-s 192.0.2.9/32 -j DROP");
    assert_eq!(rules[1..], expected_rules("cni0", "podnet"));
}

#[test]
fn deleted_rules_come_back_with_the_next_add() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let (x, result) = added(&world, &without_ports(), "x");
    let config = with(without_ports(), json!({"prevResult": result}));
    let check = call("CHECK", &config, &x);
    check.run().ok();
    let third = "iptables-nft -D DOCKER-USER 3";
    let flush = "ip6tables-nft -F DOCKER-USER";
    for (n, (command, lost)) in [(third, "mapped to cni0"), (flush, "from cni0")]
        .into_iter()
        .enumerate()
    {
        let before = PROGRAMS.map(|program| docker_user_rules(program));
        run("sh", ["-c", command]);

        let error = check.run().err_code(102);
        let said = error["msg"].as_str().unwrap();
        assert!(
            said.contains("DOCKER-USER") && said.contains(lost),
            "{said}"
        );

        added(&world, &without_ports(), &format!("next{n}"));
        check.run().ok();
        let as_set = |rules: Vec<String>| rules.into_iter().collect::<BTreeSet<_>>();
        for (program, before) in PROGRAMS.into_iter().zip(before) {
            let (now, mut before) = (as_set(docker_user_rules(program)), as_set(before));
            if command == flush && program == "ip6tables-nft" {
                before.remove("-j RETURN");
            }
            assert_eq!(now, before);
        }
    }
}

#[test]
fn a_table_without_the_chain_is_left_alone_and_check_and_del_succeed() {
    let Some(world) = docker_host(&["iptables-nft"]) else {
        return;
    };
    let config = with(without_ports(), json!({"ipMasq": false}));
    let (x, result) = added(&world, &config, "x");
    assert_eq!(docker_user_rules("iptables-nft").len(), 4);
    assert!(!ruleset().contains("ip6"), "{}", ruleset());
    let config = with(config, json!({"prevResult": result}));
    call("CHECK", &config, &x).run().ok();

    // Docker is gone, and what it had made.
    run("nft", ["flush", "ruleset"]);

    call("CHECK", &config, &x).run().ok();
    call("DEL", &config, &x).run().ok();
    assert_eq!(ruleset(), "");
    added(&world, &with(config, json!({"prevResult": null})), "y");
    assert_eq!(ruleset(), "");
}

#[test]
fn a_del_and_an_add_that_fails_leave_the_network_s_rules() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let (x, _) = added(&world, &without_ports(), "x");
    let before = PROGRAMS.map(|program| docker_user_rules(program));
    call("ADD", &without_ports(), &x).run().err_code(100);
    assert_eq!(PROGRAMS.map(|program| docker_user_rules(program)), before);
    call("DEL", &without_ports(), &x).run().ok();
    assert_eq!(PROGRAMS.map(|program| docker_user_rules(program)), before);
}

#[test]
fn gc_of_a_network_without_attachments_removes_only_its_rules() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let othernet = json!({"name": "podnet2", "bridge": "cni1", "ipam": {"type": "host-local",
        "ranges": [[{"subnet": "10.2.0.0/24"}], [{"subnet": "fd02::/64"}]]}});
    added(&world, &without_ports(), "x");
    added(&world, &with(without_ports(), othernet), "y");
    let gc = |valid: Value| {
        let config = with(without_ports(), json!({"cni.dev/valid-attachments": valid}));
        Call::new("GC", &config).run().ok();
    };
    gc(json!([{"containerID": "x", "ifname": "eth0"}]));
    for program in PROGRAMS {
        assert_eq!(
            docker_user_rules(program)[..3],
            expected_rules("cni0", "podnet")
        );
    }
    gc(json!([]));
    for program in PROGRAMS {
        let rules = docker_user_rules(program);
        assert_eq!(rules[..3], expected_rules("cni1", "podnet2"));
        assert_eq!(rules[3..], ["-j RETURN"]);
    }
}

#[test]
fn the_firewall_key_is_auto_or_off_and_ignored_under_reference_names() {
    let Some(world) = docker_host(&PROGRAMS) else {
        return;
    };
    let x = world.container("x");
    let before = ruleset();
    for (value, code) in [(json!("on"), 7), (json!("OFF"), 7), (json!(true), 6)] {
        let config = with(without_ports(), json!({"firewall": value}));
        let error = call("ADD", &config, &x).run().err_code(code);
        assert!(error["msg"].as_str().unwrap().contains("firewall") || code == 6);
        assert_eq!(ruleset(), before);
        // What no ADD takes, DEL does.
        call("DEL", &config, &x).run().ok();
    }
    let dir = tempfile::tempdir().unwrap();
    for (n, name) in ["bridge", "ptp"].into_iter().enumerate() {
        let program = dir.path().join(name);
        std::os::unix::fs::symlink(programs::pausenet(), &program).unwrap();
        let ipam = json!({"type": "host-local", "subnet": format!("10.{}.0.0/24", 20 + n)});
        let config = json!({"type": name, "name": name, "ipMasq": false, "ipam": ipam,
            "bridge": "cni7", "isGateway": true, "firewall": {"of": "another"}});
        let config = with(podnet(), config);
        let pod = world.container(name);
        call("ADD", &config, &pod).program(&program).run().ok();
        assert_eq!(ruleset(), before, "{name}");
    }
    for value in [json!(null), json!(""), json!("auto")] {
        let config = with(without_ports(), json!({"firewall": value}));
        call("ADD", &config, &x).run().ok();
        assert_eq!(docker_user_rules("iptables-nft").len(), 4);
        call("DEL", &config, &x).run().ok();
    }
}
