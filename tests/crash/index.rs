//! A crowded address store, which has an index: `host-local` killed and refused at each system
//! call. Whatever became of the index, it says what the files say.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pausenet::cni::{ContainerId, IfName};
use pausenet::ipam::range::RangeSet;
use pausenet::ipam::store::{Holder, SearchResult, Store};
use serde_json::{Value, json};

use crate::error::each_refused;
use crate::kill::at_every_point;
use common::programs;
use common::{Call, STORES, World, with};

const INDEXES: &str = "/run/pausenet/index";

/// Neighbours, each with an address.
const CROWD: u8 = 40;

struct LargeStore {
    _world: World,
    plugins: tempfile::TempDir,
    store: PathBuf,
}

impl LargeStore {
    fn new() -> Self {
        let crowd = Self {
            _world: World::new(),
            plugins: tempfile::tempdir_in("/run").unwrap(),
            store: Path::new(STORES).join("podnet"),
        };
        symlink(
            programs::pausenet(),
            crowd.plugins.path().join("host-local"),
        )
        .unwrap();
        fs::create_dir_all(&crowd.store).unwrap();
        for n in 0..CROWD {
            let file = crowd.store.join(format!("10.1.0.{}", 10 + n));
            fs::write(file, format!("c{n}\r\neth0")).unwrap();
        }
        crowd.call("DEL").run().ok();
        crowd.assert_has_index("at first");
        crowd
    }

    fn call(&self, verb: &str) -> Call {
        let range = json!({"ipam": {"type": "host-local", "ranges": [[range()]]}});
        let config = with(
            json!({"cniVersion": "1.1.0", "name": "podnet", "type": "bridge"}),
            range,
        );
        Call::new(verb, &config)
            .program(self.plugins.path().join("host-local"))
            .var("CNI_NETNS", "/not/looked/at")
            .id("victim")
    }

    /// Changes the folder as a foreign process does: the index has to be rebuilt.
    fn unsettle(&self) {
        let file = self.store.join("10.1.0.200");
        fs::write(&file, "").unwrap();
        fs::remove_file(&file).unwrap();
    }

    fn add(&self, after: &str) {
        self.call("ADD").run().ok();
        assert_ne!(self.held_by("victim"), "", "{after}");
    }

    fn del(&self, after: &str) {
        let answer = self.call("DEL").run();
        assert!(answer.0.status.success(), "{after}: {answer:?}");
        assert_eq!(self.held_by("victim"), "", "{after}");
    }

    /// What the files say, without any index.
    fn held_by(&self, container: &str) -> String {
        let mut files: Vec<_> = fs::read_dir(&self.store).unwrap().flatten().collect();
        files.retain(|file| {
            fs::read_to_string(file.path()).unwrap() == format!("{container}\r\neth0")
        });
        let names: Vec<_> = files
            .iter()
            .map(|file| file.file_name().into_string().unwrap())
            .collect();
        names.join(" ")
    }

    /// The index, where it is believed, has every holder and every address as the files have them.
    #[track_caller]
    fn assert_agrees(&self, after: &str) {
        let mut by_index = Store::open(&self.store)
            .unwrap()
            .with_index(Path::new(INDEXES));
        for container in (0..CROWD).map(|n| format!("c{n}")).chain(["victim".into()]) {
            let holder = Holder::new(
                &ContainerId::parse(&container).unwrap(),
                &IfName::parse("eth0").unwrap(),
            );
            let held = by_index.held_by(&holder).unwrap();
            let held: Vec<_> = held.iter().map(ToString::to_string).collect();
            assert_eq!(
                held.join(" "),
                self.held_by(&container),
                "{after}: {container}"
            );
        }
        let set = RangeSet::new(&[serde_json::from_value(range()).unwrap()]).unwrap();
        let taken = by_index.taken().unwrap();
        assert_eq!(by_index.in_use(&set).unwrap(), set.count(&taken), "{after}");
        for last in [2, 10, 30, 49, 60].map(|host| [10, 1, 0, host].into()) {
            let free = set
                .candidates(Some(last))
                .find(|(ip, _)| !taken.contains(ip));
            let free = free.map(|(ip, range)| SearchResult::Free(ip, range));
            assert_eq!(
                by_index.search(&set, Some(last)),
                free,
                "{after}: after {last}"
            );
        }
    }

    #[track_caller]
    fn assert_has_index(&self, after: &str) {
        let indexes = fs::read_dir(INDEXES).map_or(0, Iterator::count);
        assert_eq!(indexes, 1, "{after}");
    }
}

fn range() -> Value {
    json!({"subnet": "10.1.0.0/24"})
}

#[test]
fn add_killed_at_any_syscall_keeps_the_index_correct() {
    let crowd = LargeStore::new();
    let kills = at_every_point(
        &crowd.call("ADD"),
        || (),
        |after| {
            crowd.assert_agrees(after);
            crowd.del(after);
            crowd.assert_agrees(after);
        },
    );
    // Rebuilt by this call, and by the next one.
    let again = at_every_point(
        &crowd.call("ADD"),
        || crowd.unsettle(),
        |after| {
            crowd.del(after);
            crowd.assert_agrees(after);
            crowd.assert_has_index(after);
        },
    );
    assert!(kills > 8 && again > 20, "{kills}, {again}");
}

#[test]
fn del_killed_at_any_syscall_keeps_the_index_correct() {
    let crowd = LargeStore::new();
    let prepare = || crowd.add("before");
    let kills = at_every_point(&crowd.call("DEL"), prepare, |after| {
        crowd.assert_agrees(after);
        crowd.del(after);
        crowd.assert_agrees(after);
    });
    let prepare = || {
        crowd.add("before");
        crowd.unsettle();
    };
    let again = at_every_point(&crowd.call("DEL"), prepare, |after| {
        crowd.del(after);
        crowd.assert_agrees(after);
        crowd.assert_has_index(after);
    });
    assert!(kills > 4 && again > 20, "{kills}, {again}");
}

#[test]
fn add_with_any_failed_syscall_keeps_the_index_correct() {
    let crowd = LargeStore::new();
    let heal = |after: &str| {
        crowd.del(after);
        crowd.assert_agrees(after);
    };
    for stale in [false, true] {
        let prepare = || {
            if stale {
                crowd.unsettle();
            }
        };
        each_refused(&crowd.call("ADD"), prepare, heal, |after, answer| {
            let held = crowd.held_by("victim");
            assert_eq!(
                held.is_empty(),
                !answer.0.status.success(),
                "{after}: {held}"
            );
            crowd.assert_agrees(after);
        });
    }
}

#[test]
fn del_with_any_failed_syscall_keeps_the_index_correct() {
    let crowd = LargeStore::new();
    let heal = |after: &str| {
        crowd.del(after);
        crowd.assert_agrees(after);
    };
    for stale in [false, true] {
        let prepare = || {
            crowd.add("before");
            if stale {
                crowd.unsettle();
            }
        };
        each_refused(&crowd.call("DEL"), prepare, heal, |after, answer| {
            let held = crowd.held_by("victim");
            // An address file that cannot be read is kept: see the other tests of DEL.
            if answer.0.status.success() && !after.contains(" read(") {
                assert_eq!(held, "", "{after}");
            }
            crowd.assert_agrees(after);
        });
    }
}
