//! Sets the routes to the pods of other nodes: compares the desired routes with the daemon's routes in
//! the kernel, and applies the difference. Foreign routes are neither changed nor removed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::desired::{Problem, ProblemKind};
use pausenet::kernel::owned_route::{self, NextHop, OwnedRoute, Target};
use pausenet::kernel::{KernelError, RouteSocket};
use pausenet_host::{During, Result};

/// A change to the daemon's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add(OwnedRoute),
    /// Replaces ours to the same destination.
    Replace(OwnedRoute),
    Remove(OwnedRoute),
}

/// The changes that turn the present routes into the desired ones (pure). Removals come last, so that
/// no destination lacks a route in between.
fn changes(desired: &[OwnedRoute], present: &[OwnedRoute]) -> Vec<Change> {
    let there: HashSet<_> = present.iter().collect();
    let reached: HashSet<_> = present.iter().map(|route| route.dst).collect();
    let mut replaced = HashSet::new();
    let mut changes = Vec::new();
    for route in desired.iter().filter(|route| !there.contains(route)) {
        if reached.contains(&route.dst) {
            replaced.insert(route.dst);
            changes.push(Change::Replace(*route));
        } else {
            changes.push(Change::Add(*route));
        }
    }
    // A replacement removes one present route to that destination; the next round finds any other.
    let desired: HashSet<_> = desired.iter().collect();
    let unwanted = present
        .iter()
        .filter(|route| !desired.contains(route) && !replaced.contains(&route.dst));
    changes.extend(unwanted.copied().map(Change::Remove));
    changes
}

/// What [`ensure`] did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub put: usize,
    pub removed: usize,
    /// How many routes of the daemon there are now.
    pub present: usize,
    /// Changes that the kernel refused, each with its error.
    pub refused: Vec<(OwnedRoute, String)>,
}

/// Makes sure that the daemon's routes are exactly the desired ones.
///
/// # Errors
/// The kernel cannot list the routes. A refused change is part of the outcome instead.
pub fn ensure(socket: &mut RouteSocket, desired: &[OwnedRoute]) -> Result<Outcome> {
    /// A replacement may uncover another route of ours to the same destination: one round each.
    const ROUNDS: usize = 4;
    let mut outcome = Outcome::default();
    let mut refused = HashSet::new();
    for round in 0..=ROUNDS {
        let present = list(socket)?;
        outcome.present = present.len();
        let mut changes = changes(desired, &present);
        changes.retain(|change| !refused.contains(change.route()));
        if changes.is_empty() || round == ROUNDS {
            break;
        }
        for change in changes {
            let (count, done) = match &change {
                Change::Add(route) => (&mut outcome.put, owned_route::add(socket, route)),
                Change::Replace(route) => (&mut outcome.put, owned_route::replace(socket, route)),
                Change::Remove(route) => (&mut outcome.removed, owned_route::remove(socket, route)),
            };
            match done {
                Ok(()) => *count += 1,
                Err(err) => {
                    refused.insert(*change.route());
                    outcome.refused.push((*change.route(), explain(&err)));
                }
            }
        }
    }
    Ok(outcome)
}

impl Change {
    fn route(&self) -> &OwnedRoute {
        let (Self::Add(route) | Self::Replace(route) | Self::Remove(route)) = self;
        route
    }
}

fn explain(err: &KernelError) -> String {
    if err.is(rustix::io::Errno::EXIST) {
        return format!(
            "{err}: another program's route to that destination exists with metric {}",
            owned_route::METRIC
        );
    }
    err.to_string()
}

/// The daemon's routes in the kernel.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<OwnedRoute>> {
    owned_route::list(socket).during("list the routes to other nodes")
}

/// Looks up the next hop to each address.
pub fn next_hops(
    socket: &mut RouteSocket,
    addresses: &[IpAddr],
) -> Result<HashMap<IpAddr, NextHop>> {
    let next_hops =
        owned_route::next_hops(socket, addresses).during("look up the next hops to other nodes")?;
    Ok(addresses.iter().copied().zip(next_hops).collect())
}

/// Finds desired routes that packets do not take, because a foreign route takes precedence. `owner` maps
/// a route to the name of its Node.
pub fn shadowed(
    socket: &mut RouteSocket,
    desired: &[OwnedRoute],
    owner: impl Fn(&OwnedRoute) -> String,
) -> Result<Vec<Problem>> {
    let to_neighbours: Vec<_> = desired
        .iter()
        .filter_map(|route| match route.target {
            Target::Neighbour { gateway, link } => Some((route, gateway, link)),
            Target::Unreachable => None,
        })
        .collect();
    // Each subnet is probed at its last address, the one least likely to have a route of its own.
    let probes: Vec<_> = to_neighbours
        .iter()
        .map(|(route, ..)| last_host(route))
        .collect();
    let next_hops = owned_route::next_hops(socket, &probes)
        .during("look up the next hops to other nodes' pods")?;
    let mut problems = Vec::new();
    for ((route, gateway, link), next_hop) in to_neighbours.into_iter().zip(next_hops) {
        let by_ours = next_hop == (NextHop::Gateway { gateway, link });
        if by_ours {
            continue;
        }
        let other = match next_hop {
            NextHop::Gateway { gateway, .. } => format!("to {gateway}"),
            NextHop::OnLink(_) => "onto a link of this node".to_owned(),
            NextHop::Local => "to this node itself".to_owned(),
            NextHop::Unreachable => "nowhere".to_owned(),
        };
        problems.push(Problem {
            node: owner(route),
            kind: ProblemKind::Shadowed,
            text: format!(
                "a route that is not pausenetd's takes precedence over the one to its pods in {}, and \
                 leads {other}; `ip route get {}` shows it",
                route.dst,
                last_host(route)
            ),
        });
    }
    Ok(problems)
}

/// The last address of a subnet, without the IPv4 broadcast address.
fn last_host(route: &OwnedRoute) -> IpAddr {
    match route.dst.broadcast() {
        IpAddr::V4(last) if route.dst.prefix() < 31 => {
            std::net::Ipv4Addr::from(u32::from(last) - 1).into()
        }
        last => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnetwork::IpNetwork;
    use proptest::prelude::*;

    fn route(third: u8, last: u8) -> OwnedRoute {
        let dst = IpNetwork::new([10, 1, third, 0].into(), 24).unwrap();
        let target = match last {
            0 => Target::Unreachable,
            last => Target::Neighbour {
                gateway: [192, 0, 2, last].into(),
                link: 7,
            },
        };
        OwnedRoute { dst, target }
    }

    #[test]
    fn unchanged_routes_need_no_change() {
        let both = [route(1, 1), route(2, 0)];
        assert_eq!(changes(&both, &both), []);
    }

    #[test]
    fn a_route_to_a_moved_node_is_replaced_and_to_a_removed_node_removed() {
        let present = [route(1, 1), route(2, 2)];
        let desired = [route(1, 9), route(3, 3)];
        assert_eq!(
            changes(&desired, &present),
            [
                Change::Replace(route(1, 9)),
                Change::Add(route(3, 3)),
                Change::Remove(route(2, 2)),
            ]
        );
    }

    #[test]
    fn of_two_routes_to_one_destination_the_undesired_one_is_removed() {
        let present = [route(1, 1), route(1, 2)];
        assert_eq!(
            changes(&[route(1, 2)], &present),
            [Change::Remove(route(1, 1))]
        );
    }

    #[test]
    fn a_subnet_is_probed_at_its_last_host_address() {
        let of = |text: &str| {
            let dst: IpNetwork = text.parse().unwrap();
            last_host(&OwnedRoute {
                dst,
                target: Target::Unreachable,
            })
        };
        assert_eq!(of("10.1.2.0/24"), IpAddr::from([10, 1, 2, 254]));
        assert_eq!(of("10.1.2.4/31"), IpAddr::from([10, 1, 2, 5]));
        assert_eq!(of("fd00::/127").to_string(), "fd00::1");
    }

    /// A model of the kernel's behaviour with routes of one metric.
    fn apply(present: &mut Vec<OwnedRoute>, change: Change) {
        match change {
            Change::Add(route) => {
                assert!(present.iter().all(|it| it.dst != route.dst), "EEXIST");
                present.push(route);
            }
            Change::Replace(route) => {
                let first = present.iter_mut().find(|it| it.dst == route.dst);
                *first.expect("one to replace") = route;
            }
            Change::Remove(route) => present.retain(|it| *it != route),
        }
    }

    fn routes() -> impl Strategy<Value = Vec<OwnedRoute>> {
        proptest::collection::vec((0u8..4, 0u8..4), 0..6)
            .prop_map(|routes| routes.into_iter().map(|(a, b)| route(a, b)).collect())
    }

    proptest! {
        #[test]
        fn a_few_rounds_reach_the_desired_routes_and_no_destination_ever_lacks_one(
            desired in routes(), mut present in routes()
        ) {
            let mut desired = desired;
            desired.sort();
            desired.dedup_by_key(|route| route.dst);
            present.sort();
            present.dedup();
            let kept: Vec<_> = present.iter().map(|route| route.dst)
                .filter(|dst| desired.iter().any(|route| route.dst == *dst)).collect();
            for _ in 0..4 {
                for change in changes(&desired, &present) {
                    apply(&mut present, change);
                    for dst in &kept {
                        prop_assert!(present.iter().any(|route| route.dst == *dst));
                    }
                }
            }
            present.sort();
            prop_assert_eq!(present, desired);
        }
    }
}
