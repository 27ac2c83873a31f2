//! Addresses that nobody can be using any more, found when a range has run out.
//!
//! An address is in use if some interface has it, and every interface of a network that we
//! wire is the other end of a link on the host. So the namespaces behind the host's links are
//! asked for their addresses, without entering them. What none of them has, and nobody is
//! making an attachment for, was left by a crash, a reboot, or a runtime that forgot its DEL.
//!
//! Whoever of us is making one holds its lock. Other plugins share the store and know no locks of
//! ours, and between their taking an address and an interface's having it nothing in the kernel
//! tells of it. No ADD takes ten minutes; sooner, several witnesses have to agree: see [`Doubt`].

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{Host, is_at_work};
use crate::cni::request::Attachment;
use crate::cni::{During, NetworkName, Result};
use crate::ipam::Ipam;
use crate::ipam::store::{Origin, Stale};
use crate::kernel::boot;
use crate::kernel::running_plugins::RunningPlugins;
use crate::kernel::{KernelError, RouteSocket, address, link};

/// What is younger may be an ADD in the making by a plugin that has no lock of ours. No ADD takes
/// that long.
pub const YOUNGEST: Duration = Duration::from_secs(600);

/// What witnesses say of an address that no interface has, whether another's ADD can be about to
/// use it. None is believed alone: the clock is set by people, /run is emptied by people, and a
/// plugin may have handed its work to a process that does not name the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// A plugin is being called for its container. None when that cannot be seen.
    pub called: Option<bool>,
    /// How old the file is, as the clock is set now. None: it comes from the future.
    pub age: Option<Duration>,
    /// It was there when the store was first used after the host's start: how long ago that was, by
    /// a clock that nobody sets.
    pub earlier: Option<Duration>,
    /// The file was made in this life of the host, as the clock is set now.
    pub of_this_life: bool,
}

impl Doubt {
    /// Whether the address can be freed (pure).
    pub fn is_none(&self) -> bool {
        let long_ago = |time: Option<Duration>| time.is_some_and(|time| time > YOUNGEST);
        let waited_for = long_ago(self.age) || long_ago(self.earlier);
        match self.called {
            Some(true) => false,
            Some(false) => waited_for || self.is_of_an_earlier_life(),
            None => waited_for,
        }
    }

    /// Whether it was held before the host was started, so that whoever held it is gone.
    pub fn is_of_an_earlier_life(&self) -> bool {
        self.earlier.is_some() && !self.of_this_life
    }

    /// Whether somebody is seen who is at work on it.
    pub fn is_called(&self) -> bool {
        self.called == Some(true)
    }
}

/// Those that can say whether another's ADD is about to use an address.
pub struct Witnesses {
    callers: Option<RunningPlugins>,
    start: Option<SystemTime>,
    now: SystemTime,
}

impl Witnesses {
    /// Looks at the processes of this moment.
    pub fn call(now: SystemTime) -> Self {
        Self {
            callers: RunningPlugins::list(),
            start: boot::started_at(now),
            now,
        }
    }

    /// What they say of a container's address.
    pub fn ask(&self, container: &str, origin: Origin) -> Doubt {
        let callers = self.callers.as_ref();
        let age = self.now.duration_since(origin.made).ok();
        // Where the start is not known, everything may be of this life.
        let since_start = self.start.is_none_or(|start| start <= origin.made);
        Doubt {
            called: callers.map(|callers| callers.serve(container)),
            age,
            earlier: origin.earlier,
            of_this_life: age.is_some() && since_start,
        }
    }
}

/// Frees what can be freed of a network's addresses, and tells how many those were.
///
/// # Errors
/// Codes 5 and 101; when in doubt, nothing is freed.
pub fn reclaim(network: &NetworkName, ipam: &Ipam, now: SystemTime) -> Result<usize> {
    let Ipam::HostLocal(ipam) = ipam else {
        return Ok(0);
    };
    let mut socket = Host::open_socket()?;
    ipam.reclaim(|held, origins| {
        let mut held = without_interface(&mut socket, held)?;
        held.retain(|held| nobody_is_at_work(network, held));
        if held.is_empty() {
            return Ok(held);
        }
        let witnesses = Witnesses::call(now);
        held.retain(|held| {
            let origin = origins.of(held.ip);
            origin.is_some_and(|origin| witnesses.ask(&held.container, origin).is_none())
        });
        // Once more: whoever had ended before we looked has left an interface by then.
        without_interface(&mut socket, held)
    })
}

/// Those that no interface has. When one of the namespaces cannot be seen, none is.
fn without_interface(socket: &mut RouteSocket, mut held: Vec<Stale>) -> Result<Vec<Stale>> {
    if held.is_empty() {
        return Ok(held);
    }
    let in_use = in_use(socket).during("list the addresses behind the host's links")?;
    held.retain(|held| {
        in_use
            .as_ref()
            .is_some_and(|in_use| !in_use.contains(&held.ip))
    });
    Ok(held)
}

/// Every address behind a link of the host's. None when one of the namespaces cannot be seen.
fn in_use(socket: &mut RouteSocket) -> Result<Option<HashSet<IpAddr>>, KernelError> {
    let mut namespaces = HashSet::new();
    for link in link::list(socket)? {
        match link.peer_netns {
            Some(id) if id < 0 => return Ok(None),
            Some(id) => {
                namespaces.insert(id);
            }
            None => {}
        }
    }
    let mut in_use = HashSet::new();
    for id in namespaces {
        in_use.extend(
            address::of_namespace(socket, id)?
                .iter()
                .map(|net| net.ip()),
        );
    }
    Ok(Some(in_use))
}

fn nobody_is_at_work(network: &NetworkName, held: &Stale) -> bool {
    Attachment::of_network(network, &held.container, &held.ifname)
        .is_some_and(|attachment| !is_at_work(&attachment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Of before the host's start, a minute ago, and nobody is at work.
    const DEAD: Doubt = Doubt {
        called: Some(false),
        age: Some(Duration::from_secs(90)),
        earlier: Some(SECOND),
        of_this_life: false,
    };

    #[test]
    fn what_was_held_before_the_start_is_free_at_once() {
        assert!(DEAD.is_none());
        // The clock was set back.
        assert!(Doubt { age: None, ..DEAD }.is_none());
    }

    #[test]
    fn one_witness_against_it_and_it_is_kept_for_ten_minutes() {
        for (doubt, why) in [
            (
                Doubt {
                    earlier: None,
                    ..DEAD
                },
                "it came later",
            ),
            (
                Doubt {
                    of_this_life: true,
                    ..DEAD
                },
                "it may be of this life",
            ),
            (
                Doubt {
                    called: None,
                    ..DEAD
                },
                "not all processes are seen",
            ),
        ] {
            assert!(!doubt.is_none(), "{why}");
            let old = Doubt {
                age: Some(HOUR),
                ..doubt
            };
            assert!(old.is_none(), "{why}, an hour ago");
            let future = Doubt { age: None, ..doubt };
            let waited = Doubt {
                earlier: Some(HOUR),
                ..future
            };
            assert!(waited.is_none(), "{why}, whatever the clock says");
        }
    }

    #[test]
    fn the_start_divides_what_is_of_this_life_from_what_is_not() {
        let now = SystemTime::UNIX_EPOCH + 100 * HOUR;
        let witnesses = |start| Witnesses {
            callers: None,
            start,
            now,
        };
        let of_this_life = |start: Option<SystemTime>, made| {
            let origin = Origin {
                made,
                earlier: None,
            };
            witnesses(start).ask("c", origin).of_this_life
        };
        let start = now - HOUR;
        assert!(of_this_life(Some(start), start));
        assert!(of_this_life(Some(start), now));
        assert!(!of_this_life(Some(start), start - SECOND));
        assert!(!of_this_life(Some(start), now + SECOND), "of no life");
        assert!(of_this_life(None, now - 50 * HOUR), "nothing is known");
        assert_eq!(
            witnesses(None)
                .ask(
                    "c",
                    Origin {
                        made: now,
                        earlier: None
                    }
                )
                .called,
            None
        );
    }

    fn times() -> impl Strategy<Value = Option<Duration>> {
        let times = prop_oneof![0..=1201_u64, Just(600), Just(601), Just(u64::MAX)];
        proptest::option::of(times.prop_map(Duration::from_secs))
    }

    proptest! {
        /// Whatever else is said.
        #[test]
        fn nothing_is_freed_that_a_plugin_is_called_for(age in times(), earlier in times(), of_this_life: bool) {
            let doubt = Doubt { called: Some(true), age, earlier, of_this_life };
            prop_assert!(!doubt.is_none());
        }

        /// What came since the first use, by whoever's hand, has ten minutes by the clock.
        #[test]
        fn nothing_that_came_later_is_freed_before_its_time(
            age in times(), of_this_life: bool, called in proptest::option::of(any::<bool>())
        ) {
            let doubt = Doubt { called, age, earlier: None, of_this_life };
            prop_assert!(!doubt.is_none() || age.is_some_and(|age| age > YOUNGEST));
        }

        /// More doubt never frees more, and time passes only in one direction.
        #[test]
        fn a_witness_more_against_it_frees_nothing_and_waiting_keeps_nothing(
            age in times(), earlier in times(), of_this_life: bool, called in proptest::option::of(any::<bool>())
        ) {
            let doubt = Doubt { called, age, earlier, of_this_life };
            for more in [
                Doubt { of_this_life: true, ..doubt },
                Doubt { earlier: None, ..doubt },
                Doubt { called: doubt.called.filter(|called| *called), ..doubt },
            ] {
                prop_assert!(!more.is_none() || doubt.is_none(), "{doubt:?}: {more:?}");
            }
            let later = |time: Option<Duration>| time.map(|time| time.saturating_add(SECOND));
            let waited = Doubt { age: later(age), earlier: later(earlier), ..doubt };
            prop_assert!(!doubt.is_none() || waited.is_none(), "{doubt:?}");
        }
    }
}
