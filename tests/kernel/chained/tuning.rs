//! `tuning`: what it changes, what it gives back, and what it refuses.

use std::fs;

use serde_json::{Value, json};

use super::{List, bridge, ptp, second};
use crate::plugins::call_as;
use common::{Container, World, ip, run, with};

const DATA: &str = "/run/cni/tuning";

fn all() -> Value {
    second(
        "tuning",
        "podnet",
        json!({
            "mac": "02:00:00:00:00:09", "mtu": 1400, "promisc": true, "allmulti": true, "txQLen": 500,
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500",
                "net.ipv4.ip_local_port_range": "2000 3000"}
        }),
    )
}

/// What `ip` says of eth0, from its flags on.
fn eth0(container: &Container) -> String {
    let shown = container.ip("link show eth0");
    shown.split_once('<').unwrap().1.to_owned()
}

#[test]
fn all_that_is_asked_for_is_changed_checked_and_given_back() {
    for first in [bridge("podnet", 1), ptp("podnet", 1)] {
        for list in List::both(&first, &all()) {
            let world = World::new();
            let x = world.container("x");
            let wired = list.behind_first(&x);
            let before = eth0(&x);

            let result = list.call_second("ADD", &wired, &x).run().ok();

            let inside = result["interfaces"].as_array().unwrap();
            let inside = inside.iter().find(|one| one["name"] == "eth0").unwrap();
            assert_eq!(inside["mac"], "02:00:00:00:00:09");
            assert_eq!(inside["mtu"], 1400);
            let now = eth0(&x);
            for part in [
                "PROMISC",
                "ALLMULTI",
                "mtu 1400",
                "qlen 500",
                "02:00:00:00:00:09",
            ] {
                assert!(now.contains(part), "{part}: {now}");
            }
            assert_eq!(x.sysctl("ipv4/conf/eth0/arp_filter"), "1");
            assert_eq!(x.sysctl("core/somaxconn"), "500");
            list.check(&x, &result);
            let backup = fs::read_to_string(format!("{DATA}/x_eth0.json")).unwrap();
            let backup: Value = serde_json::from_str(&backup).unwrap();
            assert_eq!(backup["mtu"], 1500);
            assert_eq!(backup["promisc"], false);

            let config = with(wired.clone(), json!({"prevResult": result}));
            list.call_second("DEL", &config, &x).run().ok();
            assert_eq!(eth0(&x), before);
            assert_eq!(fs::read_dir(DATA).unwrap().count(), 0);
            list.del(&x, &result);
        }
    }
}

#[test]
fn check_names_the_first_difference() {
    let world = World::new();
    let x = world.container("x");
    let list = List::ours(bridge("podnet", 1), all());
    let result = list.add(&x);
    for (change, undo, named) in [
        ("mtu 1300", "mtu 1400", "1300"),
        ("promisc off", "promisc on", "promisc"),
        ("allmulticast off", "allmulticast on", "allmulti"),
        ("txqueuelen 7", "txqueuelen 500", "txQLen"),
    ] {
        x.ip(&format!("link set eth0 {change}"));
        let said = list.failed_check(&x, &result);
        assert!(said.contains(named), "{said}");
        x.ip(&format!("link set eth0 {undo}"));
    }
    list.check(&x, &result);
    x.enter(|| fs::write("/proc/sys/net/core/somaxconn", "501").unwrap());
    let said = list.failed_check(&x, &result);
    assert!(said.contains("net.core.somaxconn"), "{said}");
}

/// One that is refused changes nothing, and says which.
#[test]
fn a_change_that_the_kernel_refuses_undoes_those_before_it() {
    let world = World::new();
    let x = world.container("x");
    let before = x.sysctl("core/somaxconn");
    for (keys, code, named) in [
        (
            json!({"sysctl": {"net.core.somaxconn": "77", "net.core.zzz": "1"}}),
            5,
            "net.core.zzz",
        ),
        (
            json!({"sysctl": {"net.core.somaxconn": "x"}}),
            5,
            "net.core.somaxconn",
        ),
        (
            json!({"sysctl": {"net.core.somaxconn": "77"}, "promisc": true, "mtu": 65_536}),
            101,
            "MTU",
        ),
    ] {
        let list = List::ours(bridge("podnet", 1), second("tuning", "podnet", keys));
        let wired = list.behind_first(&x);
        let link = eth0(&x);
        let error = list.call_second("ADD", &wired, &x).run().err_code(code);
        assert!(error["msg"].as_str().unwrap().contains(named), "{error}");
        assert_eq!(x.sysctl("core/somaxconn"), before);
        assert_eq!(eth0(&x), link);
        let left = fs::read_dir(DATA).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{named}");
        list.del(&x, &wired["prevResult"]);
    }
}

#[test]
fn the_host_s_list_says_which_settings_are_allowed() {
    let world = World::new();
    // The host may not have the folder.
    run("mount", ["-t", "tmpfs", "tmpfs", "/mnt"]);
    for folder in ["/mnt/upper", "/mnt/work"] {
        fs::create_dir(folder).unwrap();
    }
    let options = "lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work";
    run("mount", ["-t", "overlay", "-o", options, "overlay", "/etc"]);
    fs::create_dir_all("/etc/cni/tuning").unwrap();
    let x = world.container("x");
    let allowed = second(
        "tuning",
        "podnet",
        json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}),
    );
    let other = second(
        "tuning",
        "podnet",
        json!({"sysctl": {"net.core.somaxconn": "77"}}),
    );
    let list = List::ours(bridge("podnet", 1), allowed);
    let wired = list.behind_first(&x);
    let other = with(other, json!({"prevResult": wired["prevResult"]}));
    for (text, passes) in [
        (r"^net\.ipv4\.conf\.[a-zA-Z]+\.arp_filter$", true),
        ("\n  arp_filter  \n", true),
        ("net.ipv6", false),
        ("", false),
    ] {
        fs::write("/etc/cni/tuning/allowlist.conf", text).unwrap();
        let added = list.call_second("ADD", &wired, &x).run();
        assert_eq!(added.0.status.success(), passes, "{text:?}");
        let error = list.call_second("ADD", &other, &x).run().err_code(7);
        assert!(
            error["msg"]
                .as_str()
                .unwrap()
                .contains("net.core.somaxconn"),
            "{error}"
        );
    }
    fs::write("/etc/cni/tuning/allowlist.conf", "(").unwrap();
    list.call_second("ADD", &wired, &x).run().err_code(7);
    fs::remove_file("/etc/cni/tuning/allowlist.conf").unwrap();
    list.call_second("ADD", &other, &x).run().ok();
}

/// Two in one list: each gives back what it changed, whichever is asked first.
#[test]
fn two_of_them_give_back_what_was_there_before_both() {
    let world = World::new();
    let x = world.container("x");
    let list = List::ours(
        bridge("podnet", 1),
        second("tuning", "podnet", json!({"mtu": 1400})),
    );
    let wired = list.behind_first(&x);
    let before = eth0(&x);
    let result = list.call_second("ADD", &wired, &x).run().ok();
    let third = second(
        "tuning",
        "podnet",
        json!({"mtu": 1300, "txQLen": 5, "prevResult": result}),
    );
    call_as("tuning", "ADD", &third, &x).run().ok();
    for config in [&third, &wired] {
        call_as("tuning", "DEL", config, &x).run().ok();
    }
    assert_eq!(eth0(&x), before);
}

/// What is restored is an interface of the container, never one of the host that the path leads to by now.
#[test]
fn del_leaves_the_host_alone_and_forgets_the_dead() {
    let world = World::new();
    let x = world.container("x");
    let list = List::ours(bridge("podnet", 1), all());
    let result = list.add(&x);
    ip("link add eth0 type veth peer name eth1");
    let host = ip("link show eth0");
    let config = with(list.second.clone(), json!({"prevResult": result}));
    let call = list.call_second("DEL", &config, &x);
    call.var("CNI_NETNS", "/proc/self/ns/net").run().ok();
    assert_eq!(ip("link show eth0"), host);
    assert_eq!(fs::read_dir(DATA).unwrap().count(), 0);
}

/// The bridge no longer says that its addresses have always had the MACs that are derived from them, so the next
/// holder of this one announces itself.
#[test]
fn neighbours_learn_the_mac_of_the_next_holder() {
    let world = World::new();
    let first = with(
        bridge("podnet", 1),
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/29",
            "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.3"}]]}}),
    );
    let tuned = second("tuning", "podnet", json!({"mac": "02:00:00:00:00:09"}));
    let list = List::ours(first.clone(), tuned);
    let (x, y) = (world.container("x"), world.container("y"));
    let kept = list.call_first("ADD", &first, &y).run().ok();
    assert!(
        kept["ips"][0]["address"]
            .as_str()
            .unwrap()
            .starts_with("10.1.0.2")
    );
    let result = list.add(&x);
    assert!(common::pings::reaches(&y, "10.1.0.3".parse().unwrap()));
    list.del(&x, &result);
    let z = world.container("z");
    list.call_first("ADD", &first, &z).run().ok();
    let known = y.ip("neigh show 10.1.0.3");
    let mac = z.link("eth0").unwrap().mac.unwrap().to_string();
    assert!(known.contains(&mac), "{known} {mac}");
}

#[test]
fn a_dot_in_an_interface_s_name_separates_nothing() {
    let world = World::new();
    let x = world.container("x");
    let keys = json!({"sysctl": {"net/ipv4/conf/eth0.7/arp_filter": "1",
        "net.ipv4.conf.eth0/7.rp_filter": "2", "net.ipv4.conf.IFNAME.arp_ignore": "1"}});
    let list = List::ours(bridge("podnet", 1), second("tuning", "podnet", keys));
    let wired = list.call_first("ADD", &list.first, &x).ifname("eth0.7");
    let config = with(list.second.clone(), json!({"prevResult": wired.run().ok()}));
    let call = list.call_second("ADD", &config, &x).ifname("eth0.7");
    call.run().ok();
    for (key, value) in [("arp_filter", "1"), ("rp_filter", "2"), ("arp_ignore", "1")] {
        assert_eq!(x.sysctl(&format!("ipv4/conf/eth0.7/{key}")), value);
    }
}
