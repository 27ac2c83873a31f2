//! What is to be done for one container's network: from what there is, and nothing else. Not
//! from what has happened: events may be lost, and the daemon and this service may be restarted
//! at any moment.

use pausenet::kernel::netns::NetnsId;

use super::super::network_location::Home;
use super::super::record::Kind;

/// The container, as Docker and the kernel show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Docker has none.
    Absent,
    Stopped,
    /// Docker is about to start it again.
    Restarting,
    Running(NetnsId),
    /// Docker says that it runs, and its process is gone.
    Ending,
}

/// All that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    /// It is no container of Docker's, but a process or a path.
    pub outside: bool,
    /// It is to have a network. False after a person has taken it away.
    pub wanted: bool,
    /// The namespace is its own: Docker made it with --net=none.
    pub own_namespace: bool,
    /// Something is remembered of an attachment.
    pub remembered: bool,
    pub seen: Seen,
    pub home: Home,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is as it should be, or as somebody wants it.
    Fine,
    Attach,
    /// The namespace that was attached is gone, and the container has a new one.
    AttachAgain,
    /// Nobody is left.
    Detach,
    /// It was restarted, and the network is with members in its old namespace.
    Split,
    /// It is gone, and the network is with members.
    Orphaned,
    /// Its label asks for what cannot be had.
    NotOurs,
    /// Look again soon.
    Unclear,
}

/// Decides.
pub fn decide(facts: &Facts) -> Verdict {
    let lived = facts.home.netns();
    match (facts.seen, lived) {
        (Seen::Ending, _) => Verdict::Unclear,
        (Seen::Running(netns), Some(home)) if netns == home => Verdict::Fine,
        // Never taken from those who live there.
        (_, Some(_)) if facts.kind == Kind::Rescued => Verdict::Fine,
        (Seen::Running(_), Some(_)) => Verdict::Split,
        (Seen::Restarting, Some(_)) => Verdict::Fine,
        (Seen::Absent | Seen::Stopped, Some(_)) => Verdict::Orphaned,
        // A namespace that is held by a path may be empty for good.
        (_, None) if facts.outside && facts.home == Home::Empty => Verdict::Fine,
        (_, None) if facts.kind == Kind::Rescued => detach(facts),
        (Seen::Running(_), None) if !facts.wanted => detach(facts),
        (Seen::Running(_), None) if !facts.own_namespace => Verdict::NotOurs,
        (Seen::Running(_), None) if facts.remembered => Verdict::AttachAgain,
        (Seen::Running(_), None) => Verdict::Attach,
        // It comes back, and finds its address still kept.
        (Seen::Restarting, None) => Verdict::Fine,
        (Seen::Absent | Seen::Stopped, None) => detach(facts),
    }
}

fn detach(facts: &Facts) -> Verdict {
    let is_left = facts.remembered || facts.home != Home::Gone;
    // What is remembered of the container itself goes with it.
    if is_left || facts.seen == Seen::Absent {
        Verdict::Detach
    } else {
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: [fn(NetnsId, NetnsId) -> Seen; 6] = [
        |_, _| Seen::Absent,
        |_, _| Seen::Stopped,
        |_, _| Seen::Restarting,
        |own, _| Seen::Running(own),
        |_, other| Seen::Running(other),
        |_, _| Seen::Ending,
    ];

    /// Two namespaces that are not the same.
    fn two() -> (NetnsId, NetnsId) {
        let own = NetnsId::of_process(std::process::id()).unwrap();
        let other = std::thread::spawn(|| {
            rustix::fs::stat("/proc/thread-self/ns/mnt").unwrap();
            NetnsId::of_file(std::path::Path::new("/proc/thread-self/ns/mnt")).unwrap()
        });
        (own, other.join().unwrap())
    }

    /// Every case there is.
    fn all() -> Vec<Facts> {
        let (own, other) = two();
        let homes = [
            Home::Gone,
            Home::Empty,
            Home::Lived {
                netns: own,
                pids: vec![1],
            },
        ];
        let mut all = Vec::new();
        for kind in [Kind::Anchor, Kind::Attached, Kind::Rescued] {
            for seen in SEEN.map(|seen| seen(own, other)) {
                for home in homes.clone() {
                    for bits in 0..16 {
                        let bit = |at: u8| bits >> at & 1 == 1;
                        all.push(Facts {
                            kind,
                            outside: bit(0),
                            wanted: bit(1),
                            own_namespace: bit(2),
                            remembered: bit(3),
                            seen,
                            home: home.clone(),
                        });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn who_lives_in_a_network_is_never_deprived_of_it() {
        for facts in all() {
            let verdict = decide(&facts);
            if facts.home.netns().is_some() {
                let changes = [Verdict::Attach, Verdict::AttachAgain, Verdict::Detach];
                assert!(!changes.contains(&verdict), "{facts:?}: {verdict:?}");
            }
        }
    }

    #[test]
    fn nothing_is_left_when_nobody_is() {
        for facts in all() {
            let nobody = facts.home != Home::Gone || facts.remembered;
            let absent = matches!(facts.seen, Seen::Absent | Seen::Stopped);
            if absent && nobody && facts.home.netns().is_none() && !facts.outside {
                assert_eq!(decide(&facts), Verdict::Detach, "{facts:?}");
            }
        }
    }

    #[test]
    fn what_a_person_has_detached_is_not_attached() {
        for facts in all().into_iter().filter(|facts| !facts.wanted) {
            let verdict = decide(&facts);
            let attaches = [Verdict::Attach, Verdict::AttachAgain];
            assert!(!attaches.contains(&verdict), "{facts:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_container_runs_and_has_its_network_or_gets_it() {
        let wanted = all().into_iter().filter(|facts| {
            facts.wanted && facts.own_namespace && !facts.outside && facts.kind != Kind::Rescued
        });
        for facts in wanted {
            let Seen::Running(netns) = facts.seen else {
                continue;
            };
            let expected = match (facts.home.netns(), facts.remembered) {
                (Some(home), _) if home == netns => Verdict::Fine,
                (Some(_), _) => Verdict::Split,
                (None, true) => Verdict::AttachAgain,
                (None, false) => Verdict::Attach,
            };
            assert_eq!(decide(&facts), expected, "{facts:?}");
        }
    }
}
