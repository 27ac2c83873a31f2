//! The plugins behind the one that makes the interface, killed before each system call that changes something: the
//! runtime's DEL of that plugin leaves nothing, and its ADD works again.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::kill::at_every_point;
use common::nftables::element_count;
use common::programs;
use common::{Call, Container, World, podnet, run, with};

/// A container that our plugin has wired, and what is chained behind.
struct Chain {
    world: World,
    pod: Container,
    before: Value,
    link: String,
}

impl Chain {
    fn new() -> Self {
        let world = World::new();
        let pod = world.container("pod");
        let before = Call::new("ADD", &podnet()).netns(&pod).id("pod").run().ok();
        let link = pod.ip("link show eth0");
        Self {
            world,
            pod,
            before,
            link,
        }
    }

    /// A call of the plugin by its name.
    fn call(&self, verb: &str, plugin: &str, keys: &Value) -> Call {
        let config = json!({"cniVersion": "1.1.0", "name": "podnet", "type": plugin,
            "prevResult": self.before});
        let folder = Path::new("/run/plugins");
        fs::create_dir_all(folder).unwrap();
        let program = folder.join(plugin);
        let _ = std::os::unix::fs::symlink(programs::pausenet(), &program);
        Call::new(verb, &with(config, keys.clone()))
            .program(program)
            .netns(&self.pod)
            .id("pod")
    }

    fn assert_nothing_left(&self, after: &str) {
        assert!(
            !self.world.links().iter().any(|link| link.kind == "ifb"),
            "{after}"
        );
        assert_eq!(element_count("firewall podnet pod eth0"), 0, "{after}");
        assert_eq!(self.pod.ip("link show eth0"), self.link, "{after}");
        let backups = fs::read_dir("/run/cni/tuning").map_or(0, Iterator::count);
        assert_eq!(backups, 0, "{after}");
    }
}

#[test]
fn chained_plugins_killed_at_any_syscall_leave_nothing_after_del() {
    let rates = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000,
        "egressRate": 8_000_000, "egressBurst": 800_000});
    for (plugin, keys) in [
        ("bandwidth", rates.clone()),
        (
            "bandwidth",
            with(rates, json!({"shapedSubnets": ["10.0.0.0/8"]})),
        ),
        ("firewall", json!({"ingressPolicy": "isolated"})),
        (
            "tuning",
            json!({"mac": "02:00:00:00:00:09", "mtu": 1400, "promisc": true,
                "sysctl": {"net.core.somaxconn": "77"}}),
        ),
    ] {
        let chain = Chain::new();
        for program in ["iptables", "ip6tables"] {
            run(program, ["-P", "FORWARD", "ACCEPT"]);
        }
        let [add, del] = ["ADD", "DEL"].map(|verb| chain.call(verb, plugin, &keys));
        let heal = |after: &str| {
            let after = format!("{plugin} {after}");
            // A runtime may try it again before it gives up.
            add.run().ok();
            del.run().ok();
            chain.assert_nothing_left(&after);
        };
        let in_add = at_every_point(
            &add,
            || (),
            |after| {
                del.run().ok();
                chain.assert_nothing_left(&format!("{plugin} ADD {after}"));
            },
        );
        let again = at_every_point(&add, || (), heal);
        let in_del = at_every_point(&del, || drop(add.run().ok()), heal);
        assert!(
            in_add > 3 && again > 3 && in_del > 1,
            "{plugin} {in_add} {again} {in_del}"
        );
    }
}
