//! The host of a crash test: the pod whose call is killed, and a neighbour that must not change.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pausenet::kernel::link;
use serde_json::{Value, json};

use common::{Call, Container, NetState, Snapshot, World, podnet, run, with};

/// What there is on the host before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Host {
    /// Nothing: no bridge, no store, no lock has ever been made.
    Fresh,
    /// A neighbour on the same network, which has to stay as it is.
    Shared,
}

pub(crate) struct TwoPods {
    world: World,
    host: Host,
    neighbour: Container,
    victim: Container,
    before: State,
    /// The rules of nftables that an ADD leaves.
    rules: Vec<String>,
}

/// All that may not change.
struct State {
    host: Snapshot,
    /// Elements of nftables, each with its owner.
    elements: Vec<String>,
    neighbour: NetState,
    victim: NetState,
}

impl TwoPods {
    pub(crate) fn new(host: Host) -> Self {
        let world = World::new();
        let neighbour = world.container("neighbour");
        let victim = world.container("victim");
        no_link_local();
        neighbour.enter(no_link_local);
        victim.enter(no_link_local);
        if host == Host::Shared {
            call("ADD", "neighbour", &neighbour).run().ok();
            // Its port carries traffic by now; the kernel says so of the bridge a moment later.
            let bridge = world.link("cni0").unwrap();
            link::wait_running(bridge.index, Duration::from_secs(10)).unwrap();
        }
        let before = State::read(&world, &neighbour, &victim, host);
        call("ADD", "victim", &victim).run().ok();
        let rules = nftables("rule");
        let pods = Self {
            world,
            host,
            neighbour,
            victim,
            before,
            rules,
        };
        pods.call("DEL").run().ok();
        pods
    }

    /// A call about the pod that it happens to.
    pub(crate) fn call(&self, verb: &str) -> Call {
        call(verb, "victim", &self.victim)
    }

    /// Back to the beginning after a DEL: on a fresh host as if nothing had ever been made.
    pub(crate) fn reset(&self) {
        if self.host == Host::Fresh {
            if self.world.link("cni0").is_some() {
                run("ip", ["link", "del", "cni0"]);
            }
            run("nft", ["flush", "ruleset"]);
            for made in ["/run/pausenet", "/var/lib/cni"] {
                if Path::new(made).exists() {
                    fs::remove_dir_all(made).unwrap();
                }
            }
        }
    }

    /// True when the ADD got as far as its last change: what is there is an attachment.
    pub(crate) fn is_committed(&self) -> bool {
        let alias = "pausenet podnet victim eth0";
        let mut links = self.world.links().into_iter();
        links.any(|link| link.alias.as_deref() == Some(alias))
    }

    /// `result` came of an ADD just now: everything is as it says, and there is no more.
    #[track_caller]
    pub(crate) fn assert_complete(&self, result: &Value, after: &str) {
        let mut check = self.call("CHECK");
        let config = with(network("victim"), json!({"prevResult": result}));
        check = check.stdin(config.to_string());
        let verdict = check.run();
        assert!(verdict.0.status.success(), "{after}: {verdict:?}");
        let host = self.state().host;
        assert_eq!(
            host.net.links.len(),
            self.before.host.net.links.len() + 1,
            "{after}"
        );
        let ours = |content: &Vec<u8>| content == b"victim\r\neth0";
        let reserved = host.store.values().filter(|content| ours(content)).count();
        assert_eq!(reserved, 2, "{after}: one address of each family");
        assert_eq!(nftables("rule"), self.rules, "{after}: rules");
    }

    /// The host, the store and both pods are as before; but for the bridge, which may stay.
    #[track_caller]
    pub(crate) fn assert_unchanged(&self, after: &str) {
        let (before, now) = (&self.before, &self.state());
        let parts = [
            (&before.host.net, &now.host.net, "the host"),
            (&before.neighbour, &now.neighbour, "the neighbour"),
            (&before.victim, &now.victim, "the victim"),
        ];
        assert_eq!(now.host.store, before.host.store, "{after}: the store");
        assert_eq!(now.elements, before.elements, "{after}: nftables");
        for (before, now, whose) in parts {
            assert_eq!(now.links, before.links, "{after}: links of {whose}");
            assert_eq!(
                now.addresses, before.addresses,
                "{after}: addresses of {whose}"
            );
            assert_eq!(now.routes, before.routes, "{after}: routes of {whose}");
        }
    }

    /// The same, and no lock of the attachment is left either.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, after: &str) {
        self.assert_unchanged(after);
        let locks = fs::read_dir("/run/pausenet/lock").map_or(0, Iterator::count);
        assert_eq!(locks, 0, "{after}: locks");
    }

    fn state(&self) -> State {
        State::read(&self.world, &self.neighbour, &self.victim, self.host)
    }
}

impl State {
    fn read(world: &World, neighbour: &Container, victim: &Container, host: Host) -> Self {
        let mut snapshot = world.snapshot().addresses_only();
        if host == Host::Fresh {
            snapshot = snapshot.without_bridge("cni0");
        }
        Self {
            host: snapshot,
            elements: nftables("element"),
            neighbour: neighbour.state(),
            victim: victim.state(),
        }
    }
}

/// Link-local addresses come by themselves, some time after their link: no help in comparing.
fn no_link_local() {
    let auto = "/proc/sys/net/ipv6/conf/default/addr_gen_mode";
    fs::write(auto, "1").unwrap();
}

/// All elements, or all rules, of nftables, as nft prints them, without handles.
fn nftables(what: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(&run("nft", ["-j", "list", "ruleset"])).unwrap();
    let mut found = Vec::new();
    for object in listed["nftables"].as_array().unwrap() {
        if let Some(rule) = object.get("rule").filter(|_| what == "rule") {
            found.push(format!("{}: {}", rule["chain"], rule["expr"]));
        }
        let set = object.get("set").or(object.get("map"));
        if let Some(set) = set.filter(|_| what == "element") {
            let elements = set["elem"].as_array().into_iter().flatten();
            found.extend(elements.map(|element| format!("{}: {element}", set["name"])));
        }
    }
    found.sort();
    found
}

fn call(verb: &str, id: &str, container: &Container) -> Call {
    Call::new(verb, &network(id)).id(id).netns(container)
}

/// A network with all that an attachment can have.
fn network(id: &str) -> Value {
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]);
    let port = if id == "victim" { 8080 } else { 8081 };
    let ports = [("tcp", port, 80), ("udp", port, 53)].map(|(protocol, host, container)| {
        json!({"protocol": protocol, "hostPort": host, "containerPort": container})
    });
    with(
        podnet(),
        json!({
            "ipam": {"type": "host-local", "ranges": ranges},
            "hairpinMode": true,
            "ipMasq": true,
            "runtimeConfig": {"portMappings": ports}
        }),
    )
}
