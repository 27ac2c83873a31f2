//! What the kernel does by itself is waited for by its own notices.

use std::time::{Duration, Instant};

use pausenet::kernel::{RouteSocket, link, route};

use common::{World, ip, set_sysctl};

/// Far longer than the kernel takes. A notice that is not heard ends in an error after it.
const LIMIT: Duration = Duration::from_secs(10);

/// Long enough for the other thread to be waiting; if it is not, the test only proves less.
const HEAD_START: Duration = Duration::from_millis(50);

#[test]
fn waiting_ends_when_a_link_comes_up() {
    let world = World::new();
    ip("link add va up type veth peer name vb");
    let index = world.link("va").unwrap().index;

    let waiter = std::thread::spawn(move || link::wait_running(index, LIMIT));
    std::thread::sleep(HEAD_START);
    ip("link set vb up");

    assert!(waiter.join().unwrap().unwrap().running);
}

#[test]
fn waiting_for_a_link_that_is_removed_or_stays_down_fails() {
    let world = World::new();
    ip("link add va up type veth peer name vb");
    let index = world.link("va").unwrap().index;

    assert!(link::wait_running(index, HEAD_START).is_err());
    let start = Instant::now();
    let waiter = std::thread::spawn(move || link::wait_running(index, LIMIT));
    std::thread::sleep(HEAD_START);
    ip("link del va");

    assert!(waiter.join().unwrap().is_err());
    assert!(start.elapsed() < LIMIT, "by notice, not by time-out");
}

#[test]
fn waiting_ends_when_duplicate_address_detection_completes() {
    let _world = World::new();
    set_sysctl("ipv6/conf/default/accept_dad", "1");
    ip("link add va up type veth peer name vb");
    let wait = |limit| {
        let mut socket = RouteSocket::open().unwrap();
        let address = "fd00::5".parse().unwrap();
        route::wait_local(&mut socket, [address], limit, RouteSocket::open)
    };
    assert!(wait(HEAD_START).is_err(), "no link has it");

    let waiter = std::thread::spawn(move || wait(LIMIT));
    std::thread::sleep(HEAD_START);
    ip("addr add fd00::5/64 dev va nodad");

    waiter.join().unwrap().unwrap();
}
