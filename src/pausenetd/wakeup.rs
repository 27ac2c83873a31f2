//! Where the reasons to look meet. Ringing says that there may be something to do, and how much is
//! to be looked at; any number of rings before the next look are one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What Nodes and the kernel decide: routes, masquerade, the network's configuration.
    Network,
    /// Plugins, leftovers and numbers too.
    Everything,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Scope>,
    stopped: bool,
}

/// The bell. One waits, anybody rings.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

impl Bell {
    /// There may be something to do.
    pub fn ring(&self, scope: Scope) {
        let mut state = self.lock();
        state.wanted = state.wanted.max(Some(scope));
        self.rung.notify_all();
    }

    /// It is time to end.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.rung.notify_all();
    }

    /// Waits for a ring, until `deadline` at most: what it then is time for is everything. It is not
    /// answered before `earliest`; what rings until then belongs to it. None when it is time to end.
    pub fn wait(&self, deadline: Instant, earliest: Instant) -> Option<Scope> {
        let mut state = self.lock();
        while !state.stopped && state.wanted.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.wanted = Some(Scope::Everything);
            } else {
                state = self.wait_on(state, left);
            }
        }
        loop {
            if state.stopped {
                return None;
            }
            let left = earliest.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return state.wanted.take();
            }
            state = self.wait_on(state, left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_on<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let woken = self.rung.wait_timeout(state, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_one_and_the_widest_counts() {
        let bell = Bell::default();
        let now = Instant::now();
        let wait = || bell.wait(now, now);
        for scope in [Scope::Network, Scope::Everything, Scope::Network] {
            bell.ring(scope);
        }
        assert_eq!(wait(), Some(Scope::Everything));
        bell.ring(Scope::Network);
        assert_eq!(wait(), Some(Scope::Network));
        assert_eq!(wait(), Some(Scope::Everything), "the timer");
    }

    #[test]
    fn a_ring_from_elsewhere_wakes_who_waits_or_gathers() {
        let bell = Bell::default();
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring(Scope::Network));
            assert_eq!(bell.wait(far, now), Some(Scope::Network));
            bell.ring(Scope::Network);
            scope.spawn(|| bell.stop());
            assert_eq!(bell.wait(far, far), None);
        });
    }
}
