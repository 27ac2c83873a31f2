//! What is wrong with addresses and the folders of their store.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{add, refused};
use common::{Call, STORES, World, allocated, podnet, run, with};

#[test]
fn an_exhausted_range_is_code_11_and_names_the_store() {
    let world = World::new();
    let x = world.container("x");
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": [
            [{"subnet": "fd00::/64"}],
            [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.11"}]]}}),
    );
    for (n, holder) in ["a", "b", "c"].iter().enumerate() {
        world.put_address(&format!("10.1.0.{}", n + 9), &format!("{holder}\r\neth0"));
    }

    let words = ["range set 1", "10.1.0.9-10.1.0.11", "3 of 3 in use"];
    let error = refused(&world, &x, &add(&x, &config), 11, &words);

    let details = error["details"].as_str().unwrap();
    assert!(
        details.contains("/var/lib/cni/networks/podnet"),
        "{details}"
    );
    assert_eq!(allocated("podnet").len(), 3, "the IPv6 one is given back");
}

#[test]
fn an_unavailable_requested_address_is_reported() {
    let world = World::new();
    let x = world.container("x");
    world.put_address("10.1.0.5", "c9\r\neth0");
    for (ip, code, word) in [
        ("10.1.0.5", 11, "10.1.0.5 is taken"),
        ("10.1.0.1", 7, "10.1.0.1 is the gateway"),
        ("10.2.0.5", 7, "10.2.0.5 is in no range set"),
        ("fd00::5", 7, "fd00::5 is in no range set"),
    ] {
        let call = add(&x, &podnet()).var("CNI_ARGS", format!("IP={ip}"));
        refused(&world, &x, &call, code, &[word]);
    }
}

#[test]
fn a_read_only_store_is_code_5_and_named() {
    let world = World::new();
    let x = world.container("x");
    fs::create_dir_all(STORES).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "ro", "tmpfs", STORES]);
    refused(
        &world,
        &x,
        &add(&x, &podnet()),
        5,
        &["/var/lib/cni/networks/podnet"],
    );
    assert!(world.link("cni0").is_none());
}

#[test]
fn a_full_store_is_code_5_and_named() {
    let world = World::new();
    let x = world.container("x");
    fs::create_dir_all(STORES).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "size=16k", "tmpfs", STORES]);
    fs::create_dir(Path::new(STORES).join("podnet")).unwrap();
    let fill = || {
        let filler = fs::write(Path::new(STORES).join("filler"), vec![0; 64 * 1024]);
        assert_eq!(filler.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    };
    fill();
    refused(
        &world,
        &x,
        &add(&x, &podnet()),
        5,
        &["/var/lib/cni/networks/podnet/10.1.0.2"],
    );

    // Room for the address, but not for the cursor.
    let filler = Path::new(STORES).join("filler");
    let file = fs::File::options().write(true).open(&filler).unwrap();
    file.set_len(file.metadata().unwrap().len() - 4096).unwrap();
    refused(&world, &x, &add(&x, &podnet()), 5, &["last_reserved_ip.0"]);

    drop(file);
    fs::remove_file(&filler).unwrap();
    // A process that another test is just starting may have the file open until its exec.
    let deadline = Instant::now() + Duration::from_secs(60);
    while rustix::fs::statvfs(STORES).unwrap().f_bavail < 2 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    add(&x, &podnet()).run().ok();
    assert_eq!(x.addresses("eth0"), ["10.1.0.2/24"]);
}

#[test]
fn a_store_whose_folder_is_a_file_is_code_5_and_named() {
    let world = World::new();
    let x = world.container("x");
    fs::create_dir_all(STORES).unwrap();
    fs::write(Path::new(STORES).join("podnet"), "").unwrap();
    refused(
        &world,
        &x,
        &add(&x, &podnet()),
        5,
        &["/var/lib/cni/networks/podnet"],
    );
}

#[test]
fn a_read_only_run_is_code_5_and_named() {
    let world = World::new();
    let x = world.container("x");
    run("mount", ["-o", "remount,ro", "/run"]);
    refused(&world, &x, &add(&x, &podnet()), 5, &["/run/pausenet/lock"]);
    assert!(world.link("cni0").is_none());
    assert!(!Path::new(STORES).exists());
}

/// Every kind of file that names no holder, at 10.1.0.2 to 10.1.0.8.
fn put_damaged(world: &World) -> Vec<String> {
    let store = Path::new(STORES).join("podnet");
    world.put_address("10.1.0.2", "");
    world.put_address("10.1.0.3", "\u{0}\u{1}");
    world.put_address("10.1.0.4", "not a container\n");
    fs::write(store.join("10.1.0.5"), [0xff, 0xfe, 0x00]).unwrap();
    let huge = fs::File::create(store.join("10.1.0.6")).unwrap();
    huge.set_len(1 << 30).unwrap();
    symlink("/etc/passwd", store.join("10.1.0.7")).unwrap();
    fs::create_dir(store.join("10.1.0.8")).unwrap();
    (2..9).map(|n| format!("10.1.0.{n}")).collect()
}

/// Makes the files of the store as old as a reservation must be before it is reclaimed.
fn age(names: &[String]) {
    for name in names {
        let path = Path::new(STORES).join("podnet").join(name);
        let path = path.to_str().unwrap();
        run("touch", ["--no-dereference", "--date", "1 hour ago", path]);
    }
}

fn is_there(name: &str) -> bool {
    Path::new(STORES)
        .join("podnet")
        .join(name)
        .symlink_metadata()
        .is_ok()
}

fn config_of_seven() -> serde_json::Value {
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.8"});
    with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": [[range]]}}),
    )
}

#[test]
fn damaged_address_files_are_freed_when_the_range_is_full_once_they_are_old() {
    let world = World::new();
    let x = world.container("x");
    // The first use after the start: what is there later is not from before it.
    Call::new("STATUS", &podnet()).run().ok();
    add(&x, &podnet()).run().ok();
    Call::new("DEL", &podnet()).netns(&x).run().ok();
    let names = put_damaged(&world);
    refused(
        &world,
        &x,
        &add(&x, &config_of_seven()),
        11,
        &["7 of 7 in use"],
    );

    age(&names);
    add(&x, &config_of_seven()).run().ok();

    let address = x.addresses("eth0");
    let left: Vec<_> = names.iter().filter(|name| is_there(name)).collect();
    assert_eq!(left.len(), 1, "its own: {left:?}");
    assert_eq!(address, [format!("{}/24", left[0])]);
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn gc_frees_old_damaged_address_files_and_keeps_young_ones_and_those_in_use() {
    let world = World::new();
    let x = world.container("x");
    Call::new("STATUS", &podnet()).run().ok();
    add(&x, &podnet()).run().ok();
    assert_eq!(x.addresses("eth0"), ["10.1.0.2/24"]);
    // A full disk or another program has emptied the file of a running container.
    world.put_address("10.1.0.2", "");
    world.put_address("10.1.0.3", "");
    world.put_address("10.1.0.4", "");
    world.put_address("10.1.0.5", "listed");
    fs::create_dir_all(Path::new(STORES).join("podnet/10.1.0.6/not-empty")).unwrap();
    age(&["10.1.0.2", "10.1.0.3", "10.1.0.5", "10.1.0.6"].map(str::to_owned));
    let valid = json!([{"containerID": "c1", "ifname": "eth0"},
        {"containerID": "listed", "ifname": "eth0"}]);
    let config = with(podnet(), json!({"cni.dev/valid-attachments": valid}));

    Call::new("GC", &config).run().ok();

    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.4", "10.1.0.5"]);
    assert!(is_there("10.1.0.6"), "what is in it is not ours");
}

/// Its containers may be attached by any plugin, so only what is certainly nobody's is freed.
#[test]
fn host_local_alone_frees_old_empty_files_and_keeps_overwritten_ones() {
    let world = World::new();
    let x = world.container("x");
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.3"});
    let ipam = json!({"type": "host-local", "ranges": [[range]]});
    let config = json!({"cniVersion": "1.1.0", "name": "podnet", "type": "macvlan", "ipam": ipam});
    let run_it = |verb: &str| crate::plugins::call_as("host-local", verb, &config, &x).run();
    run_it("STATUS").ok();
    world.put_address("10.1.0.2", "not a container\n");
    world.put_address("10.1.0.3", "");
    run_it("STATUS").err_code(50);
    age(&["10.1.0.2", "10.1.0.3"].map(str::to_owned));

    let result = run_it("ADD").ok();

    assert_eq!(result["ips"][0]["address"], "10.1.0.3/24");
    run_it("DEL").ok();
    world.put_address("10.1.0.3", "");
    age(&["10.1.0.3".to_owned()]);
    run_it("GC").ok();
    assert_eq!(allocated("podnet"), ["10.1.0.2"]);
}

#[test]
fn a_cursor_that_is_no_address_of_its_range_starts_over() {
    for cursor in ["", "10.1.", "\u{0}\u{1}", "fd00::5", "10.9.0.5"] {
        let world = World::new();
        let x = world.container("x");
        world.put_address("last_reserved_ip.0", cursor);
        add(&x, &podnet()).run().ok();
        assert_eq!(x.addresses("eth0"), ["10.1.0.2/24"], "{cursor:?}");
        let cursor = fs::read_to_string(Path::new(STORES).join("podnet/last_reserved_ip.0"));
        assert_eq!(cursor.unwrap(), "10.1.0.2");
    }
}

/// Files in the store that are not address files have no holder and are ignored.
#[test]
fn corrupt_files_in_the_store_are_ignored() {
    let world = World::new();
    let x = world.container("x");
    for (name, content) in [
        ("10.1.0.2", ""),
        ("10.1.0.3", "\u{0}\u{1}"),
        ("last_reserved_ip.0", "10.1."),
        ("README", "c1\r\neth0"),
        ("010.1.0.5", "c1\r\neth0"),
    ] {
        world.put_address(name, content);
    }
    fs::create_dir(Path::new(STORES).join("podnet/10.1.0.4")).unwrap();

    add(&x, &podnet()).run().ok();
    assert_eq!(
        x.addresses("eth0"),
        ["10.1.0.5/24"],
        "what is not readable counts as taken"
    );
    Call::new("DEL", &podnet()).netns(&x).run().ok();

    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
    assert!(Path::new(STORES).join("podnet/README").exists());
}

/// A dataDir of a name that is too long, below a file, or by a link to itself: ADD has never reserved
/// anything there.
#[test]
fn del_and_gc_succeed_where_no_store_can_be() {
    let world = World::new();
    let x = world.container("x");
    fs::write("/run/file", "").unwrap();
    symlink("/run/loop", "/run/loop").unwrap();
    let long = format!("/run/{}", "x".repeat(300));
    for dir in [
        "/run/file",
        "/run/file/below",
        "/dev/null/x",
        "/run/loop",
        &long,
    ] {
        let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": dir});
        let config = with(podnet(), json!({"ipMasq": true, "ipam": ipam}));
        add(&x, &config).run().err_code(5);
        for verb in ["DEL", "GC"] {
            let call = Call::new(verb, &config).netns(&x).run();
            call.ok();
            let stderr = String::from_utf8_lossy(&call.0.stderr).into_owned();
            assert!(
                stderr.contains("warning: cannot open the address store"),
                "{stderr}"
            );
        }
        assert!(x.link("eth0").is_none());
    }
}

#[test]
fn a_folder_in_the_place_of_the_cursor_goes_if_it_is_empty() {
    let world = World::new();
    let x = world.container("x");
    let cursor = Path::new(STORES).join("podnet/last_reserved_ip.0");
    fs::create_dir_all(cursor.join("something")).unwrap();
    refused(&world, &x, &add(&x, &podnet()), 5, &["last_reserved_ip.0"]);
    assert!(allocated("podnet").is_empty());

    fs::remove_dir(cursor.join("something")).unwrap();
    add(&x, &podnet()).run().ok();
    assert_eq!(fs::read_to_string(&cursor).unwrap(), "10.1.0.2");
}
