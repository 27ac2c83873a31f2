//! `host-local` on a store with many addresses: its index changes nothing but the
//! time it takes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::plugins::{call_alone, under};
use common::{Call, STORES, World, allocated, run};

const INDEXES: &str = "/run/pausenet/index";

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "podnet", "type": "bridge",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]}})
}

fn host_local(verb: &str, id: &str) -> Call {
    call_alone("host-local", verb, &config()).id(id)
}

fn add(id: &str) -> String {
    let result = host_local("ADD", id).run().ok();
    let address = result["ips"][0]["address"].as_str().unwrap();
    address.trim_end_matches("/16").to_owned()
}

fn del(id: &str) {
    host_local("DEL", id).run().ok();
}

fn store() -> PathBuf {
    Path::new(STORES).join("podnet")
}

fn nth(n: u32) -> String {
    std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string()
}

/// Addresses 2 to `last`, each of a container of its own; the next is the one after `cursor`.
fn fill_store(last: u32, cursor: u32) {
    fs::create_dir_all(store()).unwrap();
    for n in 2..=last {
        fs::write(store().join(nth(n)), format!("crowd{n}\r\neth0")).unwrap();
    }
    fs::write(store().join("last_reserved_ip.0"), nth(cursor)).unwrap();
}

fn indexes() -> usize {
    fs::read_dir(INDEXES).map_or(0, Iterator::count)
}

#[test]
fn a_large_store_has_an_index_outside_its_folder() {
    let _world = World::new();
    fill_store(100, 100);
    assert_eq!(add("c1"), nth(101));
    assert_eq!(indexes(), 1);
    let others = fs::read_dir(store()).unwrap().count() - allocated("podnet").len();
    assert_eq!(others, 2, "the lock and the cursor");
    assert_eq!(add("c2"), nth(102));
    del("c1");
    del("crowd50");
    assert_eq!(add("c3"), nth(103));
    assert_eq!(allocated("podnet").len(), 100);

    for n in 2..=100 {
        del(&format!("crowd{n}"));
    }
    assert_eq!(allocated("podnet"), [nth(102), nth(103)]);
    assert_eq!(indexes(), 0, "a small store needs none");
}

/// System calls, not time: they are the same on every machine.
#[test]
fn the_work_does_not_grow_with_the_store() {
    // Room behind the cursor; a dense run behind it; one address left.
    for is_dense in [false, true] {
        let [small, large] = [100, 5000].map(|last| {
            let _world = World::new();
            fill_store(last, if is_dense { 2 } else { last });
            // The first makes the index.
            del("c1");
            let add = calls(&host_local("ADD", "c1"));
            assert!(store().join(nth(last + 1)).exists());
            [add, calls(&host_local("DEL", "c1"))]
        });
        for (small, large) in small.into_iter().zip(large) {
            assert!(
                large <= small + 4,
                "{small} calls, {large} in the large one"
            );
        }
    }
}

/// How many system calls a call takes.
fn calls(call: &Call) -> usize {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    under(&["strace", "--quiet=all", "--output", path], call).ok();
    fs::read_to_string(log.path()).unwrap().lines().count()
}

#[test]
fn the_last_free_address_is_found_and_then_the_range_is_exhausted() {
    let _world = World::new();
    fill_store(0xfffe, 2);
    fs::remove_file(store().join(nth(0x8000))).unwrap();
    assert_eq!(add("c1"), nth(0x8000));
    for _ in 0..2 {
        let error = host_local("ADD", "c2").run().err_code(11);
        let message = error["msg"].as_str().unwrap();
        assert!(message.contains("65533 of 65533 in use"), "{message}");
    }
    del("crowd9");
    assert_eq!(add("c2"), nth(9));
}

#[test]
fn add_works_where_no_index_can_be_written() {
    let places: [(&str, fn()); 4] = [
        ("a read-only one", || mount("ro")),
        ("a full one", || mount("size=8k")),
        ("one without inodes", || mount("nr_inodes=1")),
        ("a file", || fs::write("/run/pausenet", "").unwrap()),
    ];
    for (what, prepare) in places {
        let _world = World::new();
        prepare();
        fill_store(100, 100);
        for round in 0..3 {
            assert_eq!(add("c1"), nth(101 + round), "{what}");
            host_local("ADD", "c1").run().err_code(100);
            del("c1");
            del("c1");
            assert_eq!(allocated("podnet").len(), 99, "{what}");
        }
        assert_eq!(indexes(), 0, "{what}");
    }
}

fn mount(options: &str) {
    fs::create_dir("/run/pausenet").unwrap();
    run(
        "mount",
        ["-t", "tmpfs", "-o", options, "tmpfs", "/run/pausenet"],
    );
}

/// A place that becomes unusable while there is an index: it stays behind, and is not believed.
#[test]
fn an_index_that_can_no_longer_be_written_is_not_trusted() {
    let _world = World::new();
    mount("mode=0755");
    fill_store(100, 100);
    assert_eq!(add("c1"), nth(101));
    run("mount", ["-o", "remount,ro", "/run/pausenet"]);
    assert_eq!(add("c2"), nth(102));
    host_local("ADD", "c2").run().err_code(100);
    del("c1");
    assert_eq!(add("c3"), nth(103));
    run("mount", ["-o", "remount,rw", "/run/pausenet"]);
    host_local("ADD", "c3").run().err_code(100);
    del("c2");
    del("c3");
    assert_eq!(allocated("podnet").len(), 99);
}

#[test]
fn a_store_restored_from_a_backup_overrides_the_index() {
    let _world = World::new();
    fill_store(100, 100);
    let (here, backup) = (store(), Path::new(STORES).join("backup"));
    assert_eq!(add("early"), nth(101));
    run("cp", ["-a".as_ref(), here.as_os_str(), backup.as_os_str()]);
    del("early");
    assert_eq!(add("late"), nth(102));

    fs::remove_dir_all(&here).unwrap();
    run("cp", ["-a".as_ref(), backup.as_os_str(), here.as_os_str()]);
    host_local("ADD", "early").run().err_code(100);
    assert_eq!(add("late"), nth(102));
    del("early");
    assert!(!here.join(nth(101)).exists());

    // In the same folder, which is made to look as if nothing had happened.
    let before = fs::metadata(&here).unwrap().modified().unwrap();
    fs::write(here.join(nth(101)), "early\r\neth0").unwrap();
    fs::remove_file(here.join(nth(102))).unwrap();
    fs::File::open(&here).unwrap().set_modified(before).unwrap();
    host_local("ADD", "early").run().err_code(100);
    assert_eq!(add("late"), nth(103));
}

#[test]
fn gc_keeps_the_index_correct() {
    let _world = World::new();
    fill_store(100, 100);
    add("c1");
    let valid: Vec<_> = (2..=60)
        .map(|n| json!({"containerID": format!("crowd{n}"), "ifname": "eth0"}))
        .collect();
    let mut config = config();
    config["cni.dev/valid-attachments"] = json!(valid);
    call_alone("host-local", "GC", &config).run().ok();
    assert_eq!(allocated("podnet").len(), 59);
    assert_eq!(indexes(), 1);
    assert_eq!(add("c1"), nth(102));
    assert_eq!(add("crowd99"), nth(103));
    del("crowd60");
    assert!(!store().join(nth(60)).exists());
}
