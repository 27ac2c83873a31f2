//! From the cluster's Nodes, the options and a few facts of this host to what its network should
//! be. Pure: nothing here asks anybody.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::node::Node;
use super::options::{Settings, is_unusable};
use super::subnets::{Claims, aggregate};
use pausenet::cni::config;
use pausenet::ipam::range::RangeSet;
use pausenet::kernel::owned_route::{OwnedRoute, Target, Way};

/// What this node should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The subnets of this node's own pods, fit to allocate from; none when there is no network to
    /// configure yet.
    pub pods: Vec<IpNetwork>,
    pub routes: Vec<OwnedRoute>,
    pub masquerade: Masquerade,
    /// What stands in the way of some of it.
    pub problems: Vec<Problem>,
}

/// Whose source addresses are replaced, and where to they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    pub pods: Vec<IpNetwork>,
    pub kept: Vec<IpNetwork>,
}

/// Something that keeps a Node's pods from being reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    pub node: String,
    pub kind: ProblemKind,
    pub text: String,
}

/// The kinds of problems, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The Node's address is not on a link of this host.
    NotOnLink,
    /// The Node has no usable address of a family that its pods have.
    NoAddress,
    /// Two Nodes claim the same addresses for their pods.
    Overlap,
    /// A value of the Node is no address or subnet.
    Unreadable,
    /// Somebody else's route goes before ours.
    Shadowed,
    /// The kernel refused the route.
    Refused,
    /// The subnet of this node's pods is too small.
    TooSmall,
}

impl ProblemKind {
    /// The kind in a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotOnLink => "not_on_link",
            Self::NoAddress => "no_address",
            Self::Overlap => "overlap",
            Self::Unreadable => "unreadable",
            Self::Shadowed => "shadowed",
            Self::Refused => "refused",
            Self::TooSmall => "too_small",
        }
    }
}

/// Never masqueraded: what is for several hosts, or for none beyond the link.
const NEVER: [&str; 4] = ["224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10"];

/// The addresses that other nodes are reached by, for [`pausenet::kernel::owned_route::ways`].
pub fn gateways(others: &[Node]) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = others
        .iter()
        .filter(|node| !node.pod_cidrs.is_empty())
        .flat_map(|node| [true, false].map(|v4| node.address(v4)))
        .flatten()
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Works out what should be. `ways` tells how each of [`gateways`] is reached.
pub fn desired(
    own: &Node,
    others: &[Node],
    settings: &Settings,
    ways: &HashMap<IpAddr, Way>,
) -> Desired {
    let mut problems = Vec::new();
    let mut problem = |node: &Node, kind, text: String| {
        problems.push(Problem {
            node: node.name.clone(),
            kind,
            text,
        });
    };
    let mut claims = Claims::default();
    let mut routes = Vec::new();
    let mut pods = Vec::new();
    // This node's own come first: nobody else may claim them. The others have a fixed order, so
    // that all nodes decide alike.
    let mut sorted: Vec<_> = others.iter().collect();
    sorted.sort();
    for node in std::iter::once(own).chain(sorted) {
        for text in &node.unreadable {
            let msg = format!("{text:?} is no address or subnet");
            problem(node, ProblemKind::Unreadable, msg);
        }
        for cidr in &node.pod_cidrs {
            if let Err((other, owner)) = claims.claim(*cidr, &node.name) {
                let msg = format!("its {cidr} overlaps {other} of {owner}");
                problem(node, ProblemKind::Overlap, msg);
                continue;
            }
            if std::ptr::eq(node, own) {
                match check_size(*cidr) {
                    Ok(()) => pods.push(*cidr),
                    Err(why) => problem(node, ProblemKind::TooSmall, why),
                }
                // What no pod has (any more) is nowhere: without this, a packet for it would go to
                // the default gateway, and perhaps come back.
                routes.push(OwnedRoute {
                    dst: *cidr,
                    target: Target::Unreachable,
                });
                continue;
            }
            match target(node, *cidr, ways) {
                Ok(target) => routes.push(OwnedRoute { dst: *cidr, target }),
                Err((kind, text)) => problem(node, kind, text),
            }
        }
    }
    let never = NEVER.iter().filter_map(|text| text.parse().ok());
    let of_pods = [own]
        .into_iter()
        .chain(others)
        .flat_map(|node| node.pod_cidrs.iter().copied());
    let kept = never.chain(settings.kept.iter().copied()).chain(of_pods);
    let masquerade = Masquerade {
        pods: aggregate(if settings.masquerade {
            own.pod_cidrs.clone()
        } else {
            Vec::new()
        }),
        kept: aggregate(kept),
    };
    routes.sort();
    Desired {
        pods,
        routes,
        masquerade,
        problems,
    }
}

/// Whether there are addresses to give out.
fn check_size(cidr: IpNetwork) -> Result<(), String> {
    let range = config::Range {
        subnet: cidr,
        range_start: None,
        range_end: None,
        gateway: None,
    };
    RangeSet::new(&[range]).map(drop)
}

fn target(
    node: &Node,
    cidr: IpNetwork,
    ways: &HashMap<IpAddr, Way>,
) -> Result<Target, (ProblemKind, String)> {
    let family = if cidr.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some(gateway) = node.address(cidr.is_ipv4()) else {
        let msg = format!("it has pods in {cidr}, but no InternalIP of {family}");
        return Err((ProblemKind::NoAddress, msg));
    };
    if is_unusable(gateway) || cidr.contains(gateway) {
        let msg = format!("its InternalIP {gateway} cannot lead to its pods in {cidr}");
        return Err((ProblemKind::NoAddress, msg));
    }
    let not_on_link = |why: String| {
        let msg = format!("no route to its pods in {cidr}: its InternalIP {gateway} {why}");
        Err((ProblemKind::NotOnLink, msg))
    };
    match ways.get(&gateway) {
        Some(Way::OnLink(link)) => Ok(Target::Neighbour {
            gateway,
            link: *link,
        }),
        Some(Way::Through {
            gateway: router, ..
        }) => not_on_link(format!(
            "is not on a link of this node, but behind {router}"
        )),
        Some(Way::Own) => not_on_link("is this node's own".to_owned()),
        Some(Way::None) | None => not_on_link("cannot be reached at all".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use super::super::options::Options;
    use clap::Parser;

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Node {
        Node {
            name: name.into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
            unreadable: Vec::new(),
        }
    }

    fn settings(args: &[&str]) -> Settings {
        let args = std::iter::once("pausenetd").chain(args.iter().copied());
        Options::try_parse_from(args).unwrap().settings()
    }

    fn on_link(others: &[Node]) -> HashMap<IpAddr, Way> {
        let ways = gateways(others).into_iter().map(|ip| (ip, Way::OnLink(7)));
        ways.collect()
    }

    fn shown(desired: &Desired) -> Vec<String> {
        desired.routes.iter().map(OwnedRoute::to_string).collect()
    }

    #[test]
    fn each_subnet_is_reached_by_an_address_of_its_family() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24", "fd00:1::/64"]);
        let others = [node(
            "b",
            &["192.0.2.2", "2001:db8::2"],
            &["10.1.1.0/24", "fd00:2::/64"],
        )];
        let desired = desired(&own, &others, &settings(&[]), &on_link(&others));
        assert_eq!(
            shown(&desired),
            [
                "unreachable 10.1.0.0/24",
                "10.1.1.0/24 via 192.0.2.2",
                "unreachable fd00:1::/64",
                "fd00:2::/64 via 2001:db8::2",
            ]
        );
        assert_eq!(desired.pods, own.pod_cidrs);
        assert_eq!(desired.problems, []);
    }

    #[test]
    fn a_node_s_troubles_are_its_own() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24"]);
        let others = [
            node("far", &["198.51.100.9"], &["10.1.1.0/24"]),
            node("lost", &["198.51.100.10"], &["10.1.2.0/24"]),
            node("four", &["192.0.2.4"], &["fd00:4::/64"]),
            node("twin", &["192.0.2.5"], &["10.1.0.128/25"]),
            node("self", &["192.0.2.1"], &["10.1.6.0/24"]),
            node("inside", &["10.1.7.1"], &["10.1.7.0/24"]),
            node("well", &["192.0.2.8"], &["10.1.8.0/24"]),
            node("new", &[], &[]),
        ];
        let mut ways = on_link(&others);
        let gateway = "192.0.2.254".parse().unwrap();
        ways.insert(
            "198.51.100.9".parse().unwrap(),
            Way::Through { gateway, link: 7 },
        );
        ways.insert("198.51.100.10".parse().unwrap(), Way::None);
        ways.insert("192.0.2.1".parse().unwrap(), Way::Own);
        let desired = desired(&own, &others, &settings(&[]), &ways);
        assert_eq!(
            shown(&desired),
            ["unreachable 10.1.0.0/24", "10.1.8.0/24 via 192.0.2.8"]
        );
        let mut kinds: Vec<_> = desired
            .problems
            .iter()
            .map(|problem| (problem.node.as_str(), problem.kind))
            .collect();
        kinds.sort();
        assert_eq!(
            kinds,
            [
                ("far", ProblemKind::NotOnLink),
                ("four", ProblemKind::NoAddress),
                ("inside", ProblemKind::NoAddress),
                ("lost", ProblemKind::NotOnLink),
                ("self", ProblemKind::NotOnLink),
                ("twin", ProblemKind::Overlap),
            ]
        );
        let far = desired.problems.iter().find(|it| it.node == "far").unwrap();
        assert!(far.text.contains("behind 192.0.2.254"), "{}", far.text);
    }

    #[test]
    fn of_two_nodes_with_one_subnet_the_first_by_name_has_it_whatever_the_order() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24"]);
        let b = node("b", &["192.0.2.2"], &["10.1.1.0/24"]);
        let c = node("c", &["192.0.2.3"], &["10.1.1.0/24"]);
        for others in [[b.clone(), c.clone()], [c, b]] {
            let desired = desired(&own, &others, &settings(&[]), &on_link(&others));
            assert_eq!(shown(&desired)[1], "10.1.1.0/24 via 192.0.2.2");
            assert_eq!(desired.problems.len(), 1);
            assert_eq!(desired.problems[0].node, "c");
        }
    }

    #[test]
    fn sources_are_kept_within_the_cluster_and_where_it_is_said() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24"]);
        let others = [node("b", &["192.0.2.2"], &["10.9.1.0/24"])];
        let args = [
            "--cluster-cidr",
            "10.1.0.0/16",
            "--masquerade-except",
            "192.168.0.0/16",
        ];
        let desired = desired(&own, &others, &settings(&args), &on_link(&others));
        assert_eq!(desired.masquerade.pods, own.pod_cidrs);
        let kept: Vec<_> = desired
            .masquerade
            .kept
            .iter()
            .map(|n| n.to_string())
            .collect();
        assert_eq!(
            kept,
            [
                "fe80::/10",
                "ff00::/8",
                "10.1.0.0/16",
                "10.9.1.0/24",
                "192.168.0.0/16",
                "224.0.0.0/4",
                "255.255.255.255/32",
            ]
        );
    }

    #[test]
    fn without_masquerade_nobody_s_source_is_replaced() {
        let own = node("a", &[], &["10.1.0.0/24"]);
        let off = settings(&["--masquerade", "false"]);
        let desired = desired(&own, &[], &off, &HashMap::new());
        assert_eq!(desired.masquerade.pods, []);
    }

    #[test]
    fn a_subnet_without_room_for_a_pod_is_said_to_be_too_small() {
        let own = node("a", &[], &["10.1.0.0/31"]);
        let desired = desired(&own, &[], &settings(&[]), &HashMap::new());
        assert_eq!(desired.pods, []);
        assert_eq!(desired.problems[0].kind, ProblemKind::TooSmall);
    }

    fn any_node() -> impl Strategy<Value = Node> {
        (
            "[a-c]{1,2}",
            proptest::collection::vec(0u8..8, 0..3),
            proptest::collection::vec((0u8..8, 22u8..=32), 0..3),
        )
            .prop_map(|(name, addresses, cidrs)| Node {
                name,
                addresses: addresses
                    .into_iter()
                    .map(|last| IpAddr::from([192, 0, 2, last]))
                    .collect(),
                pod_cidrs: cidrs
                    .into_iter()
                    .map(|(third, prefix)| {
                        let net = IpNetwork::new([10, 1, third, 0].into(), prefix).unwrap();
                        IpNetwork::new(net.network(), prefix).unwrap()
                    })
                    .collect(),
                unreadable: Vec::new(),
            })
    }

    proptest! {
        #[test]
        fn whatever_the_nodes_say_no_route_leads_own_pods_away_and_none_overlap(
            own in any_node(),
            others in proptest::collection::vec(any_node(), 0..6),
        ) {
            let desired = desired(&own, &others, &settings(&[]), &on_link(&others));
            let mut claims = Claims::default();
            for route in &desired.routes {
                prop_assert!(claims.claim(route.dst, "x").is_ok(), "{:?}", desired.routes);
                if let Target::Neighbour { gateway, .. } = route.target {
                    prop_assert!(!route.dst.contains(gateway));
                    for cidr in &own.pod_cidrs {
                        prop_assert!(!cidr.contains(route.dst.network()) && !route.dst.contains(cidr.network())
                            || desired.problems.iter().any(|it| it.kind == ProblemKind::Overlap));
                    }
                }
            }
            // Every subnet has a route or a problem.
            let subnets: usize = own.pod_cidrs.len()
                + others.iter().map(|node| node.pod_cidrs.len()).sum::<usize>();
            let solved = desired.routes.len();
            let troubled = desired.problems.iter().filter(|it| it.kind != ProblemKind::TooSmall);
            prop_assert_eq!(subnets, solved + troubled.count());
        }
    }
}
