//! STATUS: whether the next ADD can work.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::plugins::{call_alone, under};
use common::{Call, PluginOutput, STORES, World, added, podnet, run, with};

fn status(config: &Value) -> PluginOutput {
    Call::new("STATUS", config).run()
}

/// Room for one container.
fn small() -> Value {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/30"}]]});
    with(
        podnet(),
        json!({"ipam": ipam, "ipMasq": true, "macspoofchk": true}),
    )
}

fn lenient() -> Value {
    with(small(), json!({"statusIgnoresExhaustion": true}))
}

/// Code 50 with all of these words.
#[track_caller]
fn unavailable(answer: &PluginOutput, words: &[&str]) {
    let error = answer.err_code(50);
    let message = format!("{} {}", error["msg"], error["details"]);
    assert!(
        words.iter().all(|word| message.contains(word)),
        "{words:?} in {message}"
    );
}

#[test]
fn a_working_network_is_available_without_output() {
    let world = World::new();
    let before = world.snapshot().net;
    for config in [
        small(),
        with(podnet(), json!({"ipam": null})),
        with(podnet(), json!({"mode": "ptp"})),
    ] {
        let answer = status(&config);
        answer.ok();
        assert!(answer.0.stdout.is_empty());
    }
    for plugin in ["bridge", "ptp", "portmap", "loopback", "host-local"] {
        call_alone(plugin, "STATUS", &podnet()).run().ok();
    }
    assert_eq!(world.snapshot().net, before);
    assert_eq!(common::nftables::ruleset(), "", "asked, and nothing made");
}

#[test]
fn a_network_without_a_free_address_is_not_available_unless_ignored() {
    let world = World::new();
    let (x, _) = added(&world, &small(), "x");

    unavailable(&status(&small()), &["10.1.0"]);
    status(&lenient()).ok();
    let y = world.container("y");
    common::call("ADD", &lenient(), &y).run().err_code(11);
    common::call("DEL", &small(), &x).run().ok();
    status(&small()).ok();
}

#[test]
fn one_exhausted_range_set_of_two_makes_the_network_unavailable() {
    let world = World::new();
    let ranges = json!([[{"subnet": "fd00::/64"}], [{"subnet": "10.1.0.0/30"}]]);
    let config = with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": ranges}}),
    );
    status(&config).ok();
    added(&world, &config, "x");
    unavailable(&status(&config), &["10.1.0"]);
}

#[test]
fn a_network_with_a_read_only_store_is_not_available() {
    let _world = World::new();
    status(&small()).ok();
    run("mount", ["--bind", STORES, STORES]);
    run("mount", ["-o", "remount,bind,ro", STORES]);
    for config in [small(), lenient()] {
        unavailable(&status(&config), &["podnet"]);
    }
}

#[test]
fn a_network_whose_store_is_a_file_is_not_available() {
    let _world = World::new();
    fs::create_dir_all(STORES).unwrap();
    fs::write(Path::new(STORES).join("podnet"), "").unwrap();
    unavailable(&status(&small()), &["podnet"]);
}

#[test]
fn a_network_without_a_lock_folder_is_not_available() {
    let _world = World::new();
    fs::write("/run/pausenet", "a file").unwrap();
    unavailable(&status(&podnet()), &["/run/pausenet/lock"]);
}

#[test]
fn a_network_is_not_available_without_the_capability_to_change_links() {
    let _world = World::new();
    let drop = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    for config in [podnet(), small(), with(podnet(), json!({"mode": "ptp"}))] {
        let call = Call::new("STATUS", &config);
        call.run().ok();
        unavailable(&under(&drop, &call), &["links"]);
    }
    unavailable(
        &under(&drop, &call_alone("portmap", "STATUS", &podnet())),
        &["links"],
    );
    // It needs none for addresses.
    under(&drop, &call_alone("host-local", "STATUS", &podnet())).ok();
}

#[test]
fn a_network_is_not_available_without_the_capability_to_enter_namespaces() {
    let _world = World::new();
    let drop = [
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
    ];
    unavailable(
        &under(&drop, &Call::new("STATUS", &podnet())),
        &["namespace"],
    );
}

#[test]
fn a_network_with_a_missing_delegate_is_not_available() {
    let _world = World::new();
    let config = with(podnet(), json!({"ipam": {"type": "my-ipam"}}));
    unavailable(&status(&config), &["my-ipam", "/nonexistent"]);
}

#[test]
fn an_invalid_config_is_reported() {
    let _world = World::new();
    status(&with(podnet(), json!({"cniVersion": "1.0.0"}))).err_code(1);
    status(&with(podnet(), json!({"mtu": 1}))).err_code(7);
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/32"}]]});
    unavailable(
        &status(&with(podnet(), json!({"ipam": ipam}))),
        &["10.1.0.0/32"],
    );
}

/// Nothing else is written there: STATUS asks for room first.
#[test]
fn a_store_without_room_or_read_only_is_not_available() {
    let _world = World::new();
    fs::create_dir_all(STORES).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", STORES]);
    status(&small()).ok();
    let filler = Path::new(STORES).join("filler");
    fs::write(&filler, vec![0; 128 * 1024]).unwrap_err();
    unavailable(
        &status(&small()),
        &["/var/lib/cni/networks/podnet", "No space left"],
    );
    let names = fs::read_dir(Path::new(STORES).join("podnet")).unwrap();
    assert_eq!(names.count(), 1, "the lock alone");
    fs::remove_file(filler).unwrap();
    status(&small()).ok();
    run("mount", ["-o", "remount,ro", STORES]);
    unavailable(
        &status(&small()),
        &["/var/lib/cni/networks/podnet", "Read-only"],
    );
}

#[test]
fn a_store_without_inodes_is_not_available() {
    let _world = World::new();
    fs::create_dir_all(STORES).unwrap();
    run(
        "mount",
        ["-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", STORES],
    );
    status(&small()).ok();
    let mut files = 0;
    while fs::write(Path::new(STORES).join(format!("filler{files}")), "").is_ok() {
        files += 1;
    }
    unavailable(
        &status(&small()),
        &["/var/lib/cni/networks/podnet", "No space left"],
    );
}
