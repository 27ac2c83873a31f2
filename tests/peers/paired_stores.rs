//! Two stores, one kept by the reference and one by ours: the same calls leave the same files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{Peers, fill_store, ips, peers};
use common::programs;
use common::{Call, Container, World, store_files, with};

/// A network twice, with the same ranges.
struct PairedStores<'a> {
    peers: &'a Peers,
    stores: tempfile::TempDir,
    ranges: Value,
    /// What ours is called as, beside theirs.
    ours: PathBuf,
    containers: BTreeMap<String, Container>,
}

impl<'a> PairedStores<'a> {
    fn new(peers: &'a Peers, called: &str, ranges: Value) -> Self {
        let stores = tempfile::tempdir().unwrap();
        let ours = stores.path().join(called);
        std::os::unix::fs::symlink(programs::pausenet(), &ours).unwrap();
        Self {
            peers,
            stores,
            ranges,
            ours,
            containers: BTreeMap::new(),
        }
    }

    fn store(&self, whose: &str) -> PathBuf {
        self.stores.path().join(whose)
    }

    /// One call to each. They have to agree on success, addresses, and every file.
    fn both(&mut self, world: &World, verb: &str, id: &str, args: &str) -> Option<Value> {
        self.containers
            .entry(id.to_owned())
            .or_insert_with(|| world.container(id));
        // No gateway: a bridge has but one IPv4 address, and a set may have several gateways.
        let network = |whose| {
            let network = self.peers.network(self.ranges.clone(), &self.store(whose));
            with(network, json!({"isDefaultGateway": null}))
        };
        let theirs = self
            .peers
            .host_local(verb, &network("theirs"))
            .id(id)
            .var("CNI_ARGS", args)
            .run();
        let ours = Call::new(verb, &network("ours"))
            .program(&self.ours)
            .id(id)
            .netns(&self.containers[id])
            .var("CNI_ARGS", args)
            .run();
        let call = format!("{verb} {id} {args}: {theirs:?}\n{ours:?}");
        assert_eq!(theirs.0.status.success(), ours.0.status.success(), "{call}");
        let files = ["theirs", "ours"].map(|whose| self.files(whose));
        assert_eq!(files[0], files[1], "{call}");
        if !ours.0.status.success() {
            return None;
        }
        let result = ours.ok();
        assert_eq!(ips(&theirs.ok()), ips(&result), "{call}");
        Some(result)
    }

    /// Every file with its content, and its mode as today's reference has it. The lock is
    /// ignored: the reference makes one at a DEL too, with other rights, and it is empty.
    fn files(&self, whose: &str) -> BTreeMap<PathBuf, (String, u32)> {
        let store = self.store(whose);
        let with_mode = |(path, content): (PathBuf, Vec<u8>)| {
            let mode = store.join(&path).metadata().unwrap().permissions().mode() & 0o777;
            let mode = if self.peers.version == "1.0.0" {
                0
            } else {
                mode
            };
            (path, (String::from_utf8(content).unwrap(), mode))
        };
        store_files(&store)
            .into_iter()
            .filter(|(path, _)| !path.ends_with("lock"))
            .map(with_mode)
            .collect()
    }
}

#[test]
fn scripted_calls_on_a_dual_stack_network() {
    let Some(peers) = peers() else { return };
    for peers in &peers {
        let world = World::new();
        let ranges = json!([
            [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.22"},
             {"subnet": "10.2.0.0/24", "gateway": "10.2.0.2", "rangeEnd": "10.2.0.4"}],
            [{"subnet": "fd00::/64"}]
        ]);
        let mut stores = PairedStores::new(peers, "pausenet", ranges);
        let mut call = |verb, id, args| stores.both(&world, verb, id, args);
        assert!(call("DEL", "c0", "").is_some(), "before there is a store");
        // Round the set's two ranges: .20 .21 .22, then 10.2.0.1 .3 .4 (.2 is the gateway).
        for id in ["c1", "c2", "c3", "c4", "c5"] {
            assert!(call("ADD", id, "").is_some());
        }
        assert!(call("ADD", "c1", "").is_none(), "a second time");
        assert!(call("DEL", "c2", "").is_some());
        assert!(
            call("ADD", "c6", "").is_some(),
            "goes on behind, not at the hole"
        );
        assert!(call("ADD", "c7", "").is_some(), "wraps into the hole");
        assert!(call("ADD", "c8", "").is_none(), "the IPv4 set is full");
        assert!(call("DEL", "c4", "").is_some());
        assert!(call("ADD", "c8", "IP=10.1.0.20").is_none(), "taken");
        assert!(call("ADD", "c8", "IP=10.2.0.1").is_some());
        assert!(call("DEL", "c8", "").is_some());
        assert!(call("ADD", "c9", "").is_some(), "after a requested one");
        for id in ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"] {
            assert!(call("DEL", id, "").is_some());
        }
    }
}

#[test]
fn random_calls_on_a_small_network() {
    let Some(peers) = peers() else { return };
    for peers in &peers {
        random_calls(peers, 200, |_| ());
    }
}

/// The same where ours has an index.
#[test]
fn random_calls_on_a_large_network() {
    let Some(peers) = peers() else { return };
    for peers in &peers {
        random_calls(peers, 60, |stores| {
            for whose in ["theirs", "ours"] {
                fill_store(&stores.store(whose).join("podnet"));
            }
        });
    }
}

fn random_calls(peers: &Peers, rounds: u32, prepare: impl Fn(&PairedStores)) {
    let world = World::new();
    let mut stores = PairedStores::new(peers, "host-local", json!([[{"subnet": "10.1.0.0/29"}]]));
    prepare(&stores);
    // Random enough, and the same every time.
    let mut state = 42_u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    for _ in 0..rounds {
        let id = format!("c{}", random(8));
        let verb = if random(5) < 3 { "ADD" } else { "DEL" };
        let args = match random(4) {
            0 if verb == "ADD" => format!("IP=10.1.0.{}", 1 + random(6)),
            _ => String::new(),
        };
        // Not to be matched: a request that no range contains moves the reference's cursor, and
        // it gives a requested address to a container that has one already.
        if !args.is_empty() {
            stores.both(&world, "DEL", &id, "");
        }
        stores.both(&world, verb, &id, &args);
    }
}
