//! IPAM by the reference's `dhcp`: its daemon, and a real DHCP server (dnsmasq) behind the bridge.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::plugins::{call_as, folder};
use common::traffic::{listen, tcp};
use common::wait::wait_until;
use common::{Container, World, ip, lab, podnet, with};

const SOCKET: &str = "/run/dhcp.sock";
const LEASES: &str = "/run/leases";
const SERVER_LOG: &str = "/run/dnsmasq.log";
const DAEMON_LOG: &str = "/run/dhcp.log";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The addresses that the server has given away.
fn leased() -> Vec<String> {
    let leases = read(LEASES);
    let address = |line: &str| line.split(' ').nth(2).map(str::to_owned);
    leases.lines().filter_map(address).collect()
}

/// A DHCP server in a namespace behind the bridge `cni0`. Leases are renewed after three seconds.
fn server(world: &World) -> (Container, Running) {
    let server = world.container("server");
    ip("link add cni0 up type bridge");
    ip("link add uplink up master cni0 type veth peer name eth0 netns server");
    server.ip("link set eth0 up");
    server.ip("addr add 10.1.0.254/24 dev eth0");
    let mut dnsmasq = server.command("dnsmasq");
    dnsmasq
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args([
            "--interface=eth0",
            "--bind-interfaces",
            "--user=root",
            "--pid-file",
        ])
        .args(["--dhcp-authoritative", "--no-ping", "--log-dhcp"])
        .arg("--dhcp-range=10.1.0.100,10.1.0.120,255.255.255.0,120")
        .args([
            "--dhcp-option=option:router,10.1.0.254",
            "--dhcp-option=option:T1,3",
        ])
        .arg(format!("--dhcp-leasefile={LEASES}"))
        .arg(format!("--log-facility={SERVER_LOG}"));
    let running = Running(dnsmasq.spawn().expect("dnsmasq"));
    wait_until("dnsmasq is ready", || {
        read(SERVER_LOG).contains("DHCP, IP range")
    });
    (server, running)
}

fn daemon(peers: &Path) -> Running {
    let log = fs::File::create(DAEMON_LOG).unwrap();
    let mut daemon = Command::new(peers.join("dhcp"));
    daemon.args(["daemon", "-socketpath", SOCKET]);
    daemon.stdout(Stdio::null()).stderr(log);
    let running = Running(daemon.spawn().expect("the daemon of dhcp"));
    wait_until("the daemon listens", || Path::new(SOCKET).exists());
    running
}

fn config(version: &str) -> Value {
    let ipam = json!({"type": "dhcp", "daemonSocketPath": SOCKET});
    with(
        podnet(),
        json!({"cniVersion": version, "isDefaultGateway": null, "ipam": ipam}),
    )
}

/// The reference's plugins of both versions, with the one that sends its release from the leased
/// address, which dnsmasq insists on.
fn peers() -> Option<[(std::path::PathBuf, &'static str, bool); 2]> {
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        lab::skip("dnsmasq is not installed (package dnsmasq-base)");
        return None;
    }
    Some([
        (lab::peers_today()?, "1.1.0", true),
        (lab::peers()?, "1.0.0", false),
    ])
}

#[test]
fn a_lease_is_taken_renewed_and_given_back() {
    let Some(peers) = peers() else { return };
    for (theirs, version, is_heard) in peers {
        for name in ["pausenet", "bridge"] {
            let world = World::new();
            let (server, _dnsmasq) = server(&world);
            let _daemon = daemon(&theirs);
            let x = world.container("x");
            let path = format!("{}:{}", theirs.display(), folder().display());
            let call = |verb: &str, config: &Value| {
                let config = with(config.clone(), json!({"type": name}));
                let call = match name {
                    "bridge" => call_as(name, verb, &config, &x),
                    _ => common::call(verb, &config, &x),
                };
                call.var("CNI_PATH", &path).run()
            };

            let result = call("ADD", &config(version)).ok();

            let address = result["ips"][0]["address"].as_str().unwrap();
            assert_eq!(x.addresses("eth0"), [address]);
            assert_eq!(x.routes(), ["0.0.0.0/0 via 10.1.0.254"]);
            let given = leased();
            assert_eq!(given.len(), 1, "{given:?}");
            assert!(address.starts_with(&format!("{}/", given[0])), "{given:?}");
            assert!(
                !read(DAEMON_LOG).contains("retrying"),
                "{}",
                read(DAEMON_LOG)
            );
            tcp(
                &listen(Some(&server), "10.1.0.254:80"),
                Some(&x),
                "10.1.0.254:80",
            );

            wait_until("the lease is renewed", || {
                read(DAEMON_LOG).contains("lease renewed")
            });
            let known = with(config(version), json!({"prevResult": result}));
            call("CHECK", &known).ok();

            call("DEL", &known).ok();

            assert!(x.link("eth0").is_none());
            let log = read(DAEMON_LOG);
            assert!(log.contains("releasing lease"), "{log}");
            assert!(!log.contains("failed to release"), "{log}");
            wait_until("the server hears of it", || {
                read(SERVER_LOG).contains("DHCPRELEASE")
            });
            if is_heard {
                wait_until("the server has the address back", || leased().is_empty());
            }
            call("DEL", &known).ok();
        }
    }
}

#[test]
fn a_lease_is_given_back_when_the_rest_of_add_fails() {
    let Some(peers) = peers() else { return };
    let [(theirs, version, _), _] = peers;
    let world = World::new();
    let (_server, _dnsmasq) = server(&world);
    let _daemon = daemon(&theirs);
    let ports = json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}});
    let config = with(config(version), ports);
    let add = |container: &Container| {
        let call = common::call("ADD", &config, container);
        call.var("CNI_PATH", theirs.as_os_str()).run()
    };
    let x = world.container("x");
    add(&x).ok();
    let before = leased();
    let y = world.container("y");

    add(&y).err_code(103);

    assert!(y.link("eth0").is_none());
    wait_until("only the first lease is left", || leased() == before);
}

#[test]
fn without_its_daemon_dhcp_fails_and_nothing_is_left() {
    let Some(peers) = peers() else { return };
    let [(theirs, version, _), _] = peers;
    let world = World::new();
    let x = world.container("x");
    let before = world.snapshot().without_bridge("cni0");
    let call = common::call("ADD", &config(version), &x);
    let error = call.var("CNI_PATH", theirs.as_os_str()).run().err();
    let message = error["msg"].as_str().unwrap();
    assert!(
        message.contains("dhcp") && message.contains(SOCKET),
        "{message}"
    );
    assert_eq!(world.snapshot().without_bridge("cni0"), before);
    assert!(x.link("eth0").is_none());
}
