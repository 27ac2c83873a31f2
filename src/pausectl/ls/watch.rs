//! `pausectl ls --watch`: prints the list again whenever it has changed.
//!
//! The kernel sends a notification for each change of links and addresses, in every namespace that
//! a veth of the host leads to. It sends none when a process ends, so the list is read again at
//! intervals too.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Listing, as_json, as_text};
use crate::command::{Output, Result, Stop, warn};
use pausenet::kernel::Group;
use pausenet::kernel::{KernelError, RouteSocket};
use pausenet_host::anchor::interfaces;
use pausenet_host::block_on;
use pausenet_host::runtime::Interrupt;
use pausenet_host::{During, Error};

/// How often the list is read without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How long to wait for the rest of a burst: an attachment causes a dozen notifications.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// Prints the list until a signal comes or stdout is closed.
///
/// # Errors
/// The signal, or the host cannot be read.
pub(super) fn watch(output: Output, list: impl Fn() -> Result<Listing> + Sync) -> Result<()> {
    block_on(async {
        let attempt = "listen to the kernel's notifications of links";
        let mut interrupt = Interrupt::listen()
            .map_err(|err| Error::new(format!("cannot listen for signals: {err}")))?;
        // Before the list is first read, so that no change in between is missed.
        let mut changes = LinkChanges::subscribe().during(attempt)?;
        let mut shown = String::new();
        loop {
            // On its own thread: it waits for Docker with an event loop of its own.
            let (rows, problems) = interfaces::on_separate_thread(&list)?;
            if shown.is_empty() {
                problems.iter().for_each(warn);
            }
            let text = match output {
                Output::Text => as_text(&rows),
                Output::Json => format!("{}\n", as_json(&rows)),
            };
            if text != shown {
                if show(&text, output, shown.is_empty())? == Stdout::Closed {
                    return Ok(());
                }
                shown = text;
            }
            tokio::select! {
                signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
                () = sleep(POLL_INTERVAL) => {}
                change = changes.next() => {
                    change.during(attempt)?;
                    sleep(SETTLE_TIME).await;
                    changes.discard_pending().during(attempt)?;
                }
            }
        }
    })
}

#[derive(PartialEq)]
enum Stdout {
    Open,
    Closed,
}

fn show(text: &str, output: Output, first: bool) -> Result<Stdout> {
    let mut to = io::stdout().lock();
    let written = match output {
        Output::Text if to.is_terminal() => {
            // Over the old list, without clearing the screen first.
            let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
            let start = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
            write!(to, "{start}{lines}\x1b[J")
        }
        Output::Text if !first => write!(to, "\n{text}"),
        _ => write!(to, "{text}"),
    };
    match written.and_then(|()| to.flush()) {
        Ok(()) => Ok(Stdout::Open),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(Stdout::Closed),
        Err(err) => Err(Error::new(format!("cannot write to stdout: {err}")).into()),
    }
}

/// Notifications that a link or an address has changed.
struct LinkChanges(mpsc::Receiver<std::result::Result<(), KernelError>>);

impl LinkChanges {
    /// Starts a thread that waits for them; it ends soon after this value is dropped.
    fn subscribe() -> std::result::Result<Self, KernelError> {
        let mut socket = RouteSocket::open()?;
        socket.subscribe_everywhere(&[Group::Links, Group::Ipv4Addresses, Group::Ipv6Addresses])?;
        // One that is not taken yet stands for all that follow.
        let (sender, receiver) = mpsc::channel(1);
        std::thread::spawn(move || {
            while !sender.is_closed() {
                let event = socket.wait_event(Instant::now() + POLL_INTERVAL);
                let has_failed = event.is_err();
                if let Some(change) = event.map(|any| any.then_some(())).transpose() {
                    let _ = sender.try_send(change);
                }
                if has_failed {
                    break;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Waits for the next one.
    async fn next(&mut self) -> std::result::Result<(), KernelError> {
        match self.0.recv().await {
            Some(change) => change,
            None => Err(io::Error::from(ErrorKind::BrokenPipe).into()),
        }
    }

    /// Discards those that have come: the list is about to be read.
    fn discard_pending(&mut self) -> std::result::Result<(), KernelError> {
        match self.0.try_recv() {
            Ok(change) => change,
            Err(_) => Ok(()),
        }
    }
}
