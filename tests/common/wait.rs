//! Waiting for what nobody announces.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Far longer than anything here takes: a machine may be under load.
const LIMIT: Duration = Duration::from_secs(180);

/// How often is looked: often at first, then less, so that waiting is no load by itself.
const PACE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// What `found` gives, once it does. Panics if that doesn't come.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    match look_again(|| found().ok_or(())) {
        Ok(found) => found,
        Err(()) => panic!("waited in vain: {what}"),
    }
}

/// Waits until `holds` does. Panics if that doesn't come.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Waits until both that `read` gives are the same. Panics with them if that doesn't come.
#[track_caller]
pub fn wait_same<T: PartialEq + Debug>(what: &str, mut read: impl FnMut() -> (T, T)) {
    let same = look_again(|| match read() {
        (is, wanted) if is == wanted => Ok(()),
        differ => Err(differ),
    });
    if let Err((is, wanted)) = same {
        assert_eq!(is, wanted, "waited in vain: {what}");
    }
}

/// Looks until it succeeds, or else gives what was seen last.
fn look_again<T, E>(mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + LIMIT;
    let [mut pause, longest] = PACE;
    loop {
        let seen = look();
        if seen.is_ok() || Instant::now() >= deadline {
            return seen;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}
