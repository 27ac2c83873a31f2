//! `macspoofchk`: frames with another source MAC than the container's own are dropped.

use serde_json::{Value, json};

use common::nftables::{element_count, ruleset};
use common::traffic::{bind, datagrams_before, listen, tcp};
use common::{Container, World, added, call, podnet, run, with};

const FORGED: &str = "02:00:00:00:00:66";
const OWNER: &str = "pausenet podnet x eth0";

fn checked() -> Value {
    with(podnet(), json!({"macspoofchk": true}))
}

/// What a neighbour hears of broadcasts with the right MAC, a forged one, and the right one again.
/// A broadcast needs no address resolution first.
fn heard(from: &Container, neighbour: &Container) -> Vec<Vec<u8>> {
    let receiver = bind(Some(neighbour), "0.0.0.0:7000");
    let sender = bind(Some(from), "0.0.0.0:0");
    sender.set_broadcast(true).unwrap();
    let say = |what: &[u8]| sender.send_to(what, "10.1.0.255:7000").unwrap();
    let own = from.link("eth0").unwrap().mac.unwrap();
    say(b"right");
    from.ip(&format!("link set eth0 address {FORGED}"));
    say(b"forged");
    from.ip(&format!("link set eth0 address {own}"));
    say(b"end");
    datagrams_before(&receiver, b"end")
}

#[test]
fn frames_with_a_forged_mac_are_dropped_and_others_pass() {
    for (check, expected) in [(true, vec!["right"]), (false, vec!["right", "forged"])] {
        let world = World::new();
        let config = with(checked(), json!({"macspoofchk": check}));
        let (x, _) = added(&world, &config, "x");
        let (y, _) = added(&world, &podnet(), "y");
        assert_eq!(
            heard(&x, &y),
            expected.iter().map(|s| s.as_bytes()).collect::<Vec<_>>()
        );
        tcp(
            &listen(Some(&y), "10.1.0.3:7000"),
            Some(&x),
            "10.1.0.3:7000",
        );
    }
}

#[test]
fn a_requested_mac_passes_the_check() {
    let world = World::new();
    let config = with(
        checked(),
        json!({"runtimeConfig": {"mac": "02:00:00:00:00:05"}}),
    );
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &checked(), "y");
    assert_eq!(heard(&x, &y), [b"right"]);
    // A neighbour's MAC is as forged as any.
    assert_eq!(heard(&y, &x), [b"right"]);
}

#[test]
fn containers_without_macspoofchk_on_the_same_bridge_are_left_alone() {
    let world = World::new();
    let (_x, _) = added(&world, &checked(), "x");
    let (y, _) = added(&world, &podnet(), "y");
    let (z, _) = added(&world, &podnet(), "z");
    assert_eq!(heard(&y, &z), [&b"right"[..], b"forged"]);
}

#[test]
fn a_network_without_ipam_is_checked_too() {
    let world = World::new();
    let config = with(checked(), json!({"ipam": null, "isDefaultGateway": null}));
    let (x, _) = added(&world, &config, "x");
    let (y, _) = added(&world, &config, "y");
    for (pod, address) in [(&x, "10.1.0.2/24"), (&y, "10.1.0.3/24")] {
        pod.ip(&format!("addr add {address} brd + dev eth0"));
    }
    assert_eq!(heard(&x, &y), [b"right"]);

    call("DEL", &config, &x).run().ok();

    assert_eq!(element_count(OWNER), 0);
    assert_eq!(element_count("pausenet podnet y eth0"), 2);
}

#[test]
fn del_removes_all_elements_whatever_the_runtime_passes() {
    for with_result in [true, false] {
        for netns in ["there", "gone"] {
            let world = World::new();
            let (first, _) = added(&world, &checked(), "first");
            call("DEL", &checked(), &first).run().ok();
            let before = ruleset();
            let (x, result) = added(&world, &checked(), "x");
            assert_eq!(element_count(OWNER), 2);
            let prev = if with_result { result } else { json!(null) };
            let del = call("DEL", &with(checked(), json!({"prevResult": prev})), &x);
            if netns == "gone" {
                x.destroy();
            }

            del.run().ok();

            assert_eq!(ruleset(), before, "result: {with_result}, netns {netns}");
        }
    }
}

#[test]
fn an_add_without_ipam_after_a_killed_one_leaves_no_second_mac() {
    let world = World::new();
    let config = with(checked(), json!({"ipam": null, "isDefaultGateway": null}));
    let (x, result) = added(&world, &config, "x");
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    // As if ADD had been killed before its last step.
    run("ip", ["link", "set", host_end, "alias", ""]);

    call("ADD", &config, &x).run().ok();

    assert_eq!(element_count(OWNER), 2);
}

#[test]
fn check_reports_missing_macspoofchk_elements() {
    for change in [
        "flush set bridge pausenet guarded",
        "flush set bridge pausenet allowed",
        "delete table bridge pausenet",
    ] {
        let world = World::new();
        let (x, result) = added(&world, &checked(), "x");
        let check = call("CHECK", &with(checked(), json!({"prevResult": result})), &x);
        check.run().ok();

        run("nft", [change]);

        let error = check.run().err_code(102);
        assert!(
            error["msg"].as_str().unwrap().contains("table pausenet"),
            "{error}"
        );
    }
}

#[test]
fn macspoofchk_works_for_the_next_add_after_a_flushed_ruleset() {
    let world = World::new();
    let (x, _) = added(&world, &checked(), "x");
    run("nft", ["flush", "ruleset"]);

    let (y, _) = added(&world, &checked(), "y");

    assert_eq!(heard(&y, &x), [b"right"]);
}
