//! The plugin `loopback`.

use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as};
use common::{Container, World, ip, set_sysctl, with};

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "lo", "type": "loopback"})
}

/// A container whose lo is still down, as a runtime makes it.
fn fresh(world: &World, ipv6: bool) -> Container {
    let container = world.container("x");
    container.ip("link set lo down");
    if !ipv6 {
        container.enter(|| set_sysctl("ipv6/conf/lo/disable_ipv6", "1"));
    }
    container
}

#[test]
fn add_sets_lo_up_and_returns_its_addresses() {
    for (ipv6, ips) in [
        (
            true,
            json!([{"interface": 0, "address": "127.0.0.1/8"},
                      {"interface": 0, "address": "::1/128"}]),
        ),
        (false, json!([{"interface": 0, "address": "127.0.0.1/8"}])),
    ] {
        let world = World::new();
        let x = fresh(&world, ipv6);

        let result = call_as("loopback", "ADD", &config(), &x).run().ok();

        assert!(x.link("lo").unwrap().up);
        assert_eq!(
            result,
            json!({"cniVersion": "1.1.0",
                "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/x"}],
                "ips": ips})
        );
    }
}

#[test]
fn a_prev_result_is_passed_on() {
    let world = World::new();
    let x = fresh(&world, true);
    let before = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]});

    let result = call_as(
        "loopback",
        "ADD",
        &with(config(), json!({"prevResult": before})),
        &x,
    )
    .run()
    .ok();

    assert_eq!(result, before);
    assert!(x.link("lo").unwrap().up);
}

#[test]
fn each_cni_version_has_its_result_format() {
    let world = World::new();
    let x = fresh(&world, true);
    let result = |version: &str| {
        let config = with(config(), json!({"cniVersion": version}));
        call_as("loopback", "ADD", &config, &x).run().ok()
    };
    assert_eq!(result("0.2.0")["ip4"], json!({"ip": "127.0.0.1/8"}));
    assert_eq!(
        result("0.3.1")["ips"][1],
        json!({"version": "6", "interface": 0, "address": "::1/128"})
    );
    assert_eq!(
        result("1.0.0")["ips"][0],
        json!({"interface": 0, "address": "127.0.0.1/8"})
    );
}

#[test]
fn cni_ifname_is_ignored() {
    let world = World::new();
    let x = fresh(&world, true);
    x.ip("link add eth7 type veth peer name other");
    let result = call_as("loopback", "ADD", &config(), &x)
        .ifname("eth7")
        .run()
        .ok();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert!(!x.link("eth7").unwrap().up);
}

#[test]
fn add_can_be_repeated_and_lo_may_already_be_up() {
    let world = World::new();
    let x = world.container("x");
    for _ in 0..2 {
        call_as("loopback", "ADD", &config(), &x).run().ok();
    }
    assert!(x.link("lo").unwrap().up);
}

#[test]
fn del_sets_lo_down_and_succeeds_when_the_netns_is_gone() {
    let world = World::new();
    let x = fresh(&world, true);
    call_as("loopback", "ADD", &config(), &x).run().ok();
    let del = call_as("loopback", "DEL", &config(), &x);
    del.run().ok();
    assert!(!x.link("lo").unwrap().up);
    del.run().ok();
    x.destroy();
    del.run().ok();
    del.clone().without("CNI_NETNS").run().ok();
    del.var("CNI_NETNS", "").run().ok();
}

/// A dead pod's PID may be reused by a process of the host.
#[test]
fn del_does_not_set_the_host_s_lo_down() {
    let world = World::new();
    let x = world.container("x");
    call_as("loopback", "DEL", &config(), &x)
        .var("CNI_NETNS", "/proc/self/ns/net")
        .run()
        .ok();
    assert!(world.link("lo").unwrap().up);
}

#[test]
fn check_reports_a_lo_that_is_down() {
    let world = World::new();
    let x = fresh(&world, true);
    let result = call_as("loopback", "ADD", &config(), &x).run().ok();
    let check = call_as(
        "loopback",
        "CHECK",
        &with(config(), json!({"prevResult": result})),
        &x,
    );
    check.run().ok();
    x.ip("link set lo down");
    let error = check.run().err_code(102);
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("lo is switched off"),
        "{error}"
    );
}

#[test]
fn a_path_that_is_not_a_netns_is_code_8() {
    let world = World::new();
    let x = world.container("x");
    for path in ["/run/netns/none", "/run"] {
        call_as("loopback", "ADD", &config(), &x)
            .var("CNI_NETNS", path)
            .run()
            .err_code(8);
    }
}

#[test]
fn lo_with_a_non_loopback_address_is_refused() {
    let world = World::new();
    let x = fresh(&world, true);
    x.ip("addr add 10.9.0.1/32 dev lo");
    let error = call_as("loopback", "ADD", &config(), &x)
        .run()
        .err_code(101);
    assert!(
        error["msg"].as_str().unwrap().contains("10.9.0.1"),
        "{error}"
    );
}

#[test]
fn gc_and_status_succeed_without_output() {
    let _world = World::new();
    let list = with(config(), json!({"cni.dev/valid-attachments": []}));
    call_alone("loopback", "GC", &list).run().ok();
    call_alone("loopback", "STATUS", &config()).run().ok();
    assert!(ip("link show lo").contains("UP"));
}
