//! Polling with a time limit, for events without a notification.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Far longer than anything here takes: a machine may be under load.
const LIMIT: Duration = Duration::from_secs(180);

/// The first and the longest pause between two polls: short at first, so that waiting is quick, and
/// longer later, so that it is no load.
const PACE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// Polls `found` until it returns a value. Panics at the time limit.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    match poll(|| found().ok_or(())) {
        Ok(found) => found,
        Err(()) => panic!("timed out waiting until {what}"),
    }
}

/// Polls `holds` until it is true. Panics at the time limit.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Polls `read` until both values are equal. Panics with them at the time limit.
#[track_caller]
pub fn wait_same<T: PartialEq + Debug>(what: &str, mut read: impl FnMut() -> (T, T)) {
    let same = poll(|| match read() {
        (is, wanted) if is == wanted => Ok(()),
        differ => Err(differ),
    });
    if let Err((is, wanted)) = same {
        assert_eq!(is, wanted, "timed out waiting until {what}");
    }
}

/// Polls until success, or returns the last error at the time limit.
fn poll<T, E>(mut read: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + LIMIT;
    let [mut pause, longest] = PACE;
    loop {
        let result = read();
        if result.is_ok() || Instant::now() >= deadline {
            return result;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}
