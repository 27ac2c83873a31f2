//! Stale addresses, which are reclaimed when a range is exhausted.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use common::{Call, STORES, World, allocated, podnet, with};

/// A network with two addresses to give: .2 and .3.
fn two_addresses() -> Value {
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.3"});
    with(
        podnet(),
        json!({"ipam": {"type": "host-local", "ranges": [[range]]}}),
    )
}

/// An address file of an unknown container, of this age.
fn left_behind(ip: &str, age: Duration) {
    let dir = Path::new(STORES).join("podnet");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(ip), "dead\r\neth0").unwrap();
    made(ip, age);
}

fn made(ip: &str, age: Duration) {
    let file = File::options()
        .write(true)
        .open(Path::new(STORES).join("podnet").join(ip));
    file.unwrap().set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn stale_addresses_are_reused_when_the_range_is_exhausted() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    left_behind("10.1.0.2", HOUR);

    let add = Call::new("ADD", &two_addresses());
    let first = add.clone().netns(&x).run().ok();
    assert_eq!(
        first["ips"][0]["address"], "10.1.0.3/24",
        "no need to reclaim yet"
    );
    let second = add.id("c2").netns(&y).run().ok();

    assert_eq!(second["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
}

#[test]
fn an_address_on_an_interface_stays_reserved_regardless_of_age() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    let add = Call::new("ADD", &two_addresses());
    add.clone().netns(&x).run().ok();
    made("10.1.0.2", HOUR);
    left_behind("10.1.0.3", HOUR);
    // Another plugin's interface has the other one.
    x.command("ip")
        .args(["address", "add", "10.1.0.3/24", "dev", "eth0"])
        .status()
        .unwrap();

    add.id("c2").netns(&y).run().err_code(11);

    assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
}

#[test]
fn a_fresh_reservation_is_kept_for_an_add_in_progress() {
    let world = World::new();
    let x = world.container("x");
    Call::new("DEL", &two_addresses()).run().ok(); // the first use of the store
    left_behind("10.1.0.2", Duration::ZERO);
    left_behind("10.1.0.3", Duration::ZERO);

    Call::new("ADD", &two_addresses())
        .netns(&x)
        .run()
        .err_code(11);
}

#[test]
fn status_reclaims_stale_addresses_before_it_reports_exhaustion() {
    let _world = World::new();
    left_behind("10.1.0.2", HOUR);
    left_behind("10.1.0.3", Duration::ZERO);
    let status = Call::new("STATUS", &two_addresses());

    status.run().ok();
    assert_eq!(allocated("podnet"), ["10.1.0.3"]);
    left_behind("10.1.0.2", Duration::ZERO);
    let error = status.run().err_code(50);

    assert!(
        error["msg"].as_str().unwrap().contains("2 of 2 in use"),
        "{error}"
    );
}
