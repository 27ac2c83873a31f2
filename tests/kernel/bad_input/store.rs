//! What is wrong with addresses and the folders of their store.

use std::fs;
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
