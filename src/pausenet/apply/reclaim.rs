//! Frees addresses that are no longer in use, when a range is exhausted.
//!
//! An address is in use if an interface has it, and every interface of a network that pausenet
//! wires is the other end of a link on the host. So this reads the addresses in the namespaces
//! behind the host's links, without entering them. An address that none of them has, and that no
//! ADD is about to use, was left by a crash, a reboot, or a runtime that sent no DEL.
//!
//! A pausenet ADD under way holds its attachment's lock. Other plugins share the store but not the
//! locks, and between reserving an address and adding it to an interface, nothing in the kernel
//! shows it. No ADD takes ten minutes; a younger reservation is freed only if several observations
//! agree: see [`ReclaimEvidence`].

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::host::{Host, is_locked};
use super::host_end::host_end;
use crate::cni::request::Attachment;
use crate::cni::{During, NetworkName, Result};
use crate::ipam::Ipam;
use crate::ipam::store::{Origin, StaleReservation};
use crate::kernel::boot;
use crate::kernel::running_plugins::RunningPlugins;
use crate::kernel::{KernelError, RouteSocket, address, link};

/// A younger address file may belong to an ADD, under way, of a plugin that does not use our locks.
/// No ADD takes this long.
pub const GRACE_PERIOD: Duration = Duration::from_secs(600);

/// Observations about an address that no interface has: they show whether another plugin's ADD may
/// be about to use it. None is sufficient alone: the clock may be set and /run emptied, and a
/// plugin may delegate to a process that does not name the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReclaimEvidence {
    /// A plugin is running for its container. None when the processes cannot be listed.
    pub plugin_running: Option<bool>,
    /// The age of the file by the wall clock. None: its time is in the future.
    pub age: Option<Duration>,
    /// How long ago the store was first used after the boot, by the monotonic clock. None: the file
    /// was not there then.
    pub known_for: Option<Duration>,
    /// The file was written after the boot, by the wall clock.
    pub made_since_boot: bool,
}

impl ReclaimEvidence {
    /// Whether the address may be freed (pure).
    pub fn allows_reclaim(&self) -> bool {
        let long_ago = |time: Option<Duration>| time.is_some_and(|time| time > GRACE_PERIOD);
        let waited_for = long_ago(self.age) || long_ago(self.known_for);
        match self.plugin_running {
            Some(true) => false,
            Some(false) => waited_for || self.predates_boot(),
            None => waited_for,
        }
    }

    /// Whether it was reserved before the boot, so that its holder is gone.
    pub fn predates_boot(&self) -> bool {
        self.known_for.is_some() && !self.made_since_boot
    }

    /// Whether a plugin is known to be running for its container.
    pub fn plugin_is_running(&self) -> bool {
        self.plugin_running == Some(true)
    }
}

/// The running plugins and the boot time: what shows whether another plugin's ADD is about to use
/// an address.
pub struct ProcessSnapshot {
    running_plugins: Option<RunningPlugins>,
    start: Option<SystemTime>,
    now: SystemTime,
}

impl ProcessSnapshot {
    /// Lists the current processes.
    pub fn take(now: SystemTime) -> Self {
        Self {
            running_plugins: RunningPlugins::list(),
            start: boot::started_at(now),
            now,
        }
    }

    /// The observations about a container's address.
    pub fn evidence(&self, container: &str, origin: Origin) -> ReclaimEvidence {
        let running = self.running_plugins.as_ref();
        let age = self.now.duration_since(origin.made).ok();
        // If the boot time is unknown, every file counts as written after it.
        let since_start = self.start.is_none_or(|start| start <= origin.made);
        ReclaimEvidence {
            plugin_running: running.map(|running| running.serve(container)),
            age,
            known_for: origin.earlier,
            made_since_boot: age.is_some() && since_start,
        }
    }
}

/// Frees the unused addresses of a network. Returns how many.
///
/// # Errors
/// Codes 5 and 101; if an error occurs while collecting observations, nothing is freed.
pub fn reclaim(network: &NetworkName, ipam: &Ipam, now: SystemTime) -> Result<usize> {
    let socket = RefCell::new(Host::open_socket()?);
    let may_free = |held: &StaleReservation, _| {
        held.is_damaged()
            || is_unlocked(network, held) && is_gone(&mut socket.borrow_mut(), network, held)
    };
    reclaim_where(ipam, now, |_| true, may_free)
}

/// Frees the unused addresses whose files name no holder: no DEL and no GC by the runtime's list
/// ever would. Returns how many.
///
/// # Errors
/// Those of [`reclaim`].
pub fn reclaim_damaged(ipam: &Ipam, now: SystemTime) -> Result<usize> {
    reclaim_where(ipam, now, StaleReservation::is_damaged, |_, _| true)
}

/// Frees the addresses with empty files, on a network whose interfaces may not be visible: the file
/// of a completed ADD is never empty, but one that was overwritten may belong to a running container.
///
/// # Errors
/// Those of [`reclaim`].
pub(crate) fn reclaim_empty(ipam: &Ipam, now: SystemTime) -> Result<usize> {
    let is_empty = |_: &StaleReservation, origin: Origin| origin.empty;
    reclaim_where(ipam, now, StaleReservation::is_damaged, is_empty)
}

/// Frees the unused addresses among those that `is_candidate` and, for those that no interface has,
/// `may_free` choose.
fn reclaim_where(
    ipam: &Ipam,
    now: SystemTime,
    is_candidate: impl Fn(&StaleReservation) -> bool,
    may_free: impl Fn(&StaleReservation, Origin) -> bool,
) -> Result<usize> {
    let Ipam::HostLocal(ipam) = ipam else {
        return Ok(0);
    };
    ipam.reclaim(|mut held, origins| {
        held.retain(is_candidate);
        if held.is_empty() {
            return Ok(held);
        }
        let mut socket = Host::open_socket()?;
        let mut held = without_interface(&mut socket, held)?;
        held.retain(|held| {
            let origin = origins.of(held.ip);
            origin.is_some_and(|origin| may_free(held, origin))
        });
        if held.is_empty() {
            return Ok(held);
        }
        let processes = ProcessSnapshot::take(now);
        held.retain(|held| {
            let origin = origins.of(held.ip);
            origin
                .is_some_and(|origin| processes.evidence(&held.container, origin).allows_reclaim())
        });
        // Check again: an ADD that ended before the processes were listed has made its interface by
        // now.
        without_interface(&mut socket, held)
    })
}

/// The reservations whose address no interface has. Empty when a namespace cannot be read.
fn without_interface(
    socket: &mut RouteSocket,
    mut held: Vec<StaleReservation>,
) -> Result<Vec<StaleReservation>> {
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

/// Every address behind the host's links. None when a namespace cannot be read.
fn in_use(socket: &mut RouteSocket) -> Result<Option<HashSet<IpAddr>>, KernelError> {
    let namespaces = addresses_behind_links(socket)?;
    Ok(namespaces.map(|namespaces| namespaces.into_iter().flatten().collect()))
}

/// The addresses in each namespace behind the host's links. None when one cannot be read.
pub(super) fn addresses_behind_links(
    socket: &mut RouteSocket,
) -> Result<Option<Vec<Vec<IpAddr>>>, KernelError> {
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
    let mut addresses = Vec::with_capacity(namespaces.len());
    for id in namespaces {
        let of_namespace = address::of_namespace(socket, id)?;
        addresses.push(of_namespace.iter().map(|net| net.ip()).collect());
    }
    Ok(Some(addresses))
}

/// An attachment that exists may have lost its address for a while: the kernel takes those of IPv6
/// off an interface that is switched off.
fn is_gone(socket: &mut RouteSocket, network: &NetworkName, held: &StaleReservation) -> bool {
    Attachment::of_network(network, &held.container, &held.ifname)
        .is_some_and(|attachment| matches!(host_end(socket, &attachment), Ok(None)))
}

fn is_unlocked(network: &NetworkName, held: &StaleReservation) -> bool {
    Attachment::of_network(network, &held.container, &held.ifname)
        .is_some_and(|attachment| !is_locked(&attachment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Written before the boot a minute ago, and no plugin is running.
    const DEAD: ReclaimEvidence = ReclaimEvidence {
        plugin_running: Some(false),
        age: Some(Duration::from_secs(90)),
        known_for: Some(SECOND),
        made_since_boot: false,
    };

    #[test]
    fn reservations_from_before_the_boot_are_freed_at_once() {
        assert!(DEAD.allows_reclaim());
        // The clock was set back.
        assert!(ReclaimEvidence { age: None, ..DEAD }.allows_reclaim());
    }

    #[test]
    fn one_observation_against_it_keeps_an_address_for_ten_minutes() {
        for (evidence, why) in [
            (
                ReclaimEvidence {
                    known_for: None,
                    ..DEAD
                },
                "it came later",
            ),
            (
                ReclaimEvidence {
                    made_since_boot: true,
                    ..DEAD
                },
                "it may have been made since the start",
            ),
            (
                ReclaimEvidence {
                    plugin_running: None,
                    ..DEAD
                },
                "not all processes are seen",
            ),
        ] {
            assert!(!evidence.allows_reclaim(), "{why}");
            let old = ReclaimEvidence {
                age: Some(HOUR),
                ..evidence
            };
            assert!(old.allows_reclaim(), "{why}, an hour ago");
            let future = ReclaimEvidence {
                age: None,
                ..evidence
            };
            let waited = ReclaimEvidence {
                known_for: Some(HOUR),
                ..future
            };
            assert!(waited.allows_reclaim(), "{why}, whatever the clock says");
        }
    }

    #[test]
    fn a_reservation_since_the_boot_is_recognized_by_the_clock() {
        let now = SystemTime::UNIX_EPOCH + 100 * HOUR;
        let processes = |start| ProcessSnapshot {
            running_plugins: None,
            start,
            now,
        };
        let made_since_boot = |start: Option<SystemTime>, made| {
            let origin = Origin {
                made,
                earlier: None,
                empty: false,
            };
            processes(start).evidence("c", origin).made_since_boot
        };
        let start = now - HOUR;
        assert!(made_since_boot(Some(start), start));
        assert!(made_since_boot(Some(start), now));
        assert!(!made_since_boot(Some(start), start - SECOND));
        assert!(
            !made_since_boot(Some(start), now + SECOND),
            "from the future"
        );
        assert!(made_since_boot(None, now - 50 * HOUR), "nothing is known");
        assert_eq!(
            processes(None)
                .evidence(
                    "c",
                    Origin {
                        made: now,
                        earlier: None,
                        empty: false,
                    }
                )
                .plugin_running,
            None
        );
    }

    fn times() -> impl Strategy<Value = Option<Duration>> {
        let times = prop_oneof![0..=1201_u64, Just(600), Just(601), Just(u64::MAX)];
        proptest::option::of(times.prop_map(Duration::from_secs))
    }

    proptest! {
        /// Whatever the other observations are.
        #[test]
        fn nothing_is_freed_that_a_plugin_is_running_for(age in times(), known_for in times(), made_since_boot: bool) {
            let evidence = ReclaimEvidence { plugin_running: Some(true), age, known_for, made_since_boot };
            prop_assert!(!evidence.allows_reclaim());
        }

        /// A file written after the first use is kept for ten minutes by the clock.
        #[test]
        fn nothing_that_came_later_is_freed_before_its_time(
            age in times(), made_since_boot: bool, plugin_running in proptest::option::of(any::<bool>())
        ) {
            let evidence = ReclaimEvidence { plugin_running, age, known_for: None, made_since_boot };
            prop_assert!(!evidence.allows_reclaim() || age.is_some_and(|age| age > GRACE_PERIOD));
        }

        /// More evidence never frees more, and time passes only in one direction.
        #[test]
        fn more_evidence_of_use_never_frees_and_more_age_never_keeps(
            age in times(), known_for in times(), made_since_boot: bool, plugin_running in proptest::option::of(any::<bool>())
        ) {
            let evidence = ReclaimEvidence { plugin_running, age, known_for, made_since_boot };
            for more in [
                ReclaimEvidence { made_since_boot: true, ..evidence },
                ReclaimEvidence { known_for: None, ..evidence },
                ReclaimEvidence {
                    plugin_running: evidence.plugin_running.filter(|running| *running),
                    ..evidence
                },
            ] {
                prop_assert!(!more.allows_reclaim() || evidence.allows_reclaim(), "{evidence:?}: {more:?}");
            }
            let later = |time: Option<Duration>| time.map(|time| time.saturating_add(SECOND));
            let waited = ReclaimEvidence { age: later(age), known_for: later(known_for), ..evidence };
            prop_assert!(!evidence.allows_reclaim() || waited.allows_reclaim(), "{evidence:?}");
        }
    }
}
