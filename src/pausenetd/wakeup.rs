//! Wake-ups: the Node watch and the kernel monitors request a pass here, and the reconcile thread
//! waits for one. Any number of requests before the next pass merge into one of the widest scope.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much a pass covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PassScope {
    /// The number of attachments, for the metrics.
    Attachments,
    /// What Nodes and the kernel determine: routes, masquerade, the conflist.
    Network,
    /// Plugins, garbage collection and metrics too.
    Everything,
}

#[derive(Debug, Default)]
struct State {
    requested: Option<PassScope>,
    stopped: bool,
}

/// Requests for a pass, from any thread, for the one thread that waits.
#[derive(Debug, Default)]
pub(crate) struct WakeUp {
    state: Mutex<State>,
    changed: Condvar,
}

impl WakeUp {
    /// Requests a pass of at least this scope.
    pub(crate) fn request(&self, scope: PassScope) {
        let mut state = self.lock();
        state.requested = state.requested.max(Some(scope));
        self.changed.notify_all();
    }

    /// Ends the waiting thread.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits for a request and returns its scope; at `deadline` that is [`PassScope::Everything`].
    /// Does not return before `earliest`, so that a burst of requests leads to one pass. None after
    /// [`Self::stop`].
    pub(crate) fn wait(&self, deadline: Instant, earliest: Instant) -> Option<PassScope> {
        let mut state = self.lock();
        while !state.stopped && state.requested.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.requested = Some(PassScope::Everything);
            } else {
                state = self.wait_for_change(state, left);
            }
        }
        loop {
            if state.stopped {
                return None;
            }
            let left = earliest.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return state.requested.take();
            }
            state = self.wait_for_change(state, left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_change<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_merge_and_the_widest_scope_wins() {
        let wake_up = WakeUp::default();
        let now = Instant::now();
        let wait = || wake_up.wait(now, now);
        for scope in [
            PassScope::Network,
            PassScope::Everything,
            PassScope::Network,
        ] {
            wake_up.request(scope);
        }
        assert_eq!(wait(), Some(PassScope::Everything));
        wake_up.request(PassScope::Network);
        assert_eq!(wait(), Some(PassScope::Network));
        assert_eq!(wait(), Some(PassScope::Everything), "the timer");
    }

    #[test]
    fn a_request_from_another_thread_ends_the_wait() {
        let wake_up = WakeUp::default();
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| wake_up.request(PassScope::Network));
            assert_eq!(wake_up.wait(far, now), Some(PassScope::Network));
            wake_up.request(PassScope::Network);
            scope.spawn(|| wake_up.stop());
            assert_eq!(wake_up.wait(far, far), None);
        });
    }
}
