//! What to do about one container's network: a pure function of the observed state, not of events,
//! since these may be lost, and Docker and this service may restart at any moment.

use pausenet::kernel::netns::NetnsId;

use super::super::network_location::NetworkLocation;
use super::super::record::Kind;

/// The container's state, according to Docker and the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContainerState {
    /// Docker has no such container.
    Absent,
    Stopped,
    /// Docker is about to restart it.
    Restarting,
    Running(NetnsId),
    /// Docker reports it as running, but its process is gone.
    Ending,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) kind: Kind,
    /// A rescued process or namespace outside Docker.
    pub(super) not_in_docker: bool,
    /// It should have a network. False after `pausectl docker detach`.
    pub(super) wanted: bool,
    /// It has a namespace of its own: it was created with --net=none.
    pub(super) has_own_netns: bool,
    /// The result cache has an attachment of it.
    pub(super) is_cached: bool,
    /// The namespace with its network has all of its networks. Looked at only while it is the
    /// container's.
    pub(super) is_complete: bool,
    pub(super) state: ContainerState,
    pub(super) location: NetworkLocation,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// All is as it should be, or as the user wants it.
    NoAction,
    Attach,
    /// The attached namespace is gone, and the container has a new one.
    Reattach,
    /// Attach the networks of several that it does not have.
    Complete,
    /// No process uses the network any more.
    Detach,
    /// Report: it was restarted, and members hold the network in its old namespace.
    Split,
    /// Report: it is gone, and members hold the network.
    Orphaned,
    /// Report: it has a label, but no namespace of its own.
    UnusableLabel,
    /// Its state is changing: look again soon.
    Recheck,
}

pub(super) fn decide(observed: &Observed) -> Decision {
    let occupied = observed.location.netns();
    match (observed.state, occupied) {
        (ContainerState::Ending, _) => Decision::Recheck,
        (ContainerState::Running(netns), Some(location)) if netns == location => {
            match observed.is_complete {
                true => Decision::NoAction,
                false => Decision::Complete,
            }
        }
        // Never taken from the processes there.
        (_, Some(_)) if observed.kind == Kind::Rescued => Decision::NoAction,
        (ContainerState::Running(_), Some(_)) => Decision::Split,
        (ContainerState::Restarting, Some(_)) => Decision::NoAction,
        (ContainerState::Absent | ContainerState::Stopped, Some(_)) => Decision::Orphaned,
        // A namespace held by a path may stay empty.
        (_, None) if observed.not_in_docker && observed.location == NetworkLocation::Unoccupied => {
            Decision::NoAction
        }
        (_, None) if observed.kind == Kind::Rescued => detach(observed),
        (ContainerState::Running(_), None) if !observed.wanted => detach(observed),
        (ContainerState::Running(_), None) if !observed.has_own_netns => Decision::UnusableLabel,
        (ContainerState::Running(_), None) if observed.is_cached => Decision::Reattach,
        (ContainerState::Running(_), None) => Decision::Attach,
        // It comes back, and its address is kept for it.
        (ContainerState::Restarting, None) => Decision::NoAction,
        (ContainerState::Absent | ContainerState::Stopped, None) => detach(observed),
    }
}

fn detach(observed: &Observed) -> Decision {
    let is_left = observed.is_cached || observed.location != NetworkLocation::Gone;
    // The record of a removed container goes with it.
    if is_left || observed.state == ContainerState::Absent {
        Decision::Detach
    } else {
        Decision::NoAction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [fn(NetnsId, NetnsId) -> ContainerState; 6] = [
        |_, _| ContainerState::Absent,
        |_, _| ContainerState::Stopped,
        |_, _| ContainerState::Restarting,
        |own, _| ContainerState::Running(own),
        |_, other| ContainerState::Running(other),
        |_, _| ContainerState::Ending,
    ];

    /// Two different namespaces.
    fn two() -> (NetnsId, NetnsId) {
        let own = NetnsId::of_process(std::process::id()).unwrap();
        let other = std::thread::spawn(|| {
            rustix::fs::stat("/proc/thread-self/ns/mnt").unwrap();
            NetnsId::of_file(std::path::Path::new("/proc/thread-self/ns/mnt")).unwrap()
        });
        (own, other.join().unwrap())
    }

    /// Every combination.
    fn all() -> Vec<Observed> {
        let (own, other) = two();
        let homes = [
            NetworkLocation::Gone,
            NetworkLocation::Unoccupied,
            NetworkLocation::Occupied {
                netns: own,
                pids: vec![1],
            },
        ];
        let mut all = Vec::new();
        for kind in [Kind::Anchor, Kind::Attached, Kind::Rescued] {
            for state in STATES.map(|state| state(own, other)) {
                for location in homes.clone() {
                    for bits in 0..32 {
                        let bit = |at: u8| bits >> at & 1 == 1;
                        all.push(Observed {
                            kind,
                            not_in_docker: bit(0),
                            wanted: bit(1),
                            has_own_netns: bit(2),
                            is_cached: bit(3),
                            is_complete: bit(4),
                            state,
                            location: location.clone(),
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_network_in_use_is_never_removed() {
        for observed in all() {
            let decision = decide(&observed);
            if observed.location.netns().is_some() {
                let changes = [Decision::Attach, Decision::Reattach, Decision::Detach];
                assert!(!changes.contains(&decision), "{observed:?}: {decision:?}");
            }
        }
    }

    #[test]
    fn an_unused_network_is_removed() {
        for observed in all() {
            let is_left_over = observed.location != NetworkLocation::Gone || observed.is_cached;
            let absent = matches!(
                observed.state,
                ContainerState::Absent | ContainerState::Stopped
            );
            if absent
                && is_left_over
                && observed.location.netns().is_none()
                && !observed.not_in_docker
            {
                assert_eq!(decide(&observed), Decision::Detach, "{observed:?}");
            }
        }
    }

    #[test]
    fn a_detached_container_is_not_attached_again() {
        for observed in all().into_iter().filter(|observed| !observed.wanted) {
            let decision = decide(&observed);
            let attaches = [Decision::Attach, Decision::Reattach];
            assert!(!attaches.contains(&decision), "{observed:?}: {decision:?}");
        }
    }

    #[test]
    fn a_running_container_without_its_network_is_attached() {
        let wanted = all().into_iter().filter(|observed| {
            observed.wanted
                && observed.has_own_netns
                && !observed.not_in_docker
                && observed.kind != Kind::Rescued
        });
        for observed in wanted {
            let ContainerState::Running(netns) = observed.state else {
                continue;
            };
            let expected = match (observed.location.netns(), observed.is_cached) {
                (Some(location), _) if location == netns && !observed.is_complete => {
                    Decision::Complete
                }
                (Some(location), _) if location == netns => Decision::NoAction,
                (Some(_), _) => Decision::Split,
                (None, true) => Decision::Reattach,
                (None, false) => Decision::Attach,
            };
            assert_eq!(decide(&observed), expected, "{observed:?}");
        }
    }
}
