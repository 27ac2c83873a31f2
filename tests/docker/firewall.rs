//! A stock Docker host: the daemon's own bridge, and its firewall, which drops what others forward.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use common::docker::{Docker, OWN_BRIDGE};
use common::firewall::{
    FirewalledPods, PROGRAMS, br_netfilter, docker_user_rules, dual_stack, expected_rules,
    iptables, off, routed, without_ports,
};
use common::traffic::{listen, tcp, tcp_is_blocked};
use common::wait::wait_until;
use common::{Call, Container, added, lab, run, with};

/// Whether Docker 29 was asked to keep its rules in nftables: see scripts/lab/docker.sh.
fn uses_nftables() -> bool {
    std::env::var_os("DOCKER_FIREWALL").is_some_and(|firewall| firewall == "nftables")
}

/// A daemon that keeps its rules where we can put ours, and drops what is forwarded.
fn stock_host(start: fn(&[&str]) -> Option<Docker>) -> Option<Docker> {
    if uses_nftables() {
        lab::skip("Docker's nftables backend has no chain for other people's rules");
        return None;
    }
    let docker = start(OWN_BRIDGE)?;
    if !run("iptables", ["--version"]).contains("nf_tables") {
        lab::skip("the machine's iptables, which Docker uses, is iptables-legacy");
        return None;
    }
    for program in ["iptables", "ip6tables"] {
        // With IPv6 the policy is ACCEPT until a network of Docker's has it.
        iptables(program, "-P FORWARD DROP");
        let rules = iptables(program, "-S FORWARD");
        assert!(
            rules.starts_with("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"),
            "{program}: {rules}"
        );
    }
    for program in PROGRAMS {
        assert!(docker_user_rules(program).is_empty());
    }
    Some(docker)
}

/// The response of an HTTP server to a client.
fn page(from: &Container, address: &str) -> std::io::Result<String> {
    from.enter(|| {
        let mut stream =
            TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })
}

fn serves_nginx(from: &Container, address: &str) {
    wait_until("nginx answers", || {
        page(from, address).is_ok_and(|page| page.contains("Welcome to nginx!"))
    });
}

#[test]
fn pods_on_a_bridge_work_beside_docker_s_own_containers_and_after_its_restart() {
    let Some(docker) = stock_host(Docker::start_with_applications) else {
        return;
    };
    br_netfilter("1"); // where there is such a thing
    let pods = FirewalledPods::new(&docker.world, &dual_stack());
    pods.assert_reachable();
    for program in PROGRAMS {
        assert_eq!(docker_user_rules(program), expected_rules("cni0", "podnet"));
    }

    // Docker's own have what they always had.
    let publish = ["run", "-d", "--name=own", "-p", "8090:80", "nginx"];
    docker.run(&publish);
    serves_nginx(&pods.outside, "192.0.2.1:8090");
    docker.run(&["run", "-d", "--name=unpublished", "nginx"]);
    let address = docker.inspect("unpublished", ".NetworkSettings.IPAddress");
    wait_until("its neighbour reaches it", || {
        let wget = ["exec", "own", "wget", "-q", "-O", "-", &address];
        docker.output(&wget).status.success()
    });
    tcp_is_blocked(Some(&pods.outside), &format!("{address}:80"));
    docker.run(&["exec", "own", "ping", "-c", "1", "-W", "5", "192.0.2.2"]);

    // An anchor of Docker's, with an application and a published port of ours.
    docker.run(&["run", "-d", "--net=none", "--name=anchor", "pausenet/pause"]);
    docker.run(&["run", "-d", "--net=container:anchor", "--name=app", "nginx"]);
    let ports = json!([{"hostPort": 8091, "containerPort": 80, "protocol": "tcp"}]);
    let config = with(
        dual_stack(),
        json!({"runtimeConfig": {"portMappings": ports}}),
    );
    let netns = format!("/proc/{}/ns/net", docker.pid("anchor"));
    let add = Call::new("ADD", &config)
        .id("anchor")
        .var("CNI_NETNS", &netns);
    let result = add.run().ok();
    serves_nginx(&pods.outside, "192.0.2.1:8091");
    serves_nginx(&pods.outside, "[fd99:2::1]:8091");

    // The chain for others is the one thing that Docker leaves as it is.
    let rules = PROGRAMS.map(docker_user_rules);
    docker.restart_daemon();
    assert_eq!(PROGRAMS.map(docker_user_rules), rules);
    pods.assert_reachable();
    let with_result = |result: &Value| with(config.clone(), json!({"prevResult": result}));
    let del = Call::new("DEL", &with_result(&result)).id("anchor");
    del.var("CNI_NETNS", &netns).run().ok();
    docker.stop();
}

#[test]
fn pods_reach_docker_s_containers_by_port_and_by_address_where_their_network_allows_it() {
    let Some(docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    let pods = FirewalledPods::new(&docker.world, &dual_stack());
    docker.run(&["run", "-d", "--name=plain", "-p", "8090:80", "nginx"]);
    serves_nginx(&pods.pod, "192.0.2.1:8090");
    let address_in = |container: &str, network: &str| {
        let path = format!("(index .NetworkSettings.Networks \"{network}\").IPAddress");
        format!("{}:80", docker.inspect(container, &path))
    };
    tcp_is_blocked(Some(&pods.pod), &address_in("plain", "bridge"));

    for (network, option) in [
        ("trusting", "trusted_host_interfaces=cni0"),
        ("unprotected", "gateway_mode_ipv4=nat-unprotected"),
    ] {
        let option = format!("com.docker.network.bridge.{option}");
        docker.run(&["network", "create", "-o", &option, network]);
        docker.run(&[
            "run",
            "-d",
            "--name",
            network,
            "--network",
            network,
            "nginx",
        ]);
        let address = address_in(network, network);
        if uses_nftables() && network == "trusting" {
            // Trust ends at its chain in the hook forward, which lets nothing in but published ports.
            tcp_is_blocked(Some(&pods.pod), &address);
        } else {
            serves_nginx(&pods.pod, &address);
        }
    }
    docker.stop();
}

#[test]
fn routed_pods_work_and_the_user_s_own_drop_wins() {
    let Some(docker) = stock_host(Docker::start) else {
        return;
    };
    let pods = FirewalledPods::new(&docker.world, &routed(dual_stack()));
    pods.assert_reachable();
    let server = listen(Some(&pods.outside), "192.0.2.2:7000");
    iptables("iptables", "-I DOCKER-USER -d 192.0.2.2 -j DROP");
    tcp_is_blocked(Some(&pods.pod), "192.0.2.2:7000");
    iptables("iptables", "-D DOCKER-USER -d 192.0.2.2 -j DROP");
    tcp(&server, Some(&pods.pod), "192.0.2.2:7000");
    drop(server);

    // Somebody has emptied the chain: the next pod has it filled again.
    for program in PROGRAMS {
        iptables(program, "-F DOCKER-USER");
    }
    pods.assert_blocked();
    added(&docker.world, &routed(without_ports()), "next");
    pods.assert_reachable();
    docker.stop();
}

#[test]
#[ignore = "for scripts/lab/docker-tests.sh 29 nftables"]
fn docker_s_nftables_backend_is_in_nobody_s_way() {
    assert!(uses_nftables());
    let Some(docker) = Docker::start(OWN_BRIDGE) else {
        return;
    };
    let pods = FirewalledPods::new(&docker.world, &off(dual_stack()));
    let server = listen(Some(&pods.pod), "10.1.0.2:80");
    for address in ["192.0.2.1:8080", "10.1.0.2:80"] {
        tcp(&server, Some(&pods.outside), address);
    }
    docker.stop();
}

#[test]
fn with_the_option_off_docker_s_firewall_is_untouched_and_drops_the_pods_traffic() {
    let Some(docker) = stock_host(Docker::start) else {
        return;
    };
    let pods = FirewalledPods::new(&docker.world, &off(dual_stack()));
    pods.assert_blocked();
    for program in PROGRAMS {
        assert!(docker_user_rules(program).is_empty());
    }
    docker.stop();
}
