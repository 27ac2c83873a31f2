//! Published ports: what is taken is seen first and named, ranges, and the list.

use std::net::TcpListener;

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE, OWN_BRIDGE};
use common::run;
use common::screen::assert_is_in_the_docs;

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_done_and_its_holder_named() {
    let Some(mut docker) = Docker::start_with_applications(OWN_BRIDGE) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listened = listener.local_addr().unwrap().port();
    let process = format!("process {} (", std::process::id());
    docker.run(&["run", "-d", "-p", "7000:80", "--name", "theirs", "nginx"]);
    docker.run(&["run", "-d", "--net=none", "--name", "job", "pausenet/pause"]);
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ]);
    docker.take_host_as_it_is();
    let own = format!("{listened}:80");
    for (port, reason) in [
        (own.as_str(), process.as_str()),
        (
            "7000:80",
            "Docker already publishes host port 7000/tcp, of container theirs",
        ),
        (
            "8080:80",
            "host port 8080/tcp is mapped to network podnet, container docker-web, interface eth0 already: port 80 of container web",
        ),
        ("8079-8081:79-81", "host port 8080/tcp is mapped to"),
    ] {
        for command in [
            &[
                "docker",
                "up",
                "new",
                "--network",
                "podnet",
                "--publish",
                port,
            ][..],
            &[
                "docker",
                "attach",
                "job",
                "--network",
                "podnet",
                "--publish",
                port,
            ],
        ] {
            let said = docker.pausectl_fails(1, command);
            assert!(said.contains(reason), "{command:?}: {said}");
            docker.assert_host_is_as_before();
        }
    }
    for (port, reason) in [
        (own.as_str(), process.as_str()),
        ("7000:80", "container theirs"),
    ] {
        let said = docker.pausectl_fails(1, &["docker", "publish", "web", port]);
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(
        docker.run(&["ps", "-a", "--format", "{{.Names}}", "--filter", "name=new"]),
        ""
    );
    // Another protocol, or an address beside all addresses, is free.
    docker.pausectl_ok(&[
        "docker",
        "publish",
        "web",
        "8080:80/udp",
        "127.0.0.1:8080:80",
    ]);
    docker.run(&["rm", "-f", "web", "job", "theirs"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop();
}

#[test]
fn ranges_are_published_and_all_ports_are_listed() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    assert_eq!(
        docker.pausectl_ok(&["docker", "ports"]),
        "no published ports\n"
    );
    let up = ["docker", "up", "web", "--network", "podnet"];
    docker.pausectl_ok(
        &[
            &up[..],
            &["-p", "8000-8001:80-81", "-p", "127.0.0.1:53:53/udp"],
        ]
        .concat(),
    );
    // The first that is free of a range for one port.
    let up = ["docker", "up", "db", "--network", "podnet"];
    let said = docker.pausectl_ok(&[&up[..], &["-p", "8000-8010:90"]].concat());
    assert!(
        said.contains("db: host port 8002/tcp forwards to port 90"),
        "{said}"
    );
    docker.pausectl_ok(&["docker", "publish", "web", "9000-9002:9000-9002/sctp"]);
    let listed = docker.pausectl_ok(&["docker", "ports"]);
    let expected = "\
NAME  NETWORK  INTERFACE  HOST PORT         LEADS TO       STATE
db    podnet   eth0       8002/tcp          10.1.0.3:90    published
web   podnet   eth0       8000/tcp          10.1.0.2:80    published
web   podnet   eth0       8001/tcp          10.1.0.2:81    published
web   podnet   eth0       127.0.0.1:53/udp  10.1.0.2:53    published
web   podnet   eth0       9000/sctp         10.1.0.2:9000  published
web   podnet   eth0       9001/sctp         10.1.0.2:9001  published
web   podnet   eth0       9002/sctp         10.1.0.2:9002  published
";
    assert_eq!(listed, expected);
    assert_is_in_the_docs(&listed);
    let one = docker.pausectl_ok(&["docker", "ports", "db"]);
    assert_eq!(one.lines().count(), 2, "{one}");
    run("nft", ["delete", "table", "inet", "pausenet"]);
    let json = docker.pausectl_ok(&["docker", "ports", "db", "--output", "json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        json!({"ports": [{
            "name": "db", "containerId": "docker-db", "network": "podnet", "ifname": "eth0",
            "hostPort": 8002, "containerPort": 90, "protocol": "tcp",
            "addresses": ["10.1.0.3"], "state": "missing",
        }]})
    );
    docker.pausectl_ok(&["doctor", "--check", "rules", "--fix"]);
    assert_eq!(docker.pausectl_ok(&["docker", "ports"]), expected);
    docker.pausectl_ok(&[
        "docker",
        "unpublish",
        "web",
        "9000-9002/sctp",
        "8000-8001:80-81",
    ]);
    let left = docker.pausectl_ok(&["docker", "ports", "web"]);
    assert_eq!(left.lines().count(), 2, "{left}");
    let said = docker.pausectl_fails(1, &["docker", "ports", "nobody"]);
    assert!(
        said.contains("nobody has no network made by pausectl"),
        "{said}"
    );
    docker.run(&["rm", "-f", "web", "db"]);
    docker.pausectl_ok(&["docker", "watch", "--once"]);
    docker.stop_with_nothing_left();
}
