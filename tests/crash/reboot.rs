//! The first call after a start of the host, which leaves word of what the store held before: killed
//! before each system call, and each of them refused.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use pausenet::ipam::store::Store;

use crate::error::each_refused;
use crate::kill::at_every_point;
use crate::pods::{Host, TwoPods};
use common::{STORES, run};

/// Reserved before the boot, by a container that is gone.
const OLD: &str = "10.1.0.77";
/// Reserved by another plugin, after the first call.
const LATE: &str = "10.1.0.78";

fn reserve(ip: &str) {
    let dir = Path::new(STORES).join("podnet");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(ip), "other\r\neth0").unwrap();
}

/// What of the store is said to be of earlier.
fn earlier() -> Vec<IpAddr> {
    let store = Store::open(&Path::new(STORES).join("podnet")).unwrap();
    let store = store.with_index(Path::new(pausenet::ipam::host_local::INDEXES));
    let mut taken = store.taken().unwrap();
    let origins = store.origins(&taken);
    taken.retain(|ip| origins.of(*ip).unwrap().earlier.is_some());
    taken
}

/// As a start leaves it.
fn reboot(pods: &TwoPods) {
    pods.reset();
    reserve(OLD);
}

/// A call has been served since the start: whatever comes now is not of earlier.
#[track_caller]
fn assert_noted(pods: &TwoPods, after: &str) {
    let del = pods.call("DEL").run();
    assert!(del.0.status.success(), "{after}: {del:?}");
    reserve(LATE);
    assert_eq!(earlier(), [OLD.parse::<IpAddr>().unwrap()], "{after}");
    let lists = fs::read_dir("/run/pausenet/earlier").unwrap().count();
    assert_eq!(lists, 1, "{after}: a draft is left");
}

#[test]
fn a_first_call_after_boot_killed_at_any_syscall_loses_no_reservation() {
    let pods = TwoPods::new(Host::Fresh);
    let kills = at_every_point(
        &pods.call("ADD"),
        || reboot(&pods),
        |after| assert_noted(&pods, after),
    );
    assert!(kills > 40, "{kills}");
}

/// Where no word can be left, the call is served all the same.
#[test]
fn a_first_call_after_boot_that_cannot_write_its_marker_loses_no_reservation() {
    let pods = TwoPods::new(Host::Fresh);
    reboot(&pods);
    fs::create_dir_all("/run/pausenet/earlier").unwrap();
    run(
        "mount",
        ["-t", "tmpfs", "-o", "ro", "tmpfs", "/run/pausenet/earlier"],
    );
    pods.call("ADD").run().ok();
    assert!(earlier().is_empty());
    run("umount", ["/run/pausenet/earlier"]);
    assert_noted(&pods, "once it can");
}

#[test]
fn a_first_call_after_boot_with_any_failed_syscall_loses_no_reservation() {
    let pods = TwoPods::new(Host::Fresh);
    each_refused(
        &pods.call("ADD"),
        || reboot(&pods),
        |after| assert_noted(&pods, after),
        |after, answer| {
            if answer.0.status.success() {
                pods.assert_complete(&answer.ok(), after);
            }
        },
    );
}
