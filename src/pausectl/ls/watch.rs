//! `pausectl ls --watch`: the list again whenever it has changed.
//!
//! The kernel tells of links and addresses, in all namespaces that a veth of the host leads to.
//! It tells nobody of processes that end, so they are looked after now and then.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Look, as_json, as_text};
use crate::{Output, Result, Stop, warn};
use pausenet::kernel::netlink::Group;
use pausenet::kernel::{KernelError, RouteSocket};
use pausenet_host::anchor::interfaces;
use pausenet_host::block_on;
use pausenet_host::runtime::Interrupt;
use pausenet_host::{During, Error};

/// How often processes are looked after.
const ROUND: Duration = Duration::from_secs(2);

/// Changes come in bursts: an attachment is a dozen of them.
const BURST: Duration = Duration::from_millis(50);

/// Shows the list until a signal comes, or the reader has left.
///
/// # Errors
/// The signal; when the kernel does not answer.
pub fn watch(output: Output, look: impl Fn() -> Result<Look> + Sync) -> Result<()> {
    block_on(async {
        let attempt = "listen to the kernel's news of links";
        let mut interrupt = Interrupt::listen()
            .map_err(|err| Error::new(format!("cannot listen for signals: {err}")))?;
        // Listened to before the first look, so that nothing slips through between the two.
        let mut news = News::open().during(attempt)?;
        let mut shown = String::new();
        loop {
            // On a thread of its own, for it waits for Docker with a loop like this one.
            let (rows, problems) = interfaces::apart(&look)?;
            if shown.is_empty() {
                problems.iter().for_each(warn);
            }
            let text = match output {
                Output::Text => as_text(&rows),
                Output::Json => format!("{}\n", as_json(&rows)),
            };
            if text != shown {
                if show(&text, output, shown.is_empty())? == Reader::Left {
                    return Ok(());
                }
                shown = text;
            }
            tokio::select! {
                signal = interrupt.next() => return Err(Stop::Interrupted(signal)),
                () = sleep(ROUND) => {}
                heard = news.next() => {
                    heard.during(attempt)?;
                    sleep(BURST).await;
                    news.forget().during(attempt)?;
                }
            }
        }
    })
}

#[derive(PartialEq)]
enum Reader {
    There,
    Left,
}

fn show(text: &str, output: Output, first: bool) -> Result<Reader> {
    let mut to = io::stdout().lock();
    let written = match output {
        Output::Text if to.is_terminal() => {
            // Drawn over the old one, without a blank in between.
            let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
            let start = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
            write!(to, "{start}{lines}\x1b[J")
        }
        Output::Text if !first => write!(to, "\n{text}"),
        _ => write!(to, "{text}"),
    };
    match written.and_then(|()| to.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(Reader::Left),
        Err(err) => Err(Error::new(format!("cannot write the answer: {err}")).into()),
    }
}

/// What the kernel tells of links and addresses.
struct News(mpsc::Receiver<std::result::Result<(), KernelError>>);

impl News {
    /// A thread waits for them; it ends soon after this value.
    fn open() -> std::result::Result<Self, KernelError> {
        let mut socket = RouteSocket::open()?;
        socket.subscribe_everywhere(&[Group::Links, Group::Ipv4Addresses, Group::Ipv6Addresses])?;
        // One that nobody has taken yet stands for all that follow.
        let (tell, hear) = mpsc::channel(1);
        std::thread::spawn(move || {
            while !tell.is_closed() {
                let heard = socket.wait_event(Instant::now() + ROUND);
                let over = heard.is_err();
                if let Some(news) = heard.map(|any| any.then_some(())).transpose() {
                    let _ = tell.try_send(news);
                }
                if over {
                    break;
                }
            }
        });
        Ok(Self(hear))
    }

    /// Waits for some.
    async fn next(&mut self) -> std::result::Result<(), KernelError> {
        match self.0.recv().await {
            Some(news) => news,
            None => Err(io::Error::from(ErrorKind::BrokenPipe).into()),
        }
    }

    /// Throws away what has come: the list is read anew anyway.
    fn forget(&mut self) -> std::result::Result<(), KernelError> {
        match self.0.try_recv() {
            Ok(news) => news,
            Err(_) => Ok(()),
        }
    }
}
