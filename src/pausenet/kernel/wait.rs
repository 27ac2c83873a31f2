//! Waiting for a socket, with a limit.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Waits until a socket has something to read. False when the deadline has passed.
pub(super) fn wait_readable(socket: impl AsFd, deadline: Instant) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(|_| Errno::INVAL)?;
        poll(&mut polled, Some(&left))
    })?;
    Ok(ready > 0)
}

/// Waits until a reply can be read.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the limit; the kernel's.
pub(super) fn wait_for_reply(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    if wait_readable(socket, Instant::now() + limit)? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no reply within {limit:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::error::KernelError;
    use super::*;

    #[test]
    fn a_reply_that_never_comes_ends_at_the_limit() {
        let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        let late = wait_for_reply(&socket, Duration::from_millis(20)).unwrap_err();
        let err = KernelError::from(late).during("list links");
        assert_eq!(err.code, crate::cni::Code::TryAgainLater);
        assert!(err.msg.contains("no reply within 20ms"), "{err}");
    }
}
