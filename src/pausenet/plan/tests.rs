use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::*;
use crate::cni::env::Environment;
use crate::cni::request::Request;
use crate::cni::result::Route;
use crate::cni::{MacAddr, Plugin};
use crate::ipam::{Allocated, Allocation};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

type Addresses<'a> = &'a [(&'a str, Option<&'a str>)];

fn plan_of(conf: &str, addresses: Addresses, routes: &[&str]) -> Plan {
    let routes = routes.iter().map(|dst| Route::via(net(dst), None));
    let routes = routes.collect();
    planned(conf, addresses, |allocation| Allocation {
        routes,
        ..allocation
    })
}

fn known_macs(conf: &str, addresses: Addresses, is_new: bool) -> KnownMacs {
    let of = |allocation| Allocation {
        is_new,
        ..allocation
    };
    planned(conf, addresses, of).container.known
}

fn planned(
    conf: &str,
    addresses: Addresses,
    complete: impl FnOnce(Allocation) -> Allocation,
) -> Plan {
    let env = Environment::parse(|name| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c1",
            "CNI_IFNAME" => "eth0",
            "CNI_NETNS" => "/run/netns/x",
            "CNI_PATH" => "/",
            _ => return None,
        };
        Some(value.into())
    });
    let conf = conf.as_bytes().to_vec();
    let request = Request::new(Plugin::Pausenet, &env.unwrap().unwrap(), conf).unwrap();
    let allocation = Allocation {
        addresses: addresses
            .iter()
            .map(|(address, gateway)| Allocated {
                address: net(address),
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            })
            .collect(),
        ..Allocation::default()
    };
    plan(&request, Some(complete(allocation)), MacAddr([2; 6])).unwrap()
}

fn bridge_of(plan: Plan) -> BridgePlan {
    match plan.link {
        LinkPlan::Bridge { bridge, .. } => bridge,
        LinkPlan::Ptp(_) => panic!("not a bridge"),
    }
}

fn ptp_of(plan: &Plan) -> &PtpPlan {
    match &plan.link {
        LinkPlan::Ptp(ptp) => ptp,
        LinkPlan::Bridge { .. } => panic!("not a link of its own"),
    }
}

#[test]
fn a_plain_switch_holds_no_address() {
    let plan = plan_of(
        r#"{"name": "x"}"#,
        &[("10.1.0.5/16", Some("10.1.0.1"))],
        &[],
    );
    assert!(plan.container.routes.is_empty());
    assert!(bridge_of(plan).gateways.is_empty());
}

#[test]
fn a_gateway_holds_the_gateway_s_address_of_each_family() {
    let plan = plan_of(
        r#"{"name": "x", "isGateway": true}"#,
        &[("10.1.0.5/16", None), ("fd00::5/64", Some("fd00::ff"))],
        &[],
    );
    assert_eq!(
        bridge_of(plan).gateways,
        [net("10.1.0.1/16"), net("fd00::ff/64")]
    );
}

#[test]
fn a_default_gateway_adds_one_default_route_for_each_family() {
    let plan = plan_of(
        r#"{"name": "x", "isDefaultGateway": true}"#,
        &[
            ("10.1.0.5/16", None),
            ("10.2.0.5/16", None),
            ("fd00::5/64", None),
        ],
        &[],
    );
    let routes: Vec<_> = plan
        .container
        .routes
        .iter()
        .map(|r| (r.route.dst, r.via.unwrap()))
        .collect();
    assert_eq!(
        routes,
        [
            (net("0.0.0.0/0"), "10.1.0.1".parse().unwrap()),
            (net("::/0"), "fd00::1".parse().unwrap())
        ]
    );
}

#[test]
fn routes_without_a_next_hop_go_through_the_first_gateway_of_their_family() {
    let plan = plan_of(
        r#"{"name": "x"}"#,
        &[
            ("fd00::5/64", Some("fd00::1")),
            ("10.1.0.5/16", Some("10.1.0.1")),
        ],
        &["192.168.0.0/16"],
    );
    assert_eq!(
        plan.routes[0].gw, None,
        "the result reports what was configured"
    );
    assert_eq!(
        plan.container.routes[0].via,
        Some("10.1.0.1".parse().unwrap())
    );
}

#[test]
fn ptp_routes_everything_through_the_gateway() {
    let plan = plan_of(
        r#"{"name": "x", "mode": "ptp"}"#,
        &[
            ("10.1.0.5/16", Some("10.1.0.1")),
            ("fd00::5/64", Some("fd00::1")),
        ],
        &["0.0.0.0/0"],
    );
    let host_end = ptp_of(&plan);
    assert!(!plan.container.prefix_routes);
    assert_eq!(
        plan.forward,
        Families {
            ipv4: true,
            ipv6: true
        }
    );
    assert_eq!(host_end.addresses, [net("10.1.0.1/32"), net("fd00::1/128")]);
    let to_pod: Vec<_> = host_end.routes.iter().map(|r| r.route.dst).collect();
    assert_eq!(to_pod, [net("10.1.0.5/32"), net("fd00::5/128")]);
    let inside: Vec<_> = plan
        .container
        .routes
        .iter()
        .map(|r| (r.route.dst, r.via))
        .collect();
    let via = |gateway: &str| Some(gateway.parse::<IpAddr>().unwrap());
    assert_eq!(
        inside,
        [
            (net("10.1.0.1/32"), None),
            (net("10.1.0.0/16"), via("10.1.0.1")),
            (net("fd00::1/128"), None),
            (net("fd00::/64"), via("fd00::1")),
            (net("0.0.0.0/0"), via("10.1.0.1")),
        ]
    );
}

#[test]
fn a_bridge_keeps_its_mark_while_neighbours_can_know_no_other_mac() {
    let (v4, v6) = (("10.1.0.5/16", None), ("fd00::5/64", None));
    let from_store = r#""ipam": {"type": "host-local"}"#;
    let asked = r#""runtimeConfig": {"mac": "02:00:00:00:00:05"}"#;
    let own = r#""runtimeConfig": {"mac": "0a:58:0a:01:00:05"}"#;
    // The mark of a bridge that is made for it, and whether those are kept where all addresses have had their
    // MAC and where IPv6 addresses were new: if its own IPv6 addresses are new, and if not.
    let (steady, new, none) = (STEADY_GROUP, NEW_GROUP, 0);
    let (keeps, loses) = (true, false);
    for (conf, addresses, of_new, of_used) in [
        (
            from_store.to_owned(),
            &[v4][..],
            (steady, [keeps, keeps]),
            (steady, [keeps, loses]),
        ),
        (
            from_store.to_owned(),
            &[v6],
            (steady, [keeps, keeps]),
            (steady, [keeps, loses]),
        ),
        (
            from_store.to_owned(),
            &[v4, v6],
            (new, [loses, keeps]),
            (none, [loses; 2]),
        ),
        (
            from_store.to_owned(),
            &[],
            (new, [loses, keeps]),
            (none, [loses; 2]),
        ),
        (
            r#""ipam": {"type": "static"}"#.to_owned(),
            &[v4],
            (none, [loses; 2]),
            (none, [loses; 2]),
        ),
        (
            format!("{from_store}, {asked}"),
            &[v4],
            (none, [loses; 2]),
            (none, [loses; 2]),
        ),
        (
            format!("{from_store}, {asked}"),
            &[v6],
            (new, [loses, keeps]),
            (none, [loses; 2]),
        ),
        (
            format!("{from_store}, {own}"),
            &[v4],
            (steady, [keeps, keeps]),
            (steady, [keeps, loses]),
        ),
    ] {
        let conf = format!(r#"{{"name": "x", {conf}}}"#);
        for (is_new, expected) in [(true, of_new), (false, of_used)] {
            let known = known_macs(&conf, addresses, is_new);
            let kept = [steady, new].map(|group| known.keep_mark(group));
            assert_eq!(
                (known.mark(), kept),
                expected,
                "{conf} {addresses:?} {is_new}"
            );
            assert!(!known.keep_mark(7), "others' bridges have none");
        }
    }
}

#[test]
fn the_first_address_makes_the_mac() {
    let plan = plan_of(
        r#"{"name": "x"}"#,
        &[("10.1.0.5/16", None), ("fd00::5/64", None)],
        &[],
    );
    assert_eq!(plan.container.mac.to_string(), "0a:58:0a:01:00:05");
    let plan = plan_of(r#"{"name": "x"}"#, &[], &[]);
    assert_eq!(plan.container.mac, MacAddr([2; 6]));
}
