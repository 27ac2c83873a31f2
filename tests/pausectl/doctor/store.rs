//! Held addresses against interfaces.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use pausenet::apply::try_lock;
use pausenet::cni::IfName;
use pausenet::cni::request::Attachment;
use pausenet::kernel::running_plugins::RunningPlugins;
use pausenet::plan::host_end_name;
use serde_json::json;

use super::{DoctorHost, added, network};
use common::{Call, STORES, allocated, run, with};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

fn file(network: &str, ip: &str) -> PathBuf {
    Path::new(STORES).join(network).join(ip)
}

/// An address file of this age.
pub(super) fn leave_behind(network: &str, ip: &str, content: &str, age: Duration) {
    let path = file(network, ip);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let open = File::options().write(true).open(path).unwrap();
    open.set_modified(SystemTime::now() - age).unwrap();
}

/// The host end of a container that is called like this, on podnet.
pub(super) fn host_end(container: &str) -> IfName {
    let podnet = pausenet::cni::NetworkName::parse("podnet").unwrap();
    host_end_name(&Attachment::of_network(&podnet, container, "eth0").unwrap())
}

#[test]
fn only_stale_addresses_are_freed() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    // Old, and in use; held by others long ago; taken just now.
    leave_behind("podnet", "10.1.0.2", "web\r\neth0", HOUR);
    leave_behind("podnet", "10.1.0.50", "dead\r\neth0", HOUR);
    leave_behind("podnet", "10.1.0.51", "dead", HOUR);
    leave_behind("podnet", "10.1.0.60", "late\r\neth0", Duration::ZERO);
    let before = allocated("podnet");

    let report = doctor.check(&["store"]);
    let [lost] = report.of("problem")[..] else {
        panic!("{report:#?}");
    };
    super::says(lost, &["network podnet", "10.1.0.50 (dead eth0)"]);
    for kept in ["10.1.0.2 ", "10.1.0.51"] {
        assert!(!lost["what"].as_str().unwrap().contains(kept), "{lost:#}");
    }
    let [old_form, young] = report.of("note")[..] else {
        panic!("{report:#?}");
    };
    super::says(
        old_form,
        &["10.1.0.51 (dead)", "no interface's name", "kept"],
    );
    super::says(
        young,
        &["10.1.0.60 (late eth0)", "within the last 10 minutes"],
    );
    assert_eq!(allocated("podnet"), before, "looking changes nothing");

    let report = doctor.fix(&["store"]);
    assert_eq!(report.status, 0, "{report:#?}");
    assert_eq!(report.outcomes(), ["repaired"]);
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.51", "10.1.0.60"]);
}

/// Doctor is the first reader after the boot here: later reservations are not from before it.
#[test]
fn reservations_from_before_the_boot_are_distinguished() {
    let doctor = DoctorHost::new();
    for ip in ["10.1.0.50", "10.1.0.51"] {
        leave_behind("podnet", ip, "dead\r\neth0", HOUR);
    }
    let before = "2 of them from before this host's last start";
    doctor
        .check(&["store"])
        .problem(&["10.1.0.50 (dead eth0), 10.1.0.51 (dead eth0)", before]);
    leave_behind("podnet", "10.1.0.60", "late\r\neth0", HOUR);
    doctor
        .check(&["store"])
        .problem(&["10.1.0.60 (late eth0)", before]);

    let report = doctor.fix(&["store"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    assert!(allocated("podnet").is_empty());
    leave_behind("podnet", "10.1.0.50", "dead\r\neth0", HOUR);
    let report = doctor.check(&["store"]);
    let means = report.problem(&["10.1.0.50"])["means"].as_str().unwrap();
    assert!(!means.contains("last start"), "{means}");
}

/// Another's ADD has taken it, and has no lock of ours.
#[test]
fn a_running_plugin_s_reservation_is_kept_regardless_of_age() {
    let doctor = DoctorHost::new();
    let name = format!("slow-{}", std::process::id());
    leave_behind("podnet", "10.1.0.50", &format!("{name}\r\neth0"), HOUR);
    let mut sleep = Command::new("sleep");
    let mut sleep = sleep
        .arg("1000")
        .env("CNI_CONTAINERID", &name)
        .spawn()
        .unwrap();
    let report = doctor.fix(&["store"]);
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    if RunningPlugins::list().is_none() {
        // In a namespace that the runtime's processes may be outside of there is the clock alone.
        assert_eq!(report.outcomes(), ["repaired"]);
        return;
    }
    report.note(&["10.1.0.50", "CNI_CONTAINERID", "kept"]);
    assert_eq!(allocated("podnet"), ["10.1.0.50"]);

    assert_eq!(doctor.fix(&["store"]).outcomes(), ["repaired"]);
    assert!(allocated("podnet").is_empty());
}

#[test]
fn another_plugin_s_reservation_is_kept_and_reported() {
    let doctor = DoctorHost::new();
    leave_behind("macvlans", "10.3.0.50", "far\r\neth0", HOUR);
    let report = doctor.check(&["store"]);
    report.note(&["network macvlans", "10.3.0.50 (far eth0)", "kept"]);
    let report = doctor.fix(&["store"]);
    assert!(report.repairs.is_empty(), "{report:#?}");
    assert_eq!(allocated("macvlans"), ["10.3.0.50"]);
}

#[test]
fn an_add_in_progress_is_not_touched() {
    let doctor = DoctorHost::new();
    leave_behind("podnet", "10.1.0.50", "busy\r\neth0", HOUR);
    let lock = try_lock(&host_end("busy")).unwrap().unwrap();
    let report = doctor.fix(&["store"]);
    assert!(
        report.findings.is_empty() && report.repairs.is_empty(),
        "{report:#?}"
    );
    assert_eq!(allocated("podnet"), ["10.1.0.50"]);
    drop(lock);
    doctor.check(&["store"]).problem(&["10.1.0.50 (busy eth0)"]);
}

#[test]
fn an_address_file_without_a_holder_is_reported_and_freed_once_it_is_old() {
    let doctor = DoctorHost::new();
    doctor.assert_healthy();
    for (ip, content) in [("10.1.0.50", ""), ("10.1.0.51", " \r\n")] {
        leave_behind("podnet", ip, content, HOUR);
    }
    leave_behind("podnet", "last_reserved_ip.0", "rubbish", HOUR);
    leave_behind("podnet", "README", "rubbish", HOUR);
    let report = doctor.check(&["store"]);
    report.problem(&[
        "10.1.0.50, 10.1.0.51",
        "no container is named",
        "rm /var/lib/cni/networks/podnet/10.1.0.50",
    ]);
    leave_behind("podnet", "10.1.0.52", "", Duration::ZERO);

    let report = doctor.fix(&["store"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    assert_eq!(allocated("podnet"), ["10.1.0.52"]);
}

/// Its plugin is not ours, and its containers' interfaces may not be visible.
#[test]
fn another_network_s_address_file_without_a_holder_is_left_alone() {
    let doctor = DoctorHost::new();
    leave_behind("macvlans", "10.3.0.50", "", HOUR);
    let report = doctor.fix(&["store"]);
    report.problem(&["10.3.0.50", "no container is named"]);
    assert_eq!(report.outcomes(), ["not safe"]);
    assert_eq!(allocated("macvlans"), ["10.3.0.50"]);
}

#[test]
fn a_folder_in_the_place_of_a_store_s_file_is_reported() {
    for name in ["lock", "last_reserved_ip.0"] {
        let doctor = DoctorHost::new();
        fs::create_dir_all(file("podnet", name)).unwrap();
        let report = doctor.check(&["store"]);
        let [found] = report.of("problem")[..] else {
            panic!("{report:#?}");
        };
        let path = format!("{STORES}/podnet/{name}");
        super::says(found, &[&path, "folder", &format!("rmdir {path}")]);
        fs::remove_dir(file("podnet", name)).unwrap();
        doctor.assert_healthy();
    }
}

#[test]
fn a_store_that_cannot_be_written_is_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    run("mount", ["--bind", STORES, STORES]);
    run("mount", ["-o", "remount,bind,ro", STORES]);
    let report = doctor.check(&["store"]);
    report.problem(&["/podnet", "Read-only file system", "every ADD fails"]);
    run("umount", [STORES]);
    assert!(doctor.check(&["store"]).findings.is_empty());
}

#[test]
fn a_lost_address_file_is_restored_from_the_interface() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let file = file("podnet", "10.1.0.2");
    let content = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();

    let report = doctor.check(&["store"]);
    report.problem(&["10.1.0.2", "container web", "does not reserve it"]);
    assert!(!file.exists());
    let report = doctor.fix(&["store"]);
    assert_eq!(report.outcomes(), ["repaired"]);
    assert_eq!(fs::read(&file).unwrap(), content);
    let other = doctor.host.world.container("other");
    let add = Call::new("ADD", &network()).netns(&other).id("other");
    assert_eq!(add.run().ok()["ips"][0]["address"], "10.1.0.3/24");
    doctor.assert_healthy();
}

#[test]
fn a_lost_store_is_restored() {
    let doctor = DoctorHost::new();
    let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]);
    let dual = with(
        network(),
        json!({"ipam": {"type": "host-local", "ranges": ranges}}),
    );
    doctor.host.network(&dual);
    let _pods = ["a", "b", "c"].map(|name| added(&doctor, &dual, name));
    let before = doctor.host.world.snapshot().addresses_only();
    fs::remove_dir_all(STORES).unwrap();

    assert_eq!(doctor.check(&["store"]).of("problem").len(), 6);
    let report = doctor.fix(&["store"]);
    assert_eq!(report.status, 0, "{report:#?}");
    assert_eq!(doctor.host.world.snapshot().addresses_only(), before);
}

#[test]
fn an_address_with_another_holder_in_the_store_is_reported_and_left_alone() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    fs::write(file("podnet", "10.1.0.2"), "other\r\neth0").unwrap();
    let report = doctor.fix(&["store"]);
    report.problem(&["10.1.0.2", "container web", "other eth0"]);
    assert_eq!(report.outcomes(), ["not safe"]);
    assert_eq!(
        fs::read(file("podnet", "10.1.0.2")).unwrap(),
        b"other\r\neth0"
    );
}

#[test]
fn one_address_on_two_interfaces_is_reported() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    let other = added(&doctor, &network(), "other");
    other.ip("address add 10.1.0.2/24 dev eth0");
    // An address that any interface may have has no owner.
    other.ip("address add 169.254.7.7/16 dev eth0");
    let report = doctor.check(&["store"]);
    let twice = report.of("problem");
    let twice = twice.iter().find(|found| found["subject"] == "10.1.0.2");
    let (web, other) = (host_end("web"), host_end("other"));
    let words = [web.as_str(), other.as_str(), "several interfaces"];
    super::says(twice.unwrap_or_else(|| panic!("{report:#?}")), &words);
}

#[test]
fn a_stale_lock_file_is_removed_and_a_held_one_kept() {
    let doctor = DoctorHost::new();
    let held = host_end("busy");
    let lock = try_lock(&held).unwrap().unwrap();
    let dir = Path::new("/run/pausenet/lock");
    fs::create_dir_all(dir.join("pods")).unwrap();
    for left in ["vethaaaaaaaaaaa", "pods/web"] {
        fs::write(dir.join(left), "").unwrap();
    }
    let report = doctor.check(&["store"]);
    let subjects: Vec<_> = report
        .of("note")
        .iter()
        .map(|found| found["subject"].clone())
        .collect();
    assert_eq!(
        subjects,
        [
            "/run/pausenet/lock/vethaaaaaaaaaaa",
            "/run/pausenet/lock/pods/web"
        ]
    );
    assert!(dir.join("pods/web").exists());

    let report = doctor.fix(&["store"]);
    assert_eq!(report.outcomes(), ["repaired", "repaired"]);
    assert!(!dir.join("pods/web").exists() && !dir.join("vethaaaaaaaaaaa").exists());
    assert!(dir.join(held.as_str()).exists());
    drop(lock);
}

/// A namespace that cannot be seen may have any address.
#[test]
fn no_address_is_reported_lost_where_a_namespace_is_invisible() {
    let doctor = DoctorHost::new();
    let _web = added(&doctor, &network(), "web");
    leave_behind("podnet", "10.1.0.50", "far\r\neth0", HOUR);
    doctor.check(&["store"]).problem(&["10.1.0.50"]);
    // The other end is moved on from a namespace that has gone: this one has no number for it.
    let (near, far) = (
        doctor.host.world.container("near"),
        doctor.host.world.container("far"),
    );
    run(
        "ip",
        [
            "link",
            "add",
            "trunk",
            "type",
            "veth",
            "peer",
            "name",
            "x",
            "netns",
            near.name(),
        ],
    );
    near.ip(&format!("link set x netns {}", far.name()));
    if doctor
        .host
        .world
        .link("trunk")
        .unwrap()
        .peer_netns
        .is_some_and(|id| id >= 0)
    {
        // This kernel gives it a number as soon as it is asked.
        doctor.check(&["store"]).problem(&["10.1.0.50"]);
        return;
    }
    let report = doctor.fix(&["store"]);
    assert_eq!(report.status, 0, "{report:#?}");
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.50"]);
}
