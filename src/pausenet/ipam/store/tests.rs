//! Tests of the store alone; those of `host-local` as a whole are in [`crate::ipam`].

use std::fs;
use std::net::IpAddr;

use super::*;
use crate::cni::{ContainerId, IfName};

fn holder(container: &str) -> Holder {
    Holder::new(
        &ContainerId::parse(container).unwrap(),
        &IfName::parse("eth0").unwrap(),
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn files_are_those_of_the_reference() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("podnet");
    let mut store = Store::open(&dir).unwrap();
    assert!(store.reserve(ip("fd00::5"), &holder("c1"), 1).unwrap());
    assert_eq!(fs::read(dir.join("fd00::5")).unwrap(), b"c1\r\neth0");
    assert_eq!(
        fs::read(dir.join("last_reserved_ip.1")).unwrap(),
        b"fd00::5"
    );
    assert!(dir.join("lock").exists());
}

#[test]
fn a_shorter_cursor_replaces_a_longer_one() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path()).unwrap();
    for address in [
        "10.0.0.2",
        "10.0.0.100",
        "10.0.0.3",
        "fd00::1",
        "10.0.0.101",
    ] {
        assert!(store.reserve(ip(address), &holder("c1"), 0).unwrap());
        assert_eq!(store.last_reserved(0), Some(ip(address)));
    }
}

#[test]
fn an_address_is_taken_once() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path()).unwrap();
    assert!(store.reserve(ip("10.0.0.2"), &holder("c1"), 0).unwrap());
    assert!(!store.reserve(ip("10.0.0.2"), &holder("c2"), 0).unwrap());
    assert!(store.holds(ip("10.0.0.2"), &holder("c1")).unwrap());
    assert!(!store.holds(ip("10.0.0.2"), &holder("c2")).unwrap());
}

#[test]
fn release_frees_the_holder_s_addresses_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path()).unwrap();
    for (address, container) in [("10.0.0.2", "c1"), ("fd00::2", "c1"), ("10.0.0.3", "c2")] {
        store.reserve(ip(address), &holder(container), 0).unwrap();
    }
    store.release(&holder("c1")).unwrap();
    assert_eq!(store.taken().unwrap(), [ip("10.0.0.3")]);
    store.release(&holder("c1")).unwrap();
}

#[test]
fn files_with_the_container_alone_are_understood() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path()).unwrap();
    fs::write(root.path().join("10.0.0.9"), "c1").unwrap();
    fs::write(root.path().join("10.0.0.8"), "c1\r\n").unwrap();
    assert_eq!(store.held_by(&holder("c1")).unwrap().len(), 2);
    store.release(&holder("c1")).unwrap();
    assert!(store.taken().unwrap().is_empty());
}

#[test]
fn foreign_files_in_the_folder_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path()).unwrap();
    for name in [
        "README",
        "10.0.0",
        "010.0.0.1",
        "fd00:0::5",
        "last_reserved_ip.0",
    ] {
        fs::write(root.path().join(name), "c1\r\neth0").unwrap();
    }
    fs::create_dir(root.path().join("10.0.0.7")).unwrap();
    assert!(store.held_by(&holder("c1")).unwrap().is_empty());
    store.release(&holder("c1")).unwrap();
    assert!(root.path().join("README").exists());
}

#[test]
fn a_cursor_cut_short_is_no_cursor() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    fs::write(root.path().join("last_reserved_ip.0"), "10.0.").unwrap();
    assert_eq!(store.last_reserved(0), None);
}

#[test]
fn no_store_is_nothing_to_free() {
    let root = tempfile::tempdir().unwrap();
    assert!(
        Store::open_existing(&root.path().join("gone"))
            .unwrap()
            .is_none()
    );
    assert!(!root.path().join("gone").exists());
}
