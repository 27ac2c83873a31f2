//! Routes to the pods of other nodes: what is wanted is compared with what the kernel has of ours,
//! and the difference made good. Routes that are not ours are neither changed nor removed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::desired::{Problem, ProblemKind};
use pausenet::cni::During;
use pausenet::cni::Result;
use pausenet::kernel::owned_route::{self, OwnedRoute, Target, Way};
use pausenet::kernel::{KernelError, RouteSocket};

/// A change to the routes of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Add(OwnedRoute),
    /// In the place of ours to the same destination.
    Replace(OwnedRoute),
    Remove(OwnedRoute),
}

/// What turns the present routes into those that are wanted (pure). New ones come first, so that
/// nothing is without a way in between.
pub fn plan(wanted: &[OwnedRoute], present: &[OwnedRoute]) -> Vec<Step> {
    let there: HashSet<_> = present.iter().collect();
    let reached: HashSet<_> = present.iter().map(|route| route.dst).collect();
    let mut replaced = HashSet::new();
    let mut steps = Vec::new();
    for route in wanted.iter().filter(|route| !there.contains(route)) {
        if reached.contains(&route.dst) {
            replaced.insert(route.dst);
            steps.push(Step::Replace(*route));
        } else {
            steps.push(Step::Add(*route));
        }
    }
    // The one that is replaced is gone then; if there were two, the next look finds the other.
    let wanted: HashSet<_> = wanted.iter().collect();
    let unwanted = present
        .iter()
        .filter(|route| !wanted.contains(route) && !replaced.contains(&route.dst));
    steps.extend(unwanted.copied().map(Step::Remove));
    steps
}

/// What became of the routes.
#[derive(Debug, Default)]
pub struct Outcome {
    pub put: usize,
    pub removed: usize,
    /// How many of the daemon's are there now.
    pub present: usize,
    /// Routes that the kernel refused to have changed, with its words.
    pub refused: Vec<(OwnedRoute, String)>,
}

/// Makes the routes so.
///
/// # Errors
/// Code 101, when the kernel does not even list them.
pub fn ensure(socket: &mut RouteSocket, wanted: &[OwnedRoute]) -> Result<Outcome> {
    /// A replaced route may uncover another of ours behind it: one round each.
    const ROUNDS: usize = 4;
    let mut outcome = Outcome::default();
    let mut refused = HashSet::new();
    for round in 0..=ROUNDS {
        let present = list(socket)?;
        outcome.present = present.len();
        let mut steps = plan(wanted, &present);
        steps.retain(|step| !refused.contains(step.route()));
        if steps.is_empty() || round == ROUNDS {
            break;
        }
        for step in steps {
            let (count, done) = match &step {
                Step::Add(route) => (&mut outcome.put, owned_route::add(socket, route)),
                Step::Replace(route) => (&mut outcome.put, owned_route::replace(socket, route)),
                Step::Remove(route) => (&mut outcome.removed, owned_route::remove(socket, route)),
            };
            match done {
                Ok(()) => *count += 1,
                Err(refusal) => {
                    refused.insert(*step.route());
                    outcome.refused.push((*step.route(), explain(&refusal)));
                }
            }
        }
    }
    Ok(outcome)
}

impl Step {
    fn route(&self) -> &OwnedRoute {
        let (Self::Add(route) | Self::Replace(route) | Self::Remove(route)) = self;
        route
    }
}

fn explain(refusal: &KernelError) -> String {
    if refusal.is(rustix::io::Errno::EXIST) {
        return format!(
            "{refusal}: somebody else has one to that place with metric {}",
            owned_route::METRIC
        );
    }
    refusal.to_string()
}

/// The routes that are ours.
///
/// # Errors
/// Code 101.
pub fn list(socket: &mut RouteSocket) -> Result<Vec<OwnedRoute>> {
    owned_route::list(socket).during("list the routes to other nodes")
}

/// How the addresses are reached.
///
/// # Errors
/// Code 101.
pub fn ways(socket: &mut RouteSocket, addresses: &[IpAddr]) -> Result<HashMap<IpAddr, Way>> {
    let ways = owned_route::ways(socket, addresses).during("ask for the ways to other nodes")?;
    Ok(addresses.iter().copied().zip(ways).collect())
}

/// Routes of ours that a packet would not take: somebody else's goes before them.
///
/// # Errors
/// Code 101.
pub fn shadowed(
    socket: &mut RouteSocket,
    wanted: &[OwnedRoute],
    owner: impl Fn(&OwnedRoute) -> String,
) -> Result<Vec<Problem>> {
    let to_neighbours: Vec<_> = wanted
        .iter()
        .filter_map(|route| match route.target {
            Target::Neighbour { gateway, link } => Some((route, gateway, link)),
            Target::Unreachable => None,
        })
        .collect();
    // The last of its addresses stands for all of them: in most subnets it is the least likely to
    // have a route of its own.
    let probes: Vec<_> = to_neighbours
        .iter()
        .map(|(route, ..)| last_host(route))
        .collect();
    let ways =
        owned_route::ways(socket, &probes).during("ask for the ways to other nodes' pods")?;
    let mut problems = Vec::new();
    for ((route, gateway, link), way) in to_neighbours.into_iter().zip(ways) {
        let by_ours = way == (Way::Through { gateway, link });
        if by_ours {
            continue;
        }
        let other = match way {
            Way::Through { gateway, .. } => format!("to {gateway}"),
            Way::OnLink(_) => "to a link of this node".to_owned(),
            Way::Own => "to this node itself".to_owned(),
            Way::None => "nowhere".to_owned(),
        };
        problems.push(Problem {
            node: owner(route),
            kind: ProblemKind::Shadowed,
            text: format!(
                "a route that is not pausenetd's goes before the one to its pods in {}, and leads \
                 {other}; `ip route get {}` shows it",
                route.dst,
                last_host(route)
            ),
        });
    }
    Ok(problems)
}

/// The last address of a subnet that may be a pod's: the broadcast address has a meaning of its own.
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
    fn what_is_as_wanted_needs_no_step() {
        let both = [route(1, 1), route(2, 0)];
        assert_eq!(plan(&both, &both), []);
    }

    #[test]
    fn a_node_that_moved_is_replaced_and_one_that_left_removed() {
        let present = [route(1, 1), route(2, 2)];
        let wanted = [route(1, 9), route(3, 3)];
        assert_eq!(
            plan(&wanted, &present),
            [
                Step::Replace(route(1, 9)),
                Step::Add(route(3, 3)),
                Step::Remove(route(2, 2)),
            ]
        );
    }

    #[test]
    fn of_two_to_one_destination_the_unwanted_is_removed() {
        let present = [route(1, 1), route(1, 2)];
        assert_eq!(plan(&[route(1, 2)], &present), [Step::Remove(route(1, 1))]);
    }

    #[test]
    fn the_probe_of_a_subnet_is_an_address_in_it() {
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

    /// The kernel's way with routes of one metric.
    fn apply(present: &mut Vec<OwnedRoute>, step: Step) {
        match step {
            Step::Add(route) => {
                assert!(present.iter().all(|it| it.dst != route.dst), "EEXIST");
                present.push(route);
            }
            Step::Replace(route) => {
                let first = present.iter_mut().find(|it| it.dst == route.dst);
                *first.expect("one to replace") = route;
            }
            Step::Remove(route) => present.retain(|it| *it != route),
        }
    }

    fn routes() -> impl Strategy<Value = Vec<OwnedRoute>> {
        proptest::collection::vec((0u8..4, 0u8..4), 0..6)
            .prop_map(|routes| routes.into_iter().map(|(a, b)| route(a, b)).collect())
    }

    proptest! {
        #[test]
        fn a_few_rounds_lead_to_what_is_wanted_and_no_destination_is_ever_without(
            wanted in routes(), mut present in routes()
        ) {
            let mut wanted = wanted;
            wanted.sort();
            wanted.dedup_by_key(|route| route.dst);
            present.sort();
            present.dedup();
            let kept: Vec<_> = present.iter().map(|route| route.dst)
                .filter(|dst| wanted.iter().any(|route| route.dst == *dst)).collect();
            for _ in 0..4 {
                for step in plan(&wanted, &present) {
                    apply(&mut present, step);
                    for dst in &kept {
                        prop_assert!(present.iter().any(|route| route.dst == *dst));
                    }
                }
            }
            present.sort();
            prop_assert_eq!(present, wanted);
        }
    }
}
