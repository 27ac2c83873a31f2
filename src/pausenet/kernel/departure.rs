//! Removing links without the kernel's last wait.
//!
//! The kernel takes a link out of all its tables, tells whoever listens (RTM_DELLINK), and then waits until no
//! processor can still be using its memory. That takes nine tenths of the time, and only the kernel needs it;
//! but it holds the process that asked until the end. So a child asks, and the process goes on at the news.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::error::KernelError;
use super::netlink::{RECEIVE_BUFFER, Reply, Socket};
use super::reply::Message;
use super::request::Part;
use super::route_socket::{Group, RouteSocket};
use super::{link, syscalls};

/// How long to wait for the news. Other processes' changes of links go before, one after another.
const LIMIT: Duration = Duration::from_secs(60);

/// Removes links; of a veth, both ends. Returns when nobody can find them any more, nor their addresses, routes
/// and neighbours; the kernel may still be freeing their memory then. Succeeds when they are already gone.
///
/// For a program that ends soon: until then, a child that has ended stays as a zombie.
///
/// # Errors
/// The kernel's first refusal; ETIMEDOUT when there was no news for a minute.
pub(crate) fn remove(socket: &mut RouteSocket, indexes: &[u32]) -> Result<(), KernelError> {
    let mut outcome = Ok(());
    let mut keep_first = |reply: Result<(), KernelError>| {
        if outcome.is_ok() {
            outcome = reply;
        }
    };
    // Before the first child, so that no news is missed.
    let news = News::listen(indexes);
    let mut departures = Vec::with_capacity(indexes.len());
    for index in indexes {
        match news.as_ref().and_then(|_| Departure::begin(*index)) {
            Some(begun) => departures.push(begun),
            // No process or file to be had: the ordinary way needs none.
            None => keep_first(link::delete(socket, *index)),
        }
    }
    let deadline = Instant::now() + LIMIT;
    if let Some(news) = news {
        while !departures.is_empty() {
            let (has_news, is_answered) = wait(&news, &departures, deadline)?;
            let gone = if has_news { news.gone() } else { Vec::new() };
            let mut is_answered = is_answered.into_iter();
            departures.retain_mut(|departure| {
                let is_answered = is_answered.next().unwrap_or_default();
                if gone.contains(&departure.index) {
                    return false;
                }
                if is_answered {
                    keep_first(departure.answer(socket));
                }
                !is_answered
            });
        }
    }
    outcome
}

/// Waits until there is news, or some children were answered or have ended.
fn wait(
    news: &News,
    departures: &[Departure],
    deadline: Instant,
) -> Result<(bool, Vec<bool>), KernelError> {
    let mut polled = vec![PollFd::new(&news.0, PollFlags::IN)];
    for departure in departures {
        polled.push(PollFd::from_borrowed_fd(
            departure.socket.socket.as_fd(),
            PollFlags::IN,
        ));
        polled.push(PollFd::new(&departure.child, PollFlags::IN));
    }
    let ready = rustix::io::retry_on_intr(|| {
        let left = deadline.saturating_duration_since(Instant::now());
        poll(
            &mut polled,
            Some(&left.try_into().map_err(|_| Errno::INVAL)?),
        )
    })?;
    if ready == 0 {
        return Err(Errno::TIMEDOUT.into());
    }
    let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
    let is_answered = polled[1..].chunks(2).map(|pair| pair.iter().any(is_ready));
    Ok((is_ready(&polled[0]), is_answered.collect()))
}

/// A removal that a child has asked for.
struct Departure {
    index: u32,
    /// The child sends on it, and the kernel's reply comes here.
    socket: Socket,
    request: Part,
    /// Readable when the child has ended.
    child: OwnedFd,
}

impl Departure {
    fn begin(index: u32) -> Option<Self> {
        let mut socket = Socket::open(NETLINK_ROUTE).ok()?;
        let request = socket.prepare(link::delete_request(index));
        let child = syscalls::send_in_child(&socket.socket, &request.bytes).ok()?;
        Some(Self {
            index,
            socket,
            request,
            child,
        })
    }

    /// The kernel's reply. A child that ended without one was killed before it asked.
    fn answer(&mut self, socket: &mut RouteSocket) -> Result<(), KernelError> {
        let mut replied = [PollFd::new(&self.socket.socket, PollFlags::IN)];
        if poll(&mut replied, Some(&Default::default()))? == 0 {
            return link::delete(socket, self.index);
        }
        let reply: Reply<Message> = self.socket.receive(&self.request);
        link::unless_gone(reply)
    }
}

/// A socket for the kernel's notifications about links.
struct News(netlink_sys::Socket);

impl News {
    fn listen(indexes: &[u32]) -> Option<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).ok()?;
        if let [index] = indexes {
            // Where many links come and go, each piece of news would wake everybody who waits. Without the filter,
            // it is only slower.
            let is_departure = (4, libc::RTM_DELLINK.to_ne_bytes());
            let _ = syscalls::receive_only(&socket, is_departure, (20, index.to_ne_bytes()));
        }
        // The old form of subscription: one call less.
        let groups = 1 << (Group::Links as u32 - 1);
        socket.bind(&SocketAddr::new(0, groups)).ok()?;
        Some(Self(socket))
    }

    /// The links that have gone, by what there is to read. When the kernel dropped news, its replies to the
    /// children come nevertheless.
    fn gone(&self) -> Vec<u32> {
        let mut gone = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            match self.0.recv_from(&mut buffer, libc::MSG_DONTWAIT) {
                // Any process can send to a netlink socket.
                Ok((_, from)) if from.port_number() == 0 => gone.extend(departed(&buffer)),
                Err(err) if Errno::from_io_error(&err) == Some(Errno::AGAIN) => return gone,
                _ => {}
            }
        }
    }
}

/// The indexes in a notification's RTM_DELLINK messages. A bridge announces with the same message, of its own
/// family, that a link is no port any more: that comes first, and says nothing here.
fn departed(mut bytes: &[u8]) -> Vec<u32> {
    /// struct nlmsghdr, and what of struct ifinfomsg is read.
    const LENGTHS: usize = 16 + 8;
    let mut indexes = Vec::new();
    while let Some(head) = bytes.first_chunk::<LENGTHS>() {
        let number =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, kind, family) = (number(0), u16::from_ne_bytes([head[4], head[5]]), head[16]);
        if kind == libc::RTM_DELLINK && i32::from(family) == libc::AF_UNSPEC {
            indexes.push(number(20));
        }
        let length = (length as usize).max(LENGTHS).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    indexes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, index: u32, extra: usize) -> Vec<u8> {
        let mut bytes = vec![0; 32 + extra];
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[16] = family;
        bytes[20..24].copy_from_slice(&index.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_links_that_have_gone_are_news() {
        let bridge = libc::AF_BRIDGE as u8;
        let news = [
            message(libc::RTM_NEWLINK, 0, 3, 8),
            message(libc::RTM_DELLINK, bridge, 4, 4),
            message(libc::RTM_DELLINK, 0, 5, 0),
            message(libc::RTM_DELLINK, 0, 6, 400),
        ];
        assert_eq!(departed(&news.concat()), [5, 6]);
    }

    #[test]
    fn news_that_is_cut_off_is_no_news() {
        let whole = message(libc::RTM_DELLINK, 0, 5, 0);
        for length in 0..24 {
            assert_eq!(departed(&whole[..length]), [0; 0]);
        }
        let mut endless = whole;
        endless[..4].fill(0);
        assert_eq!(departed(&endless).first(), Some(&5));
    }
}
