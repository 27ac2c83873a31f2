//! The desired state: computed from the cluster's Nodes, the options and the next hops of this host.
//! Pure: no I/O here.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::node::Node;
use super::options::{Settings, is_unusable_as_gateway};
use super::subnets::{SubnetOwners, aggregate};
use pausenet::cni::Family;
use pausenet::cni::config;
use pausenet::ipam::range::RangeSet;
use pausenet::kernel::owned_route::{NextHop, OwnedRoute, Target};

/// What should be on this node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DesiredState {
    /// The subnets of this node's own pods that are usable for allocation; empty when there is no
    /// network to configure yet.
    pub(crate) pods: Vec<IpNetwork>,
    pub(crate) routes: Vec<OwnedRoute>,
    pub(crate) masquerade: DesiredMasquerade,
    /// What keeps parts of the state from being complete.
    pub(crate) problems: Vec<Problem>,
}

/// Which traffic is masqueraded: from `pods` to anywhere but `exempt`. No two subnets of a list
/// overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredMasquerade {
    pub pods: Vec<IpNetwork>,
    pub exempt: Vec<IpNetwork>,
}

/// A reason why a Node's pods are not reachable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    pub node: String,
    pub kind: ProblemKind,
    pub text: String,
}

/// The kind of a problem; see [`ProblemKind::as_str`] for its name in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The Node's address is not on a link of this host: it is behind a router.
    NotOnLink,
    /// The Node has no usable address of its pods' address family.
    NoAddress,
    /// Two Nodes claim the same addresses for their pods.
    Overlap,
    /// A value of the Node is not an address or subnet.
    Unreadable,
    /// A foreign route takes precedence over ours.
    Shadowed,
    /// The kernel refused the route.
    Refused,
    /// The subnet of this node's pods is too small.
    TooSmall,
}

impl ProblemKind {
    /// The value of the metric label `problem`.
    pub(crate) fn as_str(self) -> &'static str {
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

/// Never masqueraded: multicast, broadcast and link-local destinations.
const NEVER_MASQUERADED: [&str; 4] = ["224.0.0.0/4", "255.255.255.255/32", "ff00::/8", "fe80::/10"];

/// The addresses of other nodes to look up next hops for (see [`super::routes::next_hops`]).
pub(crate) fn gateways(others: &[Node]) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = others
        .iter()
        .filter(|node| !node.pod_cidrs.is_empty())
        .flat_map(|node| Family::ALL.map(|family| node.address(family)))
        .flatten()
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Computes the desired state. `next_hops` holds the result for each of [`gateways`].
pub(crate) fn compute(
    own: &Node,
    others: &[Node],
    settings: &Settings,
    next_hops: &HashMap<IpAddr, NextHop>,
) -> DesiredState {
    let mut problems = Vec::new();
    let mut problem = |node: &Node, kind, text: String| {
        problems.push(Problem {
            node: node.name.clone(),
            kind,
            text,
        });
    };
    let mut owners = SubnetOwners::default();
    let mut routes = Vec::new();
    let mut pods = Vec::new();
    // This node's own subnets come first: they win every conflict. The others have a fixed order, so
    // that all nodes resolve a conflict alike.
    let mut sorted: Vec<_> = others.iter().collect();
    sorted.sort();
    for node in std::iter::once(own).chain(sorted) {
        for text in &node.unreadable {
            let msg = format!("{text:?} is not an address or subnet");
            problem(node, ProblemKind::Unreadable, msg);
        }
        for cidr in &node.pod_cidrs {
            if let Err((other, owner)) = owners.insert(*cidr, &node.name) {
                let msg = format!("its {cidr} overlaps {other} of {owner}");
                problem(node, ProblemKind::Overlap, msg);
                continue;
            }
            if std::ptr::eq(node, own) {
                match check_size(*cidr) {
                    Ok(()) => pods.push(*cidr),
                    Err(why) => problem(node, ProblemKind::TooSmall, why),
                }
                // An address of no pod is unreachable: without this route, a packet to it would go to
                // the default gateway, and perhaps loop back.
                routes.push(OwnedRoute {
                    dst: *cidr,
                    target: Target::Unreachable,
                });
                continue;
            }
            match target(node, *cidr, next_hops) {
                Ok(target) => routes.push(OwnedRoute { dst: *cidr, target }),
                Err((kind, text)) => problem(node, kind, text),
            }
        }
    }
    let never_masqueraded = NEVER_MASQUERADED
        .iter()
        .filter_map(|text| text.parse().ok());
    let pod_subnets = [own]
        .into_iter()
        .chain(others)
        .flat_map(|node| node.pod_cidrs.iter().copied());
    let exempt = never_masqueraded
        .chain(settings.masquerade_exempt.iter().copied())
        .chain(pod_subnets);
    let masquerade = DesiredMasquerade {
        pods: aggregate(if settings.masquerade {
            own.pod_cidrs.clone()
        } else {
            Vec::new()
        }),
        exempt: aggregate(exempt),
    };
    routes.sort();
    DesiredState {
        pods,
        routes,
        masquerade,
        problems,
    }
}

/// Fails when the subnet leaves no address to allocate.
fn check_size(cidr: IpNetwork) -> Result<(), String> {
    let range = config::Range {
        subnet: cidr,
        range_start: None,
        range_end: None,
        gateway: None,
    };
    match RangeSet::new(&[range]) {
        Ok(_) => Ok(()),
        Err(fault) => Err(fault.to_string()),
    }
}

fn target(
    node: &Node,
    cidr: IpNetwork,
    next_hops: &HashMap<IpAddr, NextHop>,
) -> Result<Target, (ProblemKind, String)> {
    let family = Family::from(cidr);
    let Some(gateway) = node.address(family) else {
        let msg = format!("it has pods in {cidr}, but no {family} InternalIP");
        return Err((ProblemKind::NoAddress, msg));
    };
    if is_unusable_as_gateway(gateway) || cidr.contains(gateway) {
        let msg = format!("its InternalIP {gateway} cannot be the next hop to its pods in {cidr}");
        return Err((ProblemKind::NoAddress, msg));
    }
    let not_on_link = |why: String| {
        let msg = format!("no route to its pods in {cidr}: its InternalIP {gateway} {why}");
        Err((ProblemKind::NotOnLink, msg))
    };
    match next_hops.get(&gateway) {
        Some(NextHop::OnLink(link)) => Ok(Target::Neighbour {
            gateway,
            link: *link,
        }),
        Some(NextHop::Gateway {
            gateway: router, ..
        }) => not_on_link(format!(
            "is not on a link of this node, but behind {router}"
        )),
        Some(NextHop::Local) => not_on_link("is an address of this node".to_owned()),
        Some(NextHop::Unreachable) | None => not_on_link("is unreachable".to_owned()),
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

    fn on_link(others: &[Node]) -> HashMap<IpAddr, NextHop> {
        let next_hops = gateways(others)
            .into_iter()
            .map(|ip| (ip, NextHop::OnLink(7)));
        next_hops.collect()
    }

    fn routes_as_text(desired: &DesiredState) -> Vec<String> {
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
        let desired = compute(&own, &others, &settings(&[]), &on_link(&others));
        assert_eq!(
            routes_as_text(&desired),
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
    fn a_problem_of_one_node_does_not_affect_the_others() {
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
        let mut next_hops = on_link(&others);
        let gateway = "192.0.2.254".parse().unwrap();
        next_hops.insert(
            "198.51.100.9".parse().unwrap(),
            NextHop::Gateway { gateway, link: 7 },
        );
        next_hops.insert("198.51.100.10".parse().unwrap(), NextHop::Unreachable);
        next_hops.insert("192.0.2.1".parse().unwrap(), NextHop::Local);
        let desired = compute(&own, &others, &settings(&[]), &next_hops);
        assert_eq!(
            routes_as_text(&desired),
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
    fn of_two_nodes_with_one_subnet_the_first_by_name_gets_it() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24"]);
        let b = node("b", &["192.0.2.2"], &["10.1.1.0/24"]);
        let c = node("c", &["192.0.2.3"], &["10.1.1.0/24"]);
        for others in [[b.clone(), c.clone()], [c, b]] {
            let desired = compute(&own, &others, &settings(&[]), &on_link(&others));
            assert_eq!(routes_as_text(&desired)[1], "10.1.1.0/24 via 192.0.2.2");
            assert_eq!(desired.problems.len(), 1);
            assert_eq!(desired.problems[0].node, "c");
        }
    }

    #[test]
    fn traffic_within_the_cluster_and_to_exceptions_is_not_masqueraded() {
        let own = node("a", &["192.0.2.1"], &["10.1.0.0/24"]);
        let others = [node("b", &["192.0.2.2"], &["10.9.1.0/24"])];
        let args = [
            "--cluster-cidr",
            "10.1.0.0/16",
            "--masquerade-except",
            "192.168.0.0/16",
        ];
        let desired = compute(&own, &others, &settings(&args), &on_link(&others));
        assert_eq!(desired.masquerade.pods, own.pod_cidrs);
        let exempt: Vec<_> = desired
            .masquerade
            .exempt
            .iter()
            .map(|n| n.to_string())
            .collect();
        assert_eq!(
            exempt,
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
    fn with_masquerade_off_no_subnet_is_masqueraded() {
        let own = node("a", &[], &["10.1.0.0/24"]);
        let off = settings(&["--masquerade", "false"]);
        let desired = compute(&own, &[], &off, &HashMap::new());
        assert_eq!(desired.masquerade.pods, []);
    }

    #[test]
    fn a_subnet_without_room_for_a_pod_is_reported_as_too_small() {
        let own = node("a", &[], &["10.1.0.0/31"]);
        let desired = compute(&own, &[], &settings(&[]), &HashMap::new());
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
        fn no_route_overlaps_another_or_captures_this_node_s_pods(
            own in any_node(),
            others in proptest::collection::vec(any_node(), 0..6),
        ) {
            let desired = compute(&own, &others, &settings(&[]), &on_link(&others));
            let mut owners = SubnetOwners::default();
            for route in &desired.routes {
                prop_assert!(owners.insert(route.dst, "x").is_ok(), "{:?}", desired.routes);
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
            let routed = desired.routes.len();
            let with_problem = desired.problems.iter().filter(|it| it.kind != ProblemKind::TooSmall);
            prop_assert_eq!(subnets, routed + with_problem.count());
        }
    }
}
