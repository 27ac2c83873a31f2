//! An anchor in Docker: the network belongs to a container of the pause image, pausenet attaches
//! it, and applications come and go.

use std::net::TcpStream;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::connected_container::ConnectedContainer;
use common::docker::{Docker, NO_BRIDGE};
use common::wait::wait_until;
use common::{Call, podnet, with};

/// The gateway of network podnet, which is the host.
const HOST: &str = "10.1.0.1";

#[test]
fn applications_share_address_mac_counters_and_loopback_with_the_anchor() {
    let Some(anchor) = Anchor::start() else {
        return;
    };
    let docker = &anchor.docker;
    anchor.member("app-a", "nginx", &[]);
    for name in ["app-b", "app-c"] {
        anchor.member(name, "hwchiu/netutils", &[]);
        assert_eq!(anchor.interface(name), anchor.interface("anchor"), "{name}");
        let shown = docker.run(&["exec", name, "ifconfig", "eth0"]);
        let address = anchor.result["ips"][0]["address"].as_str().unwrap();
        let address = address.split('/').next().unwrap();
        assert!(shown.contains(&format!("inet {address} ")), "{shown}");
        let mac = anchor.result["interfaces"][2]["mac"].as_str().unwrap();
        assert!(shown.contains(&format!("ether {mac} ")), "{shown}");
    }
    assert_eq!(anchor.interface("app-a"), anchor.interface("anchor"));

    let before = docker.counters("anchor");
    docker.run(&["exec", "app-b", "ping", "-c", "3", HOST]);
    // The kernel's own packets may come between two looks.
    wait_until("all show the same counters", || {
        let counters = ["anchor", "app-a", "app-b", "app-c"].map(|name| docker.counters(name));
        counters[0] != before && counters.iter().all(|other| *other == counters[0])
    });

    // nginx may have to start first.
    for name in ["app-b", "app-c"] {
        wait_until("nginx answers", || {
            let args = ["exec", name, "wget", "-q", "-O", "-", "127.0.0.1"];
            String::from_utf8_lossy(&docker.output(&args).stdout).contains("Welcome to nginx!")
        });
    }
    let from_the_anchor = docker.view("anchor");
    from_the_anchor.enter(|| TcpStream::connect("127.0.0.1:80").unwrap());

    anchor.call("CHECK").ok();
    anchor.call("DEL").ok();
    for name in ["anchor", "app-a", "app-b", "app-c"] {
        assert!(docker.view(name).link("eth0").is_none(), "{name}");
    }
    anchor.end();
}

#[test]
fn applications_die_in_any_order_and_the_others_keep_their_connections() {
    let Some(anchor) = Anchor::start() else {
        return;
    };
    let network = anchor.interface("anchor");
    let orders = ["abc", "acb", "bac", "bca", "cab", "cba"];
    for (round, order) in orders.into_iter().enumerate() {
        let start = |name: &str| {
            ConnectedContainer::start(
                &anchor.docker,
                &format!("{name}{round}"),
                "container:anchor",
                HOST,
            )
        };
        let mut alive = Vec::from(["a", "b", "c"].map(start));
        for (turn, name) in order.chars().enumerate() {
            let dies = alive
                .iter()
                .position(|client| client.name.starts_with(name));
            let dies = alive.remove(dies.unwrap());
            let way = [Death::Kill9, Death::Remove, Death::DockerKill][(round + turn) % 3];
            anchor.end_of(dies, way);
            for client in &mut alive {
                client.answers();
                assert_eq!(anchor.interface(&client.name), network, "{order}, {name}");
            }
            assert_eq!(anchor.interface("anchor"), network, "{order}, {name}");
        }
    }
    anchor.call("CHECK").ok();

    // The anchor goes last; DEL needs neither it nor its namespace.
    anchor.docker.run(&["rm", "-f", "anchor"]);
    anchor.call("DEL").ok();
    anchor.end();
}

/// An anchor without a network of Docker's, attached by pausenet.
struct Anchor {
    docker: Docker,
    container_id: String,
    netns: String,
    result: Value,
}

#[derive(Clone, Copy)]
enum Death {
    Kill9,
    Remove,
    DockerKill,
}

impl Anchor {
    fn start() -> Option<Self> {
        let docker = Docker::start_with_applications(NO_BRIDGE)?;
        let container_id =
            docker.run(&["run", "-d", "--net=none", "--name=anchor", "pausenet/pause"]);
        let netns = format!("/proc/{}/ns/net", docker.pid("anchor"));
        let mut anchor = Self {
            docker,
            container_id,
            netns,
            result: Value::Null,
        };
        anchor.result = anchor.call("ADD").ok();
        Some(anchor)
    }

    /// A call for the anchor, as a runtime would make it.
    fn call(&self, verb: &str) -> common::PluginOutput {
        let config = with(podnet(), json!({"prevResult": self.result}));
        Call::new(verb, &config)
            .id(&self.container_id)
            .var("CNI_NETNS", &self.netns)
            .run()
    }

    /// Starts an application in the anchor's network.
    fn member(&self, name: &str, image: &str, command: &[&str]) {
        let run = ["run", "-d", "--net=container:anchor", "--name", name, image];
        self.docker.run(&[&run, command].concat());
    }

    /// Ends an application, and waits until its connection has ended too.
    fn end_of(&self, client: ConnectedContainer, way: Death) {
        let name = &client.name;
        match way {
            Death::Kill9 => {
                let pid = self.docker.pid(name) as i32;
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            }
            Death::Remove => drop(self.docker.run(&["rm", "-f", name])),
            Death::DockerKill => drop(self.docker.run(&["kill", name])),
        }
        client.ends();
    }

    /// eth0 and its addresses, as a container's process sees them.
    #[track_caller]
    fn interface(&self, container: &str) -> (u32, Option<String>, Vec<String>) {
        let view = self.docker.view(container);
        let link = view.link("eth0").expect("eth0");
        (
            link.index,
            link.mac.map(|mac| mac.to_string()),
            view.addresses("eth0"),
        )
    }

    /// Nothing of the attachment is left, and nothing of Docker.
    fn end(self) {
        self.docker.stop_with_nothing_left();
    }
}
