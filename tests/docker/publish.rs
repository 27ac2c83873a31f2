//! `pausectl docker publish` and `unpublish`: ports come and go while a container is at work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use common::docker::{Docker, NO_BRIDGE};
use common::programs;
use common::wait::wait_until;
use common::{Call, podnet, with};

#[test]
fn ports_come_and_go_under_load_and_no_connection_ends() {
    let Some(docker) = Docker::start_with_applications(NO_BRIDGE) else {
        return;
    };
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ]);
    docker.run(&["run", "-d", "--net=container:web", "--name", "app", "nginx"]);
    wait_until("nginx answers", || get("127.0.0.1:8080").is_ok());
    let (pid, anchor) = (docker.pid("app"), docker.pid("web"));

    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = || {
            while !over.load(Ordering::Relaxed) {
                get("127.0.0.1:8080").expect("a request through the port that stays");
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let loads = [scope.spawn(load), scope.spawn(load)];
        for _ in 0..10 {
            let said =
                docker.pausectl_ok(&["docker", "publish", "web", "9090:80", "127.0.0.1:9091:80"]);
            assert_eq!(
                said,
                "web: host port 9090/tcp forwards to port 80\n\
                 web: host port 127.0.0.1:9091/tcp forwards to port 80\n"
            );
            let mut kept = Connection::open("127.0.0.1:9090");
            kept.get();
            get("127.0.0.1:9091").unwrap();
            docker.pausectl_ok(&["docker", "unpublish", "web", "9090", "127.0.0.1:9091:80"]);
            get("127.0.0.1:9090").unwrap_err();
            kept.get(); // made before, it goes on
        }
        over.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().unwrap();
        }
    });
    assert!(served.into_inner() > 20);
    assert_eq!((docker.pid("app"), docker.pid("web")), (pid, anchor));

    docker.run(&["rm", "-f", "app", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.stop_with_nothing_left();
}

#[test]
fn check_and_del_know_the_published_ports() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    // Ours as the chained plugin portmap, too.
    let ours = Path::new(programs::pausenet());
    let portmap = docker.home().join("portmap");
    std::fs::copy(ours, &portmap).unwrap();
    let path = std::env::join_paths([ours.parent().unwrap(), docker.home()]).unwrap();
    let plugins = json!([
        with(podnet(), json!({"name": null, "cniVersion": null})),
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]);
    docker.network(&json!({"cniVersion": "1.0.0", "name": "chain", "plugins": plugins}));
    for (network, mark) in [("podnet", "pausenet podnet"), ("chain", "portmap chain")] {
        let ctl = |args: &[&str]| {
            let output = docker
                .pausectl(args)
                .env("CNI_PATH", &path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
        };
        ctl(&["docker", "up", "web", "--network", network]);
        ctl(&["docker", "publish", "web", "8080:80", "5353:53/udp"]);
        let rules = || common::run("nft", ["--stateless", "list", "ruleset"]);
        let comment = format!("comment \"{mark} docker-web eth0\"");
        assert!(
            rules().contains(&format!("udp . 5353 {comment}")),
            "{}",
            rules()
        );
        check(&docker, network, &portmap);
        ctl(&["docker", "unpublish", "web", "5353/udp"]);
        assert!(!rules().contains("udp . 5353"), "{}", rules());
        assert!(
            rules().contains(&format!("tcp . 8080 {comment}")),
            "{}",
            rules()
        );
        check(&docker, network, &portmap);
        docker.run(&["rm", "-f", "web"]);
        ctl(&["docker", "detach", "web"]);
        docker.assert_nothing_is_left();
        assert!(!rules().contains("tcp . 8080"), "{}", rules());
    }
    docker.stop();
}

/// CHECK of the plugin that maps the ports, with what a runtime would read from libcni's memory.
fn check(docker: &Docker, network: &str, portmap: &Path) {
    let file = format!("/var/lib/cni/results/{network}-docker-web-eth0");
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let changes = json!({
        "name": network,
        "runtimeConfig": kept["capabilityArgs"],
        "prevResult": kept["result"],
    });
    let call = match network {
        "podnet" => Call::new("CHECK", &with(podnet(), changes)),
        _ => {
            let conf = json!({"cniVersion": "1.0.0", "type": "portmap"});
            Call::new("CHECK", &with(conf, changes)).program(portmap)
        }
    };
    let netns = format!("/proc/{}/ns/net", docker.pid("web"));
    call.id("docker-web").var("CNI_NETNS", netns).run().ok();
}

#[test]
fn unavailable_ports_are_refused_and_change_nothing() {
    let Some(docker) = Docker::start(NO_BRIDGE) else {
        return;
    };
    // Of addresses of its own: whoever gets an address takes it from the ports of its last holder.
    let other_range = json!({"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]});
    docker.network(&with(
        podnet(),
        json!({"name": "portless", "bridge": "cni1", "ipam": other_range}),
    ));
    docker.pausectl_ok(&[
        "docker",
        "up",
        "web",
        "--network",
        "podnet",
        "-p",
        "8080:80",
    ]);
    docker.pausectl_ok(&["docker", "up", "other", "--network", "podnet"]);
    docker.pausectl_ok(&["docker", "up", "mute", "--network", "portless"]);
    docker.run(&[
        "run",
        "-d",
        "--net=none",
        "--name",
        "bare",
        "pausenet/pause",
    ]);
    let _served = TcpListener::bind("0.0.0.0:7777").unwrap();
    let rules = || common::run("nft", ["--stateless", "list", "ruleset"]);
    let before = rules();
    for (args, reason) in [
        (
            &["publish", "other", "8080:80"][..],
            "is mapped to network podnet, container docker-web",
        ),
        (&["publish", "other", "9090:80", "8080:80"], "is mapped to"),
        (
            &["publish", "web", "8080:81"],
            "already forwards to port 80 of web",
        ),
        (
            &["publish", "web", "7777:80"],
            "already listens on port 7777/tcp",
        ),
        (
            &["publish", "mute", "9090:80"],
            "does not support published ports",
        ),
        (
            &["publish", "bare", "9090:80"],
            "has no network made by pausectl",
        ),
        (
            &["publish", "nobody", "9090:80"],
            "has no network made by pausectl",
        ),
        (
            &["unpublish", "web", "9090"],
            "its published ports: 8080:80/tcp",
        ),
        (
            &["unpublish", "web", "8080:81"],
            "its published ports: 8080:80/tcp",
        ),
        (&["unpublish", "other", "8080"], "it has no published ports"),
    ] {
        let said = docker.pausectl_fails(1, &[&["docker"], args].concat());
        assert!(said.contains(reason), "{args:?}: {said}");
        assert_eq!(rules(), before, "{args:?}");
    }
    docker.pausectl_fails(2, &["docker", "publish", "web", "99999:80"]);
    docker.pausectl_fails(2, &["docker", "unpublish", "web", "x"]);
    // What was refused is not remembered either.
    docker.run(&["rm", "-f", "web"]);
    docker.pausectl_ok(&["docker", "detach", "web"]);
    docker.pausectl_ok(&["docker", "publish", "other", "8080:80"]);
    docker.stop();
}

/// One request by a connection of its own.
fn get(at: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.contains("Welcome to nginx!"), "{answer}");
    Ok(())
}

/// A connection for several requests.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(at: &str) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    #[track_caller]
    fn get(&mut self) {
        let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        self.0.get_mut().write_all(request).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert_ne!(
                self.0.read_line(&mut line).unwrap(),
                0,
                "the connection has ended"
            );
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut page = vec![0; length];
        self.0.read_exact(&mut page).unwrap();
        assert!(String::from_utf8_lossy(&page).contains("Welcome to nginx!"));
    }
}
