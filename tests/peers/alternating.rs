//! The reference and ours one after the other, on one network.

use std::fs;
use std::path::Path;

use crate::{error, fill_store, ips, peers};
use common::programs;
use common::{Call, World, allocated, store_files};
use serde_json::json;

#[test]
fn both_allocators_continue_from_the_same_cursor() {
    let Some(peers) = peers() else { return };
    for peers in peers {
        let world = World::new();
        let stores = Path::new("/var/lib/cni/networks");
        let config = peers.network(json!([[{"subnet": "10.1.0.0/24"}]]), stores);
        let containers = ["c1", "c2", "c3", "c4"].map(|id| (id, world.container(id)));
        let [c1, c2, c3, c4] = &containers;
        let theirs = |verb, at: &(&str, _)| peers.bridge(verb, &config).id(at.0).netns(&at.1);
        let ours = |verb, at: &(&str, _)| Call::new(verb, &config).id(at.0).netns(&at.1);

        // The bridge of the first plugin serves both.
        let first = theirs("ADD", c1).run().ok();
        assert_eq!(ips(&first)[0].0, "10.1.0.2/24");
        assert_eq!(ips(&ours("ADD", c2).run().ok())[0].0, "10.1.0.3/24");
        assert_eq!(ips(&theirs("ADD", c3).run().ok())[0].0, "10.1.0.4/24");
        assert_eq!(world.addresses("cni0"), ["10.1.0.1/24"]);
        for (id, container) in [c1, c2, c3] {
            let ping = container
                .command("ping")
                .args(["-c1", "-W5", "10.1.0.1"])
                .output();
            assert!(ping.unwrap().status.success(), "{id}");
        }

        // What one has reserved the other frees.
        ours("DEL", c1).run().ok();
        assert_eq!(allocated("podnet"), ["10.1.0.3", "10.1.0.4"]);
        theirs("DEL", c2).run().ok();
        assert_eq!(allocated("podnet"), ["10.1.0.4"]);
        assert!(c2.1.link("eth0").is_none());

        // Freed addresses are not the next ones: the cursor goes on.
        assert_eq!(ips(&ours("ADD", c4).run().ok())[0].0, "10.1.0.5/24");
        theirs("DEL", c4).run().ok();
        ours("DEL", c3).run().ok();
        assert!(allocated("podnet").is_empty());
    }
}

/// Ours has an index there, which theirs knows nothing of.
#[test]
fn both_allocators_agree_on_a_large_store() {
    let Some(peers) = peers() else { return };
    for peers in peers {
        let _world = World::new();
        let stores = Path::new("/var/lib/cni/networks");
        let config = peers.network(json!([[{"subnet": "10.1.0.0/24"}]]), stores);
        let dir = tempfile::tempdir_in("/run").unwrap();
        let host_local = dir.path().join("host-local");
        std::os::unix::fs::symlink(programs::pausenet(), &host_local).unwrap();
        let theirs = |verb, id: &str| peers.host_local(verb, &config).id(id);
        let ours = |verb, id: &str| theirs(verb, id).program(&host_local);
        let given = |call: Call| ips(&call.run().ok())[0].0.clone();
        fill_store(&stores.join("podnet"));

        for round in 0..3 {
            let address = |nth: usize| format!("10.1.0.{}/24", 2 + 4 * round + nth);
            assert_eq!(given(ours("ADD", "a")), address(0));
            assert_eq!(given(theirs("ADD", "b")), address(1));
            assert_eq!(given(ours("ADD", "c")), address(2));
            error(&ours("ADD", "b").run());
            error(&theirs("ADD", "c").run());
            assert_eq!(fs::read_dir("/run/pausenet/index").unwrap().count(), 1);
            // Each frees what the other has reserved, and one of its own.
            ours("DEL", "b").run().ok();
            theirs("DEL", "a").run().ok();
            assert_eq!(given(ours("ADD", "a")), address(3));
            ours("DEL", "a").run().ok();
            theirs("DEL", "c").run().ok();
            ours("DEL", "c").run().ok();
            assert_eq!(allocated("podnet").len(), 50);
        }
    }
}

#[test]
fn a_repeated_add_is_refused_whichever_plugin_added_first() {
    let Some(peers) = peers() else { return };
    for peers in peers {
        let world = World::new();
        let stores = tempfile::tempdir().unwrap();
        let config = peers.network(json!([[{"subnet": "10.1.0.0/24"}]]), stores.path());
        let (x, y) = (world.container("x"), world.container("y"));

        Call::new("ADD", &config).id("ours").netns(&x).run().ok();
        peers
            .bridge("ADD", &config)
            .id("theirs")
            .netns(&y)
            .run()
            .ok();
        let before = store_files(stores.path());
        error(&peers.host_local("ADD", &config).id("ours").run());
        error(&peers.bridge("ADD", &config).id("ours").netns(&x).run());
        assert_eq!(store_files(stores.path()), before);
        assert!(x.link("eth0").is_some());
        Call::new("ADD", &config).id("theirs").netns(&y).run().err();
        assert!(y.link("eth0").is_some());
        assert_eq!(store_files(stores.path()), before);
    }
}

#[test]
fn address_files_without_an_interface_name_are_freed() {
    let world = World::new();
    let container = world.container("x");
    let store = Path::new("/var/lib/cni/networks/podnet");
    fs::create_dir_all(store).unwrap();
    fs::write(store.join("10.1.0.2"), "c1").unwrap();
    fs::write(store.join("10.1.0.3"), "other").unwrap();
    let config = crate::podnet();
    Call::new("DEL", &config).netns(&container).run().ok();
    assert_eq!(allocated("podnet"), ["10.1.0.3"]);
}
