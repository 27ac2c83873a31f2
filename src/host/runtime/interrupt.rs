//! Receives Ctrl-C and similar signals, instead of being ended by them.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals by which the user or the system ends a program.
pub struct Interrupt {
    int: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
}

impl Interrupt {
    /// From now on the signals do not end the process. One that was ignored when the process
    /// started stays ignored (nohup, a shell's background jobs).
    ///
    /// # Errors
    /// A signal handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let listen = |kind: SignalKind| {
            let is_ignored = ignored >> (kind.as_raw_value() - 1) & 1 == 1;
            (!is_ignored).then(|| signal(kind)).transpose()
        };
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its number.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            () = received(&mut self.int) => SignalKind::interrupt().as_raw_value(),
            () = received(&mut self.term) => SignalKind::terminate().as_raw_value(),
            () = received(&mut self.hup) => SignalKind::hangup().as_raw_value(),
        }
    }

    /// Returns a signal that has arrived already, without waiting.
    pub async fn pending(&mut self) -> Option<i32> {
        tokio::time::timeout(Duration::ZERO, self.next()).await.ok()
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The set of signals that this process ignores; bit 0 is signal 1.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
        .unwrap_or(0)
}
