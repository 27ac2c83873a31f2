//! What is said to the kernel in one breath, and what it is asked.

use pausenet::cni::Family;
use pausenet::kernel::forwarding;
use pausenet::kernel::link::{self, Which};
use pausenet::kernel::{BatchError, Request, RouteSocket};

use common::{World, ip, set_sysctl};

#[test]
fn a_batch_with_one_ack_applies_each_request_and_reports_the_first_error() {
    let world = World::new();
    ip("link add va up type veth peer name vb");
    let index = world.link("va").unwrap().index;
    let absent = || link::alias_request(9_999, "nobody's");
    let alias = |text: &str| link::alias_request(index, text);
    let mut socket = RouteSocket::open().unwrap();
    let mut all = |requests: Vec<Request<_>>| match socket.all(requests) {
        Ok(()) => None,
        Err(BatchError {
            request: at,
            error: refusal,
        }) => {
            assert!(refusal.is(rustix::io::Errno::NODEV), "{refusal}");
            Some(at)
        }
    };
    let alias_now = || world.link("va").unwrap().alias.unwrap_or_default();

    assert_eq!(all(vec![]), None);
    assert_eq!(all(vec![alias("a"), alias("b"), alias("c")]), None);
    assert_eq!(alias_now(), "c");
    assert_eq!(
        all(vec![absent(), alias("d"), absent(), alias("e")]),
        Some(0)
    );
    assert_eq!(alias_now(), "e");
    assert_eq!(all(vec![alias("f"), absent()]), Some(1));
    assert_eq!(all(vec![alias("g"), absent(), alias("h")]), Some(1));
    // Nothing is left over that a later answer could be taken for.
    let found = link::get(&mut socket, Which::Index(index)).unwrap();
    assert_eq!(found.unwrap().alias.as_deref(), Some("h"));
    assert!(
        link::get(&mut socket, Which::Index(9_999))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_long_batch_is_sent_in_parts_and_its_first_error_has_its_place() {
    let world = World::new();
    ip("link add va up type veth peer name vb");
    let index = world.link("va").unwrap().index;
    let mut socket = RouteSocket::open().unwrap();
    for first_failed in [0, 31, 127, 128, 5000, 9999] {
        let requests = (0..10_000).map(|at| {
            let index = if at < first_failed { index } else { 9_999 };
            link::alias_request(index, &format!("alias {at}"))
        });
        let failed = socket.all(requests.collect()).unwrap_err();
        assert_eq!(failed.request, first_failed);
        assert!(failed.error.is(rustix::io::Errno::NODEV), "{failed:?}");
        if let Some(last) = first_failed.checked_sub(1) {
            let alias = world.link("va").unwrap().alias;
            assert_eq!(alias, Some(format!("alias {last}")));
        }
    }
}

#[test]
fn forwarding_is_read_as_set_for_each_family() {
    let _world = World::new();
    let mut socket = RouteSocket::open().unwrap();
    for (v4, v6) in [("0", "0"), ("1", "0"), ("1", "1"), ("0", "1")] {
        set_sysctl("ipv4/ip_forward", v4);
        set_sysctl("ipv6/conf/all/forwarding", v6);
        let mut is_on = |family| forwarding::is_on(&mut socket, family).unwrap();
        assert_eq!(is_on(Family::Ipv4), v4 == "1");
        assert_eq!(is_on(Family::Ipv6), v6 == "1");
    }
}
